"""Small handlers and gadgets for the wire tests: what the pipeline is to the real ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from steadymr.errors import ReconError
from steadymr.source.wire.encode import image_head
from steadymr.source.wire.gadget import run_node, run_perturbation
from steadymr.source.wire.live_scan import Emit
from steadymr.source.wire.messages import ImageMessage
from steadymr.source.wire.outgoing import meta_xml
from steadymr.source.wire.scan_config import ScanConfig
from steadymr.types import Readout, ScanHeader


def image_of(lines: list[Readout], meta: Mapping[str, str]) -> ImageMessage:
    data = np.stack([abs(line.data[0]) for line in lines]).astype(np.float32)[np.newaxis, np.newaxis]
    return ImageMessage(image_head(data), meta_xml(meta), data)


def magnitudes(header: ScanHeader, readouts: Iterator[Readout], config: ScanConfig, emit: Emit) -> None:
    """An image for each volume whose rows are the magnitudes of its lines; the meta repeats what was asked."""
    lines: list[Readout] = []
    for readout in readouts:
        lines.append(readout)
        if readout.last_of_volume:
            emit(image_of(lines, {**config.settings, "Name": config.name, "StabilityReasons": "σ < 2 %, naïve <ok>"}))
            lines = []
    if lines:
        emit(image_of(lines, config.settings))


def failing(header: ScanHeader, readouts: Iterator[Readout], config: ScanConfig, emit: Emit) -> None:
    next(readouts)
    raise ReconError("no image can be made of this")


def buggy(header: ScanHeader, readouts: Iterator[Readout], config: ScanConfig, emit: Emit) -> None:
    next(readouts)
    raise KeyError(header.identity.patient_name)


def doubled(header: ScanHeader, readouts: Iterator[Readout], settings: Mapping[str, str]) -> Iterator[Readout]:
    return (replace(readout, data=2 * readout.data) for readout in readouts)


def magnitude_gadget(connection: Any) -> None:
    run_node(connection, magnitudes)


def failing_gadget(connection: Any) -> None:
    run_node(connection, failing)


def doubling_gadget(connection: Any) -> None:
    run_perturbation(connection, doubled)


def losing_gadget(connection: Any) -> None:
    run_perturbation(connection, lambda header, readouts, settings: (line for line in readouts if line.k1 != 15))
