"""Where the damage lives, and which lines of k-space would have prevented it or shown it.

A worst case hides in what was not measured: the change it makes in the image has most of its energy on lines that were
left out. Acquiring those lines disarms it, or measured and withheld as sentinels, they show it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float32, Float64, Int
from scipy import ndimage
from torch import Tensor

from steadymr.recon.operators import Sense, conjugate_gradient, fft_centred
from steadymr.recon.problem import Problem

VISIBLE_SHARE: Final = 1e-2  #: weight of the projection onto what lines see: directions seen less count as unseen
N_ITERATIONS: Final = 20
N_CANDIDATES: Final = 8  #: lines that are tried at each step of the greedy search
NEIGHBOURHOOD: Final = (0.5, 1.0, 0.5)  #: coils make a line see some of its neighbours
SHARE_TO_COVER: Final = 0.9  #: of the energy near the centre, that the recommended calibration block has to hold


@dataclass(frozen=True, slots=True)
class DisarmingLines:
    """Lines that would disarm a worst case, in the order in which a greedy search takes them."""

    lines: tuple[int, ...]  #: indices along k1
    share_left: tuple[float, ...]  #: energy of the change that is still unseen after each, as a share; 1 at first


@dataclass(frozen=True, slots=True, eq=False)
class Recommendation:
    """What the audit advises for a protocol, from the changes that worst cases made in it."""

    n_calibration: int  #: lines in the centre, all acquired
    sampled: Bool[np.ndarray, "y"]  #: as many lines as the protocol has now, placed where the damage lives
    sentinels: tuple[int, ...]  #: lines to measure and withhold, the most telling first
    line_energy: Float64[np.ndarray, "y"]  #: mean share of the changes' energy on each line; sums to 1


def energy_by_line(change: Complex64[Tensor, "y x"], maps: Complex64[Tensor, "coil y x"]) -> Float64[np.ndarray, "y"]:
    """Energy of an image's change on each phase-encoding line, over all coils; sums to that of ``maps * change``."""
    kspace = fft_centred(maps * change)
    return np.asarray(kspace.abs().square().sum((0, 2)).cpu().numpy(), dtype=np.float64)


def energy_by_region(change: Complex64[Tensor, "y x"], labels: Int[np.ndarray, "y x"]) -> Float64[np.ndarray, "region"]:
    """Energy of an image's change in each region, from label 0 on; sums to the energy of the change."""
    energy = change.abs().square().cpu().numpy().astype(np.float64)
    return np.asarray(np.bincount(labels.ravel(), weights=energy.ravel()))


