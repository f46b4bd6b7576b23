"""Popular diffusion reconstructions, to compare with: plausible images, but NOT samples of the posterior.

All three have the form of the samplers in `steadymr.recon.samplers` and see the same data, start and levels. On
posteriors that are known exactly their spread is too small: `tests/test_rivals.py` says by how much. A stability
score must not be computed from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Complex64
from torch import Tensor

from steadymr.recon.likelihood import Likelihood
from steadymr.recon.noise import complex_normal
from steadymr.recon.operators import conjugate_gradient
from steadymr.recon.samplers import Denoiser, Sampler, decoupled_annealing, denoise, preconditioned_langevin


def decomposed_diffusion(
    denoiser: Denoiser,
    likelihood: Likelihood,
    start: Complex64[Tensor, "sample y x"],
    *,
    levels: Sequence[float],
    generator: torch.Generator,
    eta: float = 0.85,
    data_weight: float = 5.0,
    n_iterations: int = 5,
) -> Complex64[Tensor, "sample y x"]:
    """DDS (Chung 2023, arXiv 2303.05754): a few conjugate gradients towards the data at each DDIM step. NOT a sampler
    of the posterior: the weight of the data is a fixed number instead of the noise's variance.

    One evaluation for each level. Written for noise that is added without shrinking the image.

    Args:
        denoiser: see `steadymr.recon.samplers`, as all arguments that are not named here.
        likelihood: of which the noise level is not used.
        start: images that the first level's noise is added to.
        levels: falling noise levels; after the last one comes zero.
        generator: the source of randomness.
        eta: share of the noise that is drawn anew at each step, in [0, 1].
        data_weight: of ``|A x - y|^2`` over ``|x - D(x)|^2``; gamma in the paper.
        n_iterations: of conjugate gradients.
    """
    shape, device = tuple(start.shape), start.device
    image = start + levels[0] * complex_normal(shape, generator, device)
    for sigma, sigma_next in zip(levels, (*levels[1:], 0.0), strict=True):
        clean = denoise(denoiser, image, sigma)
        noise = (image - clean) / sigma
        clean = conjugate_gradient(
            lambda x: data_weight * likelihood.sense.normal(x) + x,
            clean + data_weight * likelihood.adjoint,
            clean,
            n_iterations,
        )
        fresh = eta * sigma_next * (1 - (sigma_next / sigma) ** 2) ** 0.5
        image = clean + (sigma_next**2 - fresh**2) ** 0.5 * noise + fresh * complex_normal(shape, generator, device)
    return image


def posterior_guidance(
    denoiser: Denoiser,
    likelihood: Likelihood,
    start: Complex64[Tensor, "sample y x"],
    *,
    levels: Sequence[float],
    generator: torch.Generator,
    step_size: float = 1.0,
) -> Complex64[Tensor, "sample y x"]:
    """DPS (Chung 2023, arXiv 2209.14687): ancestral steps, each pushed down the gradient of ``|A D(x) - y|``.

    NOT a sampler of the posterior: the push's length is a fixed number. One evaluation and one gradient through the
    network for each level; its authors use a thousand.

    Args:
        denoiser: differentiable; see `steadymr.recon.samplers`, as all arguments that are not named here.
        likelihood: of which the noise level is not used.
        start: images that the first level's noise is added to.
        levels: falling noise levels; after the last one comes zero.
        generator: the source of randomness.
        step_size: how far each step goes down the gradient of the residual's norm; zeta' in the paper.
    """
    shape, device = tuple(start.shape), start.device
    image = start + levels[0] * complex_normal(shape, generator, device)
    for sigma, sigma_next in zip(levels, (*levels[1:], 0.0), strict=True):
        with torch.enable_grad():
            noisy = image.detach().requires_grad_()
            clean = denoise(denoiser, noisy, sigma)
            residual = likelihood.residual_energy(clean).clamp_min(1e-12).sqrt()
            (gradient,) = torch.autograd.grad(residual.sum(), noisy)
        shrink, fresh = _ancestral(sigma, sigma_next)
        ancestral = clean + shrink * (image - clean) + fresh * complex_normal(shape, generator, device)
        image = (ancestral - step_size * gradient).detach()
    return image


def predictor_corrector(
    denoiser: Denoiser,
    likelihood: Likelihood,
    start: Complex64[Tensor, "sample y x"],
    *,
    levels: Sequence[float],
    generator: torch.Generator,
    signal_to_noise: float = 0.16,
) -> Complex64[Tensor, "sample y x"]:
    """Score-based reconstruction with HARD data consistency (Song 2022, arXiv 2111.08005), NOT a posterior sampler.

    Reverse diffusion steps and Langevin corrections (Song 2021, arXiv 2011.13456, algorithms 2 and 4), before each of
    which the measured lines are put back in, with the level's noise on top. At the end they are put in as they were
    measured, noise and errors included: whatever is wrong with them reaches the image in full. With several coils they
    replace those lines of every coil's image, which the maps then combine (Chung 2022, arXiv 2110.05243). Two
    evaluations for each level; its authors use hundreds of levels.

    Args:
        denoiser: see `steadymr.recon.samplers`, as all arguments that are not named here.
        likelihood: of which the noise level is not used; with one coil, whose map is 1, this is the paper's method.
        start: images that the first level's noise is added to.
        levels: falling noise levels; after the last one comes zero.
        generator: the source of randomness.
        signal_to_noise: of a correction's step; r in the paper.
    """
    shape, device = tuple(start.shape), start.device
    image = start + levels[0] * complex_normal(shape, generator, device)
    for sigma, sigma_next in zip(levels, (*levels[1:], 0.0), strict=True):
        image = _reinsert(image, likelihood, sigma, generator)
        step = sigma**2 - sigma_next**2
        image = image + step / sigma**2 * (denoise(denoiser, image, sigma) - image)
        if sigma_next > 0:
            image = image + step**0.5 * complex_normal(shape, generator, device)
            image = _reinsert(image, likelihood, sigma_next, generator)
            image = _correct(denoiser, image, sigma_next, signal_to_noise, generator)
    return _reinsert(image, likelihood, 0.0, generator)


def _reinsert(
    image: Complex64[Tensor, "sample y x"], likelihood: Likelihood, sigma: float, generator: torch.Generator
) -> Complex64[Tensor, "sample y x"]:
    """Replace the measured lines of every coil's image by the measurement plus noise, and combine the coils."""
    measured = likelihood.adjoint
    if sigma > 0:
        shape = (image.shape[0], *likelihood.sense.maps.shape)
        measured = measured + sigma * likelihood.sense.adjoint(complex_normal(shape, generator, image.device))
    return image + measured - likelihood.sense.normal(image)


