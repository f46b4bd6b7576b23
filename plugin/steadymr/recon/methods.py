"""The methods, each from a problem to images in the problem's unit: classical, supervised and posterior samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Complex64, Float32
from torch import Tensor

from steadymr.errors import DeviceError, ReconError
from steadymr.recon.coils import combine_coils
from steadymr.recon.likelihood import Likelihood
from steadymr.recon.operators import cg_sense, fft_centred, ifft_centred
from steadymr.recon.problem import Problem, redraw_noise, whitened_slice
from steadymr.recon.samplers import (
    SIGMA_MAX,
    SIGMA_MIN,
    Denoiser,
    Sampler,
    noise_levels,
    preconditioned_langevin,
    symmetric,
)
from steadymr.types import KSpace, Space

Network: TypeAlias = Callable[[Tensor], Tensor]  #: (sample 2 y x) CG-SENSE images -> (sample 2 y x) estimates
UnrolledNetwork: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(sample coil y x) k-space, (coil y x) maps and (y x) mask -> (sample y x) estimates"""

REGULARISATION = 6.0  #: in units of the noise variance over the mean signal power, see `classical`
NETWORK_REGULARISATION = 1.0  #: of the image that the supervised network was trained to improve
UNROLLED_SD = 0.03  #: error of the unrolled network's image per real channel; from 0.02 to 0.04 little changes
N_ITERATIONS = 30
N_LEVELS = 20


def classical(
    problem: Problem, *, regularisation: float = REGULARISATION, n_iterations: int = N_ITERATIONS
) -> Complex64[Tensor, "*sample y x"]:
    """CG-SENSE (Pruessmann 2001, doi 10.1002/mrm.1241) with a Tikhonov term.

    Minimises ``|A x - y|^2 + lambda |x|^2``, ``lambda = regularisation * noise variance / mean signal power``. With 1
    this is the posterior mean if nothing were known of the image but its mean power. Images are weaker than that
    where coils and lines tell little, far from the centre of k-space: on simulated and real brains the lowest error
    was found from 1 to 3 (R = 2) to 10 (R = 4 and 6), so the default lies in between.
    """
    weight = regularisation * problem.noise_to_signal
    image = cg_sense(problem.supported, problem.kspace, regularisation=weight, n_iterations=n_iterations)
    return _finite(image, "CG-SENSE")


def supervised(problem: Problem, network: Network) -> Complex64[Tensor, "y x"]:
    """The network's estimate from the CG-SENSE image, regularised as when it was trained."""
    image = classical(problem, regularisation=NETWORK_REGULARISATION)
    with torch.no_grad():
        channels = network(torch.stack([image.real, image.imag])[None])[0].float()
    return _finite(torch.complex(channels[0], channels[1]) * problem.support, "the supervised network")


def supervised_varnet(problem: Problem, network: UnrolledNetwork) -> Complex64[Tensor, "y x"]:
    """The unrolled network's estimate from the measured k-space, reconciled with that k-space once more.

    The mean of what it makes of the data in four phases, each a quarter turn from the last, for the object's phase is
    arbitrary and the network knows that only nearly. Then one exact step: of all images the likeliest, if the
    network's errs everywhere by ``UNROLLED_SD`` and the data by their noise. On scans unlike those of its training
    that brings back what the network took away.
    """
    kspace, sense = problem.kspace[None], problem.supported
    with torch.no_grad():  # one after the other, or memory would be four times as much
        turned = [network(phase * kspace, sense.maps, sense.mask) / phase for phase in (1, 1j, -1, -1j)]
    said = Likelihood.of(sense, kspace, problem.noise_sd[None])
    image = said.mean(torch.stack(turned).mean(0), UNROLLED_SD)[0]
    return _finite(image * problem.support, "the supervised network")


def posterior_samples(
    problem: Problem,
    denoiser: Denoiser,
    *,
    n_samples: int,
    n_noise_draws: int,
    generator: torch.Generator,
    n_levels: int = N_LEVELS,
    sigma_max: float = SIGMA_MAX,
    sampler: Sampler = preconditioned_langevin,
) -> Complex64[Tensor, "sample y x"]:
    """Images that prior and data allow, drawn all in one batch.

    Outside the support they need not be zero, for an edge rings beyond it, and the prior knows air from tissue; they
    are where no coil sees.

    They come in antithetic pairs, so that their mean hardly depends on how few they are; the prior is made symmetric,
    see `steadymr.recon.samplers.symmetric`.

    Args:
        problem: the slice as it was measured.
        denoiser: see `steadymr.recon.samplers`.
        n_samples: how many, in all.
        n_noise_draws: so many of them, the last ones, see the data with a fresh draw of noise added each.
        generator: the only source of randomness.
        n_levels: noise levels, one evaluation of the denoiser each.
        sigma_max: the first level; the image's 99th percentile is 1.
        sampler: one of `steadymr.recon.samplers`, or to compare with, of `steadymr.recon.rivals`.

    Raises:
        ReconError: if the result is not finite.
        DeviceError: if the device's memory does not suffice.
    """
    try:
        with torch.no_grad():
            likelihood, start = _likelihood(problem, n_samples, n_noise_draws, generator)
            levels = noise_levels(n_levels, sigma_max, _last_level(problem))
            samples = sampler(symmetric(denoiser, generator), likelihood, start, levels=levels, generator=generator)
            return _finite(samples * problem.seen, "the posterior sampler")
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceError(
            f"the device has too little memory for {n_samples} samples at once; ask for fewer, or for --device cpu"
        ) from error


