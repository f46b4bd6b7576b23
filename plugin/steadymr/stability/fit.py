"""From scans whose truth is known to a calibration: regression, conformal corrections, levels of the alarms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from steadymr.errors import SettingsError
from steadymr.stability.calibration import (
    ALARM_WEIGHTS,
    FLOOR_PERCENT,
    Alarm,
    Cell,
    MethodCalibration,
    condition_features,
    evidence_feature,
    features_of,
    is_sentinel,
    logit,
    weight_of,
)
from steadymr.stability.conditions import Conditions, reach_of
from steadymr.stability.regression import cross_residuals, fit_linear

ALPHA = 0.1  #: share of scans whose SSIM may lie below the score, and of tissue pixels outside their interval
FALSE_ALARMS = 0.05  #: share of clean scans on which any alarm sounds
MINIMUM_SCANS = 15  #: of each acceleration; with fewer the correction is the worst scan's or worse
#: Evidence that the score may follow beside the agreement, where all scans have it: none that settings can leave out.
TELLING = ("differing_samples", "differs_classical", "dispersion_unmeasured", "misfit", "misfit_column", "residual")
SCALES = tuple(float(scale) for scale in np.geomspace(0.25, 16, 61))  #: that are tried for the interval


@dataclass(frozen=True, slots=True)
class Observation:
    """One image of one scan whose truth is known."""

    conditions: Conditions
    agreement: float
    evidence: dict[str, float]
    ssim: float  #: with the fully sampled image, inside the tissue
    misses: tuple[float, ...]  #: share of tissue pixels whose interval misses the truth, for each of ``SCALES``


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


def fit_method(observations: Sequence[Observation]) -> MethodCalibration:
    """The calibration of one method in one anatomy, from clean scans.

    Raises SettingsError if there are too few scans of an acceleration, or if they were not made alike.
    """
    groups = by_acceleration(observations)
    _check(observations, groups)
    features = [features_of(one.conditions, one.agreement, one.evidence) for one in observations]
    always = set.intersection(*(set(one.evidence) for one in observations))
    evidence = [evidence_feature(name) for name in TELLING if name in always]
    rising = ["disagreement", *evidence]
    names = [*condition_features(observations[0].conditions), *rising]
    targets = [logit(1 - one.ssim) for one in observations]
    residuals = cross_residuals(features, targets, names, rising)
    alarms = _alarms(observations)
    sentinels = [one for one in observations if any(map(is_sentinel, one.evidence))]
    return MethodCalibration(
        method=observations[0].conditions.method,
        reach=reach_of([one.conditions for one in observations], tuple(groups)),
        error=fit_linear(features, targets, names, rising),
        cells=tuple(_cell(acceleration, observations, residuals, members) for acceleration, members in groups.items()),
        alarms=alarms,
        level=_level(observations, [alarm for alarm in alarms if not is_sentinel(alarm.name)]),
        level_with_sentinels=_level(sentinels, alarms) if sentinels else None,
    )


def by_acceleration(observations: Sequence[Observation]) -> dict[float, list[int]]:
    """Numbers of the observations, by their acceleration to the nearest whole number."""
    groups: dict[float, list[int]] = {}
    for number, one in enumerate(observations):
        groups.setdefault(float(round(one.conditions.acceleration)), []).append(number)
    return dict(sorted(groups.items()))


def conformal_quantile(values: Sequence[float], alpha: float = ALPHA) -> float:
    """The smallest value that one more of the same kind exceeds with probability ``alpha`` at most."""
    rank = math.ceil((len(values) + 1) * (1 - alpha))
    return float(np.sort(values)[rank - 1]) if rank <= len(values) else math.inf


def interval_scale(misses_of_scans: Sequence[tuple[float, ...]], alpha: float = ALPHA) -> float:
    """The smallest of ``SCALES`` whose expected share of missed pixels is ``alpha`` at most; the largest if none is."""
    n = len(misses_of_scans)
    risk = (np.sum(misses_of_scans, axis=0) + 1) / (n + 1)
    enough = np.flatnonzero(risk <= alpha)
    return SCALES[int(enough[0])] if enough.size else SCALES[-1]


def _cell(
    acceleration: float, observations: Sequence[Observation], residuals: np.ndarray, members: Sequence[int]
) -> Cell:
    return Cell(
        acceleration=acceleration,
        n_scans=len(members),
        correction=conformal_quantile([float(residuals[i]) for i in members]),
        interval_scale=interval_scale([observations[i].misses for i in members]),
    )


def _alarms(observations: Sequence[Observation]) -> tuple[Alarm, ...]:
    scans = {name: [one for one in observations if name in one.evidence] for name in ALARM_WEIGHTS}
    return tuple(_alarm(name, those) for name, those in scans.items() if len(those) >= MINIMUM_SCANS)


def _alarm(name: str, scans: Sequence[Observation]) -> Alarm:
    features = [features_of(one.conditions, one.agreement, one.evidence) for one in scans]
    targets = [one[evidence_feature(name)] for one in features]
    given = [*condition_features(scans[0].conditions), "disagreement"]
    residuals = cross_residuals(features, targets, given)
    sd = max(float(np.std(residuals)), 1e-6)
    return Alarm(
        name, fit_linear(features, targets, given), sd, tuple(sorted(round(float(one) / sd, 4) for one in residuals))
    )


def _level(observations: Sequence[Observation], alarms: Sequence[Alarm]) -> float:
    """The level of the smallest weighted p-value that one clean scan in twenty undercuts."""
    smallest = [_smallest(one, alarms) for one in observations]
    return -conformal_quantile([-value for value in smallest], FALSE_ALARMS)


def _smallest(one: Observation, alarms: Sequence[Alarm]) -> float:
    features = features_of(one.conditions, one.agreement, one.evidence)
    there = [alarm for alarm in alarms if evidence_feature(alarm.name) in features]
    return min((alarm.p_value(alarm.excess(features)) / weight_of(alarm.name) for alarm in there), default=1.0)


def _check(observations: Sequence[Observation], groups: dict[float, list[int]]) -> None:
    for acceleration, members in groups.items():
        if len(members) < MINIMUM_SCANS:
            method = observations[0].conditions.method
            raise SettingsError(
                f"a calibration needs {MINIMUM_SCANS} images of each acceleration, but of {method} images at "
                f"R = {acceleration:g} there are {len(members)}; add scans"
            )
    scans = [one.conditions for one in observations]
    made = {(scan.anatomy, scan.prior, scan.model, scan.sampler, scan.reconstruction) for scan in scans}
    if len(made) > 1:
        raise SettingsError("scans of one calibration must share anatomy, weights and settings: calibrate them apart")
