"""The resident server against clients that speak with other people's code."""

from __future__ import annotations

import json
import logging
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ismrmrd
import numpy as np
import peers
import pytest
import wire_handlers
from test_protocol import image_array_bytes, image_of, recon_data_bytes

from steadymr.errors import SettingsError
from steadymr.source.wire.dialects import MOVES, Dialect
from steadymr.source.wire.json_log import JsonFormatter
from steadymr.source.wire.limits import Patience, WireLimits
from steadymr.source.wire.live_scan import HandleScan
from steadymr.source.wire.messages import Dicom, MessageId, Text
from steadymr.source.wire.server import Server, ServerSettings

IMPATIENT = Patience(first_s=0.5, idle_s=1.0, drain_s=5.0, settle_s=0.01, linger_s=1.0)
DIALECTS = sorted(peers.OPENINGS)


@contextmanager
def serving(handle: HandleScan = wire_handlers.magnitudes, **changes: Any) -> Iterator[Server]:
    limits = changes.pop("limits", WireLimits(message_bytes=1 << 24))
    settings = ServerSettings(port=0, health_port=0, **changes)
    server = Server(handle, settings, limits, IMPATIENT)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(peers.TIMEOUT_S)
        assert not thread.is_alive()


def images(replies: list[tuple[int, Any]]) -> list[ismrmrd.Image]:
    return [item for identifier, item in replies if identifier == 1022]


def errors(replies: list[tuple[int, Any]]) -> list[str]:
    return [text for identifier, text in replies if identifier == 8]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_normal_scan_gives_its_images_and_a_close(dialect: str) -> None:
    with serving() as server:
        replies = peers.converse(server.port, peers.OPENINGS[dialect](), peers.lines_of(32), peers.CLOSE)
    assert [identifier for identifier, _ in replies] == [1022, 1022, 4]
    expected = np.arange(16, 32)
    np.testing.assert_array_equal(images(replies)[1].data[0, 0, :, 5], expected)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_unicode_and_markup_survive_in_the_meta(dialect: str) -> None:
    with serving() as server:
        replies = peers.converse(server.port, peers.OPENINGS[dialect](), peers.lines_of(16), peers.CLOSE)
    assert images(replies)[0].meta["StabilityReasons"] == "σ < 2 %, naïve <ok>"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_two_scans_at_once_do_not_mix(dialect: str) -> None:
    sizes, results = {"small": 8, "large": 24}, {}

    def scan(name: str, lines: int) -> None:
        opening = peers.OPENINGS[dialect](header=peers.header_xml(lines))
        results[name] = peers.converse(server.port, opening, peers.lines_of(lines, lines=lines), peers.CLOSE)

    with serving() as server:
        threads = [threading.Thread(target=scan, args=item) for item in sizes.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(peers.TIMEOUT_S)
    assert {name: images(replies)[0].data.shape[2] for name, replies in results.items()} == sizes


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_empty_scan_is_closed_without_images(dialect: str) -> None:
    with serving() as server:
        assert peers.converse(server.port, peers.OPENINGS[dialect](), peers.CLOSE) == [(4, None)]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_five_thousand_lines_arrive_in_order(dialect: str) -> None:
    header = peers.header_xml(lines=5000)
    lines = peers.lines_of(5000, lines=5000, channels=1, samples=8)
    with serving() as server:
        replies = peers.converse(server.port, peers.OPENINGS[dialect](header=header), lines, peers.CLOSE)
    np.testing.assert_array_equal(images(replies)[0].data[0, 0, :, 0], np.arange(5000))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("rubbish", "sentence"),
    [
        (b"\xff\xff" + b"garbage" * 1000, "unknown message (65535)"),
        (struct.pack("<H", 1050) + b"\0" * 100, "BUCKET (1050) cannot be read here; put Gadgetron's BucketToBuffer"),
        (struct.pack("<H", 6), "sent QUERY (6) in state DATA"),
        (peers.sized(8, b"", "<Q")[:2] + struct.pack("<Q", 1 << 40), "a text of 1099511627776 bytes came"),
        (peers.serialized(peers.acquisition(0, version=2), close=False), "MRD version 2"),
        (peers.serialized(peers.acquisition(0, samples=64), close=False), "64 samples but the header's encoded"),
    ],
    ids=["garbage", "bucket", "illegal move", "oversize", "wrong version", "too long"],
)
def test_what_cannot_be_read_is_named_in_an_error(dialect: str, rubbish: bytes, sentence: str) -> None:
    with serving() as server:
        replies = peers.converse(server.port, peers.OPENINGS[dialect](), peers.lines_of(2), rubbish, peers.CLOSE)
    assert [identifier for identifier, _ in replies][-2:] == [8, 4]
    assert sentence in errors(replies)[0]
    assert "[steadymr scan 1]" in errors(replies)[0]


