"""Simulated scans for the unrolled network: k-space and coil maps, made anew for every step of training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float16, Float32
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from steadymr.errors import CalibrationError
from steadymr.recon.coils import combine_coils, espirit_maps
from steadymr.recon.operators import fft_centred, ifft_centred
from steadymr.recon.smooth_maps import smooth_maps
from steadymr.simulate.coils import simulate_coils
from steadymr.simulate.masks import centre_lines, equispaced_lines, poisson_lines, random_lines
from steadymr.train.data import random_crops


class VarnetScanSettings(BaseModel):
    """How scans are simulated; each draws its own numbers from these ranges, ends included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_coils: tuple[int, int] = Field((1, 32), description="Receive channels, drawn evenly on a log scale.")
    n_virtual_coils: int = Field(8, gt=0, description="More channels than these are compressed to as many.")
    acceleration: tuple[int, int] = Field((2, 12), description="Acceleration, drawn evenly on a log scale.")
    n_calibration: tuple[int, int] = Field((8, 32), description="Lines in the centre, all acquired.")
    noise_sd: tuple[float, float] = Field(
        (0.002, 0.04), description="Noise of a sample per real channel, image at 1; even on a log scale."
    )
    random_share: float = Field(0.2, ge=0, le=1, description="Share of scans with random lines, denser in the centre.")
    poisson_share: float = Field(0.2, ge=0, le=1, description="Share of scans with Poisson-disc lines.")
    espirit_share: float = Field(0.3, ge=0, le=1, description="Share whose coil maps are estimated, not the true ones.")
    support_share: float = Field(0.4, ge=0, le=1, description="Share whose maps are the true ones, but 0 in the air.")
    whole_share: float = Field(
        0.5, ge=0, le=1, description="Share that show the whole slice with larger pixels, instead of a part of it."
    )


@dataclass(frozen=True, slots=True, eq=False)
class Scans:
    """What the network is given, and the image that it should return."""

    kspace: Complex64[Tensor, "batch coil y x"]
    maps: Complex64[Tensor, "batch coil y x"]
    mask: Bool[Tensor, "batch y 1"]
    noise_sd: Float32[Tensor, "batch"]  #: per real channel
    truth: Complex64[Tensor, "batch y x"]

    def to(self, device: torch.device | str) -> Scans:
        """The same scans on another device."""
        return Scans(*(part.to(device) for part in (self.kspace, self.maps, self.mask, self.noise_sd, self.truth)))


def draw_scans(
    bank: Float16[np.ndarray, "slice 2 y x"],
    rng: np.random.Generator,
    n_scans: int,
    size: tuple[int, int],
    settings: VarnetScanSettings,
) -> Scans:
    """Scan random slices of the bank with the same coils, and with lines and noise of their own."""
    whole = rng.random() < settings.whole_share
    n_y, n_x = bank.shape[-2:]
    crops = random_crops(bank, rng, n_scans, (n_y, n_x) if whole else size)
    images = torch.from_numpy(crops[:, 0] + 1j * crops[:, 1])
    images = _coarser(images, size) if whole else images
    maps = torch.from_numpy(simulate_coils(rng, _log_integer(rng, settings.n_coils), size))
    scans = [scan_image(image, maps, rng, settings) for image in images]
    return Scans(*(torch.stack(parts) for parts in zip(*scans, strict=True)))


