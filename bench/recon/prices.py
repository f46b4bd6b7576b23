"""What sampling costs beside its network evaluations, and many samples beside one. Set-up is counted."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch
from slices import Recipe, make

from steadymr.recon import methods
from steadymr.recon.networks import Denoiser
from steadymr.recon.operators import Sense
from steadymr.recon.problem import Problem


def overhead(network: Denoiser, recipe: Recipe, n_samples: int, n_levels: int) -> dict[str, float]:
    """Seconds of sampling over seconds inside the network, both from one run, so that other load hits them alike."""
    problem = make(recipe).problem
    inside = 0.0

    def watched(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal inside
        start = time.perf_counter()
        clean = network(images, sigma)
        inside += time.perf_counter() - start
        return clean

    _sample(fresh(problem), network, n_samples, 2)  # warms up libraries and caches
    seconds = _sample(fresh(problem), watched, n_samples, n_levels)
    return {"matrix": recipe.matrix, "seconds": seconds, "network_seconds": inside, "ratio": seconds / inside}


def many_against_one(network: Denoiser, recipe: Recipe, n_levels: int) -> dict[str, float]:
    problem = make(recipe).problem
    one, many = (_sample(fresh(problem), network, n, n_levels) for n in (1, 16))
    return {"matrix": recipe.matrix, "seconds_1": one, "seconds_16": many, "ratio": many / one}


def fresh(problem: Problem) -> Problem:
    """The same problem without what was computed for it before."""
    return dataclasses.replace(problem, sense=Sense(problem.sense.maps, problem.sense.mask))


def _sample(problem: Problem, denoiser: Callable[..., torch.Tensor], n_samples: int, n_levels: int) -> float:
    start = time.perf_counter()
    methods.posterior_samples(
        problem,
        denoiser,
        n_samples=n_samples,
        n_noise_draws=0,
        n_levels=n_levels,
        generator=torch.Generator().manual_seed(0),
    )
    return time.perf_counter() - start
