"""Readouts become the volumes to reconstruct, with the sentinel lines that the settings ask for kept apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from steadymr.assemble import assemble
from steadymr.config import Settings
from steadymr.errors import SettingsError
from steadymr.sentinels import draw_for, hold_out, keep_as_sentinels, lines_of_steps, place
from steadymr.source.heads import user_flag
from steadymr.types import KSpace, Readout, ScanHeader
from steadymr.undersample import undersample


def assembled(readouts: Iterable[Readout], header: ScanHeader, settings: Settings) -> Iterator[KSpace]:
    """Volumes as they come, their sentinels withheld: those of the protocol, and those drawn from what was acquired."""
    wanted = settings.sentinels
    flags = 0 if wanted.user_flag is None else user_flag(wanted.user_flag)
    for kspace in assemble(
        readouts, header, averages=settings.assemble.averages, sentinel_steps=wanted.lines, sentinel_flags=flags
    ):
        yield _held_out(kspace, settings)


def whole(readouts: Iterable[Readout], header: ScanHeader, settings: Settings) -> Iterator[KSpace]:
    """Volumes with every line they have: references, and scans to be accelerated afterwards."""
    return assemble(readouts, header, averages=settings.assemble.averages)


def accelerated(full: KSpace, settings: Settings) -> KSpace:
    """The lines that an accelerated protocol would have acquired, and its sentinels, taken from the full scan.

    Raises SettingsError if the scan is accelerated already, or has no room for so many sentinels.
    """
    wanted = settings.undersample
    fewer = undersample(full, wanted.acceleration, wanted.calibration_lines)
    sampled, calibrated = (np.asarray(lines.any(axis=0)) for lines in (fewer.sampled, fewer.calibrated))
    lines = place(sampled, calibrated, wanted.sentinels, draw_for(full, settings.seed))
    lines = sorted({*lines, *lines_of_steps(full, settings.sentinels.lines)})
    return _held_out(keep_as_sentinels(fewer, full, lines) if lines else fewer, settings)


def check_sentinels(settings: Settings) -> None:
    """Raise SettingsError if sentinels are asked of a full scan that is to be had only by accelerating one."""
    if settings.undersample.sentinels and settings.undersample.acceleration == 1:
        raise SettingsError(
            "--sentinels takes lines that acceleration would leave out, so it needs --undersample; a scan accelerated "
            "by its protocol can have sentinels.lines, sentinels.user_flag or sentinels.held_out"
        )


def _held_out(kspace: KSpace, settings: Settings) -> KSpace:
    n = settings.sentinels.held_out
    return hold_out(kspace, n, draw_for(kspace, settings.seed)) if n else kspace
