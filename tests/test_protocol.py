"""The wire without sockets: golden bytes, the tables of moves, limits, and mutated streams."""

from __future__ import annotations

import io
import struct
import tracemalloc
from typing import Any

import ismrmrd
import numpy as np
import peers
import pytest
from gadgetron.external import constants as gadgetron_constants
from gadgetron.types import recon_data as gadgetron_recon_data
from hypothesis import given, settings
from hypothesis import strategies as st
from ismrmrd.serialization import ISMRMRDMessageID, ProtocolDeserializer

from steadymr.errors import OutputError, PeerLostError, ProtocolError
from steadymr.source.wire.decode import ACQUISITION_HEAD, IMAGE_HEAD, PARSERS, SAMPLING, WAVEFORM_HEAD
from steadymr.source.wire.dialects import MOVES, Dialect, State
from steadymr.source.wire.encode import encode, identifier_of, image_head
from steadymr.source.wire.limits import WireLimits
from steadymr.source.wire.messages import (
    Acquisitions,
    Close,
    ConfigFile,
    ConfigText,
    Dicom,
    Error,
    Event,
    Header,
    ImageArray,
    ImageMessage,
    MessageId,
    Query,
    ReconData,
    Response,
    Text,
)
from steadymr.source.wire.outgoing import meta_xml
from steadymr.source.wire.protocol import Protocol

LIMITS = WireLimits(message_bytes=1 << 22, text_bytes=1 << 16)


def in_data(dialect: Dialect = Dialect.NODE, limits: WireLimits = LIMITS) -> Protocol:
    return Protocol(limits, dialect, State.DATA)


def events_in(protocol: Protocol, data: bytes) -> list[Event]:
    protocol.receive(data)
    return list(iter(protocol.next_event, None))


def joined(event: Event) -> bytes:
    return b"".join(bytes(part) for part in encode(event))


U16, U32, U64 = (struct.Struct(code).pack for code in ("<H", "<I", "<Q"))

#: Messages whose every byte is spelt out by hand from the table of messages.
GOLDEN: list[tuple[State, Event, bytes]] = [
    (State.START, ConfigFile("a.xml"), U16(1) + b"a.xml" + bytes(1019)),
    (State.START, ConfigText("<a/>"), U16(2) + U32(4) + b"<a/>"),
    (State.START, ConfigText("né", terminated=True), U16(2) + U32(4) + b"n\xc3\xa9\0"),
    (State.START, Query(7, "info"), U16(6) + U64(0) + U64(7) + U64(4) + b"info"),
    (State.CONFIGURED, Header("<h/>"), U16(3) + U32(4) + b"<h/>"),
    (State.CONFIGURED, Header("<h/>", terminated=True), U16(3) + U32(5) + b"<h/>\0"),
    (State.DATA, Text("{}", terminated=True), U16(5) + U32(3) + b"{}\0"),
    (State.DATA, Error("no"), U16(8) + U64(2) + b"no"),
    (State.DATA, Close(), U16(4)),
]


@pytest.mark.parametrize(("state", "event", "golden"), GOLDEN, ids=lambda value: type(value).__name__)
def test_small_messages_are_these_bytes_both_ways(state: State, event: Event, golden: bytes) -> None:
    dialect = Dialect.UNKNOWN if state is State.START else Dialect.FIRE
    assert joined(event) == golden
    assert events_in(Protocol(LIMITS, dialect, state), golden) == [event]


def test_messages_that_only_we_send_are_these_bytes() -> None:
    assert joined(Response(7, "yes")) == U16(7) + U64(7) + U64(3) + b"yes"
    dicom = U16(1018) + U32(4) + b"DICM" + U64(1) + b"n" + U64(7) + b"<meta/>"
    assert joined(Dicom(b"DICM", "n", b"<meta/>")) == dicom
    assert events_in(in_data(), dicom) == [Dicom(b"DICM", "n", b"<meta/>")]


def test_an_acquisition_is_these_bytes() -> None:
    golden = bytearray(U16(1008) + bytes(340) + struct.pack("<4f", 1, 2, 3, 4) + struct.pack("<4f", 5, 6, 7, 8))
    golden[2:4], golden[36:38], golden[40:42], golden[178:180] = U16(1), U16(2), U16(1), U16(2)
    (event,) = events_in(in_data(), bytes(golden))
    assert event.messages["trajectory"].tolist() == [[[1, 2], [3, 4]]]
    assert event.data.tolist() == [[[5 + 6j, 7 + 8j]]]
    assert joined(event) == golden


