"""Who says what, when: the legal moves of the kinds of peer, as a table.

========== =================================================================================================
node       Gadgetron with us as an external node (``<execute>`` or ``<connect>``); configuration as text
client     ``gadgetron_ismrmrd_client`` with ``-c`` (name of a configuration) or ``-Q`` (query)
fire       FIRE and OpenRecon clients; texts end in a NUL that the length counts
server     a resident server that a gadget of ours hands its scan to, as Gadgetron would
========== =================================================================================================

A server learns which it is from the first two messages (`recognise`). ``gadgetron_ismrmrd_client -C`` cannot be told
from a node and is treated as one, which is stricter: Gadgetron aborts when a node sends it text.
"""

from __future__ import annotations

from enum import Enum, auto

from steadymr.source.wire.messages import ConfigFile, ConfigText, Event, Header, MessageId, Query, name_of


class Dialect(Enum):
    """The kind of peer; ``UNKNOWN`` until it has spoken."""

    UNKNOWN = "unknown"
    NODE = "node"
    CLIENT = "client"
    FIRE = "fire"
    SERVER = "server"


class State(Enum):
    """How far a conversation has come, by what the peer has sent."""

    START = auto()
    CONFIGURED = auto()
    DATA = auto()
    CLOSED = auto()


_ENDS = {MessageId.CLOSE: State.CLOSED, MessageId.ERROR: State.CLOSED}
_CONFIGURED = {MessageId.HEADER: State.DATA, **_ENDS}
_ACQUISITIONS = {MessageId.ACQUISITION: State.DATA, MessageId.WAVEFORM: State.DATA, **_ENDS}
_NODE_DATA = {
    MessageId.RECON_DATA: State.DATA,
    MessageId.IMAGE_ARRAY: State.DATA,
    MessageId.IMAGE: State.DATA,
    MessageId.DICOM: State.DATA,
    **_ACQUISITIONS,
}

#: What the peer may send, and where that leads.
MOVES: dict[tuple[Dialect, State], dict[MessageId, State]] = {
    (Dialect.UNKNOWN, State.START): {
        MessageId.CONFIG_FILE: State.CONFIGURED,
        MessageId.CONFIG_TEXT: State.CONFIGURED,
        MessageId.QUERY: State.START,
        **_ENDS,
    },
    (Dialect.CLIENT, State.START): {
        MessageId.CONFIG_FILE: State.CONFIGURED,
        MessageId.CONFIG_TEXT: State.CONFIGURED,
        MessageId.QUERY: State.START,
        **_ENDS,
    },
    (Dialect.NODE, State.START): {MessageId.CONFIG_TEXT: State.CONFIGURED, **_ENDS},
    (Dialect.FIRE, State.START): {
        MessageId.CONFIG_FILE: State.CONFIGURED,
        MessageId.CONFIG_TEXT: State.CONFIGURED,
        **_ENDS,
    },
    (Dialect.NODE, State.CONFIGURED): _CONFIGURED,
    (Dialect.CLIENT, State.CONFIGURED): _CONFIGURED,
    (Dialect.FIRE, State.CONFIGURED): {MessageId.TEXT: State.CONFIGURED, **_CONFIGURED},
    (Dialect.NODE, State.DATA): _NODE_DATA,
    (Dialect.CLIENT, State.DATA): {MessageId.TEXT: State.DATA, **_ACQUISITIONS},
    (Dialect.FIRE, State.DATA): {MessageId.TEXT: State.DATA, **_ACQUISITIONS},
    (Dialect.SERVER, State.DATA): _NODE_DATA,
}

_ALWAYS_ACCEPTED = frozenset({MessageId.IMAGE, MessageId.ERROR, MessageId.CLOSE})
_NODE_ACCEPTS = _ALWAYS_ACCEPTED | {
    MessageId.ACQUISITION,
    MessageId.WAVEFORM,
    MessageId.RECON_DATA,
    MessageId.IMAGE_ARRAY,
}

#: What the peer understands. Gadgetron aborts the whole chain when a node sends it anything else; it has no reader for
#: DICOM (gadgetron 4, Loader.h: default_readers).
ACCEPTS: dict[Dialect, frozenset[MessageId]] = {
    Dialect.UNKNOWN: frozenset({MessageId.ERROR, MessageId.CLOSE}),
    Dialect.NODE: _NODE_ACCEPTS,
    Dialect.CLIENT: _ALWAYS_ACCEPTED | {MessageId.DICOM, MessageId.RESPONSE},
    Dialect.FIRE: _ALWAYS_ACCEPTED | {MessageId.TEXT},
    Dialect.SERVER: _NODE_ACCEPTS | {MessageId.DICOM, MessageId.CONFIG_TEXT, MessageId.HEADER},
}


def recognise(dialect: Dialect, event: Event) -> Dialect:
    """The dialect as known after ``event``."""
    match event:
        case ConfigText(terminated=True) | Header(terminated=True):
            return Dialect.FIRE
        case ConfigText() if dialect is Dialect.UNKNOWN:
            return Dialect.NODE
        case ConfigFile() | Query() if dialect is Dialect.UNKNOWN:
            return Dialect.CLIENT
    return dialect


def refusal(dialect: Dialect, state: State, identifier: int) -> str:
    """A sentence about an illegal move."""
    legal = ", ".join(member.name for member in MOVES.get((dialect, state), {}))
    peer = "a peer" if dialect is Dialect.UNKNOWN else f"a {dialect.value} peer"
    return f"{peer} sent {name_of(identifier)} in state {state.name}; expected one of: {legal or 'nothing more'}"
