"""A node in a Gadgetron chain, on top of the connection that the gadgetron package has opened.

The package starts our process and reads configuration and header; from there its socket is used directly, because its
own reader never notices that the peer has gone, and its own end of a failed gadget is a CLOSE that looks like success.
The CLOSE that ends the conversation remains the package's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, runtime_checkable
from typing import Protocol as Interface

import numpy as np

from steadymr.errors import PerturbationError, SettingsError, UnsupportedScanError
from steadymr.source.heads import Head
from steadymr.source.wire.connection import Connection
from steadymr.source.wire.decode import acquisition_message
from steadymr.source.wire.dialects import Dialect, State
from steadymr.source.wire.limits import DEFAULT_LIMITS, DEFAULT_PATIENCE, Patience, WireLimits
from steadymr.source.wire.live_scan import Emit, HandleScan, LiveScan
from steadymr.source.wire.messages import Acquisitions, ConfigText, Event, Header, MessageId, ReconData
from steadymr.source.wire.protocol import Protocol
from steadymr.source.wire.relay import RESIDENT, RelayedScan, config_for_resident, resident_connection
from steadymr.source.wire.scan_config import ScanConfig, config_from_text
from steadymr.types import Readout, ScanHeader

#: Readouts with imperfections put in: as many as came, in the same order, with None for each that is withheld.
PerturbStream: TypeAlias = Callable[[ScanHeader, Iterator[Readout], Mapping[str, str]], Iterator[Readout | None]]


@runtime_checkable
class GadgetronConnection(Interface):
    """What is used of ``gadgetron.external.Connection``."""

    socket: Any  #: its wrapper, whose ``socket`` is the operating system's
    raw_bytes: Any  #: ``config`` and ``header`` as received


def run_node(
    connection: GadgetronConnection,
    handle_scan: HandleScan,
    limits: WireLimits = DEFAULT_LIMITS,
    patience: Patience = DEFAULT_PATIENCE,
) -> None:
    """Have ``handle_scan`` make images of everything that comes, and send what it emits down the chain.

    Waveforms and images of other gadgets pass through. If the property ``live.resident`` names a server that is there,
    it does the work instead. A failure is told to Gadgetron as ERROR and then raised, so that it stands in the
    server's log as well.
    """
    handed_over = _handed_over(connection, limits, patience)
    (handed_over or _scan(connection, handle_scan, limits, patience)).run()


def run_perturbation(
    connection: GadgetronConnection,
    perturb_stream: PerturbStream,
    limits: WireLimits = DEFAULT_LIMITS,
    patience: Patience = DEFAULT_PATIENCE,
) -> None:
    """Send acquisitions on with the samples that ``perturb_stream`` gives them; the rest of their heads stays.

    Those that it withholds go nowhere; flags that it moves to another line are moved.

    Raises PerturbationError if what comes out does not match what went in, UnsupportedScanError behind a gadget that
    has sorted the data.
    """
    heads: deque[Head] = deque()

    def forward(header: ScanHeader, readouts: Iterator[Readout], config: ScanConfig, emit: Emit) -> None:
        for readout in perturb_stream(header, readouts, config.settings):
            if readout is not None:
                emit(_acquisition(heads, readout))
            elif heads:
                heads.popleft()
        if heads:
            raise PerturbationError(f"{len(heads)} readouts were lost on the way through the perturbation")

    def remember(event: Event) -> None:
        if isinstance(event, ReconData):
            raise UnsupportedScanError("sorted k-space came; put the perturb node before Gadgetron's AccumulateTrigger")
        if isinstance(event, Acquisitions):
            heads.extend(event.head.copy())

    _scan(connection, forward, limits, patience, on_event=remember).run()


def _scan(
    connection: GadgetronConnection,
    handle_scan: HandleScan,
    limits: WireLimits,
    patience: Patience,
    on_event: Callable[[Event], None] | None = None,
) -> LiveScan:
    """A scan whose configuration and header the package has already received."""
    ours = Connection(connection.socket.socket, Protocol(limits, Dialect.NODE, State.DATA), patience)
    received = connection.raw_bytes
    preface: list[Event] = [Header(received.header.decode(errors="replace"))]
    if received.config:  # a node without <configuration> is legal
        preface.insert(0, ConfigText(received.config.decode(errors="replace")))
    return LiveScan(ours, handle_scan, "node", preface=preface, on_event=on_event)


def _handed_over(connection: GadgetronConnection, limits: WireLimits, patience: Patience) -> RelayedScan | None:
    received = connection.raw_bytes
    try:
        config = config_from_text((received.config or b"").decode(errors="replace"))
    except SettingsError:
        return None  # a scan of our own reports it
    where = config.settings.get(RESIDENT)
    resident = resident_connection(where, limits, patience) if where else None
    if resident is None:
        return None
    preface: list[Event] = [config_for_resident(config), Header(received.header.decode(errors="replace"))]
    ours = Connection(connection.socket.socket, Protocol(limits, Dialect.NODE, State.DATA), patience)
    return RelayedScan(ours, resident, preface)


def _acquisition(heads: deque[Head], readout: Readout) -> Acquisitions:
    """The message for a readout under the head it came with."""
    head = heads.popleft() if heads else None
    if head is None or (head["scan_counter"], head["idx"]["kspace_encode_step_1"]) != (
        readout.scan_counter,
        readout.k1,
    ):
        raise PerturbationError(f"readout {readout.scan_counter} came out of the perturbation where another went in")
    channels, samples = readout.data.shape
    message = np.zeros(1, acquisition_message(channels, samples, 0))
    message["id"], message["head"], message["data"] = MessageId.ACQUISITION, head, readout.data
    message["head"]["number_of_samples"], message["head"]["active_channels"] = samples, channels
    message["head"]["center_sample"], message["head"]["trajectory_dimensions"] = readout.centre_sample, 0
    message["head"]["flags"] = readout.flags
    message["head"]["discard_pre"], message["head"]["discard_post"] = readout.discard_pre, readout.discard_post
    return Acquisitions(message)
