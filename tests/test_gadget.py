"""Gadgets launched and driven as Gadgetron does it, and the chains that name them."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import ismrmrd
import numpy as np
import peers
import pytest
import wire_handlers

from steadymr.errors import PeerLostError, PerturbationError, SteadymrError, UnsupportedScanError
from steadymr.source.wire.server import Server, ServerSettings

CHAINS = sorted((Path(__file__).parents[1] / "configs" / "gadgetron").glob("*.xml"))


@contextmanager
def node_in_a_thread(module: str, target: str, failures: list[Exception]) -> Iterator[socket.socket]:
    """What the launched process does, here; it saves the start of a Python."""
    from gadgetron.__main__ import main

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])

        def run() -> None:
            try:
                main([port, module, target])
            except (SteadymrError, ImportError) as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(peers.TIMEOUT_S)
            yield sock
        thread.join(peers.TIMEOUT_S)
        assert not thread.is_alive()


def test_a_node_sends_images_and_passes_waveforms_through() -> None:
    waveform = ismrmrd.Waveform.from_array(np.arange(16, dtype=np.uint32).reshape(2, 8))
    config = '<configuration><property name="samples" value="8"/></configuration>'
    with peers.launched_node("wire_handlers", "magnitude_gadget") as (sock, process):
        sock.sendall(peers.node_opening(config) + peers.serialized(waveform, close=False) + peers.lines_of(16))
        sock.sendall(peers.CLOSE)
        replies = peers.Reader(sock).all()
        assert process.wait(peers.TIMEOUT_S) == 0
    assert [identifier for identifier, _ in replies] == [1026, 1022, 4]
    assert replies[0][1] == waveform
    assert replies[1][1].meta["samples"] == "8"


def test_a_node_passes_image_arrays_and_images_of_other_gadgets_on() -> None:
    from test_protocol import image_array_bytes, image_of

    image = image_of("uint16")
    failures: list[Exception] = []
    with node_in_a_thread("wire_handlers", "magnitude_gadget", failures) as sock:
        sock.sendall(peers.node_opening() + image_array_bytes() + peers.serialized(image))
        assert peers.Reader(sock).exactly(len(image_array_bytes())) == image_array_bytes()
        (identifier, passed), _ = peers.Reader(sock).all()
    assert (identifier, passed) == (1022, image)
    assert not failures


def test_a_failing_node_sends_its_error_after_the_input_and_before_close() -> None:
    with peers.launched_node("wire_handlers", "failing_gadget") as (sock, process):
        sock.sendall(peers.node_opening() + peers.lines_of(2000) + peers.CLOSE)
        replies = peers.Reader(sock).all()
        assert process.wait(peers.TIMEOUT_S) != 0
    assert replies == [(8, "no image can be made of this [steadymr node]"), (4, None)]


def test_a_node_whose_peer_vanishes_ends_instead_of_spinning() -> None:
    failures: list[Exception] = []
    with node_in_a_thread("wire_handlers", "magnitude_gadget", failures) as sock:
        sock.sendall(peers.node_opening() + peers.lines_of(1)[:500])
    assert [type(failure) for failure in failures] == [PeerLostError]


def test_a_perturbing_node_changes_samples_and_nothing_else() -> None:
    lines = [peers.acquisition(line, physiology_time_stamp=(7, 8, 9), user_float=(0.5,) * 8) for line in range(16)]
    failures: list[Exception] = []
    with node_in_a_thread("wire_handlers", "doubling_gadget", failures) as sock:
        sock.sendall(peers.node_opening() + peers.serialized(*lines))
        replies = [item for identifier, item in peers.Reader(sock).all() if identifier == 1008]
    assert [item.getHead() for item in replies] == [line.getHead() for line in lines]
    np.testing.assert_array_equal([item.data for item in replies], [2 * line.data for line in lines])
    assert not failures


def test_a_perturbation_that_loses_a_readout_is_an_error() -> None:
    failures: list[Exception] = []
    with node_in_a_thread("wire_handlers", "losing_gadget", failures) as sock:
        sock.sendall(peers.node_opening() + peers.lines_of(16) + peers.CLOSE)
        replies = peers.Reader(sock).all()
    assert [identifier for identifier, _ in replies][-2:] == [8, 4]
    assert [type(failure) for failure in failures] == [PerturbationError]


def test_a_perturbing_node_refuses_sorted_kspace() -> None:
    from test_protocol import recon_data_bytes

    failures: list[Exception] = []
    header = peers.header_xml(lines=4, samples=8)
    with node_in_a_thread("wire_handlers", "doubling_gadget", failures) as sock:
        sock.sendall(peers.node_opening(header=header) + recon_data_bytes() + peers.CLOSE)
        replies = peers.Reader(sock).all()
    assert "before Gadgetron's AccumulateTrigger" in replies[0][1]
    assert [type(failure) for failure in failures] == [UnsupportedScanError]


def test_a_perturbing_node_keeps_sentinels_from_the_gadgets_behind_it() -> None:
    """Line 15 was the last of its slice: the mark of the end moves to line 14."""
    config = '<configuration><property name="sentinels.lines" value="5, 15"/></configuration>'
    failures: list[Exception] = []
    with node_in_a_thread("steadymr_gadgets.perturb", "perturb", failures) as sock:
        sock.sendall(peers.node_opening(config) + peers.lines_of(16) + peers.CLOSE)
        lines = [item for identifier, item in peers.Reader(sock).all() if identifier == 1008]
    assert [line.idx.kspace_encode_step_1 for line in lines] == [*range(5), *range(6, 15)]
    assert [line.is_flag_set(ismrmrd.ACQ_LAST_IN_SLICE) for line in lines] == [False] * 13 + [True]
    assert not failures


def external_of(chain: Path) -> ElementTree.Element:
    external = ElementTree.parse(chain).getroot().find("stream/external")
    assert external is not None
    return external


def settings_of(chain: Path) -> tuple[str, dict[str, str]]:
    """The configuration as Gadgetron sends it, and what it says."""
    configuration = external_of(chain).find("configuration")
    assert configuration is not None
    properties = {str(item.get("name")): str(item.get("value")) for item in configuration}
    return ElementTree.tostring(configuration, encoding="unicode"), properties


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.stem)
def test_a_chain_names_readers_writers_and_how_to_reach_its_node(chain: Path) -> None:
    root = ElementTree.parse(chain).getroot()
    assert (root.tag, root.findtext("version")) == ("configuration", "2")
    assert {item.text for item in root.iterfind("readers/reader/classname")} == {"AcquisitionReader", "WaveformReader"}
    assert {item.text for item in root.iterfind("writers/writer/classname")} == {"ImageWriter"}
    execute, connect = external_of(chain).find("execute"), external_of(chain).find("connect")
    assert (execute is None) != (connect is None)
    assert connect is None or connect.get("port") != str(ServerSettings().port)  # which is Gadgetron's own port too


def fake_pipeline(seen: list[dict[str, str]]) -> Any:
    """The two functions that the gadgets take from the pipeline, which needs torch."""

    def reconstruct_stream(header: Any, readouts: Any, settings: Any, notes: Any) -> Any:
        seen.append(settings)
        yield wire_handlers.image_of(list(readouts), {"StabilityVerdict": "unscored"})

    def perturb_stream(header: Any, readouts: Any, settings: Any) -> Any:
        seen.append(settings)
        yield from wire_handlers.doubled(header, readouts, settings)

    return SimpleNamespace(reconstruct_stream=reconstruct_stream, perturb_stream=perturb_stream)


@pytest.mark.parametrize("chain", [chain for chain in CHAINS if "execute" in chain.read_text()], ids=lambda it: it.stem)
def test_the_node_of_a_chain_runs_with_its_settings(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = external_of(chain).find("execute")
    if execute is None:
        return  # the word only stands in a comment
    seen: list[dict[str, str]] = []
    failures: list[Exception] = []
    for module in ("steadymr.live.scan", "steadymr.live.perturb_stream"):
        monkeypatch.setitem(sys.modules, module, fake_pipeline(seen))
    config, properties = settings_of(chain)
    with node_in_a_thread(execute.attrib["name"], execute.attrib["target"], failures) as sock:
        sock.sendall(peers.node_opening(config) + peers.lines_of(16) + peers.CLOSE)
        replies = peers.Reader(sock).all()
    assert seen == [properties]
    assert {identifier for identifier, _ in replies[:-1]} <= {1008, 1022}
    assert len(replies) in (1 + 1, 16 + 1)
    assert not failures


def test_a_node_without_configuration_works(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    for module in ("steadymr.live.scan", "steadymr.live.perturb_stream"):
        monkeypatch.setitem(sys.modules, module, fake_pipeline(seen))
    with node_in_a_thread("steadymr_gadgets.reconstruct", "reconstruct", []) as sock:
        sock.sendall(peers.node_opening("") + peers.lines_of(16) + peers.CLOSE)
        assert [identifier for identifier, _ in peers.Reader(sock).all()] == [1022, 4]
    assert seen == [{}]


def test_a_pipeline_that_cannot_be_loaded_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "steadymr.live.scan", None)
    failures: list[Exception] = []
    with node_in_a_thread("steadymr_gadgets.reconstruct", "reconstruct", failures) as sock:
        sock.sendall(peers.node_opening() + peers.lines_of(16) + peers.CLOSE)
        replies = peers.Reader(sock).all()
    assert replies[0] == (8, "internal error (ModuleNotFoundError), see the log [steadymr node]")
    assert len(failures) == 1


def test_the_chain_that_connects_finds_a_server_that_knows_its_settings() -> None:
    (chain,) = [chain for chain in CHAINS if external_of(chain).find("connect") is not None]
    config, properties = settings_of(chain)
    server = Server(wire_handlers.magnitudes, ServerSettings(port=0))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    replies = peers.converse(server.port, peers.node_opening(config), peers.lines_of(16), peers.CLOSE)
    server.stop()
    thread.join(peers.TIMEOUT_S)
    assert properties.items() <= replies[0][1].meta.items()
