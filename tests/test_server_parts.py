"""The parts that a server is made of: the bounded queue, the turns, the process that listens for signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import peers
import pytest

from steadymr.errors import PeerLostError
from steadymr.source.wire.backlog import Backlog
from steadymr.source.wire.turns import Turns


def test_a_backlog_gives_items_in_order_and_then_the_error_that_ended_it() -> None:
    backlog: Backlog[int] = Backlog(100)
    for item in range(3):
        backlog.put(item, 10)
    backlog.finish(PeerLostError("gone"))
    items = iter(backlog)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(PeerLostError, match="gone"):
        next(items)


def test_a_full_backlog_holds_its_writer_until_there_is_room() -> None:
    backlog: Backlog[int] = Backlog(10)
    backlog.put(0, 10)
    writer = threading.Thread(target=backlog.put, args=(1, 10))
    writer.start()
    writer.join(0.05)
    assert writer.is_alive()
    assert next(iter(backlog)) == 0
    writer.join(peers.TIMEOUT_S)
    assert not writer.is_alive()


def test_an_item_larger_than_the_backlog_passes_alone() -> None:
    backlog: Backlog[str] = Backlog(10)
    backlog.put("large", 1000)
    assert next(iter(backlog)) == "large"


def test_a_backlog_that_discards_never_holds_its_writer() -> None:
    backlog: Backlog[int] = Backlog(10)
    backlog.put(0, 10)
    backlog.discard()
    for item in range(100):
        backlog.put(item, 10)
    backlog.finish()
    assert list(backlog) == []


def test_scans_take_turns_slice_by_slice() -> None:
    turns, order = Turns(), []
    ready = threading.Barrier(2)

    def scan(name: str) -> None:
        ready.wait()
        for _ in range(5):
            with turns.turn():
                order.append(name)
                while turns.n_asking < 2 and len(order) < 9:  # the other one is on its way
                    time.sleep(0.001)

    threads = [threading.Thread(target=scan, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(peers.TIMEOUT_S)
    assert "".join(order) in ("ababababab", "bababababa")


def test_a_failure_in_ones_turn_passes_the_turn_on() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.turn():
        raise ZeroDivisionError
    with turns.turn():
        assert (turns.n_running, turns.n_waiting) == (1, 0)


SERVE = """
import wire_handlers
from steadymr.source.wire.server import Server, ServerSettings, stop_on_signals
server = Server(wire_handlers.magnitudes, ServerSettings(port=0))
stop_on_signals(server)
print(server.port, flush=True)
server.serve_forever()
"""


def test_sigterm_lets_the_scan_under_way_finish_and_ends_the_process() -> None:
    environment = {**os.environ, "PYTHONPATH": str(peers.TESTS), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen([sys.executable, "-c", SERVE], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with peers.connected(port) as sock:
            sock.sendall(peers.node_opening() + peers.lines_of(8))
            time.sleep(1.0)  # the server takes the scan up
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            sock.sendall(peers.lines_of(16)[len(peers.lines_of(8)) :] + peers.CLOSE)
            assert [identifier for identifier, _ in peers.Reader(sock).all()] == [1022, 4]
        assert process.wait(peers.TIMEOUT_S) == 0