def _correct(
    denoiser: Denoiser,
    image: Complex64[Tensor, "sample y x"],
    sigma: float,
    signal_to_noise: float,
    generator: torch.Generator,
) -> Complex64[Tensor, "sample y x"]:
    noise = complex_normal(tuple(image.shape), generator, image.device)
    score = (denoise(denoiser, image, sigma) - image) / sigma**2
    ratio = torch.linalg.vector_norm(noise, dim=(-2, -1)) / torch.linalg.vector_norm(score, dim=(-2, -1))
    step = 2 * (signal_to_noise * ratio[:, None, None]) ** 2
    corrected: Tensor = image + step * score + (2 * step).sqrt() * noise
    return corrected


def _ancestral(sigma: float, sigma_next: float) -> tuple[float, float]:
    """Share of the old noise that stays and strength of the new, so that together they are ``sigma_next``."""
    shrink = (sigma_next / sigma) ** 2
    return shrink, sigma_next * (1 - shrink) ** 0.5


RIVALS: Final[tuple[Sampler, ...]] = (decomposed_diffusion, posterior_guidance, predictor_corrector)

#: Which of all samplers agree with posteriors that are known exactly, by the function's name.
IS_POSTERIOR: Final[dict[str, bool]] = {
    sampler.__name__: sampler not in RIVALS for sampler in (preconditioned_langevin, decoupled_annealing, *RIVALS)
}
