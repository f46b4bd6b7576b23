"""One slice, ready to reconstruct: whitened k-space, coil maps and noise level, scaled as the networks expect it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float32, Int64
from torch import Tensor

from steadymr.errors import CalibrationError, ReconError
from steadymr.recon.coils import EIGENVALUE_CROP, KERNEL_WIDTH, SINGULAR_THRESHOLD, espirit_maps
from steadymr.recon.noise import antithetic_normal, whitening_matrix
from steadymr.recon.operators import Sense, cg_sense, ifft_centred
from steadymr.recon.smooth_maps import smooth_maps
from steadymr.types import KSpace

SCALE_PERCENTILE = 0.99  #: of the classical image's magnitude, which becomes 1
NOISE_TO_SIGNAL_MINIMUM = 1e-6  #: keeps conjugate gradients in single precision well-behaved on noiseless data

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Problem:
    """One slice to reconstruct, or several versions of it along the leading axis of ``kspace``.

    Unit of intensity: the classical image's 99th percentile is 1; times ``scale`` it is in the receiver's units, where
    the noise has standard deviation 1 per real channel.
    """

    sense: Sense  #: what the coils measure of an object wherever in the field of view it lies
    kspace: Complex64[Tensor, "*sample coil y x"]  #: whitened and scaled, zero where not acquired
    noise_sd: Float32[Tensor, "*sample"]  #: per real channel, of each acquired sample
    signal_power: float  #: mean of |image|^2 per pixel inside the support, as the centre of k-space tells it
    scale: float
    z: int = 0
    outline: Bool[Tensor, "y x"] | None = None  #: where the object lies; None: wherever any coil sees anything

    @property
    def seen(self) -> Bool[Tensor, "y x"]:
        """Where any coil sees anything."""
        return (self.sense.maps != 0).any(0)

    @property
    def support(self) -> Bool[Tensor, "y x"]:
        """Where the object lies."""
        return self.seen if self.outline is None else self.outline

    @cached_property
    def supported(self) -> Sense:
        """What the coils measure of an object that ends with the support.

        For methods that do not know air from tissue by themselves: the fewer pixels, the surer they are of each. A
        prior knows, and must be free to put an edge's ringing where it lies, beyond the support.
        """
        return self.sense if self.outline is None else Sense(self.sense.maps * self.outline, self.sense.mask)

    @property
    def noise_to_signal(self) -> float:
        """Variance of the noise over that of the image; the weight of a Tikhonov regulariser that trusts both."""
        noise = 2 * float(self.noise_sd.square().mean())
        return max(noise / self.signal_power, NOISE_TO_SIGNAL_MINIMUM)


def prepare(
    kspace: KSpace,
    *,
    device: torch.device | str = "cpu",
    kernel_width: int = KERNEL_WIDTH,
    singular_threshold: float = SINGULAR_THRESHOLD,
    eigenvalue_crop: float = EIGENVALUE_CROP,
) -> Iterator[Problem]:
    """The slices of a volume, one for each z, made one at a time so that memory stays flat.

    A second phase encoding is transformed away first. Elliptical corners count as acquired zeros there.

    Raises:
        CalibrationError: without calibration lines at the centre, or if no coil sees anything.
        ReconError: if the data are not finite, or are zero, or the noise is unknown.
    """
    data = _whitened(kspace, kspace.data, "the k-space")
    calibration = _whitened(kspace, kspace.calibration, "the calibration lines")
    mask = _mask(kspace).to(device)
    lines = torch.from_numpy(kspace.calibrated.any(0))
    for z in range(data.shape[1]):
        block = calibration[:, z].to(device)

        def maps_with_crop(crop: float, block: Tensor = block) -> Tensor:
            return espirit_maps(
                block,
                lines,
                kspace.k0_range,
                kernel_width=kernel_width,
                singular_threshold=singular_threshold,
                eigenvalue_crop=crop,
            )

        try:
            maps = maps_with_crop(eigenvalue_crop)
        except CalibrationError:
            if data.shape[1] == 1 or not bool(lines.any()):
                raise
            logger.warning("z = %d of the volume holds hardly more than noise; its coil maps are kept everywhere", z)
            maps = maps_with_crop(0.0)
        outline, acquired = (maps != 0).any(0), data[:, z].to(device)
        image = (acquired, mask.any(1).cpu())
        maps = smooth_maps(block, lines, kspace.k0_range, maps, noise_sd=1.0, image=image)  # whitened
        yield problem_from(acquired, maps, mask, outline, z=z)


def problem_from(
    kspace: Complex64[Tensor, "coil y x"],
    maps: Complex64[Tensor, "coil y x"],
    mask: Bool[Tensor, "y #x"],
    outline: Bool[Tensor, "y x"] | None = None,
    *,
    z: int = 0,
) -> Problem:
    """A problem from whitened k-space whose noise has standard deviation 1 per real channel.

    Raises:
        ReconError: if there is no signal at all.
    """
    sense = Sense(maps, mask)
    acquired = kspace * mask
    power = _signal_power(acquired, sense, (maps != 0).any(0) if outline is None else outline)
    if not power > 0 or not np.isfinite(power):
        raise ReconError(f"expected signal in slice z = {z}, but k-space is zero or not finite; look at the raw data")
    unscaled = Problem(sense, acquired, torch.ones((), device=kspace.device), power, 1.0, z, outline)
    image = cg_sense(unscaled.supported, acquired, regularisation=unscaled.noise_to_signal)
    scale = float(torch.quantile(image.abs().flatten(), SCALE_PERCENTILE))
    return replace(
        unscaled,
        kspace=acquired / scale,
        noise_sd=unscaled.noise_sd / scale,
        signal_power=power / scale**2,
        scale=scale,
    )


def redraw_noise(problem: Problem, n: int, generator: torch.Generator) -> Problem:
    """``n`` versions of the data, each with one more draw of noise at the measured level on top, in antithetic pairs.

    Their noise is sqrt(2) times as strong as the measured one, and ``noise_sd`` says so: the first draw cannot be
    taken back.
    """
    if problem.kspace.ndim != 3:
        raise ValueError("noise is redrawn once, from the measured data")
    noise = antithetic_normal(n, tuple(problem.kspace.shape), generator, problem.kspace.device) * problem.noise_sd
    return replace(
        problem,
        kspace=problem.kspace + noise * problem.sense.mask,
        noise_sd=(problem.noise_sd * np.sqrt(2)).expand(n).contiguous(),
    )


def whitened_slice(
    kspace: KSpace, z: int, lines: Int64[np.ndarray, " line"] | None = None
) -> Complex64[Tensor, "coil line x"]:
    """K-space of one slice, or some lines of it, its noise of standard deviation 1 per real channel."""
    data = kspace.data if lines is None else kspace.data[:, :, lines]
    return _whitened(kspace, data, "the k-space")[:, z]


def receiver_channels(kspace: KSpace, device: torch.device | str = "cpu") -> Complex64[Tensor, "coil coil2"]:
    """White channels to those of the receiver, each scaled to noise of standard deviation 1 per real channel."""
    factor = np.linalg.cholesky(kspace.noise_covariance)
    scale = np.sqrt(np.diagonal(kspace.noise_covariance).real)[:, None]
    return torch.from_numpy((factor / scale).astype(np.complex64)).to(device)


def _whitened(
    kspace: KSpace, samples: Complex64[np.ndarray, "coil k2 k1 k0"], name: str
) -> Complex64[Tensor, "coil z y x"]:
    if not np.isfinite(samples).all():
        raise ReconError(f"expected finite samples, but {name} hold NaN or infinity; look at the raw data")
    whitening = whitening_matrix(kspace.noise_covariance).astype(np.complex64)
    white = torch.from_numpy((whitening @ samples.reshape(samples.shape[0], -1)).reshape(samples.shape))
    return ifft_centred(white, (1,)) if white.shape[1] > 1 else white


def _mask(kspace: KSpace) -> Bool[Tensor, "y #x"]:
    """Whole lines if the readout is complete, else the acquired samples."""
    lines = torch.from_numpy(kspace.sampled.any(0))[:, None]
    n_x = kspace.data.shape[-1]
    first, end = kspace.k0_range
    if (first, end) == (0, n_x):
        return lines
    column = torch.arange(n_x)
    return lines & (column >= first) & (column < end)


def _signal_power(kspace: Complex64[Tensor, "coil y x"], sense: Sense, support: Bool[Tensor, "y x"]) -> float:
    """Mean of |image|^2 in the support: the energy of the acquired samples less that of their noise.

    With maps of unit norm, the energy of all channels' k-space is that of the image (Parseval).
    """
    energy = (kspace.real.square() + kspace.imag.square()).sum(0)
    mask = sense.mask.expand(energy.shape)
    noise = 2.0 * kspace.shape[0] * mask
    return float(((energy - noise).sum()).clamp_min(0.05 * energy.sum()) / max(int(support.sum()), 1))
