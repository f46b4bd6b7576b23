"""The reconstruction as a node of a Gadgetron chain.

In a chain: module ``steadymr_gadgets.reconstruct``, target ``reconstruct``.
"""

from __future__ import annotations

from collections.abc import Iterator

from steadymr.source.wire.gadget import GadgetronConnection, run_node
from steadymr.source.wire.live_scan import Emit
from steadymr.source.wire.relay import RESIDENT
from steadymr.source.wire.scan_config import ScanConfig
from steadymr.types import Readout, ScanHeader


def reconstruct(connection: GadgetronConnection) -> None:
    """Turn acquisitions or sorted k-space into images with a stability verdict."""
    run_node(connection, _handle_scan)


def _handle_scan(header: ScanHeader, readouts: Iterator[Readout], config: ScanConfig, emit: Emit) -> None:
    from steadymr.live.scan import reconstruct_stream  # here, because torch loads slowly and data already flows

    resident = config.settings.get(RESIDENT)
    notes = [f"the resident server at {resident} was not there; the node did its work"] if resident else []
    for message in reconstruct_stream(header, readouts, config.settings, notes):
        emit(message)
