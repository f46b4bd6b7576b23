"""Imperfections for readouts that pass by, in the same order; sentinel lines are withheld where settings name them.

A volume waits until it is complete, because drift, motion and ghosts are properties of a whole scan. It is assembled
and perturbed like any other, and the change that makes is added to the lines as they were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Complex64

from steadymr import perturb
from steadymr.assemble import assemble
from steadymr.assemble.grid import grid_of, place, with_change
from steadymr.config import Settings, load_settings, overrides_from_text
from steadymr.errors import SettingsError
from steadymr.perturb import Perturbation
from steadymr.source.heads import END_FLAGS, user_flag
from steadymr.types import KSpace, Readout, ScanHeader, VolumeIndex
from steadymr.volume.planes import seed_for


def perturb_stream(
    header: ScanHeader, readouts: Iterator[Readout], wanted: Mapping[str, str]
) -> Iterator[Readout | None]:
    """Readouts with the imperfections that the setting ``perturb`` names; noise and navigators pass as they are.

    A line that ``sentinels.lines`` or ``sentinels.user_flag`` makes a sentinel is withheld: None comes in its place, so
    that whoever is next in the chain never sees it. If the scanner's mark for the end of its volume was on it, the last
    line that does pass gets that mark. Volumes whose end nobody marked are complete when the stream ends.

    Raises SteadymrError for settings that do not exist and volumes that cannot be assembled.
    """
    settings = load_settings(None, overrides_from_text(wanted))
    held = _Held(header, settings)
    for readout in readouts:
        held.add(readout)
        if readout.last_of_volume:
            held.complete(readout.index)
        if not held.waiting:
            yield from held.release()
    for index in list(held.waiting):
        held.complete(index)
    yield from held.release()


class _Held:
    """All that came since the first line of the oldest volume that is not complete."""

    def __init__(self, header: ScanHeader, settings: Settings) -> None:
        self.waiting: dict[VolumeIndex, list[int]] = {}  #: volumes, and where their lines stand among those held
        self._lines: list[Readout | None] = []
        self._noise: list[Readout] = []
        self._header, self._settings = header, settings
        self._perturbations = perturb.parse_all(settings.perturb)
        flag = settings.sentinels.user_flag
        self._sentinel_flags = 0 if flag is None else user_flag(flag)

    def add(self, readout: Readout) -> None:
        if readout.role == "noise":
            self._noise.append(readout)
        elif readout.role != "set aside":
            self.waiting.setdefault(readout.index, []).append(len(self._lines))
        self._lines.append(readout)

    def complete(self, index: VolumeIndex) -> None:
        """Perturb a volume whose last line has come, and take its sentinels out."""
        numbers = self.waiting.pop(index)
        lines = [line for number in numbers if (line := self._lines[number]) is not None]
        if self._perturbations:
            lines = _perturbed(self._header, self._noise, lines, self._perturbations, self._settings)
        for number, line in zip(numbers, _without_sentinels(lines, self._is_sentinel), strict=True):
            self._lines[number] = line

    def release(self) -> list[Readout | None]:
        """What may go on, in the order it came."""
        released, self._lines = self._lines, []
        return released

    def _is_sentinel(self, readout: Readout) -> bool:
        marked = readout.k1 in self._settings.sentinels.lines or bool(readout.flags & self._sentinel_flags)
        return marked and readout.role == "image"


def _without_sentinels(lines: list[Readout], is_sentinel: Callable[[Readout], bool]) -> list[Readout | None]:
    """The lines with None for each sentinel; marks for the end of the volume move to the last line that is left."""
    passed: list[Readout | None] = [None if is_sentinel(line) else line for line in lines]
    ends = lines[-1].flags & END_FLAGS
    if passed[-1] is None and ends:
        last = max((i for i, line in enumerate(passed) if line is not None), default=None)
        if last is None:
            raise SettingsError("all lines of a volume are sentinels: nothing would be passed on")
        passed[last] = replace(lines[last], flags=lines[last].flags | ends, last_of_volume=True)
    return passed


def _perturbed(
    header: ScanHeader,
    noise: Sequence[Readout],
    lines: Sequence[Readout],
    perturbations: Sequence[Perturbation],
    settings: Settings,
) -> list[Readout]:
    whole = [*lines[:-1], replace(lines[-1], last_of_volume=True)]
    (before,) = assemble([*noise, *whole], header)
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