def tiles(shape: tuple[int, int], n_per_axis: int = 4) -> Int[np.ndarray, "y x"]:
    """Labels of a chessboard of regions, row by row from the top left."""
    row, column = (np.arange(n) * n_per_axis // n for n in shape)
    return row[:, None] * n_per_axis + column[None, :]


def disarming_lines(problem: Problem, change: Complex64[Tensor, "y x"], n_lines: int) -> DisarmingLines:
    """Which unsampled lines would disarm a worst case if they were acquired as well, found greedily.

    What lines see is the projection of the change onto what they measure, with all coils. Of the lines in whose
    neighbourhood most energy of the unseen rest lies, the one is taken that leaves least unseen together with those
    taken before; and so on. `damage_left` tests the advice.
    """
    free = ~problem.sense.mask.any(1).cpu().numpy()
    left, taken, shares = change, list[int](), list[float]()
    for _ in range(min(n_lines, int(free.sum()))):
        energy = ndimage.convolve1d(energy_by_line(left, problem.sense.maps), NEIGHBOURHOOD, mode="wrap")
        order = np.argsort(-np.where(free, energy, -1.0), kind="stable")
        candidates = [int(line) for line in order[: min(N_CANDIDATES, int(free.sum()))]]
        rests = {line: _unseen(change, _lines_only(problem.sense, [*taken, line])) for line in candidates}
        best = min(rests, key=lambda line: _energy(rests[line]))
        left, free[best] = rests[best], False
        taken.append(best)
        shares.append(_energy(left) / _energy(change))
    return DisarmingLines(tuple(taken), tuple(shares))


def _energy(change: Complex64[Tensor, "y x"]) -> float:
    return float(change.abs().square().sum())


def _lines_only(sense: Sense, lines: list[int]) -> Sense:
    mask = torch.zeros_like(sense.mask[:, :1])
    mask[lines] = True
    return Sense(sense.maps, mask)


def _unseen(change: Complex64[Tensor, "y x"], lines: Sense) -> Complex64[Tensor, "y x"]:
    """``w (A^H A + w)^-1 change``: the part that the lines' measurement would not notice."""

    def normal_op(images: Tensor) -> Tensor:
        return lines.normal(images) / VISIBLE_SHARE + images

    return conjugate_gradient(normal_op, change, change, N_ITERATIONS, tolerance=1e-4)


def with_lines(problem: Problem, lines: Sequence[int], full: Complex64[Tensor, "coil y x"]) -> Problem:
    """The problem with more lines acquired, from the full k-space in the problem's unit; the other lines stay."""
    added = torch.zeros_like(problem.sense.mask)
    added[list(lines)] = True
    added &= ~problem.sense.mask
    sense = Sense(problem.sense.maps, problem.sense.mask | added)
    return replace(problem, sense=sense, kspace=problem.kspace + full * added)


def damage_left(
    problem: Problem,
    delta: Complex64[Tensor, "coil y x"],
    lines: Sequence[int],
    full: Complex64[Tensor, "coil y x"],
    method: Callable[[Problem], Complex64[Tensor, "y x"]],
) -> float:
    """Energy of what the same worst case does once these lines are acquired, over that of what it did without them.

    Both are changes of ``method``'s own image; 1 means that the lines were no use.
    """
    before = _change(problem, delta, method)
    after = _change(with_lines(problem, lines, full), delta, method)
    return float(after.abs().square().sum() / before.abs().square().sum())


def _change(
    problem: Problem, delta: Complex64[Tensor, "coil y x"], method: Callable[[Problem], Tensor]
) -> Float32[Tensor, "y x"]:
    return method(replace(problem, kspace=problem.kspace + delta)).abs() - method(problem).abs()


def recommend(
    changes: Sequence[Complex64[Tensor, "y x"]],
    maps: Sequence[Complex64[Tensor, "coil y x"]],
    sampled: Bool[np.ndarray, "y"],
    *,
    n_sentinels: int = 4,
    share_to_cover: float = SHARE_TO_COVER,
) -> Recommendation:
    """Advice for a protocol from the changes that worst cases made under it, all with the same lines acquired.

    Sentinels are the unsampled lines with the most energy of the changes. The calibration block grows from the present
    one until it holds ``share_to_cover`` of that energy, but to a third of all lines at most. The pattern has as many
    lines as now: that block, but half the lines at most unless it is wider now, and the others in gaps that are wide
    and full of energy. The pattern is advice to be tried (`damage_left`), not the best of all patterns.
    """
    energies = [energy_by_line(change, own) for change, own in zip(changes, maps, strict=True)]
    return advise(energies, sampled, n_sentinels=n_sentinels, share_to_cover=share_to_cover)


def advise(
    energies: Sequence[Float64[np.ndarray, "y"]],
    sampled: Bool[np.ndarray, "y"],
    *,
    n_sentinels: int = 4,
    share_to_cover: float = SHARE_TO_COVER,
) -> Recommendation:
    """The advice of `recommend`, from the changes' energies by line alone."""
    energy = np.mean([share / max(share.sum(), 1e-300) for share in energies], axis=0)
    hidden = np.where(sampled, 0.0, energy)
    order = [int(line) for line in np.argsort(-hidden, kind="stable") if hidden[line] > 0]
    n_calibration = _calibration_width(hidden, sampled, share_to_cover)
    pattern = _pattern(hidden, sampled, n_calibration)
    return Recommendation(n_calibration, pattern, tuple(order[:n_sentinels]), energy)


def _block(n_lines: int, width: int) -> Bool[np.ndarray, "y"]:
    position = np.arange(n_lines) - n_lines // 2
    return (position >= -(width // 2)) & (position < width - width // 2)


def _present_width(sampled: Bool[np.ndarray, "y"]) -> int:
    width = 0
    while width < len(sampled) and sampled[_block(len(sampled), width + 1)].all():
        width += 1
    return width


def _calibration_width(hidden: Float64[np.ndarray, "y"], sampled: Bool[np.ndarray, "y"], share: float) -> int:
    """The narrowest central block, at least the present one, that holds the share of the hidden energy."""
    n_lines, width = len(hidden), _present_width(sampled)
    while width < n_lines // 3 and hidden[_block(n_lines, width)].sum() < share * hidden.sum():
        width += 1
    return width


def _pattern(
    hidden: Float64[np.ndarray, "y"], sampled: Bool[np.ndarray, "y"], n_calibration: int
) -> Bool[np.ndarray, "y"]:
    """As many lines as now: the block, then each line amid a gap that is wide and full of hidden energy."""
    n_lines, budget = len(hidden), int(sampled.sum())
    lines = _block(n_lines, min(n_calibration, max(_present_width(sampled), budget // 2)))
    lines[np.flatnonzero(sampled)[[0, -1]]] = True  # the image keeps its resolution
    while int(lines.sum()) < budget:
        edges = [-1, *(int(line) for line in np.flatnonzero(lines)), n_lines]
        gaps = [(a, b) for a, b in pairwise(edges) if b - a > 1]
        a, b = max(gaps, key=lambda gap: (gap[1] - gap[0]) ** 2 * (hidden[gap[0] + 1 : gap[1]].sum() + hidden.mean()))
        lines[(a + b) // 2] = True
    return lines
