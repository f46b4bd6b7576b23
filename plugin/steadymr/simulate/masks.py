"""Which lines of k-space a simulated scan acquires."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int


def equispaced_lines(n_lines: int, acceleration: int, n_calibration: int, offset: int = 0) -> Bool[np.ndarray, "line"]:
    """Return every ``acceleration``-th line counted from ``offset``, and the ``n_calibration`` lines in the centre."""
    lines = np.zeros(n_lines, dtype=bool)
    lines[offset % acceleration :: acceleration] = True
    return np.asarray(lines | centre_lines(n_lines, n_calibration))


def random_lines(
    rng: np.random.Generator, n_lines: int, acceleration: float, n_calibration: int
) -> Bool[np.ndarray, "line"]:
    """Return the centre and random lines beyond, denser near it, about ``n_lines / acceleration`` in all."""
    lines = centre_lines(n_lines, n_calibration)
    n_more = max(round(n_lines / acceleration) - int(lines.sum()), 0)
    distance = np.abs(np.arange(n_lines) - n_lines // 2) / n_lines
    weight = np.where(lines, 0.0, (1.05 - 1.6 * distance).clip(0.05) ** 2)
    n_more = min(n_more, int((weight > 0).sum()))
    if n_more == 0:
        return lines
    lines[rng.choice(n_lines, n_more, replace=False, p=weight / weight.sum())] = True
    return lines


def poisson_lines(
    rng: np.random.Generator, n_lines: int, acceleration: float, n_calibration: int
) -> Bool[np.ndarray, "line"]:
    """Return the centre and a variable-density Poisson disc of lines, about ``n_lines / acceleration`` in all.

    Lines are tried in random order and kept if no kept line is nearer than a distance that grows from the centre
    outwards, fourfold to the edge; the distance is the one whose number of lines comes closest to what is asked.
    """
    order = rng.permutation(n_lines)
    centre = centre_lines(n_lines, n_calibration)
    growth = 1 + 6 * np.abs(np.arange(n_lines) - n_lines // 2) / n_lines
    tries = [_spaced_lines(order, centre, scale * growth) for scale in np.geomspace(0.25, acceleration, 16)]
    return min(tries, key=lambda lines: abs(int(lines.sum()) - n_lines / acceleration))


def _spaced_lines(
    order: Int[np.ndarray, "line"], centre: Bool[np.ndarray, "line"], distance: Float[np.ndarray, "line"]
) -> Bool[np.ndarray, "line"]:
    lines = centre.copy()
    for line in order:
        reach = int(distance[line])
        lines[line] |= not lines[max(line - reach, 0) : line + reach + 1].any()
    return lines


def centre_lines(n_lines: int, n_centre: int) -> Bool[np.ndarray, "line"]:
    """Return ``n_centre`` lines around zero frequency, which is line ``n_lines // 2``."""
    position = np.arange(n_lines) - n_lines // 2
    return (position >= -(n_centre // 2)) & (position < n_centre - n_centre // 2)
