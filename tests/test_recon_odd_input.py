"""Scans that are odd but not wrong are reconstructed, and what cannot be is refused in words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scanner import coil_maps, ellipses, line_mask
from test_recon_methods import gaussian_denoiser
from test_recon_problem import scan

from steadymr.errors import ReconError
from steadymr.recon.methods import classical, posterior_samples
from steadymr.recon.noise import complex_normal
from steadymr.recon.operators import fft_centred
from steadymr.recon.problem import Problem, prepare, problem_from


def odd(n_coils: int, n_y: int, n_x: int, noise_sd: float, by_lines: bool = True, hole: bool = False) -> Problem:
    maps = torch.ones(1, n_y, n_x, dtype=torch.complex64) if n_coils == 1 else coil_maps(n_coils, n_y, n_x)
    if hole:
        maps[:, n_y // 3 : n_y // 2] = 0
    mask = line_mask(n_y, 2, 8)
    mask = mask if by_lines else mask & (torch.arange(n_x) > 3)
    noise = complex_normal((n_coils, n_y, n_x), torch.Generator().manual_seed(0), maps.device)
    return problem_from(fft_centred(maps * ellipses(n_y, n_x)) / noise_sd + noise, maps, mask)


@pytest.mark.parametrize("by_lines", [True, False])
@pytest.mark.parametrize(
    ("n_coils", "n_y", "n_x", "noise_sd", "hole"),
    [
        (1, 32, 30, 0.02, False),  # one coil
        (2, 33, 517, 0.02, False),  # odd sizes, long and thin
        (4, 32, 30, 1e-6, False),  # hardly any noise
        (4, 32, 30, 0.02, True),  # maps with holes
    ],
)
def test_odd_scans_give_finite_samples_that_resemble_the_object(n_coils, n_y, n_x, noise_sd, hole, by_lines):
    made = odd(n_coils, n_y, n_x, noise_sd, by_lines, hole)
    samples = posterior_samples(
        made, gaussian_denoiser, n_samples=3, n_noise_draws=1, n_levels=4, generator=torch.Generator().manual_seed(0)
    )
    assert torch.view_as_real(samples).isfinite().all()
    truth = ellipses(n_y, n_x) * made.support / (made.scale * noise_sd)
    for image in (classical(made), samples.mean(0)):
        assert (image - truth).norm() < 0.7 * truth.norm()


def test_a_noise_level_of_zero_is_refused_and_all_channels_are_named():
    silent = replace(scan(), noise_covariance=np.zeros_like(scan().noise_covariance))
    with pytest.raises(ReconError, match=r"channels without noise: \[0, 1"):
        next(prepare(silent))
