"""Samplers of the posterior: denoiser and data in, images out. One network evaluation for each noise level.

Both use the exact likelihood, and the denoiser only as the gradient of the log prior, smoothed by noise of standard
deviation sigma: ``grad log p_sigma(x) = (D(x, sigma) - x) / sigma^2`` (Tweedie). Samples differ as plausible images
differ: ``tests/test_samplers.py`` holds their mean and variance against posteriors that are known exactly. They come
in antithetic pairs, see `steadymr.recon.noise`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Complex64
from torch import Tensor

from steadymr.recon.likelihood import Likelihood
from steadymr.recon.noise import antithetic_normal, pair_means

Denoiser: TypeAlias = Callable[[Tensor, Tensor], Tensor]  #: (sample 2 y x), sigma (sample) -> (sample 2 y x)
#: Denoiser, likelihood and starting images in, images out; ``levels`` and ``generator`` by name.
Sampler: TypeAlias = Callable[..., Tensor]

SIGMA_MAX = 0.5  #: the image's 99th percentile is 1; a start from the classical image needs no more
SIGMA_MIN = 0.01  #: what smoothing remains; well below the posterior's standard deviation in tissue
MOMENTUM = 0.6  #: 0.3 and 0.8 bring a little less on validation heads; 0 needs nearly three times the levels
LEVEL_CURVATURE = 7.0  #: of the levels; 1 spaces them evenly, large values evenly in log sigma


def noise_levels(n_levels: int, sigma_max: float = SIGMA_MAX, sigma_min: float = SIGMA_MIN) -> tuple[float, ...]:
    """Falling standard deviations, evenly spaced in ``sigma^(1/7)`` (Karras 2022, arXiv 2206.00364, equation 5)."""
    first, last = (sigma ** (1 / LEVEL_CURVATURE) for sigma in (sigma_max, sigma_min))
    share = [i / max(n_levels - 1, 1) for i in range(n_levels)]
    return tuple((first + s * (last - first)) ** LEVEL_CURVATURE for s in share)


def preconditioned_langevin(
    denoiser: Denoiser,
    likelihood: Likelihood,
    start: Complex64[Tensor, "sample y x"],
    *,
    levels: Sequence[float],
    generator: torch.Generator,
) -> Complex64[Tensor, "sample y x"]:
    """Annealed Langevin sampling, preconditioned by the data's own curvature.

    At each level the step ``x + M (grad log p_sigma(x) + grad log likelihood(x))`` of full length, with
    ``M = (A^H A / s^2 + 1 / sigma^2)^-1``, is ``M (A^H y / s^2 + D(x) / sigma^2)``. Its noise, of covariance 2 M, is
    half this level's draw and half the next one's (Leimkuhler and Matthews 2013, doi 10.1093/amrx/abs010): with that
    a Gaussian posterior is met exactly at any step length, where independent draws would make it up to twice as wide.
    The last step adds nothing.

    Where little was measured the steps are short beside the way to go. So what both of an antithetic pair do, they do
    once more, by ``MOMENTUM`` (heavy ball, Polyak 1964, doi 10.1016/0041-5553(64)90137-5): the way is shared, while
    what they differ by, which holds the posterior's spread, takes the plain steps.
    """
    image, last = start, None
    for sigma in levels:
        half_noise = likelihood.fluctuation(sigma, generator) / 2**0.5
        mean = likelihood.mean(denoise(denoiser, image + half_noise, sigma), sigma)
        image = mean + half_noise + onward(mean, last)
        last = mean
    return mean


def onward(mean: Complex64[Tensor, "*any sample y x"], last: Tensor | None) -> Complex64[Tensor, "*any sample y x"]:
    """How much further the pairs go, since they have come from ``last``, None at first, to ``mean``."""
    return torch.zeros_like(mean) if last is None else MOMENTUM * pair_means(mean - last)


def decoupled_annealing(
    denoiser: Denoiser,
    likelihood: Likelihood,
    start: Complex64[Tensor, "sample y x"],
    *,
    levels: Sequence[float],
    generator: torch.Generator,
) -> Complex64[Tensor, "sample y x"]:
    """Denoise, draw from what denoised image and data say together, add less noise, repeat (arXiv 2407.01521).

    The draw is exact, from ``N(x0; D(x, sigma), sigma^2) N(y; A x0, s^2)``. Wider than the posterior with few levels.
    """
    image = start
    for sigma in levels:
        noisy = image + sigma * antithetic_normal(len(start), tuple(start.shape[1:]), generator, start.device)
        mean = likelihood.mean(denoise(denoiser, noisy, sigma), sigma)
        image = mean + likelihood.fluctuation(sigma, generator)
    return image


def tempered(denoiser: Denoiser, temperature: float) -> Denoiser:
    """The denoiser whose prior is ``p^(1 / temperature)``: its step towards the clean image is shorter by that.

    For networks that were measured to be surer than they are right; 1 leaves them as they are. Where the prior is
    Gaussian and nothing was measured, variances grow by the temperature.
    """
    if temperature == 1.0:
        return denoiser

    def estimate(images: Tensor, sigma: Tensor) -> Tensor:
        return images + (denoiser(images, sigma) - images) / temperature

    return estimate


def symmetric(denoiser: Denoiser, generator: torch.Generator) -> Denoiser:
    """The denoiser of a prior that does not change when images are mirrored or turned in phase.

    Networks learn that only nearly. At each call each image is mirrored at random along both axes and its phase turned
    by a random angle, and the estimate is brought back; what a network does wrong for one of these views then averages
    out over levels and samples, at no cost. Antithetic pairs share their view, or they would not stay opposite.
    """

    def estimate(images: Tensor, sigma: Tensor) -> Tensor:
        n_pairs = (len(images) + 1) // 2
        choices = torch.rand((3, n_pairs), generator=generator, device=generator.device).to(images.device)
        across, along, angle = choices.repeat_interleave(2, dim=1)[:, : len(images), None, None, None]
        cosine, sine = torch.cos(2 * torch.pi * angle), torch.sin(2 * torch.pi * angle)
        view = _mirrored(_turned(images, cosine, sine), across < 0.5, along < 0.5)
        return _turned(_mirrored(denoiser(view, sigma), across < 0.5, along < 0.5), cosine, -sine)

    return estimate


def _mirrored(images: Tensor, across: Tensor, along: Tensor) -> Tensor:
    images = torch.where(across, images.flip(-1), images)
    return torch.where(along, images.flip(-2), images)


def _turned(images: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    real, imaginary = images[:, :1], images[:, 1:]
    return torch.cat([cosine * real - sine * imaginary, sine * real + cosine * imaginary], dim=1)


def denoise(
    denoiser: Denoiser, images: Complex64[Tensor, "sample y x"], sigma: float
) -> Complex64[Tensor, "sample y x"]:
    """Call the network, which knows real channels only."""
    channels = torch.stack([images.real, images.imag], dim=1)
    clean = denoiser(channels, torch.full((images.shape[0],), sigma, device=images.device))
    return torch.complex(clean[:, 0].float(), clean[:, 1].float())
