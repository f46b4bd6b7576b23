"""From scans whose truth is known to a calibration: regression, conformal corrections, the level of the alarm."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float64
from scipy import stats

from steadymr.errors import SettingsError
from steadymr.stability.calibration import (
    LIKENESS,
    OPTIONAL,
    TELLING,
    WITNESSES,
    Cell,
    ErrorMap,
    MethodCalibration,
    Reading,
    condition_features,
    features_of,
    logit,
)
from steadymr.stability.conditions import Conditions, reach_of
from steadymr.stability.intervals import Intervals, fit_intervals
from steadymr.stability.regression import cross_residuals, fit_linear, fit_neighbours, folds
from steadymr.stability.usual import DECIMALS, CleanScans, Usual, evidence_feature, in_deviations, strangeness

ALPHA = 0.1  #: share of scans whose SSIM may lie below the score
CONFIDENCE = 0.95  #: that it is no more, for one scan of each subject
#: Share of a calibration's clean scans of the like that lie above the alarm's level. At most 5 % of others are to sound
#: it, and the level itself scatters, for scans of one subject resemble each other.
FALSE_ALARMS = 0.04
#: What a scan may say in the fit of added errors, in logits of the error and logarithms of evidence: few that were
#: harmed beyond recognition would set slopes that are wrong for the small harms that an alarm must find.
LARGEST_ERROR = 1.0
LARGEST_EXCESS = 0.7
MINIMUM_SCANS = 15  #: of each acceleration; below 29 the correction is the worst scan's, and not sure


@dataclass(frozen=True, slots=True)
class Observation:
    """One image of one scan whose truth is known."""

    subject: str  #: who or what was scanned: images of the same subject are never on both sides of a split
    harm: str  #: what was done to it on purpose: an imperfection, noise or a worst case; empty for clean scans
    conditions: Conditions
    agreement: float
    evidence: dict[str, float]
    ssim: float  #: with the fully sampled image, inside the tissue
    misses: tuple[float, ...]  #: share of tissue pixels whose interval misses the truth, see `intervals.misses`

    @property
    def harmed(self) -> bool:
        """Whether anything was done to it."""
        return bool(self.harm)


def fit_method(observations: Sequence[Observation]) -> MethodCalibration:
    """The calibration of one method in one anatomy, from clean scans and harmed ones.

    Raises SettingsError if there are too few clean scans of an acceleration, or if they were not made alike.
    """
    clean = [one for one in observations if not one.harmed]
    groups = by_acceleration(clean)
    _check(clean, groups)
    names = set.intersection(*(set(one.evidence) for one in observations))
    always = [name for name in TELLING if name in names]
    there = [name for name in OPTIONAL if name in names]
    sets = [[*always, *some] for n in range(len(there), -1, -1) for some in combinations(there, n)]
    usual = tuple(_usual(clean, name) for name in sorted(names))
    scans = _clean_scans(clean)
    deviations = _deviations(clean, scans, usual)
    return MethodCalibration(
        method=clean[0].conditions.method,
        reach=reach_of([one.conditions for one in clean], tuple(groups)),
        readings=tuple(_reading(observations, evidence, deviations) for evidence in sets),
        clean=scans,
        usual=usual,
        intervals=_intervals(clean, groups),
    )


def by_acceleration(observations: Sequence[Observation]) -> dict[float, list[int]]:
    """Numbers of the observations, by their acceleration to the nearest whole number."""
    groups: dict[float, list[int]] = {}
    for number, one in enumerate(observations):
        groups.setdefault(float(round(one.conditions.acceleration)), []).append(number)
    return dict(sorted(groups.items()))


def sure_quantile(values: Sequence[float], alpha: float = ALPHA, confidence: float = CONFIDENCE) -> float:
    """The smallest value that one more of the same kind exceeds with probability ``alpha`` at most, surely enough.

    The share of others that lie above the k-th of n values is itself random, beta-distributed (Vovk 2012). With
    probability ``confidence`` it is ``alpha`` or less. Of too few values it is the largest.
    """
    ranks = np.arange(1, len(values) + 1)
    sure = stats.beta.sf(1 - alpha, ranks, len(values) + 1 - ranks) >= confidence
    return float(np.sort(values)[int(sure.argmax()) if sure.any() else -1])


def _reading(
    observations: Sequence[Observation], evidence: Sequence[str], deviations: Mapping[str, np.ndarray]
) -> Reading:
    """Fit the error on all scans, and judge by the clean ones how far to trust the fit: none of them by itself.

    ``deviations`` of each piece of evidence on clean scans are those of `_deviations`.
    """
    features = _features(observations)
    missed = np.empty(len(observations))
    for seen, held in folds([one.subject for one in observations]):
        error = _error_map([observations[i] for i in seen], evidence)
        for i in held:
            missed[i] = logit(1 - observations[i].ssim) - error(features[i])
    unharmed = [number for number, one in enumerate(observations) if not one.harmed]
    witnesses = _witnesses(evidence, deviations)
    strange = strangeness({name: deviations[name] for name in witnesses})
    return Reading(
        error=_error_map(observations, evidence),
        cells=_cells([observations[i] for i in unharmed], missed[unharmed]),
        witnesses=witnesses,
        strange=_short(strange),
        false_alarms=FALSE_ALARMS,
    )


def _witnesses(evidence: Sequence[str], there: Collection[str]) -> tuple[str, ...]:
    """What an alarm listens to on scans with such evidence."""
    return tuple(name for name in _with(evidence, WITNESSES) if name in there)


def _with(evidence: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those of the names that scans with such evidence have: sentinels and tempering only where the error uses them."""
    absent = {name for name in names for kind in OPTIONAL if _of_kind(name, kind) and kind not in evidence}
    return [name for name in names if name not in absent]


