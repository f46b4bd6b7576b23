"""A small linear model that can be written down: ridge regression whose weights may be held at or above zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.optimize import lsq_linear

RIDGE = 1.0  #: in units of one observation of each standardised feature
N_FOLDS = 10


@dataclass(frozen=True, slots=True)
class Linear:
    """``intercept + sum of weight x feature`` over named features."""

    intercept: float
    weights: dict[str, float]

    def __call__(self, features: Mapping[str, float]) -> float:
        """The value for one set of features; a feature that is missing is a KeyError."""
        return self.intercept + sum(weight * features[name] for name, weight in self.weights.items())


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
