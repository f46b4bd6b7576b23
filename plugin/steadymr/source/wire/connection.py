"""A protocol on a socket: the only place that receives and sends.

A lost peer ends the conversation: the empty read is an error, and so is silence for longer than `Patience` says.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

from steadymr.errors import PeerLostError
from steadymr.source.wire.dialects import Dialect, State
from steadymr.source.wire.encode import Parts, encode, identifier_of
from steadymr.source.wire.limits import Patience
from steadymr.source.wire.messages import Close, Error, Event, Text
from steadymr.source.wire.protocol import Protocol

_DRAIN_BYTES = 1 << 16
_QUIET_S = 0.2
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_PROBES = 30, 10, 3


class Connection:
    """One peer. Receiving belongs to one thread and sending to one, which may be another."""

    def __init__(self, sock: socket.socket, protocol: Protocol, patience: Patience) -> None:
        """Take over a connected socket, perhaps in the middle of a conversation, as ``protocol`` says."""
        self.protocol = protocol
        self.patience = patience
        self.heard = protocol.state is not State.START  #: whether the peer has ever said anything
        self._sock = sock
        sock.settimeout(patience.idle_s if self.heard else patience.first_s)
        _keep_alive(sock)

    def events(self) -> Iterator[Event]:
        """Events as they come, the last one Close or Error.

        Raises ProtocolError for what is illegal, PeerLostError if the peer vanishes.
        """
        while self.protocol.state is not State.CLOSED:
            event = self.protocol.next_event()
            if event is None:
                self._receive()
            else:
                yield event

    def send(self, event: Event) -> None:
        """Send one message; raises OutputError if this kind of peer would choke on it, PeerLostError if it is gone."""
        if isinstance(event, Text):
            event = Text(event.text, terminated=self.protocol.dialect is Dialect.FIRE)
        self.protocol.check_outgoing(identifier_of(event))
        self._send(encode(event))

    def report(self, sentence: str) -> None:
        """Tell the peer of a failure, once it has said CLOSE and has had a moment to settle.

        Gadgetron frees its side of the channel early: an ERROR that overtakes the input is lost, and sometimes the
        server with it.
        """
        if self.protocol.broken:
            self._discard_bytes(time.monotonic() + self.patience.drain_s)
        time.sleep(self.patience.settle_s)
        if self.protocol.dialect is Dialect.FIRE:
            self.send(Text(f"ERR {sentence}"))  # what the scanner's log viewer shows in red
        self.send(Error(sentence))

    def close(self) -> None:
        """Say CLOSE and hang up, giving the peer time to read; never raises for a peer that is gone."""
        with contextlib.suppress(PeerLostError):
            self.send(Close())
            self._linger()
        self._sock.close()

    def abandon(self) -> None:
        """Hang up without a word; a thread that waits for the peer is woken."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _receive(self) -> None:
        try:
            n_bytes = self._sock.recv_into(self.protocol.room())
        except TimeoutError as error:
            raise PeerLostError(f"the peer sent nothing for {self._sock.gettimeout():g} s") from error
        except OSError as error:
            raise PeerLostError(f"the connection broke while receiving: {error.strerror or error}") from error
        if n_bytes and not self.heard:
            self.heard = True
            self._sock.settimeout(self.patience.idle_s)
        self.protocol.received(n_bytes)

    def _send(self, parts: Parts) -> None:
        views = [memoryview(part) for part in parts if len(part)]
        try:
            while views:
                views = _after(views, self._sock.sendmsg(views))
        except TimeoutError as error:
            raise PeerLostError(f"the peer took nothing for {self.patience.idle_s:g} s") from error
        except OSError as error:
            raise PeerLostError(f"the connection broke while sending: {error.strerror or error}") from error

    def _discard_bytes(self, deadline: float) -> None:
        """Throw away what cannot be understood, until it stops coming."""
        self._sock.settimeout(_QUIET_S)
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline and self._sock.recv(_DRAIN_BYTES):
                pass
        self._sock.settimeout(self.patience.idle_s)

    def _linger(self) -> None:
        """Closing a socket with unread input resets it, which would take our last message with it."""
        deadline = time.monotonic() + self.patience.linger_s
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            self._sock.settimeout(self.patience.linger_s)
            while time.monotonic() < deadline and self._sock.recv(_DRAIN_BYTES):
                pass


def _after(views: list[memoryview], n_sent: int) -> list[memoryview]:
    """What is left of ``views`` when ``n_sent`` bytes have gone."""
    for i, view in enumerate(views):
        if n_sent < len(view):
            return [view[n_sent:], *views[i + 1 :]]
        n_sent -= len(view)
    return []


def _keep_alive(sock: socket.socket) -> None:
    """Have the kernel notice a peer whose machine or network has gone."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
    ):
        if hasattr(socket, option):  # macOS names the first one differently
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
