"""How wide a pixel's interval must be, in times the samples' spread, so that it holds the truth often enough.

Conformal risk control (arXiv 2208.02814) on a width that follows conditions and agreement: what the spread misses, such
as the noise of the full scan itself, weighs more in some scans than in others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from steadymr.stability.regression import Linear, cross_residuals, fit_linear

ALPHA = 0.1  #: share of tissue pixels that may lie outside their interval
FLOOR_PERCENT = 0.5  #: of the local signal: no interval is narrower, whatever the samples agree on
SCALES = tuple(float(scale) for scale in np.geomspace(0.25, 16, 61))  #: times the spread, at which misses are counted
FACTORS = tuple(float(factor) for factor in np.geomspace(0.25, 4, 113))  #: that are tried


@dataclass(frozen=True, slots=True)
class Factor:
    """What makes the expected width of an interval wide enough, at one acceleration."""

    acceleration: float
    value: float


@dataclass(frozen=True, slots=True)
class Intervals:
    """Half an interval's width over the spread: what such a scan is expected to need, times what keeps the promise."""

    needed: Linear  #: its logarithm, from conditions and agreement
    factors: tuple[Factor, ...]

    def scale(self, features: Mapping[str, float], acceleration: float) -> float:
        """For one scan; its acceleration need not be one of those that are known."""
        nearest = min(self.factors, key=lambda factor: abs(factor.acceleration - acceleration))
        return nearest.value * _bounded(self.needed(features))


def misses(
    image: Float32[np.ndarray, "y x"],
    truth: Float32[np.ndarray, "y x"],
    spread_percent: Float32[np.ndarray, "y x"],
    signal: Float[np.ndarray, "y x"],
) -> tuple[float, ...]:
    """For each of ``SCALES`` the share of tissue pixels whose interval does not hold the true magnitude.

    ``signal`` is the local tissue signal that the spread is in per cent of.
    """
    tissue = np.isfinite(spread_percent)
    error_percent = 100 * np.abs(image - truth)[tissue] / signal[tissue]
    needed = (error_percent - FLOOR_PERCENT) / np.maximum(spread_percent[tissue], 1e-6)
    return tuple(float(np.mean(needed > scale)) for scale in SCALES)


def missed_at(missed: tuple[float, ...], scale: float) -> float:
    """What `misses` counted at the largest of ``SCALES`` that is not wider: never less than is missed in truth.

    Narrower than all of them, every pixel counts as missed.
    """
    place = int(np.searchsorted(SCALES, scale * (1 + 1e-9))) - 1
    return missed[place] if place >= 0 else 1.0


def fit_intervals(
    features: Sequence[Mapping[str, float]],
    missed: Sequence[tuple[float, ...]],
    given: Sequence[str],
    subjects: Sequence[str],
    groups: Mapping[float, list[int]],
) -> Intervals:
    """From clean scans: what `misses` counted for each, and the scans' numbers by acceleration.

    The factor is found by fits that had not seen the scan's subject.
    """
    needed = [math.log(_needed(one)) for one in missed]
    residuals = cross_residuals(features, needed, given, subjects)
    expected = [_bounded(value - residual) for value, residual in zip(needed, residuals, strict=True)]
    factors = (
        Factor(acceleration, smallest_factor([missed[i] for i in members], [expected[i] for i in members]))
        for acceleration, members in groups.items()
    )
    return Intervals(fit_linear(features, needed, given), tuple(factors))


def smallest_factor(missed: Sequence[tuple[float, ...]], expected: Sequence[float], alpha: float = ALPHA) -> float:
    """The smallest of ``FACTORS`` at which a share ``alpha`` of the pixels is missed on average at most.

    One more scan is counted in, which misses all. The largest factor if none is enough.
    """
    for factor in FACTORS:
        shares = [missed_at(one, factor * scale) for one, scale in zip(missed, expected, strict=True)]
        if (sum(shares) + 1) / (len(shares) + 1) <= alpha:
            return factor
    return FACTORS[-1]


def _needed(missed: tuple[float, ...]) -> float:
    """The smallest of ``SCALES`` at which enough pixels of one scan are held; the largest if it never is."""
    return next((scale for scale, share in zip(SCALES, missed, strict=True) if share <= ALPHA), SCALES[-1])


def _bounded(log_scale: float) -> float:
    return math.exp(min(max(log_scale, math.log(SCALES[0])), math.log(SCALES[-1])))
