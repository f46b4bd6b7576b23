from __future__ import annotations

import pytest
import torch
from laws import assert_close
from scanner import coil_maps, ellipses, line_mask

from steadymr.errors import ReconError
from steadymr.recon.methods import classical, posterior_samples, supervised, to_recon_grid
from steadymr.recon.noise import complex_normal
from steadymr.recon.operators import fft_centred
from steadymr.recon.problem import Problem, problem_from
from steadymr.types import Space

N_Y, N_X, NOISE_SD = 32, 30, 0.02


def problem(by_lines: bool = True, hole: bool = False) -> Problem:
    """The ellipses at R = 2 with 4 coils; whitened, so the image is 50 times as bright as the noise."""
    maps, mask = coil_maps(4, N_Y, N_X), line_mask(N_Y, 2, 8)
    mask = mask if by_lines else mask & (torch.arange(N_X) > 3)
    if hole:
        maps[:, :5] = 0
    noise = complex_normal((4, N_Y, N_X), torch.Generator().manual_seed(0), maps.device)
    return problem_from(fft_centred(maps * ellipses(N_Y, N_X)) / NOISE_SD + noise, maps, mask)


def gaussian_denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Exact for independent pixels of variance 1/9."""
    return x / (1 + 9 * sigma[:, None, None, None] ** 2)


def draw(made: Problem, seed: int = 0, n_samples: int = 6, n_noise_draws: int = 2, denoiser=gaussian_denoiser):
    generator = torch.Generator().manual_seed(seed)
    return posterior_samples(
        made, denoiser, n_samples=n_samples, n_noise_draws=n_noise_draws, n_levels=8, generator=generator
    )


@pytest.mark.parametrize("by_lines", [True, False])
def test_samples_resemble_the_image_and_differ_among_each_other(by_lines):
    made = problem(by_lines)
    samples = draw(made)
    assert samples.shape == (6, N_Y, N_X)
    truth = ellipses(N_Y, N_X) / (made.scale * NOISE_SD)
    assert (samples - truth).norm(dim=(1, 2)).max() < 0.5 * truth.norm()
    assert samples.std(0).min() > 0


def test_a_seed_repeats_samples_bit_by_bit_and_another_gives_others():
    made = problem()
    assert torch.equal(draw(made), draw(made))
    assert not torch.equal(draw(made), draw(made, seed=1))


def test_samples_under_redrawn_noise_scatter_more():
    samples = draw(problem(), n_samples=80, n_noise_draws=40)
    assert samples[40:].var(0).mean() > 1.2 * samples[:40].var(0).mean()


@pytest.mark.parametrize("n_noise_draws", [0, 4])
def test_none_or_all_of_the_samples_can_have_their_noise_redrawn(n_noise_draws):
    assert draw(problem(), n_samples=4, n_noise_draws=n_noise_draws).shape == (4, N_Y, N_X)


def test_nothing_is_made_up_where_no_coil_sees():
    made = problem(hole=True)
    assert not draw(made)[:, :5].any()
    assert not supervised(made, lambda x: x + 1)[:5].any()
    assert not classical(made)[:5].any()


def test_the_supervised_network_sees_the_lightly_regularised_image():
    made = problem()
    assert_close(supervised(made, lambda x: 2 * x), 2 * classical(made, regularisation=1.0))


@pytest.mark.parametrize("run", [lambda p, f: draw(p, denoiser=lambda x, s: f(x)), supervised])
def test_a_network_that_returns_nan_is_an_error(run):
    with pytest.raises(ReconError, match="NaN"):
        run(problem(), lambda x: x * torch.nan)


def test_a_stronger_regulariser_makes_a_weaker_image():
    made = problem()
    assert classical(made, regularisation=1000.0).norm() < 0.9 * classical(made, regularisation=1.0).norm()


def grid(n: int, fov_mm: float) -> Space:
    return Space((n, n, 1), (fov_mm, fov_mm, 5.0))


@pytest.mark.parametrize(("n", "n_recon", "fov_recon_mm"), [(32, 32, 200), (32, 64, 200), (33, 20, 125), (32, 48, 300)])
def test_the_recon_grid_keeps_the_centre_and_the_brightness(n, n_recon, fov_recon_mm):
    axis = (torch.arange(n) - n // 2) * 200 / n
    blob = torch.exp(-(axis[:, None] ** 2 + axis**2) / 30**2).to(torch.complex64)
    image = to_recon_grid(blob, grid(n, 200.0), grid(n_recon, float(fov_recon_mm)))
    out = (torch.arange(n_recon) - n_recon // 2) * fov_recon_mm / n_recon
    inside = (out[:, None].abs() < 95) & (out.abs() < 95)
    expected = torch.exp(-(out[:, None] ** 2 + out**2) / 30**2) * inside
    assert_close(image.real * inside, expected, rtol=0, atol=0.02)


def test_the_same_grid_leaves_the_image_alone():
    image = ellipses(N_Y, N_Y)
    assert torch.equal(to_recon_grid(image, grid(N_Y, 200.0), grid(N_Y, 200.0)), image)
