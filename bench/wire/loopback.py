"""Sockets on loopback with a second process at the other end, and what it is to be fast on them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

BUFFER = 1 << 20


@contextmanager
def other_end(work: Callable[[socket.socket], None]) -> Iterator[socket.socket]:
    """A connected socket whose other end ``work`` uses in a forked process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = os.fork()
        if child == 0:
            with socket.create_connection(listener.getsockname()) as sock:
                work(sock)
            os._exit(0)
        sock, _ = listener.accept()
    with sock:
        yield sock
    os.waitpid(child, 0)


def seconds_to_receive(
    data: bytes, receive: Callable[[socket.socket], None], prepare: Callable[[], object] = lambda: None
) -> tuple[float, float]:
    """Wall-clock and CPU time that ``receive`` takes for ``data`` from another process.

    ``prepare`` runs before the clock does. After a fork the first write to each page of memory copies it, which no
    process that only receives would pay for; so buffers have to be written once before.
    """
    with other_end(lambda sock: sock.sendall(data)) as sock:
        prepare()
        return _timed(lambda: receive(sock))


def seconds_to_send(n_bytes: int, send: Callable[[socket.socket], None]) -> tuple[float, float]:
    """Wall-clock and CPU time until another process has ``n_bytes`` of what ``send`` sends."""

    def take(sock: socket.socket) -> None:
        discard(sock, n_bytes)
        sock.sendall(b"!")

    with other_end(take) as sock:
        return _timed(lambda: (send(sock), sock.recv(1)))


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def discard(sock: socket.socket, n_bytes: int) -> None:
    """The loopback limit: receive into one buffer and look at nothing."""
    buffer = bytearray(BUFFER)
    while n_bytes > 0:
        n_bytes -= sock.recv_into(buffer)
