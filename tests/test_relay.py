"""A gadget that hands its scan to a resident server, and what it does when nobody is there or the server dies."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import ismrmrd
import numpy as np
import peers
import pytest
import wire_handlers
from test_gadget import node_in_a_thread

from steadymr.source.wire.live_scan import HandleScan
from steadymr.source.wire.server import Server, ServerSettings

GADGET = ("steadymr_gadgets.reconstruct", "reconstruct")


def config(port: int) -> str:
    return (
        f'<configuration><property name="live.resident" value="127.0.0.1:{port}"/>'
        '<property name="samples" value="8"/></configuration>'
    )


@contextmanager
def resident(handle: HandleScan) -> Iterator[int]:
    server = Server(handle, ServerSettings(port=0))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.port
    server.stop()
    thread.join(peers.TIMEOUT_S)


def handed_over(port: int, *data: bytes) -> tuple[list[tuple[int, Any]], list[Exception]]:
    """Replies to Gadgetron, and what the gadget raised."""
    failures: list[Exception] = []
    with node_in_a_thread(*GADGET, failures) as sock:
        for part in (peers.node_opening(config(port)), *data):
            sock.sendall(part)
        return peers.Reader(sock).all(), failures


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_images_come_from_the_resident_server_and_waveforms_still_pass() -> None:
    waveform = ismrmrd.Waveform.from_array(np.arange(16, dtype=np.uint32).reshape(2, 8))
    data = peers.serialized(waveform, close=False) + peers.lines_of(32)
    with resident(wire_handlers.magnitudes) as port:
        replies, failures = handed_over(port, data, peers.CLOSE)
    assert [identifier for identifier, _ in replies] == [1026, 1022, 1022, 4]
    assert replies[0][1] == waveform
    np.testing.assert_array_equal(replies[2][1].data[0, 0, :, 5], np.arange(16, 32))
    assert replies[1][1].meta["samples"] == "8"
    assert "live.resident" not in replies[1][1].meta
    assert not failures


def test_a_failure_in_the_resident_server_reaches_gadgetron_in_its_own_words() -> None:
    with resident(wire_handlers.failing) as port:
        replies, failures = handed_over(port, peers.lines_of(2000), peers.CLOSE)
    assert replies == [(8, "no image can be made of this [steadymr scan 1] [steadymr node]"), (4, None)]
    assert len(failures) == 1


def test_a_resident_server_that_dies_in_the_middle_is_an_error_and_no_clean_close() -> None:
    with socket.create_server(("127.0.0.1", 0)) as dying:

        def die() -> None:
            sock, _ = dying.accept()
            sock.recv(1000)
            sock.close()

        thread = threading.Thread(target=die)
        thread.start()
        replies, failures = handed_over(dying.getsockname()[1], peers.lines_of(2000), peers.CLOSE)
        thread.join(peers.TIMEOUT_S)
    assert [identifier for identifier, _ in replies] == [8, 4]
    assert "the resident server was lost in the middle of the scan" in replies[0][1]
    assert len(failures) == 1


def test_garbage_on_its_way_to_the_resident_server_is_named() -> None:
    with resident(wire_handlers.magnitudes) as port:
        replies, _ = handed_over(port, peers.lines_of(2), b"\xff\xff" * 1000, peers.CLOSE)
    assert "unknown message (65535)" in replies[0][1]


def test_a_gadget_whose_gadgetron_vanishes_lets_go_of_the_resident_server() -> None:
    failures: list[Exception] = []
    with resident(wire_handlers.magnitudes) as port, node_in_a_thread(*GADGET, failures) as sock:
        sock.sendall(peers.node_opening(config(port)) + peers.lines_of(2)[:-100])
        sock.close()
    assert [str(failure) for failure in failures] == ["the peer hung up 754 bytes into ACQUISITION (1008)"]


def test_without_a_resident_server_the_gadget_does_the_work_and_the_images_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    def reconstruct_stream(header: Any, readouts: Any, settings: Any, notes: Any) -> Any:
        seen.extend(notes)
        yield wire_handlers.image_of(list(readouts), {})

    monkeypatch.setitem(sys.modules, "steadymr.live.scan", SimpleNamespace(reconstruct_stream=reconstruct_stream))
    port = free_port()
    replies, failures = handed_over(port, peers.lines_of(16), peers.CLOSE)
    assert [identifier for identifier, _ in replies] == [1022, 4]
    assert seen == [f"the resident server at 127.0.0.1:{port} was not there; the node did its work"]
    assert f"no resident server at 127.0.0.1:{port}" in caplog.text
    assert not failures