def test_an_image_is_these_bytes() -> None:
    data = np.arange(6, dtype=np.uint16).reshape(1, 1, 2, 3)
    golden = bytearray(U16(1022) + bytes(198) + U64(4) + b"<m/>" + data.tobytes())
    golden[2:4], golden[4:6], golden[18:24], golden[36:38] = U16(1), U16(1), U16(3) + U16(2) + U16(1), U16(1)
    golden[196:200] = U32(4)
    assert joined(ImageMessage(image_head(data), b"<m/>", data)) == golden


def test_a_waveform_is_these_bytes() -> None:
    golden = bytearray(U16(1026) + bytes(40) + struct.pack("<2I", 8, 9))
    golden[30:32], golden[32:34] = U16(1), U16(2)
    (event,) = events_in(in_data(), bytes(golden))
    assert event.data.tolist() == [[8], [9]]
    assert joined(event) == golden


def test_headers_have_the_sizes_of_the_standard() -> None:
    sizes = [dtype.itemsize for dtype in (ACQUISITION_HEAD, IMAGE_HEAD, WAVEFORM_HEAD)]
    assert sizes == [340, 198, 40]
    assert SAMPLING.itemsize == len(bytes(gadgetron_recon_data.SamplingDescription()))


def test_identifiers_are_those_of_their_owners() -> None:
    theirs = {int(member) for member in ISMRMRDMessageID} - {0}
    gadgetron = {value for name, value in vars(gadgetron_constants).items() if name.startswith("GADGET_MESSAGE_")}
    bounds = {0, 999, 1000, 4096}
    assert theirs | gadgetron - bounds <= {int(member) for member in MessageId}
    assert gadgetron_constants.GADGET_MESSAGE_RECON_DATA == MessageId.RECON_DATA
    assert ISMRMRDMessageID.WAVEFORM == MessageId.WAVEFORM


def image_of(pixels: str) -> ismrmrd.Image:
    image = ismrmrd.Image.from_array(np.arange(24).reshape(2, 3, 4).astype(pixels), transpose=False)
    image.meta = {"StabilityScore": "0.9", "Reasons": ["σ", "<b>"]}
    return image


@pytest.mark.parametrize("pixels", ["uint16", "uint32", "float32", "complex64"])
def test_the_ismrmrd_package_reads_our_images(pixels: str) -> None:
    image = image_of(pixels)
    head = np.frombuffer(bytes(image.getHead()), IMAGE_HEAD)[0]
    ours = ImageMessage(np.array(head), meta_xml(image.meta), image.data)
    (theirs,) = ProtocolDeserializer(io.BytesIO(joined(ours) + peers.CLOSE)).deserialize()
    np.testing.assert_array_equal(theirs.data, image.data)
    assert theirs.meta == image.meta


@pytest.mark.parametrize("pixels", ["uint16", "int16", "uint32", "float32", "float64", "complex64", "complex128"])
def test_images_of_the_ismrmrd_package_are_read(pixels: str) -> None:
    (event,) = events_in(in_data(), peers.serialized(image_of(pixels), close=False))
    np.testing.assert_array_equal(event.data[0], np.arange(24).reshape(2, 3, 4).astype(pixels))
    assert "σ".encode() in event.meta


@pytest.mark.parametrize("pixels", ["int16", "int64", "float64"])
def test_pixels_that_gadgetron_aborts_on_are_not_sent(pixels: str) -> None:
    data = np.zeros((1, 1, 2, 2), pixels)
    with pytest.raises(OutputError, match="expected uint16, uint32, float32 or complex64"):
        encode(ImageMessage(image_head(data), b"", data))


def test_a_stream_of_the_ismrmrd_package_comes_out_as_it_went_in() -> None:
    items = [peers.acquisition(line) for line in range(5)]
    waveform = ismrmrd.Waveform.from_array(np.arange(6, dtype=np.uint32).reshape(2, 3))
    data = peers.serialized(*items[:3], waveform, *items[3:], peers.acquisition(7, samples=16))
    events = events_in(in_data(), data)
    assert b"".join(map(joined, events)) == data
    assert [len(event.messages) for event in events if isinstance(event, Acquisitions)] == [3, 2, 1]
    assert list(ProtocolDeserializer(io.BytesIO(data)).deserialize())[3] == waveform


@pytest.mark.parametrize("step", [7, 342, 1000])
def test_it_does_not_matter_how_the_bytes_are_cut(step: int) -> None:
    data, protocol = peers.lines_of(4) + peers.CLOSE, in_data()
    events = [event for i in range(0, len(data), step) for event in events_in(protocol, data[i : i + step])]
    assert b"".join(map(joined, events)) == data
    assert protocol.state is State.CLOSED


def test_arrays_stay_as_they_are_while_later_messages_arrive() -> None:
    protocol, data = in_data(), peers.lines_of(200, lines=200)
    kept = [event for _ in range(40) for event in events_in(protocol, data) if isinstance(event, Acquisitions)]
    values = np.concatenate([event.data[:, 0, 0].real for event in kept])
    np.testing.assert_array_equal(values, np.tile(np.arange(200), 40))