def _of_kind(name: str, kind: str) -> bool:
    """Whether one piece of evidence is only there with the other: all of the sentinels', or tempering."""
    return name.partition("_")[0] == kind.partition("_")[0]


def _error_map(observations: Sequence[Observation], evidence: Sequence[str]) -> ErrorMap:
    """What is usual from the clean scans; what evidence adds to it from all, large values limited; what both miss."""
    features = _features(observations)
    targets = [logit(1 - one.ssim) for one in observations]
    given = _given(observations)
    clean = [number for number, one in enumerate(observations) if not one.harmed]
    clean_features = [features[i] for i in clean]
    usual = fit_linear(clean_features, [targets[i] for i in clean], given, ["disagreement"])
    expected = {
        name: fit_linear(clean_features, [one[evidence_feature(name)] for one in clean_features], given)
        for name in evidence
    }
    excesses = [{name: one[evidence_feature(name)] - expected[name](one) for name in evidence} for one in features]
    limited = [{name: min(value, LARGEST_EXCESS) for name, value in one.items()} for one in excesses]
    beyond = [target - usual(one) for target, one in zip(targets, features, strict=True)]
    added = fit_linear(limited, [min(error, LARGEST_ERROR) for error in beyond], evidence, evidence)
    missed = [error - added(one) for error, one in zip(beyond, excesses, strict=True)]
    alike = [evidence_feature(name) for name in _with(evidence, LIKENESS)]
    names = [name for name in alike if all(name in one for one in features)]
    return ErrorMap(usual, expected, added, fit_neighbours(features, missed, [*given, *names]))


def _features(observations: Sequence[Observation]) -> list[dict[str, float]]:
    return [features_of(one.conditions, one.agreement, one.evidence) for one in observations]


def _given(observations: Sequence[Observation]) -> list[str]:
    """The features that say what is usual."""
    return [*condition_features(observations[0].conditions), "disagreement"]


def _cells(clean: Sequence[Observation], residuals: np.ndarray) -> tuple[Cell, ...]:
    return tuple(
        Cell(
            acceleration=acceleration,
            n_scans=len(members),
            correction=sure_quantile([float(residuals[i]) for i in members]),
        )
        for acceleration, members in by_acceleration(clean).items()
    )


def _intervals(clean: Sequence[Observation], groups: Mapping[float, list[int]]) -> Intervals:
    subjects = [one.subject for one in clean]
    return fit_intervals(_features(clean), [one.misses for one in clean], _given(clean), subjects, groups)


def _clean_scans(clean: Sequence[Observation]) -> CleanScans:
    features = [condition_features(one.conditions) for one in clean]
    return CleanScans(
        _short([one["log noise"] for one in features]), _short([one["log acceleration"] for one in features])
    )


def _usual(clean: Sequence[Observation], name: str) -> Usual:
    """What is usual of one piece of evidence."""
    features, given = _features(clean), _given(clean)
    targets = [one[evidence_feature(name)] for one in features]
    excesses = cross_residuals(features, targets, given, [one.subject for one in clean])
    return Usual(name, fit_linear(features, targets, given), _short(excesses))


def _deviations(
    clean: Sequence[Observation], scans: CleanScans, usual: Sequence[Usual]
) -> dict[str, Float64[np.ndarray, " clean"]]:
    """By how many standard deviations of the clean scans of other subjects each exceeds what is usual."""
    subjects = np.array([one.subject for one in clean])
    alike = [scans.alike(condition_features(one.conditions)) * (subjects != one.subject) for one in clean]
    return {
        one.name: np.array([in_deviations(excess, one.excesses, alike[i]) for i, excess in enumerate(one.excesses)])
        for one in usual
    }


def _short(values: Iterable[float]) -> tuple[float, ...]:
    """As a calibration keeps them."""
    return tuple(round(float(value), DECIMALS) for value in values)


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