def _last_level(problem: Problem) -> float:
    """Below the noise, or the last step, which adds none, would fit it: samples too alike, residuals too small."""
    return min(SIGMA_MIN, float(problem.noise_sd) / 3)


def _likelihood(
    problem: Problem, n_samples: int, n_noise_draws: int, generator: torch.Generator
) -> tuple[Likelihood, Complex64[Tensor, "sample y x"]]:
    """What the measured and the redrawn data say, one entry for each sample, and their classical images."""
    if not 0 <= n_noise_draws <= n_samples:
        raise ValueError(f"of {n_samples} samples, {n_noise_draws} cannot have their noise redrawn")
    n_measured = n_samples - n_noise_draws
    measured = Likelihood.of(problem.sense, problem.kspace[None], problem.noise_sd[None]).repeated(n_measured)
    start = classical(problem).expand(n_measured, -1, -1)
    if not n_noise_draws:
        return measured, start
    noisier = redraw_noise(problem, n_noise_draws, generator)
    redrawn = Likelihood.of(problem.sense, noisier.kspace, noisier.noise_sd)
    return measured.joined(redrawn), torch.cat([start, classical(noisier)])


def fully_sampled(full: KSpace, problem: Problem) -> Complex64[Tensor, "y x"]:
    """The same slice from the full scan, coils combined with the problem's maps: what undersampling is judged by."""
    kspace = whitened_slice(full, problem.z).to(problem.kspace.device)
    return _finite(combine_coils(kspace / problem.scale, problem.supported.maps), "the coil combination")


def root_sum_of_squares(kspace: KSpace, z: int) -> Float32[Tensor, "y x"]:
    """One slice without coil maps, on the recon grid in the receiver's units; lines that are missing count as zero."""
    images = ifft_centred(whitened_slice(kspace, z))
    combined: Tensor = torch.linalg.vector_norm(to_recon_grid(images, kspace.encoded, kspace.header.recon), dim=0)
    if not np.isfinite(float(combined.sum())):
        raise ReconError("expected a finite image, but the channels hold NaN or infinity; look at the raw data")
    return combined


def to_recon_grid(
    images: Complex64[Tensor, "*sample y x"], encoded: Space, recon: Space
) -> Complex64[Tensor, "*sample y2 x2"]:
    """From the acquired grid to the protocol's: its pixel size by cropping or padding k-space, then its matrix.

    Intensities stay. The pixel size is met to half a pixel over the whole acquired field of view.
    """
    for axis, dim in ((0, -1), (1, -2)):
        pixel_mm = recon.fov_mm_xyz[axis] / recon.matrix_xyz[axis]
        n = max(round(encoded.fov_mm_xyz[axis] / pixel_mm), 1)
        if n != images.shape[dim]:
            gain = (n / images.shape[dim]) ** 0.5
            images = ifft_centred(_resize(fft_centred(images, (dim,)), n, dim), (dim,)) * gain
        images = _resize(images, recon.matrix_xyz[axis], dim)
    return images


def _resize(values: Complex64[Tensor, "*axes"], n: int, dim: int) -> Complex64[Tensor, "*axes2"]:
    """Crop or zero-pad one axis, keeping index ``n // 2`` where it is."""
    shift = values.shape[dim] // 2 - n // 2
    kept = values.narrow(dim, max(shift, 0), min(n, values.shape[dim]))
    padding = [0, 0] * (-dim - 1) + [max(-shift, 0), n - max(-shift, 0) - kept.shape[dim]]
    resized: Tensor = torch.nn.functional.pad(kept, padding)
    return resized


def _finite(images: Complex64[Tensor, "*sample y x"], maker: str) -> Complex64[Tensor, "*sample y x"]:
    if not np.isfinite(float(torch.view_as_real(images).abs().sum())):
        raise ReconError(f"expected a finite image, but {maker} made NaN or infinity; look at the raw data and weights")
    return images
