"""How large evidence is on clean scans, and how far that of one more scan strays from it.

Clean scans speak for another as far as they are like it in noise and acceleration: their scatter, and how many of them
are stranger, are taken with such weights (localised conformal prediction, Guan 2023, doi 10.1093/biomet/asac040).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from steadymr.stability.regression import Linear

LIKE_NOISE = 0.5  #: standard deviation, in logarithms of the noise, of how far scans speak for each other
LIKE_ACCELERATION = 0.4  #: likewise, in logarithms of the acceleration
ANY_COUNT = 4.0  #: all clean scans together, whether like it or not, count as so many that are: some have none
DECIMALS = 4  #: that are kept of what clean scans showed
SMALLEST_SD = 0.01  #: of a piece of evidence over clean scans, as a share of it
#: Evidence on what was measured and on what was withheld, each along the combinations of coils in which an image can
#: be wrong.
INVENTED = ("residual_mode", "sentinel_pattern")


@dataclass(frozen=True, slots=True)
class CleanScans:
    """How the clean scans of a calibration were made. What else is kept of them is in the same order."""

    log_noise: tuple[float, ...]
    log_acceleration: tuple[float, ...]

    def alike(self, features: Mapping[str, float]) -> Float64[np.ndarray, " clean"]:
        """How much each of them counts for a scan of that noise and acceleration, 1 being that scan itself."""
        noise = (np.array(self.log_noise) - features["log noise"]) / LIKE_NOISE
        acceleration = (np.array(self.log_acceleration) - features["log acceleration"]) / LIKE_ACCELERATION
        return np.asarray(np.exp(-(noise**2 + acceleration**2) / 2) + ANY_COUNT / len(noise))


@dataclass(frozen=True, slots=True)
class Usual:
    """The logarithm of one piece of evidence on clean scans, given conditions and agreement."""

    name: str
    expected: Linear
    excesses: tuple[float, ...]  #: of clean scans, each beyond what a fit expected that had not seen its subject

    def excess(self, features: Mapping[str, float]) -> float:
        """By how much the logarithm exceeds what is expected of this scan."""
        return features[evidence_feature(self.name)] - self.expected(features)

    def deviation(self, features: Mapping[str, float], alike: Float64[np.ndarray, " clean"]) -> float:
        """That in standard deviations of clean scans."""
        return in_deviations(self.excess(features), self.excesses, alike)

    def p_value(self, features: Mapping[str, float], alike: Float64[np.ndarray, " clean"]) -> float:
        """Chance that one more clean scan exceeds it by as much or more."""
        return chance(self.excess(features), self.excesses, alike)


def evidence_feature(name: str) -> str:
    """What a piece of evidence is called among the features."""
    return f"log {name}"


def in_deviations(excess: float, clean: Sequence[float], alike: Float64[np.ndarray, " clean"]) -> float:
    """An excess in standard deviations of those of clean scans, each of which counts as much as it is alike."""
    values = np.array(clean)
    mean = np.average(values, weights=alike)
    sd = np.sqrt(np.average((values - mean) ** 2, weights=alike))
    return float((excess - mean) / max(sd, SMALLEST_SD))


def chance(value: float, clean: Sequence[float], alike: Float64[np.ndarray, " clean"]) -> float:
    """Chance that one more clean scan shows as much or more (conformal, counted as they are alike; never 0).

    What differs from them by less than is kept of them is as much: some evidence is the same on nearly all scans.
    """
    return float((1 + alike[np.array(clean) >= round(value, DECIMALS)].sum()) / (1 + alike.sum()))


def level(clean: Sequence[float], alike: Float64[np.ndarray, " clean"], share: float) -> float:
    """The value above which one more clean scan lies with a chance of ``share`` at most.

    Where so few scans are alike that one is already more than the share, it is the largest of all: an alarm must be
    able to sound.
    """
    order = np.argsort(clean)
    larger = (1 + alike.sum() - alike[order].cumsum()) / (1 + alike.sum())
    few = np.flatnonzero(larger <= share)
    return float(clean[order[few[0] if few.size else -1]])


def strangeness(deviations: Mapping[str, Float64[np.ndarray, "*scan"]]) -> Float64[np.ndarray, "*scan"]:
    """How far witnesses deviate, taken together: the root of the sum of squares of all that are too large.

    Chance raises one of `INVENTED` or the other, an image that is wrong both at once. So their sum counts like one
    more, in standard deviations of the sum of two that know nothing of each other.
    """
    witnesses = list(deviations.values())
    if deviations.keys() >= set(INVENTED):
        witnesses.append(np.sum([deviations[name] for name in INVENTED], axis=0) / np.sqrt(len(INVENTED)))
    return np.asarray(np.linalg.norm(np.maximum(witnesses, 0.0), axis=0))
