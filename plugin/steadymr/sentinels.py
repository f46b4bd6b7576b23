"""Sentinel lines: measured, kept from the reconstruction, and compared with what the reconstruction predicts there.

A reconstruction that invents something must invent it on lines that were not measured. A few lines that were measured
but withheld see that directly: cross-validation in k-space (Ward 2009). Lines of the calibration are never withheld.

Lines are numbered as on the grid, from 0, zero frequency at ``n // 2``; encoding steps as the scanner counts them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64

from steadymr.errors import SettingsError
from steadymr.types import KSpace

N_FIXED = 2  #: lines in the first gaps, one on each side, before any is drawn at random
N_CALIBRATION = 24  #: coil maps are made from so many lines at most


def lines_of_steps(kspace: KSpace, steps: Iterable[int]) -> list[int]:
    """The lines that belong to encoding steps.

    Raises SettingsError for a step outside the encoded matrix.
    """
    n_k1, limits = kspace.data.shape[2], kspace.header.k1_limits
    first = 0 if limits is None else limits.centre - n_k1 // 2
    lines = [step - first for step in steps]
    for step, line in zip(steps, lines, strict=True):
        if not 0 <= line < n_k1:
            raise SettingsError(
                f"sentinels.lines names encoding step {step}, but the scan has steps {first} to {first + n_k1 - 1}"
            )
    return lines


def withhold(kspace: KSpace, lines: Sequence[int]) -> KSpace:
    """Turn acquired lines into sentinels, in all partitions; lines that were not acquired are passed over.

    Raises SettingsError if one of them belongs to the calibration, or if no line but the calibration's would be left.
    """
    wanted = np.zeros_like(kspace.sampled)
    wanted[:, list(lines)] = True
    _refuse_calibration(kspace, wanted)
    sampled = kspace.sampled & ~wanted
    if wanted.any() and not (sampled & ~_calibration(kspace)).any():
        raise SettingsError(
            f"withholding {len(lines)} sentinel lines would leave nothing but the calibration to reconstruct from; "
            "ask for fewer"
        )
    return _with_sentinels(kspace, sampled, kspace.acquired & wanted)


def keep_as_sentinels(accelerated: KSpace, full: KSpace, lines: Sequence[int]) -> KSpace:
    """Give a retrospectively accelerated scan lines of the full one as sentinels.

    Raises SettingsError if one of them belongs to the calibration, or was not acquired by the full scan either.
    """
    wanted = np.zeros_like(accelerated.sampled)
    wanted[:, list(lines)] = True
    _refuse_calibration(accelerated, wanted)
    missing = np.flatnonzero(wanted.any(axis=0) & ~full.sampled.any(axis=0))
    if missing.size:
        raise SettingsError(f"line {missing[0]} cannot be a sentinel: the full scan does not have it either")
    new = wanted & full.sampled
    data = np.where(new[None, :, :, None], full.data, accelerated.data)
    return _with_sentinels(replace(accelerated, data=data), accelerated.sampled & ~new, new)


def hold_out(kspace: KSpace, n: int, rng: np.random.Generator) -> KSpace:
    """Withhold ``n`` acquired lines, drawn at random: the more a line tells, the likelier it is drawn.

    What a line tells is taken to be the sum of ``log(1 + signal / noise)`` over its samples, in power.

    Raises SettingsError if the scan has not twice as many lines outside the calibration.
    """
    free = np.flatnonzero((kspace.sampled & ~_calibration(kspace)).any(axis=0))
    if len(free) < 2 * n:
        raise SettingsError(
            f"sentinels.held_out asks for {n} lines, but the scan has only {len(free)} outside its calibration, and "
            "at least half of these are needed for the image; ask for fewer"
        )
    weight = _information(kspace)[free] + 1e-6
    drawn = rng.choice(free, size=n, replace=False, p=weight / weight.sum())
    return withhold(kspace, [int(line) for line in drawn])


def place(
    sampled: Bool[np.ndarray, " k1"], calibrated: Bool[np.ndarray, " k1"], n: int, rng: np.random.Generator
) -> list[int]:
    """Choose ``n`` lines to measure as sentinels beside those that are sampled.

    The first ones lie in the first gaps beyond the calibration, on both sides in turn: there k-space is strong and
    unknown, so that is where invented structure shows. Of four lines and more, every other one is drawn at random
    with weight ``1 / (1 + distance from zero frequency)``, so that nobody can know them all beforehand.

    Raises SettingsError if there are not as many lines that are not sampled.
    """
    free = np.flatnonzero(~sampled & ~calibrated)
    block = np.flatnonzero(calibration_block(calibrated))
    if len(free) < n:
        raise SettingsError(f"{n} sentinel lines were asked for, but only {len(free)} lines are not sampled anyway")
    n_fixed = n if n < N_FIXED + 2 else max(N_FIXED, n // 2)
    fixed = _first_gaps(free, block, len(sampled))[:n_fixed]
    others = np.setdiff1d(free, fixed)
    if n == len(fixed):
        return sorted(fixed)
    weight = 1.0 / (1 + np.abs(others - len(sampled) // 2))
    drawn = rng.choice(others, size=n - len(fixed), replace=False, p=weight / weight.sum())
    return sorted([*fixed, *(int(line) for line in drawn)])


def draw_for(kspace: KSpace, seed: int) -> np.random.Generator:
    """Chance for one scan: the same for the same data and seed, and not to be foretold without the data."""
    return np.random.default_rng([seed, zlib.crc32(np.ascontiguousarray(kspace.data).tobytes())])


def _first_gaps(free: np.ndarray, block: np.ndarray, n_k1: int) -> list[int]:
    """Free lines beyond the calibration, the nearest first, one of each side in turn."""
    first, last = (block[0], block[-1]) if block.size else (n_k1 // 2, n_k1 // 2)
    above = [int(line) for line in free if line > last]
    below = [int(line) for line in free[::-1] if line < first]
    longer = max(len(above), len(below))
    return [side[i] for i in range(longer) for side in (above, below) if i < len(side)]


def _information(kspace: KSpace) -> Float64[np.ndarray, " k1"]:
    """Sum over the samples of each line of ``log(1 + signal / noise)``, in power."""
    noise = np.diagonal(kspace.noise_covariance).real[:, None, None, None]
    power = np.abs(kspace.data.astype(np.complex128)) ** 2 / np.maximum(noise, np.finfo(float).tiny)
    return np.asarray(np.log1p(np.maximum(power - 1, 0)).sum(axis=(0, 1, 3)))


def _with_sentinels(kspace: KSpace, sampled: Bool[np.ndarray, "k2 k1"], new: Bool[np.ndarray, "k2 k1"]) -> KSpace:
    sentinel = new if kspace.sentinel is None else kspace.sentinel | new
    if not sentinel.any():
        return kspace
    return replace(
        kspace,
        sampled=sampled,
        sentinel=sentinel,
        calibration=np.where(sentinel[None, :, :, None], 0, kspace.calibration).astype(np.complex64),
        calibrated=kspace.calibrated & ~sentinel,
    )


def calibration_block(calibrated: Bool[np.ndarray, " k1"]) -> Bool[np.ndarray, " k1"]:
    """The adjacent calibration lines around zero frequency, of which at most the central 24 are needed."""
    centre, n_k1 = len(calibrated) // 2, len(calibrated)
    line = np.arange(n_k1)
    gaps = np.flatnonzero(~calibrated)
    first = max((int(gap) + 1 for gap in gaps if gap <= centre), default=0)
    end = min((int(gap) for gap in gaps if gap > centre), default=n_k1)
    near = (line >= centre - N_CALIBRATION // 2) & (line < centre + N_CALIBRATION // 2)
    return np.asarray((line >= first) & (line < end) & near & calibrated)


def _calibration(kspace: KSpace) -> Bool[np.ndarray, " k1"]:
    return calibration_block(np.asarray(kspace.calibrated.any(axis=0)))


def _refuse_calibration(kspace: KSpace, wanted: Bool[np.ndarray, "k2 k1"]) -> None:
    block = _calibration(kspace)
    both, lines = np.flatnonzero(wanted.any(axis=0) & block), np.flatnonzero(block)
    if both.size:
        raise SettingsError(
            f"line {both[0]} cannot be a sentinel: the coil maps are made from it, so the reconstruction knows it; "
            f"choose lines outside the calibration, which has lines {lines[0]} to {lines[-1]}"
        )
