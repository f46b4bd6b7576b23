"""Imperfections for readouts that pass by: as many lines out as came in, in the same order.

A volume waits until it is complete, because drift, motion and ghosts are properties of a whole scan. It is assembled
and perturbed like any other, and the change that makes is added to the lines as they were measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Complex64

from steadymr import perturb
from steadymr.assemble import assemble
from steadymr.assemble.grid import grid_of, place, with_change
from steadymr.config import Settings, load_settings, overrides_from_text
from steadymr.perturb import Perturbation
from steadymr.reconstruct import seed_for
from steadymr.types import KSpace, Readout, ScanHeader, VolumeIndex


def perturb_stream(header: ScanHeader, readouts: Iterator[Readout], wanted: Mapping[str, str]) -> Iterator[Readout]:
    """Readouts with the imperfections that the setting ``perturb`` names; noise and navigators pass as they are.

    Raises SteadymrError for settings that do not exist and volumes that cannot be assembled.
    """
    settings = load_settings(None, overrides_from_text(wanted))
    perturbations = perturb.parse_all(settings.perturb)
    noise: list[Readout] = []
    waiting: dict[VolumeIndex, list[Readout]] = {}
    held: list[Readout] = []  # all that came since the first line of the oldest volume that waits
    for readout in readouts:
        held.append(readout)
        if readout.role == "noise":
            noise.append(readout)
        elif readout.role != "set aside":
            waiting.setdefault(readout.index, []).append(readout)
        if readout.last_of_volume:
            lines = waiting.pop(readout.index)
            changed = dict(zip(map(id, lines), _perturbed(header, noise, lines, perturbations, settings), strict=True))
            held = [changed.get(id(line), line) for line in held]
        if not waiting:
            yield from held
            held = []
    yield from held


def _perturbed(
    header: ScanHeader,
    noise: Sequence[Readout],
    lines: Sequence[Readout],
    perturbations: Sequence[Perturbation],
    settings: Settings,
) -> list[Readout]:
    (before,) = assemble([*noise, *lines], header)
    after = perturb.apply(before, perturbations, seed_for(settings.seed, before, "perturb"))
    grid = grid_of(header)
    changed = []
    for line in lines:
        where = place(line, grid)
        old, new = (_line(kspace, line, where.k2, where.k1) for kspace in (before, after))
        changed.append(with_change(line, new - old, grid))
    return changed


def _line(kspace: KSpace, readout: Readout, k2: int, k1: int) -> Complex64[np.ndarray, "coil k0"]:
    separate = readout.role == "calibration" and kspace.header.calibration_mode != "embedded"
    return (kspace.calibration if separate else kspace.data)[:, k2, k1]
