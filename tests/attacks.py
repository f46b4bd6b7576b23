"""Small problems to attack."""

from __future__ import annotations

import numpy as np
import torch
from scanner import coil_maps, ellipses, line_mask

from steadymr.recon.noise import complex_normal
from steadymr.recon.operators import fft_centred
from steadymr.recon.problem import Problem, problem_from
from steadymr.types import Geometry, KSpace, ScanHeader, Space, VolumeIndex

NOISE_SD = 0.02


def full_kspace(n_coils: int, n_y: int, n_x: int) -> torch.Tensor:
    """Whitened k-space of the ellipses, every line, noise of standard deviation 1 per real channel."""
    maps = coil_maps(n_coils, n_y, n_x)
    noise = complex_normal(tuple(maps.shape), torch.Generator().manual_seed(0), maps.device)
    return fft_centred(maps * ellipses(n_y, n_x)) / NOISE_SD + noise


def problem(acceleration: int = 3, n_coils: int = 4, n: int = 32, by_lines: bool = True, n_centre: int = 8) -> Problem:
    """The ellipses, undersampled; the image is 50 times as bright as the noise."""
    mask = line_mask(n, acceleration, n_centre)
    mask = mask if by_lines else mask & (torch.arange(n) > 3)
    return problem_from(full_kspace(n_coils, n, n), coil_maps(n_coils, n, n), mask)


def scan(n_z: int = 1, k0_first: int = 0, n: int = 32) -> KSpace:
    """K-space as the receiver delivers it: coupled channels, every second line, one or several partitions."""
    rng = np.random.default_rng(0)
    mixing = np.eye(4) + 0.2 * (rng.normal(size=(4, 4)) + 1j * rng.normal(size=(4, 4)))
    white = full_kspace(4, n, n).numpy()[:, None] * np.exp(-np.abs(np.arange(n_z) - n_z // 2))[:, None, None]
    data = np.einsum("cd,dzyx->czyx", mixing, white).astype(np.complex64)
    data[..., :k0_first] = 0
    lines = line_mask(n, 2, 16)[:, 0].numpy()
    sampled = np.broadcast_to(lines, (n_z, n)).copy()
    central = np.broadcast_to(np.abs(np.arange(n) - n // 2 + 0.5) < 8, (n_z, n)).copy()
    space = Space((n, n, n_z), (220.0, 220.0, 5.0 * n_z))
    return KSpace(
        data=data * sampled[:, :, None],
        sampled=sampled,
        k0_range=(k0_first, n),
        calibration=data * central[:, :, None],
        calibrated=central,
        noise_covariance=2 * mixing @ mixing.conj().T,
        noise_source="noise scan",
        index=VolumeIndex(),
        geometry=Geometry((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), space.fov_mm_xyz),
        encoded=space,
        header=ScanHeader("", "", "cartesian", space, space, None, None, {}, (1, 1)),
    )
