"""How far a crafted change of the data moves each image of one plane: a number and a map, for settings that ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float32

from steadymr.recon import methods
from steadymr.recon.problem import Problem
from steadymr.recon.vulnerability import crafted
from steadymr.stability.score import local_signal
from steadymr.volume.fallback import Deadline
from steadymr.volume.planes import Plane, Run, seed_for
from steadymr.volume.sampling import sampled

Reconstruct: TypeAlias = Callable[[Problem], Complex64[torch.Tensor, "y x"]]
N_SAMPLES = 2  #: of each crafted version: an opposite pair, under the noise of the clean one


@dataclass(frozen=True, slots=True, eq=False)
class Moved:
    """How far one image was moved at most."""

    amplification: float  #: relative change of the image over that of the data, both as L2 norms
    percent: Float32[np.ndarray, "z=1 y x"]  #: largest change of any draw, of the local tissue signal; NaN outside


def vulnerability(
    plane: Plane, run: Run, mask: Bool[np.ndarray, "y x"], pixel_mm: tuple[float, float], deadline: Deadline
) -> dict[str, Moved]:
    """For each method, how far changes within ``stability.vulnerability.budget_percent`` of the data move its image.

    Crafted on the prior and transferred. Empty if the budget is 0. Raises DeadlineError and ReconError.
    """
    wanted, denoiser = run.settings.stability.vulnerability, run.models.prior
    if wanted.budget_percent == 0 or denoiser is None:
        return {}
    seed = seed_for(run.settings.seed, plane.kspace, "vulnerability", plane.problem.z)
    problems = crafted(
        plane.problem,
        deadline.watched(denoiser),
        budget=wanted.budget_percent / 100,
        n_draws=wanted.draws,
        generator=torch.Generator().manual_seed(seed),
    )
    return {
        name: _moved(plane, problems, reconstruct, wanted.budget_percent / 100, mask, pixel_mm)
        for name, reconstruct in _methods(run, deadline, seed).items()
    }


def _methods(run: Run, deadline: Deadline, seed: int) -> Mapping[str, Reconstruct]:
    classical = run.settings.classical

    def diffusion(problem: Problem) -> Complex64[torch.Tensor, "y x"]:
        return sampled(problem, run, deadline, torch.Generator().manual_seed(seed), N_SAMPLES).mean(0)

    def regularised(problem: Problem) -> Complex64[torch.Tensor, "y x"]:
        return methods.classical(problem, regularisation=classical.regularisation, n_iterations=classical.iterations)

    ways: dict[str, Reconstruct] = {"diffusion": diffusion, "classical": regularised}
    if run.models.supervised is not None:
        ways["supervised"] = run.models.supervised.reconstruct
    return {name: ways[name] for name in run.settings.methods if name in ways}


def _moved(
    plane: Plane,
    problems: list[Problem],
    reconstruct: Reconstruct,
    budget: float,
    mask: Bool[np.ndarray, "y x"],
    pixel_mm: tuple[float, float],
) -> Moved:
    clean = reconstruct(plane.problem)
    changed = [reconstruct(problem) for problem in problems]
    size = torch.linalg.vector_norm(clean).clamp_min(1e-20)
    furthest = max(float(torch.linalg.vector_norm(one - clean) / size) for one in changed)
    before = plane.on_recon_grid(clean)
    change = np.max([np.abs(plane.on_recon_grid(one) - before) for one in changed], axis=0)[0]
    percent = 100 * change / local_signal(before[0], mask, pixel_mm)
    return Moved(furthest / budget, np.where(mask, percent, np.nan)[None].astype(np.float32))