def waveform() -> bytes:
    return peers.serialized(ismrmrd.Waveform.from_array(np.ones((2, 8), np.uint32)), close=False)


#: Every message that each kind of peer may send, after what has to come before it.
MESSAGES: dict[tuple[str, str], tuple[bytes, bytes]] = {
    ("node", "config text"): (b"", peers.sized(2, b"<configuration/>")),
    ("node", "header"): (peers.sized(2, b""), peers.node_opening()[6:]),
    ("node", "recon data"): (peers.node_opening(header=peers.header_xml(lines=4, samples=8)), recon_data_bytes()),
    ("node", "image array"): (peers.node_opening(), image_array_bytes()),
    ("node", "image"): (peers.node_opening(), peers.serialized(image_of("uint16"), close=False)),
    ("node", "dicom"): (peers.node_opening(), struct.pack("<HI", 1018, 4) + b"DICM" + struct.pack("<QQ", 0, 0)),
    ("client", "query"): (b"", struct.pack("<HQQQ", 6, 0, 1, 4) + b"info"),
    ("client", "config file"): (b"", peers.client_opening()[:1026]),
    ("client", "header"): (peers.client_opening()[:1026], peers.client_opening()[1026:]),
    ("fire", "config file"): (b"", peers.fire_opening()[:1026]),
    ("fire", "config text"): (b"", peers.sized(2, b"openrecon\0")),
    ("fire", "header"): (peers.fire_opening()[:1026], peers.fire_opening()[1026:]),
    ("fire", "text"): (peers.fire_opening(), peers.sized(5, b'{"parameters": {}}\0')),
    ("client", "text"): (peers.client_opening(), peers.sized(5, b"hello")),
} | {
    (dialect, kind): (peers.OPENINGS[dialect](), message)
    for dialect in DIALECTS
    for kind, message in {
        "acquisition": peers.lines_of(1),
        "waveform": waveform(),
        "error": peers.sized(8, b"broken", "<Q"),
        "close": peers.CLOSE,
    }.items()
}


