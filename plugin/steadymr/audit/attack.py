"""Worst cases: the change of the measurement, within a budget, that makes a reconstruction as wrong as possible.

Projected gradient ascent on a surrogate: steps along the steepest direction of the budget's norm, halved and taken
again from the best point where they lead nowhere (after Croce and Hein 2020, arXiv 2003.01690), from several random
starts; only acquired samples change. Coil maps, noise level and scale stay those of the unchanged scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Complex64, Float32
from torch import Tensor

from steadymr.audit.losses import Loss, Penalty, mse_to
from steadymr.audit.norms import Ball, Budget, relative_norm
from steadymr.audit.surrogates import Surrogate
from steadymr.errors import ReconError
from steadymr.recon.noise import whitening_matrix
from steadymr.recon.operators import fft_centred
from steadymr.recon.problem import Problem, whitened_slice
from steadymr.types import KSpace, PerturbationRecord

Progress: TypeAlias = Callable[[int, int], None]  #: steps done, steps in all

N_STEPS = 30
N_RESTARTS = 3
PATH = 4.0  #: length of all steps together, if none is halved, in radii of the ball
START = 0.5  #: share of the radius at which a random start lies


@dataclass(frozen=True, slots=True, eq=False)
class WorstCase:
    """The worst change found, in the unit of the problem's k-space, with how it was found."""

    delta: Complex64[Tensor, "coil y x"]  #: zero where nothing was acquired
    budget: Budget
    relative_norm: float  #: ``|delta|_2 / |y|_2`` over all coils, whatever the budget's norm
    loss: float  #: of the surrogate's image, penalties subtracted
    loss_curve: Float32[Tensor, "restart step"]  #: step 0 is the random start
    n_evaluations: int  #: forward passes of the surrogate, each for all restarts at once


def worst_case(
    problem: Problem,
    surrogate: Surrogate,
    *,
    budget: Budget,
    generator: torch.Generator,
    loss: Loss | None = None,
    penalties: Sequence[Penalty] = (),
    n_steps: int = N_STEPS,
    n_restarts: int = N_RESTARTS,
    progress: Progress | None = None,
) -> WorstCase:
    """The worst change of one slice; see `worst_cases`."""
    (found,) = worst_cases(
        (problem,),
        surrogate,
        budget=budget,
        generator=generator,
        loss=loss,
        penalties=penalties,
        n_steps=n_steps,
        n_restarts=n_restarts,
        progress=progress,
    )
    return found


def worst_cases(
    problems: Sequence[Problem],
    surrogate: Surrogate,
    *,
    budget: Budget,
    generator: torch.Generator,
    loss: Loss | None = None,
    penalties: Sequence[Penalty] = (),
    n_steps: int = N_STEPS,
    n_restarts: int = N_RESTARTS,
    progress: Progress | None = None,
) -> tuple[WorstCase, ...]:
    """The worst change of each of several slices of one shape, all in one batch.

    Costs ``n_steps`` forward and backward passes of the surrogate and two forward passes more, on batches of
    ``n_restarts`` rows for each slice.

    Args:
        problems: one slice each, without leading axes.
        surrogate: made from the same problems, see `steadymr.audit.surrogates`.
        budget: how much may change.
        generator: of the random starts.
        loss: what to maximise; None for the distance from the surrogate's own clean image.
        penalties: what is subtracted from it: the price an attacker pays who knows how the result is judged.
        n_steps: of the ascent.
        n_restarts: random starts, the best of which is returned.
        progress: told after each step.

    Raises:
        ReconError: if the surrogate's images are not finite.
    """
    kspace = torch.stack([problem.kspace for problem in problems]).repeat_interleave(n_restarts, 0)
    loss = loss or _distance_from_clean(problems, surrogate)
    ball = Ball.around(problems, budget, n_restarts)

    def objective(delta: Tensor) -> Tensor:
        changed = kspace + delta
        images = surrogate(changed)
        total: Tensor = loss(images)
        for penalty in penalties:
            total = total - penalty(changed, images)
        return total

    start = START * ball.draw(kspace.shape[1], generator)
    best, losses, curve = ascend(objective, ball, start, n_steps, progress or (lambda done, total: None))
    winners = losses.reshape(len(problems), n_restarts).argmax(1)
    rows = winners + n_restarts * torch.arange(len(problems), device=winners.device)
    curves = curve.reshape(len(problems), n_restarts, -1)
    return tuple(
        WorstCase(best[row], budget, relative_norm(problem, best[row]), float(losses[row]), slice_curve, n_steps + 2)
        for problem, row, slice_curve in zip(problems, rows, curves, strict=True)
    )


def _distance_from_clean(problems: Sequence[Problem], surrogate: Surrogate) -> Loss:
    with torch.no_grad():
        return mse_to(surrogate(torch.stack([problem.kspace for problem in problems])))