def recon_data_bytes() -> bytes:
    """Sorted k-space as the gadgetron package writes it, with a reference and two slices."""
    shape = (8, 4, 1, 2, 1, 1, 2)
    values = np.arange(np.prod(shape)).reshape(shape).astype(np.complex64)
    heads = np.empty((4, 1, 1, 1, 2), object)
    for at in np.ndindex(heads.shape):
        heads[at] = peers.acquisition(at[0], lines=4, samples=8).getHead()
        heads[at].idx.slice = at[4]
    sampling = gadgetron_recon_data.SamplingDescription()
    sampling.sampling_limits[0] = (0, 4, 7)
    buffer = gadgetron_recon_data.ReconBuffer(values, None, None, heads, sampling)
    stream = io.BytesIO()
    write = gadgetron_recon_data.write_recon_bit
    stream.write(U16(1023) + U64(1))
    write(stream, gadgetron_recon_data.ReconBit(buffer, buffer))
    return stream.getvalue()


def test_sorted_kspace_of_the_gadgetron_package_goes_both_ways() -> None:
    data = recon_data_bytes()
    (event,) = events_in(in_data(), data)
    assert isinstance(event, ReconData)
    assert event.bits[0].buffer.data[1, 0, 0, 0, 0, 0, 0] == 16
    assert event.bits[0].reference is not None
    assert joined(event) == data


def image_array_bytes() -> bytes:
    """An array of one image as Gadgetron's IsmrmrdImageArrayWriter lays it out, without waveforms or acquisitions."""
    image = ismrmrd.Image.from_array(np.ones((2, 2), np.float32), transpose=False)
    array = U64(7) + b"".join(map(U64, (2, 2, 1, 1, 1, 1, 1))) + bytes(32)
    heads = U64(3) + U64(1) * 3 + bytes(image.getHead())
    return U16(1024) + array + heads + U64(1) + U64(3) + b"<m>" + b"\0\0"


def test_image_arrays_pass_through_unchanged() -> None:
    (event,) = events_in(in_data(), image_array_bytes())
    assert isinstance(event, ImageArray)
    assert event.shape == (2, 2, 1, 1, 1, 1, 1)
    assert joined(event) == image_array_bytes()


def test_every_legal_move_leads_to_a_state_with_moves_or_to_the_end() -> None:
    for (dialect, _), moves in MOVES.items():
        for identifier, state in moves.items():
            assert identifier in PARSERS
            reachable = {Dialect.CLIENT, Dialect.NODE, Dialect.FIRE} if dialect is Dialect.UNKNOWN else {dialect}
            assert state in (State.CLOSED, State.START) or all((one, state) in MOVES for one in reachable)


@pytest.mark.parametrize("dialect", [Dialect.NODE, Dialect.CLIENT, Dialect.FIRE])
@pytest.mark.parametrize("state", [State.START, State.CONFIGURED, State.DATA])
def test_a_message_is_refused_by_name_exactly_if_the_table_lacks_it(dialect: Dialect, state: State) -> None:
    for identifier in PARSERS:
        protocol = Protocol(LIMITS, dialect, state)
        protocol.receive(U16(identifier))
        if identifier in MOVES[dialect, state]:
            protocol.next_event()
            assert not protocol.broken
        else:
            with pytest.raises(ProtocolError, match=MessageId(identifier).name):
                protocol.next_event()


@pytest.mark.parametrize(("dialect", "opening"), peers.OPENINGS.items())
def test_the_dialect_is_recognised_from_the_opening(dialect: str, opening: Any) -> None:
    protocol = Protocol(LIMITS)
    events_in(protocol, opening())
    assert protocol.dialect is Dialect(dialect)


@pytest.mark.parametrize(
    "event", [Text("t"), Response(1, "r"), Query(1, "q"), ConfigText(""), Header(""), Dicom(b"", "n")]
)
def test_what_gadgetron_aborts_on_is_never_sent_to_it(event: Event) -> None:
    with pytest.raises(OutputError, match="cannot be sent to a node peer"):
        in_data().check_outgoing(identifier_of(event))


