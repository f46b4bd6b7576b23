"""Modelled imperfections as a node, before any other reconstruction that a site wants to stress.

In a chain: module ``steadymr_gadgets.perturb``, target ``perturb``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from steadymr.source.wire.gadget import GadgetronConnection, run_perturbation
from steadymr.types import Readout, ScanHeader


def perturb(connection: GadgetronConnection) -> None:
    """Pass acquisitions on with the imperfections that the node's properties name, all but the sentinels they name."""
    run_perturbation(connection, _perturb_stream)


def _perturb_stream(
    header: ScanHeader, readouts: Iterator[Readout], settings: Mapping[str, str]
) -> Iterator[Readout | None]:
    from steadymr.live.perturb_stream import perturb_stream  # here, because it loads slowly and data already flows

    yield from perturb_stream(header, readouts, settings)