def ascend(
    objective: Callable[[Tensor], Tensor],
    ball: Ball,
    start: Complex64[Tensor, "row coil y x"],
    n_steps: int,
    progress: Progress,
) -> tuple[Complex64[Tensor, "row coil y x"], Float32[Tensor, "row"], Float32[Tensor, "row step"]]:
    """Climb inside the ball, each row on its own; the best points met, their values, and all values on the way."""
    patience = max(n_steps // 10, 2)
    delta = best = ball.project(start)
    uphill = torch.zeros_like(delta)  # the gradient at the best point
    highest = torch.full((len(start),), -torch.inf, device=start.device)
    share = torch.full((len(start), 1, 1, 1), PATH / max(n_steps, 1), device=start.device)
    idle = torch.zeros(len(start), device=start.device)
    curve = []
    for step in range(n_steps + 1):
        value, gradient = _value_and_gradient(objective, delta, with_gradient=step < n_steps)
        curve.append(value)
        better = value > highest
        highest, better_row = torch.where(better, value, highest), better[:, None, None, None]
        best, uphill = torch.where(better_row, delta, best), torch.where(better_row, gradient, uphill)
        if step == n_steps:
            break
        idle = torch.where(better, 0.0, idle + 1)
        stuck = (idle >= patience)[:, None, None, None]
        share, idle = torch.where(stuck, share / 2, share), torch.where(stuck[:, 0, 0, 0], 0.0, idle)
        origin, direction = torch.where(stuck, best, delta), torch.where(stuck, uphill, gradient)
        delta = ball.project(origin + share * ball.steepest(direction))
        progress(step + 1, n_steps)
    return best, highest, torch.stack(curve, dim=1)


def _value_and_gradient(
    objective: Callable[[Tensor], Tensor], delta: Tensor, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    variable = delta.detach().requires_grad_(with_gradient)
    with torch.set_grad_enabled(with_gradient):
        value = objective(variable)
    if not bool(torch.isfinite(value).all()):
        raise ReconError("expected finite images from the surrogate of a worst case; look at the raw data and weights")
    gradient = torch.autograd.grad(value.sum(), variable)[0] if with_gradient else delta
    return value.detach(), gradient


def attacked(problem: Problem, change: WorstCase | Complex64[Tensor, "coil y x"]) -> Problem:
    """The problem with the change in its measurement; everything else, noise level and scale included, stays."""
    delta = change.delta if isinstance(change, WorstCase) else change
    return replace(problem, kspace=problem.kspace + delta * problem.sense.mask)


def change_between(problem: Problem, perturbed: KSpace) -> Complex64[Tensor, "coil y x"]:
    """What an imperfection changed on the acquired samples, in the problem's unit.

    ``perturbed`` is made from the k-space that ``problem`` was prepared from; it is whitened by its own noise
    covariance, which has to be the same.
    """
    after = whitened_slice(perturbed, problem.z).to(problem.kspace.device) / problem.scale
    return (after - problem.kspace) * problem.sense.mask


def to_kspace_delta(
    kspace: KSpace, problem: Problem, delta: Complex64[Tensor, "coil y x"]
) -> Complex64[np.ndarray, "coil k2 k1 k0"]:
    """The change on the grid and in the channels of the k-space that ``problem`` was prepared from.

    The inverse of what `steadymr.recon.problem.prepare` does. Of a 3-D scan the change of one slice spreads over all
    k2; where its corners were not acquired, that part is lost.
    """
    whitened = torch.zeros(kspace.data.shape, dtype=torch.complex64)
    whitened[:, problem.z] = delta.detach().cpu() * problem.scale
    channels = fft_centred(whitened, (1,)) if whitened.shape[1] > 1 else whitened
    whitening = whitening_matrix(kspace.noise_covariance)
    raw = np.linalg.solve(whitening, channels.numpy().reshape(len(whitening), -1)).reshape(kspace.data.shape)
    raw *= kspace.sampled[:, :, None]
    first, end = kspace.k0_range
    raw[..., :first] = raw[..., end:] = 0
    return raw.astype(np.complex64)


def with_worst_case(kspace: KSpace, problem: Problem, found: WorstCase, *, seed: int) -> KSpace:
    """The k-space that carries the worst case, and says so; calibration lines keep their data.

    Args:
        kspace: what ``problem`` was prepared from.
        problem: the slice that was attacked.
        found: its worst case.
        seed: of the generator that made the random starts, for the record.
    """
    record = PerturbationRecord("worst_case", {"relative_norm": found.relative_norm}, seed)
    changed = kspace.data + to_kspace_delta(kspace, problem, found.delta)
    return replace(kspace, data=changed, perturbations=(*kspace.perturbations, record))
