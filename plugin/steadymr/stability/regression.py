"""Two small models that can be written down: a line with weights of known sign, and what scans nearby had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.optimize import lsq_linear

RIDGE = 1.0  #: in units of one observation of each standardised feature
DOUBT = 0.3  #: of one neighbour alone: it is believed to 1 / (1 + doubt)
FARTHEST = 3.0  #: standard deviations of a feature; what lies beyond is taken to lie there
N_FOLDS = 10


@dataclass(frozen=True, slots=True)
class Linear:
    """``intercept + sum of weight x feature`` over named features."""

    intercept: float
    weights: dict[str, float]

    def __call__(self, features: Mapping[str, float]) -> float:
        """The value for one set of features; a feature that is missing is a KeyError."""
        return self.intercept + sum(weight * features[name] for name, weight in self.weights.items())


@dataclass(frozen=True, slots=True)
class Neighbours:
    """A weighted sum over known cases, each by how near it is; far from all of them it is 0.

    Kernel ridge regression (Saunders 1998), the kernel ``exp(-d^2 / 2)`` with d the root mean square distance over the
    standardised features.
    """

    centre: dict[str, float]
    scale: dict[str, float]
    cases: tuple[tuple[float, ...], ...]  #: standardised and limited, in the order of ``centre``
    weights: tuple[float, ...]

    def __call__(self, features: Mapping[str, float]) -> float:
        """The value for one set of features; a feature that is missing is a KeyError."""
        here = np.array([self._standard(name, features[name]) for name in self.centre])
        return float(_nearness(here[None], np.array(self.cases))[0] @ np.array(self.weights))

    def _standard(self, name: str, value: float) -> float:
        return min(max((value - self.centre[name]) / self.scale[name], -FARTHEST), FARTHEST)


def fit_neighbours(
    features: Sequence[Mapping[str, float]], targets: Sequence[float], names: Sequence[str]
) -> Neighbours:
    """Kernel ridge regression of the targets on the features ``names``."""
    values = _matrix(features, names)
    used = [i for i in range(len(names)) if values[:, i].std() > 1e-9]
    centre, scale = values.mean(axis=0)[used], values.std(axis=0)[used]
    cases = np.clip((values[:, used] - centre) / scale, -FARTHEST, FARTHEST).round(2)
    weights = np.linalg.solve(_nearness(cases, cases) + DOUBT * np.eye(len(cases)), np.asarray(targets, float))
    return Neighbours(
        {names[i]: float(value) for i, value in zip(used, centre, strict=True)},
        {names[i]: float(value) for i, value in zip(used, scale, strict=True)},
        tuple(tuple(case) for case in cases.tolist()),
        tuple(weights.round(4).tolist()),
    )


def _nearness(
    one: Float64[np.ndarray, "n feature"], other: Float64[np.ndarray, "m feature"]
) -> Float64[np.ndarray, "n m"]:
    nearness: Float64[np.ndarray, "n m"] = np.exp(-np.mean((one[:, None] - other[None]) ** 2, axis=-1) / 2)
    return nearness


def fit_linear(
    features: Sequence[Mapping[str, float]], targets: Sequence[float], names: Sequence[str], rising: Sequence[str] = ()
) -> Linear:
    """Ridge regression of the targets on the features ``names``; those in ``rising`` get no negative weight."""
    values = _matrix(features, names)
    used = [i for i in range(len(names)) if values[:, i].std() > 1e-9]
    values, names = values[:, used], [names[i] for i in used]
    centre, scale, mean = values.mean(axis=0), values.std(axis=0), float(np.mean(targets))
    standard = np.vstack([(values - centre) / scale, np.sqrt(RIDGE) * np.eye(len(names))])
    wanted = np.concatenate([np.asarray(targets, float) - mean, np.zeros(len(names))])
    lowest = np.array([0.0 if name in rising else -np.inf for name in names])
    solved = lsq_linear(standard, wanted, bounds=(lowest, np.inf)).x / scale if names else np.zeros(0)
    kept = {name: float(weight) for name, weight in zip(names, solved, strict=True) if abs(weight) > 1e-9}
    return Linear(mean - float(solved @ centre), kept)


def cross_residuals(
    features: Sequence[Mapping[str, float]],
    targets: Sequence[float],
    names: Sequence[str],
    groups: Sequence[str],
    rising: Sequence[str] = (),
) -> Float64[np.ndarray, " n"]:
    """Target less prediction for each observation, by a model that has not seen its group (ten folds, in turn)."""
    residuals = np.empty(len(targets))
    for seen, held in folds(groups):
        model = fit_linear([features[i] for i in seen], [targets[i] for i in seen], names, rising)
        residuals[held] = [targets[i] - model(features[i]) for i in held]
    return residuals


def folds(groups: Sequence[str]) -> Iterator[tuple[list[int], list[int]]]:
    """Ten times the numbers of most and of the rest; members of a group stay together."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    n_folds = min(N_FOLDS, len(numbers))
    places = [numbers[group] % n_folds for group in groups]
    for fold in range(n_folds):
        held = [i for i, place in enumerate(places) if place == fold]
        yield [i for i, place in enumerate(places) if place != fold], held


def _matrix(features: Sequence[Mapping[str, float]], names: Sequence[str]) -> Float64[np.ndarray, "n feature"]:
    return np.array([[one[name] for name in names] for one in features], float).reshape(len(features), len(names))
