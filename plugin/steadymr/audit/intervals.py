"""What a table may claim: means with bootstrap intervals, and paired tests across methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from scipy import stats

N_RESAMPLES: Final = 5000
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the interval that holds the mean of all such slices, as far as the bootstrap tells."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two methods on the same slices."""

    first: str
    second: str
    mean_difference: float  #: first less second
    p_value: float  #: Wilcoxon's signed ranks, two-sided, corrected for the number of pairs
    n: int


def bootstrap_mean(values: Sequence[float], rng: np.random.Generator, confidence: float = CONFIDENCE) -> Interval:
    """Mean with its percentile bootstrap interval (Efron 1979); values that are not finite are left out.

    NaN for no values at all; an interval of no width for one.
    """
    finite = np.asarray([value for value in values if np.isfinite(value)], dtype=np.float64)
    if not len(finite):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    means = finite[rng.integers(len(finite), size=(N_RESAMPLES, len(finite)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(finite.mean()), float(low), float(high), len(finite))


def paired_tests(values_by_method: Mapping[str, Sequence[float]]) -> tuple[PairedTest, ...]:
    """Wilcoxon's signed-rank test for each pair of methods, p-values corrected after Holm (1979).

    The values of all methods belong to the same slices in the same order; pairs with a value that is not finite are
    left out. Without a difference anywhere p is 1.
    """
    raw = [_compare(a, b, values_by_method[a], values_by_method[b]) for a, b in combinations(values_by_method, 2)]
    order = sorted(range(len(raw)), key=lambda i: raw[i].p_value)
    corrected, largest = dict[int, float](), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(raw[i].p_value * (len(raw) - rank), 1.0))
        corrected[i] = largest
    return tuple(
        PairedTest(test.first, test.second, test.mean_difference, corrected[i], test.n) for i, test in enumerate(raw)
    )


def _compare(first: str, second: str, values: Sequence[float], others: Sequence[float]) -> PairedTest:
    pairs = np.asarray(list(zip(values, others, strict=True)), dtype=np.float64).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    differences = pairs[:, 0] - pairs[:, 1]
    if not np.any(differences):
        return PairedTest(first, second, 0.0, 1.0, len(differences))
    p_value = float(stats.wilcoxon(differences, method="auto").pvalue)
    return PairedTest(first, second, float(differences.mean()), p_value, len(differences))
