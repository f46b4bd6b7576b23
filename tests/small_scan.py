"""A small noisy scan of ellipses, and draws such as samples differ by."""

from __future__ import annotations

import numpy as np
import torch
from scanner import coil_maps, ellipses, line_mask

from steadymr.recon.noise import complex_normal
from steadymr.recon.operators import Sense, fft_centred
from steadymr.recon.problem import Problem
from steadymr.recon.withheld import Sentinels

N, N_COILS, NOISE_SD = 32, 4, 0.02
LINES = np.array([11, 21, 25])
EYE = torch.eye(N_COILS, dtype=torch.complex64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return NOISE_SD * complex_normal(shape, rng(seed), torch.device("cpu"))


def problem(
    truth: torch.Tensor | None = None, seed: int = 0, maps: torch.Tensor | None = None, acceleration: int = 2
) -> Problem:
    """A noisy measurement of every second line of ``truth``, or fewer."""
    sense = Sense(coil_maps(N_COILS, N, N), line_mask(N, acceleration, 8))
    truth = ellipses(N, N) if truth is None else truth
    seen = fft_centred((sense.maps if maps is None else maps) * truth)
    kspace = (seen + noise(N_COILS, N, N, seed=seed)) * sense.mask
    return Problem(sense, kspace, torch.tensor(NOISE_SD), 0.3, 1.0)


def sentinels(truth: torch.Tensor, seed: int = 1) -> Sentinels:
    every = fft_centred(coil_maps(N_COILS, N, N) * truth)
    return Sentinels(LINES, tuple(int(k) for k in LINES), (0, N), every[:, LINES] + noise(N_COILS, 3, N, seed=seed))


def smooth_draws(n: int, seed: int, sd: float = 0.1) -> torch.Tensor:
    """Complex images with correlated pixels, such as samples differ by."""
    white = complex_normal((n, N, N), rng(seed), torch.device("cpu"))
    y = (torch.arange(N) - N // 2).float()
    window = torch.exp(-(y[:, None] ** 2 + y**2) / (2 * 6**2))
    smooth = torch.fft.ifft2(torch.fft.fft2(white) * torch.fft.ifftshift(window))
    return sd * smooth / smooth.abs().std()
