"""Repeated sampling of one plane: as many posterior samples as the score needs, and draws of a site's imperfections."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float32

from steadymr import perturb
from steadymr.errors import DeadlineError, ReconError
from steadymr.perturb import site
from steadymr.recon import methods
from steadymr.recon.problem import Problem, prepare
from steadymr.stability.metrics import tissue_mask
from steadymr.stability.score import chance_error, local_signal
from steadymr.stability.sources import total_variance
from steadymr.types import KSpace, SampleSet
from steadymr.volume.fallback import Deadline
from steadymr.volume.planes import Plane, Run, seed_for

#: Standard error of the agreement at which no more samples are drawn. The score follows the agreement at about twice
#: its pace at most, so its own error is then below 0.01.
CHANCE_ERROR = 0.005


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Posterior samples of one plane, those under redrawn noise last."""

    images: Complex64[torch.Tensor, "sample y x"]  #: complex, in the problem's unit, on the acquired grid
    samples: SampleSet
    mean: Float32[np.ndarray, "z=1 y x"]  #: magnitude of the mean of those drawn from the data as measured


def draw_samples(plane: Plane, run: Run, deadline: Deadline) -> Draws:
    """Posterior samples in rounds of ``settings.samples``, until chance hardly moves the score or the limit is reached.

    Raises DeadlineError if the deadline passes within the first round; later rounds are then given up.
    """
    settings = run.settings
    generator = torch.Generator().manual_seed(seed_for(settings.seed, plane.kspace, "samples", plane.problem.z))
    rounds = [_round(plane, run, deadline, generator)]
    draws = _gathered(plane, rounds, settings.n_noise_draws)
    while (len(rounds) + 1) * settings.samples <= settings.stability.max_samples and not _settled(draws):
        try:
            rounds.append(_round(plane, run, deadline, generator))
        except DeadlineError:
            break
        draws = _gathered(plane, rounds, settings.n_noise_draws)
    return draws


def site_sensitivity(plane: Plane, run: Run, draws: Draws, deadline: Deadline) -> Float32[np.ndarray, "z=1 y x"] | None:
    """How far the site's imperfections move the image, as a standard deviation in per cent of the local tissue signal.

    None without a site model, and where the tissue is not to be told from noise. Raises DeadlineError and ReconError.
    """
    if run.site is None:
        return None
    wanted = run.settings.stability
    drawn = np.stack([_under_draw(plane, run, deadline, number) for number in range(wanted.site_draws)])
    mean = draws.samples.data.mean(axis=0)[0]
    mask = tissue_mask(mean)
    if not mask.any():
        return None
    n_y, n_x = mean.shape
    fov = plane.kspace.header.recon.fov_mm_xyz
    signal = local_signal(mean, mask, (fov[1] / n_y, fov[0] / n_x))
    percent = 100 * np.sqrt(total_variance(drawn).sensitivity) / signal
    return np.where(mask, percent, np.nan)[None].astype(np.float32)


def sampled(
    problem: Problem, run: Run, deadline: Deadline, generator: torch.Generator, n_samples: int, n_noise_draws: int = 0
) -> Complex64[torch.Tensor, "sample y x"]:
    """Posterior samples as the settings say. Raises DeadlineError, ReconError and DeviceError."""
    settings, denoiser = run.settings.diffusion, run.models.prior
    if denoiser is None:
        raise ValueError("samples need the prior, which load_models loads when settings ask for samples")
    return methods.posterior_samples(
        problem,
        deadline.watched(denoiser),
        n_samples=n_samples,
        n_noise_draws=n_noise_draws,
        n_levels=settings.levels,
        sigma_max=settings.sigma_max,
        generator=generator,
    )


def _round(
    plane: Plane, run: Run, deadline: Deadline, generator: torch.Generator
) -> Complex64[torch.Tensor, "sample y x"]:
    return sampled(plane.problem, run, deadline, generator, run.settings.samples, run.settings.n_noise_draws)


def _gathered(plane: Plane, rounds: list[Complex64[torch.Tensor, "sample y x"]], n_redrawn: int) -> Draws:
    """All rounds as one set: the measured data's samples of each, then those under redrawn noise."""
    n_measured = len(rounds[0]) - n_redrawn
    images = torch.cat([*(one[:n_measured] for one in rounds), *(one[n_measured:] for one in rounds)])
    n_all = n_measured * len(rounds)
    magnitudes = np.stack([plane.on_recon_grid(sample) for sample in images])
    redrawn: Bool[np.ndarray, " sample"] = np.arange(len(images)) >= n_all
    return Draws(images, SampleSet(magnitudes, redrawn), plane.on_recon_grid(images[:n_all].mean(0)))


def _settled(draws: Draws) -> bool:
    """Whether more samples would hardly change the agreement with their mean."""
    mask = tissue_mask(draws.samples.data.mean(axis=0)[0])
    return not mask.any() or chance_error(draws.mean[0], draws.samples.data[:, 0], mask) < CHANCE_ERROR


def _under_draw(plane: Plane, run: Run, deadline: Deadline, number: int) -> Float32[np.ndarray, "sample y x"]:
    """Magnitudes of posterior samples of the same plane under one more draw of the site's imperfections."""
    settings = run.settings
    if run.site is None:
        raise ValueError("draws of the site's imperfections need a site model")
    seed = seed_for(settings.seed, plane.kspace, "site", plane.problem.z, number)
    drawn = site.draw(run.site, np.random.default_rng(seed))
    problem = _plane_of(perturb.apply(plane.kspace, drawn, seed), plane.problem)
    generator = torch.Generator().manual_seed(seed)
    samples = sampled(problem, run, deadline, generator, settings.stability.site_samples)
    moved = Plane(plane.kspace, problem)
    return np.stack([moved.on_recon_grid(sample)[0] for sample in samples])


def _plane_of(kspace: KSpace, like: Problem) -> Problem:
    for problem in prepare(kspace, device=like.kspace.device):
        if problem.z == like.z:
            return problem
    raise ReconError(f"the perturbed volume has no plane z = {like.z}")
