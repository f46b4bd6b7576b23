"""The MRD streaming protocol without any input or output: bytes in, events out.

Whoever owns the socket does this, in the manner of h11 and of asyncio's buffered protocols::

    protocol = Protocol(WireLimits())
    while True:
        event = protocol.next_event()
        if event is None:
            n_bytes = sock.recv_into(protocol.room())
            protocol.received(n_bytes)  # 0 when the peer has hung up
        elif isinstance(event, Close):
            break
"""

from __future__ import annotations

from steadymr.errors import OutputError, PeerLostError, ProtocolError
from steadymr.source.wire.decode import IDENTIFIER, Incomplete, decode, parser_of
from steadymr.source.wire.dialects import ACCEPTS, MOVES, Dialect, State, recognise, refusal
from steadymr.source.wire.inbox import Inbox
from steadymr.source.wire.limits import WireLimits
from steadymr.source.wire.messages import Event, MessageId, name_of


class Protocol:
    """One conversation, seen from our side."""

    def __init__(self, limits: WireLimits, dialect: Dialect = Dialect.UNKNOWN, state: State = State.START) -> None:
        """Begin at the beginning, or where somebody else has already read, with what is known of the peer."""
        self.limits = limits
        self.dialect = dialect
        self.state = state
        self._inbox = Inbox()
        self._needed_bytes = IDENTIFIER.size
        self._broken = False

    @property
    def broken(self) -> bool:
        """After a ProtocolError nobody knows where the next message begins."""
        return self._broken

    def room(self) -> memoryview:
        """A place to receive into; what is written there counts once ``received`` is told."""
        return self._inbox.room_for(self._needed_bytes)

    def received(self, n_bytes: int) -> None:
        """``n_bytes`` were written into ``room()``; none means that the peer has hung up.

        Raises PeerLostError if it hung up before it said CLOSE.
        """
        if n_bytes == 0:
            raise PeerLostError(self._where_it_ended())
        self._inbox.filled(n_bytes)

    def receive(self, data: bytes) -> None:
        """The same for bytes that are somewhere else."""
        while data:
            room = self.room()
            part = data[: len(room)]
            room[: len(part)] = part
            self._inbox.filled(len(part))
            data = data[len(part) :]

    def next_event(self) -> Event | None:
        """The next event, or None until more bytes have come; raises ProtocolError.

        Arrays in the event are views that stay valid for as long as anyone holds them.
        """
        if self._broken or self.state is State.CLOSED or len(self._inbox) < self._needed_bytes:
            return None
        view = self._inbox.waiting()
        try:
            identifier: int = IDENTIFIER.unpack_from(view)[0]
            next_state = self._next_state(identifier)
            event, n_bytes = decode(view, self.limits)
        except Incomplete as short:
            self._needed_bytes = short.total_bytes
            return None
        except ProtocolError:
            self._broken = True
            raise
        self._inbox.consume(n_bytes)
        self._needed_bytes = IDENTIFIER.size
        self.dialect = recognise(self.dialect, event)
        self.state = next_state
        return event

    def understands(self, identifier: int) -> bool:
        """Whether this kind of peer can take such a message."""
        return identifier in ACCEPTS[self.dialect]

    def check_outgoing(self, identifier: int) -> None:
        """Raises OutputError for a message that this peer would choke on."""
        if not self.understands(identifier):
            raise OutputError(f"{name_of(identifier)} cannot be sent to a {self.dialect.value} peer")

    def _next_state(self, identifier: int) -> State:
        parser_of(identifier)  # an unknown message is reported as such, whatever the state
        moves = MOVES.get((self.dialect, self.state), {})
        if identifier not in moves:
            raise ProtocolError(refusal(self.dialect, self.state, identifier))
        return moves[MessageId(identifier)]

    def _where_it_ended(self) -> str:
        if not len(self._inbox):
            return f"the peer hung up in state {self.state.name} without CLOSE"
        started: int = IDENTIFIER.unpack_from(self._inbox.waiting())[0] if len(self._inbox) >= IDENTIFIER.size else 0
        return f"the peer hung up {len(self._inbox)} bytes into {name_of(started) if started else 'a message'}"