@pytest.mark.parametrize(("dialect", "kind"), sorted(MESSAGES), ids="-".join)
def test_a_peer_lost_in_the_middle_of_a_message_ends_the_scan_at_once(dialect: str, kind: str) -> None:
    before, message = MESSAGES[dialect, kind]
    with serving() as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(before + message[: max(len(message) // 2, 1)])
        sock.close()
        assert outcome(server, "peer lost")
        assert server.metrics.registry.get_sample_value("steadymr_errors_total", {"kind": "PeerLostError"}) == 1


def test_every_message_that_a_peer_may_send_is_in_the_table_of_those_that_break_off() -> None:
    may_send = {(dialect, identifier) for (dialect, _), moves in MOVES.items() for identifier in moves}
    broken_off = {
        (Dialect(dialect), struct.unpack("<H", message[:2])[0]) for (dialect, _), (_, message) in MESSAGES.items()
    }
    unknown = {identifier for dialect, identifier in may_send if dialect is Dialect.UNKNOWN}
    assert unknown <= {identifier for _, identifier in broken_off}
    missing = {
        (dialect, identifier) for dialect, identifier in may_send - broken_off if dialect in map(Dialect, DIALECTS)
    }
    # a client that sends its configuration as text is taken for a node, one that has not spoken for neither
    assert missing == {(Dialect.CLIENT, MessageId.CONFIG_TEXT)}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("rubbish", "sentence"),
    [
        (b"\xff\xff" * 100, "unknown message (65535)"),
        (struct.pack("<HI", 3, 1 << 31), "a text of 2147483648 bytes came"),
        (peers.sized(3, b"<ismrmrdHeader"), "header"),
        (peers.lines_of(1), "sent ACQUISITION (1008) in state CONFIGURED"),
    ],
    ids=["garbage", "oversize", "broken header", "data before the header"],
)
def test_what_is_wrong_before_the_data_is_named_as_well(dialect: str, rubbish: bytes, sentence: str) -> None:
    config = {"node": peers.sized(2, b""), "client": peers.client_opening()[:1026], "fire": peers.sized(2, b"x\0")}
    with serving() as server:
        replies = peers.converse(server.port, config[dialect], rubbish, peers.CLOSE)
    assert [identifier for identifier, _ in replies][-2:] == [8, 4]
    assert sentence in errors(replies)[0]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["größe µ 脳", "a" * 1000])
def test_unicode_and_length_survive_in_names_and_settings(dialect: str, name: str) -> None:
    setting = f'<configuration><property name="note" value="{name}"/></configuration>'.encode()
    header = peers.OPENINGS[dialect]()[-len(peers.header_xml()) - (7 if dialect == "fire" else 6) :]
    config = peers.sized(2, setting + (b"\0" if dialect == "fire" else b""))
    if dialect == "client":
        config, header = struct.pack("<H", 1) + name.encode().ljust(1024, b"\0"), header
    with serving() as server:
        replies = peers.converse(server.port, config, header, peers.lines_of(16), peers.CLOSE)
    assert name in images(replies)[0].meta.values()


def test_a_peer_that_never_says_anything_loses_its_place(caplog: pytest.LogCaptureFixture) -> None:
    """It is no scan, and it goes before a scan that pauses would."""
    with serving(scans_at_once=1) as server, peers.connected(server.port):
        assert outcome(server, "no scan")
    assert server.metrics.registry.get_sample_value("steadymr_errors_total", {"kind": "PeerLostError"}) is None


def telling(header: Any, readouts: Any, config: Any, emit: Any) -> None:
    emit(Text("WRN the noise was estimated"))
    wire_handlers.magnitudes(header, readouts, config, emit)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_warnings_reach_the_scanners_log_viewer_and_nobody_who_would_choke_on_them(dialect: str) -> None:
    with serving(telling) as server:
        replies = peers.converse(server.port, peers.OPENINGS[dialect](), peers.lines_of(16), peers.CLOSE)
    texts = [text for identifier, text in replies if identifier == 5]
    assert texts == (["WRN the noise was estimated\0"] if dialect == "fire" else [])
    assert len(images(replies)) == 1


def test_a_probe_of_the_port_is_no_scan_and_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server:
        socket.create_connection(("127.0.0.1", server.port)).close()
        assert outcome(server, "no scan")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def emitting_dicom(header: Any, readouts: Any, config: Any, emit: Any) -> None:
    list(readouts)
    emit(Dicom(b"DICM", "steadymr_000001", b"<meta/>"))


def test_finished_dicom_reaches_a_client_that_understands_it() -> None:
    with serving(emitting_dicom) as server:
        replies = peers.converse(server.port, peers.client_opening(), peers.lines_of(16), peers.CLOSE)
    assert replies == [(1018, (b"DICM", b"steadymr_000001", b"<meta/>")), (4, None)]


@pytest.mark.parametrize("dialect", ["node", "fire"])
def test_others_are_told_that_they_cannot_have_dicom(dialect: str) -> None:
    with serving(emitting_dicom) as server:
        replies = peers.converse(server.port, peers.OPENINGS[dialect](), peers.lines_of(16), peers.CLOSE)
    assert errors(replies) == [f"DICOM (1018) cannot be sent to a {dialect} peer [steadymr scan 1]"]


def test_a_silent_peer_is_lost_after_the_time_out() -> None:
    with serving() as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(peers.node_opening() + peers.lines_of(1)[:500])
        assert outcome(server, "peer lost")


def outcome(server: Server, name: str) -> bool:
    """Wait until a scan has ended so."""
    return came_to_pass(lambda: server.metrics.registry.get_sample_value("steadymr_scans_total", {"outcome": name}))


def came_to_pass(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + peers.TIMEOUT_S
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_failure_comes_as_an_error_after_all_input_was_read(dialect: str) -> None:
    with serving(wire_handlers.failing) as server:
        replies = peers.converse(server.port, peers.OPENINGS[dialect](), peers.lines_of(3000), peers.CLOSE)
    assert errors(replies) == ["no image can be made of this [steadymr scan 1]"]
    log_lines = [text for identifier, text in replies if identifier == 5]
    assert log_lines == (["ERR no image can be made of this [steadymr scan 1]\0"] if dialect == "fire" else [])


def test_no_patient_name_gets_into_errors_or_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(wire_handlers.buggy) as server:
        replies = peers.converse(server.port, peers.node_opening(), peers.lines_of(3), peers.CLOSE)
        broken = peers.node_opening(header=peers.header_xml().replace("</encoding>", ""))
        replies += peers.converse(server.port, broken, peers.CLOSE)
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert any(json.loads(line).get("exception") == "KeyError" for line in lines)
    assert errors(replies)[0] == "internal error (KeyError), see the log [steadymr scan 1]"
    assert "Planted" not in str(replies) + "".join(lines)


def test_settings_come_as_properties_or_as_json() -> None:
    config = '<configuration><property name="samples" value="8"/></configuration>'
    text = peers.sized(5, b'{"version": "1.0", "parameters": {"samples": 6, "method": "classical"}}\0')
    with serving() as server:
        node = peers.converse(server.port, peers.node_opening(config), peers.lines_of(16), peers.CLOSE)
        fire = peers.converse(server.port, peers.fire_opening("my recon"), text, peers.lines_of(16), peers.CLOSE)
    assert images(node)[0].meta["samples"] == "8"
    assert {"samples": "6", "method": "classical", "Name": "my recon"}.items() <= images(fire)[0].meta.items()


def test_a_query_is_answered_and_is_no_scan() -> None:
    query = struct.pack("<HQQQ", 6, 0, 77, 15) + b"gadgetron::info"
    with serving() as server:
        replies = peers.converse(server.port, query, peers.CLOSE)
        assert outcome(server, "no scan")
    assert replies == [(7, (77, "steadymr does not know 'gadgetron::info'")), (4, None)]


def test_waveforms_pass_through_a_node_and_are_set_aside_for_clients() -> None:
    waveform = ismrmrd.Waveform.from_array(np.arange(16, dtype=np.uint32).reshape(2, 8), waveform_id=3)
    data = peers.lines_of(8) + peers.serialized(waveform, close=False) + peers.lines_of(16)
    with serving() as server:
        node = peers.converse(server.port, peers.node_opening(), data, peers.CLOSE)
        client = peers.converse(server.port, peers.client_opening(), data, peers.CLOSE)
    assert [item for identifier, item in node if identifier == 1026] == [waveform]
    assert [identifier for identifier, _ in client] == [1022, 4]


def test_the_gadgetron_package_is_a_client_that_is_understood() -> None:
    from gadgetron.external import Connection

    with serving() as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        # its constructor reads configuration and header, which a server never sends: only its framing is used
        connection = Connection.__new__(Connection)
        connection.socket = Connection.SocketWrapper(sock)
        connection.readers, connection.writers = Connection._default_readers(), Connection._default_writers()
        connection.filters = []
        connection.socket.write(peers.node_opening())
        for line in range(16):
            connection.send(peers.acquisition(line))
        connection.socket.write(peers.CLOSE)
        (image,) = list(connection)
    assert image.data.shape == (1, 1, 16, 32)


def test_strangers_are_hung_up_on() -> None:
    with (
        serving(allowed_peers=("192.0.2.0/24",)) as server,
        socket.create_connection(("127.0.0.1", server.port)) as sock,
    ):
        sock.settimeout(peers.TIMEOUT_S)
        assert sock.recv(1) == b""


LARGE_WAVEFORM = ismrmrd.Waveform.from_array(np.zeros((8, 2048), np.uint32))


@pytest.mark.parametrize(
    "message",
    [peers.lines_of(1, samples=512), peers.serialized(LARGE_WAVEFORM, close=False)],
    ids=["acquisitions", "waveforms"],
)
def test_a_slow_handler_holds_the_peer_up_instead_of_filling_memory(message: bytes) -> None:
    go_on = threading.Event()

    def slow(header: Any, readouts: Any, config: Any, emit: Any) -> None:
        go_on.wait(peers.TIMEOUT_S)
        wire_handlers.magnitudes(header, readouts, config, emit)

    header = peers.header_xml(lines=4000, samples=512)
    with serving(slow, backlog_bytes=1 << 20) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.settimeout(0.3)
            sent = _send_until_held_up(sock, peers.node_opening(header=header), message)
        go_on.set()
    assert sent < 40 << 20  # the backlog, two slabs, and the kernel's buffers


def _send_until_held_up(sock: socket.socket, opening: bytes, message: bytes) -> int:
    sock.sendall(opening)
    sent = 0
    while sent < 100 << 20:
        try:
            sent += sock.send(message * 100)
        except TimeoutError:
            return sent
    return sent


def test_more_scans_than_allowed_wait_for_their_turn() -> None:
    running, most = [0], [0]

    def watched(header: Any, readouts: Any, config: Any, emit: Any) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.05)
        wire_handlers.magnitudes(header, readouts, config, emit)
        running[0] -= 1

    replies: list[Any] = []
    with serving(watched, scans_at_once=1) as server:

        def scan() -> None:
            replies.append(peers.converse(server.port, peers.node_opening(), peers.lines_of(16), peers.CLOSE))

        threads = [threading.Thread(target=scan) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(peers.TIMEOUT_S)
    assert [len(images(reply)) for reply in replies] == [1, 1, 1]
    assert most == [1]


def test_stopping_lets_the_scan_under_way_finish_and_refuses_new_ones() -> None:
    with serving() as server, socket.create_connection(("127.0.0.1", server.port), peers.TIMEOUT_S) as sock:
        sock.sendall(peers.node_opening() + peers.lines_of(8))
        assert came_to_pass(lambda: server.metrics.registry.get_sample_value("steadymr_scans_running"))
        server.stop()
        assert came_to_pass(lambda: _is_refused(server.port))
        sock.sendall(peers.lines_of(16)[len(peers.lines_of(8)) :] + peers.CLOSE)
        assert [identifier for identifier, _ in peers.Reader(sock).all()] == [1022, 4]


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


def get(server: Server, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.health_port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_health_readiness_and_metrics_have_a_port_of_their_own() -> None:
    with serving() as server:
        peers.converse(server.port, peers.node_opening(), peers.lines_of(16), peers.CLOSE)
        assert outcome(server, "done")
        assert [get(server, path)[0] for path in ("/healthz", "/readyz", "/nothing")] == [200, 200, 404]
        metrics = get(server, "/metrics")[1]
    assert 'steadymr_scans_total{outcome="done"} 1.0' in metrics
    assert 'steadymr_messages_sent_total{kind="IMAGE"} 1.0' in metrics


def test_a_server_without_its_weights_is_not_ready() -> None:
    server = Server(wire_handlers.magnitudes, ServerSettings(port=0, health_port=0), is_warm=lambda: False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    assert get(server, "/readyz")[0] == 503
    server.stop()
    thread.join(peers.TIMEOUT_S)


@pytest.mark.parametrize("peer", ["not an address", "10.0.0.1/8"])
def test_a_peer_that_is_no_network_is_refused_in_words(peer: str) -> None:
    with pytest.raises(SettingsError, match="is not an address or network"):
        Server(wire_handlers.magnitudes, ServerSettings(port=0, allowed_peers=(peer,)))


def test_a_taken_port_is_refused_in_words() -> None:
    with serving() as server, pytest.raises(SettingsError, match=f"port {server.port}: Address already in use"):
        Server(wire_handlers.magnitudes, ServerSettings(port=server.port))
