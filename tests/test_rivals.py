"""The rivals do what their papers say, and are not samplers of the posterior, as their label says."""

from __future__ import annotations

import pytest
import torch
from laws import assert_close
from oracle import lesion_or_not, texture
from scanner import coil_maps, line_mask
from test_samplers import NOISE_SD, SIZE, agreement, case, draw

from steadymr.recon.likelihood import Likelihood
from steadymr.recon.noise import complex_normal
from steadymr.recon.operators import Sense, fft_centred
from steadymr.recon.rivals import (
    IS_POSTERIOR,
    RIVALS,
    decomposed_diffusion,
    posterior_guidance,
    predictor_corrector,
)

LEVELS = {decomposed_diffusion: 50, posterior_guidance: 100, predictor_corrector: 25}


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize(("make", "acceleration"), [(texture, 4), (lesion_or_not, 4), (lesion_or_not, 8)])
def test_rivals_differ_less_among_each_other_than_the_posterior_allows(rival, make, acceleration):
    made = case(make, acceleration)
    _, variance, chi_square = agreement(draw(rival, made, LEVELS[rival], 60), made)
    assert variance < 0.85
    assert chi_square < 0.7  # they fit the noise


def test_every_sampler_is_labelled():
    assert IS_POSTERIOR == {
        "preconditioned_langevin": True,
        "decoupled_annealing": True,
        "decomposed_diffusion": False,
        "posterior_guidance": False,
        "predictor_corrector": False,
    }


@pytest.mark.parametrize("rival", RIVALS)
def test_the_generator_decides_what_a_rival_makes(rival):
    made = case(texture, 4)
    assert torch.equal(draw(rival, made, 4, 2), draw(rival, made, 4, 2))
    assert not torch.equal(draw(rival, made, 4, 2), draw(rival, made, 4, 2, seed=6))


def test_with_one_coil_hard_projection_leaves_the_measured_lines_as_they_are():
    made = case(texture, 4)
    sense = Sense(torch.ones(1, SIZE, SIZE, dtype=torch.complex64), made.sense.mask)
    kspace = complex_normal((1, 1, SIZE, SIZE), torch.Generator().manual_seed(0), torch.device("cpu")) * sense.mask
    likelihood = Likelihood.of(sense, kspace, torch.tensor([NOISE_SD])).repeated(3)
    start, generator = torch.zeros(3, SIZE, SIZE, dtype=torch.complex64), torch.Generator().manual_seed(1)
    made_up = predictor_corrector(made.oracle.denoiser(), likelihood, start, levels=(0.5, 0.1), generator=generator)
    lines = made.sense.mask[:, 0]
    assert_close(fft_centred(made_up)[:, lines], kspace[:, 0][:, lines].expand(3, -1, -1), rtol=0, atol=1e-5)


def test_with_a_perfect_denoiser_and_data_every_rival_finds_the_image():
    sense = Sense(coil_maps(4, SIZE, SIZE), line_mask(SIZE, 2, 4))
    truth = texture(SIZE).sample(torch.Generator().manual_seed(0)).to(torch.complex64)
    likelihood = Likelihood.of(sense, sense.forward(truth)[None], torch.tensor([NOISE_SD]))
    channels = torch.stack([truth.real, truth.imag])[None]
    start, generator = torch.zeros_like(truth)[None], torch.Generator().manual_seed(1)
    for rival in RIVALS:
        image = rival(lambda x, s: channels + 0 * x, likelihood, start, levels=(0.5, 0.1), generator=generator)
        assert (image[0] - truth).norm() < 1e-3 * truth.norm(), rival.__name__
