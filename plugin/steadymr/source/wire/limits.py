"""How much a peer may ask of us; each limit is checked before memory is allocated for what it limits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WireLimits:
    """The defaults hold the largest clinical scans seen, with room, and little more."""

    message_bytes: int = 1 << 30  #: any one message; sorted k-space of a 3-D scan is the longest
    text_bytes: int = 16 << 20  #: configuration, MRD header, text, query, error, meta attributes
    samples: int = 1 << 15  #: in one readout
    channels: int = 1024  #: MRD's channel mask has room for no more
    trajectory_dimensions: int = 8
    matrix: int = 4096  #: along any axis of an image
    array_dimensions: int = 16  #: of an array in sorted k-space
    encoding_spaces: int = 16  #: in one message of sorted k-space
    images: int = 1 << 14  #: in one array of images


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a peer."""

    first_s: float = 30.0  #: without a byte from a peer that has just connected; it holds a place of few
    idle_s: float = 300.0  #: without a byte taken or given while we wait; then the peer counts as lost
    drain_s: float = 300.0  #: in all, for the rest of the input after a failure
    settle_s: float = 0.1  #: between the end of the input and ERROR; Gadgetron 4.7 loses the error without it
    linger_s: float = 2.0  #: for the peer to hang up after our CLOSE


DEFAULT_LIMITS = WireLimits()
DEFAULT_PATIENCE = Patience()