def scan_image(
    truth: Complex64[Tensor, "y x"],
    true_maps: Complex64[Tensor, "coil y x"],
    rng: np.random.Generator,
    settings: VarnetScanSettings,
) -> tuple[
    Complex64[Tensor, "virtual y x"],
    Complex64[Tensor, "virtual y x"],
    Bool[Tensor, "y 1"],
    Float32[Tensor, ""],
    Complex64[Tensor, "y x"],
]:
    """Return what `Scans` holds of one scan; the truth is the image as the maps combine it from the full scan."""
    n_y = len(truth)
    noise_sd = float(np.exp(rng.uniform(*np.log(settings.noise_sd))))
    n_calibration = min(int(rng.integers(settings.n_calibration[0], settings.n_calibration[1] + 1)), n_y)
    lines = torch.from_numpy(draw_lines(rng, n_y, n_calibration, settings))
    clean = fft_centred(true_maps * truth)
    noise = rng.standard_normal((2, *clean.shape), dtype=np.float32)
    measured = clean + noise_sd * torch.from_numpy(noise[0] + 1j * noise[1])
    calibrated = torch.from_numpy(centre_lines(n_y, n_calibration))[:, None]
    basis = _principal_coils(measured * calibrated, settings.n_virtual_coils)
    measured, clean, maps = (torch.einsum("vc,cyx->vyx", basis, part) for part in (measured, clean, true_maps))
    kind = rng.random()
    if kind < settings.espirit_share:
        maps = _estimated_maps(measured, calibrated, maps)
    elif kind < settings.espirit_share + settings.support_share:
        maps = maps * _near_signal(truth, float(rng.uniform(0.02, 0.1)))
    maps = torch.nn.functional.normalize(maps, dim=0)
    mask = lines[:, None]
    return measured * mask, maps, mask, torch.tensor(noise_sd), combine_coils(clean, maps)


def draw_lines(
    rng: np.random.Generator, n_lines: int, n_calibration: int, settings: VarnetScanSettings
) -> Bool[np.ndarray, "line"]:
    """Return the lines that one scan acquires."""
    acceleration = _log_integer(rng, settings.acceleration)
    kind = rng.random()
    if kind < settings.random_share:
        return random_lines(rng, n_lines, float(acceleration), n_calibration)
    if kind < settings.random_share + settings.poisson_share:
        return poisson_lines(rng, n_lines, float(acceleration), n_calibration)
    return equispaced_lines(n_lines, acceleration, n_calibration, int(rng.integers(acceleration)))


def _log_integer(rng: np.random.Generator, ends: tuple[int, int]) -> int:
    """Return an integer of a range, ends included, its logarithm about even."""
    return min(int(np.exp(rng.uniform(np.log(ends[0]), np.log(ends[1] + 1)))), ends[1])


def _coarser(images: Complex64[Tensor, "batch y x"], size: tuple[int, int]) -> Complex64[Tensor, "batch y2 x2"]:
    """Return the same field of view with fewer pixels: the centre of k-space, intensities kept."""
    starts = [have // 2 - wanted // 2 for have, wanted in zip(images.shape[-2:], size, strict=True)]
    kspace = fft_centred(images)[:, starts[0] : starts[0] + size[0], starts[1] : starts[1] + size[1]]
    gain = (kspace[0].numel() / images[0].numel()) ** 0.5
    coarse: Tensor = ifft_centred(kspace) * gain
    return coarse


def _principal_coils(calibration: Complex64[Tensor, "coil y x"], n_virtual: int) -> Complex64[Tensor, "virtual coil"]:
    """Return the combinations of channels that hold most of the signal; orthonormal, so white noise stays white."""
    n_coils = len(calibration)
    if n_coils <= n_virtual:
        return torch.eye(n_coils, dtype=torch.complex64)
    samples = calibration.flatten(1)
    strongest: Tensor = torch.linalg.eigh(samples @ samples.mH).eigenvectors[:, -n_virtual:]
    return strongest.mH


def _near_signal(image: Complex64[Tensor, "y x"], threshold: float) -> Bool[Tensor, "y x"]:
    """Return where the image, or a neighbour at up to 3 pixels, is brighter than a threshold."""
    brightest: Tensor = torch.nn.functional.max_pool2d(image.abs()[None], 7, stride=1, padding=3)[0]
    return brightest > threshold


def _estimated_maps(
    measured: Complex64[Tensor, "coil y x"], calibrated: Bool[Tensor, "y 1"], maps: Complex64[Tensor, "coil y x"]
) -> Complex64[Tensor, "coil y x"]:
    """Return the maps that a reconstruction would use, or where the scan is too noisy for them, the true ones."""
    block, lines, columns = measured * calibrated, calibrated[:, 0], (0, measured.shape[-1])
    try:
        periodic = espirit_maps(block, lines, columns)
        return smooth_maps(block, lines, columns, periodic) * (periodic != 0).any(0)
    except CalibrationError:
        return maps