TOO_MUCH = {
    "text": (State.START, U16(2) + U32(1 << 31), "a text of 2147483648 bytes"),
    "samples": (State.DATA, U16(1008) + bytes(34) + U16(40000) + bytes(304), "40000 samples"),
    "channels": (State.DATA, U16(1008) + bytes(38) + U16(2000) + bytes(300), "2000 channels"),
    "trajectory": (State.DATA, U16(1008) + bytes(176) + U16(99) + bytes(162), "99 dims"),
    "waveform": (State.DATA, U16(1026) + b"\xff" * 40, "a message of at least"),
    "matrix": (State.DATA, U16(1022) + b"\1\0\1\0" + bytes(12) + b"\xff" * 6 + bytes(176), "65535 x 65535 x 65535"),
    "pixels": (
        State.DATA,
        U16(1022) + b"\1\0\1\0" + bytes(12) + U16(4096) * 3 + bytes(12) + U16(9),
        "a message of at least",
    ),
    "blob": (State.DATA, U16(1018) + U32(1 << 31), "a message of at least"),
    "array": (State.DATA, U16(1024) + U64(2) + U64(1 << 40) * 2, "an array of"),
    "empty array": (State.DATA, U16(1024) + U64(2) + U64(0) + U64(1 << 60), "an array of"),
    "dimensions": (State.DATA, U16(1024) + U64(1 << 60), "array dimensions"),
    "encoding spaces": (State.DATA, U16(1023) + U64(1 << 60), "encoding spaces"),
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_too_much_is_refused_before_memory_is_taken_for_it(kind: str) -> None:
    state, data, sentence = TOO_MUCH[kind]
    for _ in range(2):  # the first time fills caches of the interpreter's and of the type checker's
        protocol = Protocol(LIMITS, Dialect.NODE, state)
        protocol.receive(data + (bytes(400) if kind == "pixels" else b""))
        tracemalloc.start()
        with pytest.raises(ProtocolError, match=sentence):
            protocol.next_event()
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert taken < 1 << 18
    assert protocol.broken


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (U16(9999), "unknown message"),
        (b"GET / HTTP/1.1\r\n", "this is HTTP"),
        (b"yardl\1\0\0\0", "MRD version 2 stream"),
        (U16(1010), "IMAGE_REAL_FLOAT"),
        (U16(2) + U32(2) + b"\xff\xfe", "not UTF-8"),
        (U16(3) + U32(0), r"expected one of: CONFIG_FILE, CONFIG_TEXT, QUERY, CLOSE, ERROR"),
    ],
)
def test_what_cannot_be_understood_is_named(data: bytes, sentence: str) -> None:
    with pytest.raises(ProtocolError, match=sentence):
        events_in(Protocol(LIMITS), data)


@pytest.mark.parametrize("identifier", sorted({int(member) for member in MessageId} - {int(key) for key in PARSERS}))
def test_a_message_that_is_known_and_not_read_here_is_refused_by_its_name(identifier: int) -> None:
    with pytest.raises(ProtocolError, match=rf"{MessageId(identifier).name} \({identifier}\) cannot be read here"):
        events_in(in_data(), U16(identifier))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(b"", "without CLOSE"), (U16(1008), r"2 bytes into ACQUISITION \(1008\)"), (b"\1", "1 bytes into a message")],
)
def test_a_peer_that_hangs_up_is_lost_and_it_says_where(data: bytes, sentence: str) -> None:
    protocol = in_data()
    assert events_in(protocol, data) == []
    with pytest.raises(PeerLostError, match=sentence):
        protocol.received(0)


def whole_conversations() -> list[bytes]:
    waveform = ismrmrd.Waveform.from_array(np.ones((1, 4), np.uint32))
    data = peers.lines_of(3, samples=4) + peers.serialized(waveform, image_of("uint16"), close=False)
    node = peers.node_opening("<configuration/>", "<h/>") + data + recon_data_bytes() + peers.CLOSE
    client = peers.client_opening("default", "<h/>") + peers.lines_of(3, samples=4) + peers.CLOSE
    fire = peers.fire_opening("default", "<h/>") + peers.sized(5, b"{}\0") + peers.lines_of(2, samples=4) + peers.CLOSE
    return [node, client, fire]


mutations = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "insert"]), st.floats(0, 1), st.binary(min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for how, where, new in changes:
        at = int(where * len(data))
        data = data[:at] + (b"" if how == "cut" else new) + data[at + (0 if how == "insert" else len(new)) :]
    return data


@settings(max_examples=60, deadline=None, database=None)  # time is judged by bench/wire/fuzz.py, without type checks
@given(st.sampled_from(range(3)), mutations, st.integers(100, 5000))
def test_mutated_streams_end_in_events_or_in_a_protocol_error(
    which: int, changes: list[tuple[str, float, bytes]], step: int
) -> None:
    data, protocol = mutated(whole_conversations()[which], changes), Protocol(LIMITS)
    try:
        for start in range(0, len(data), step):
            for event in events_in(protocol, data[start : start + step]):
                encode(event)
    except (ProtocolError, OutputError):
        pass
    assert len(protocol.room()) < LIMITS.message_bytes + (4 << 20)
