"""Samplers against posteriors that are known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from oracle import Oracle, lesion_or_not, texture
from scanner import coil_maps, line_mask
from torch import Tensor

from steadymr.recon.likelihood import Likelihood
from steadymr.recon.noise import complex_normal
from steadymr.recon.operators import Sense, cg_sense
from steadymr.recon.samplers import (
    decoupled_annealing,
    denoise,
    noise_levels,
    preconditioned_langevin,
    symmetric,
    tempered,
)

SIZE, NOISE_SD, N_SAMPLES = 16, 0.05, 200


@dataclass(frozen=True)
class Case:
    oracle: Oracle
    sense: Sense
    kspace: Tensor


@cache
def case(make: Callable[[int], Oracle], acceleration: int, by_lines: bool = True, seed: int = 3) -> Case:
    generator = torch.Generator().manual_seed(seed)
    oracle, mask = make(SIZE), line_mask(SIZE, acceleration, 2)
    sense = Sense(coil_maps(4, SIZE, SIZE), mask if by_lines else mask & (torch.arange(SIZE) > 2))
    truth = oracle.sample(generator).to(torch.complex64)
    noise = complex_normal((4, SIZE, SIZE), generator, truth.device) * sense.mask
    return Case(oracle, sense, sense.forward(truth) + NOISE_SD * noise)


def draw(sampler, case: Case, n_levels: int, n_samples: int = N_SAMPLES, seed: int = 5) -> Tensor:
    likelihood = Likelihood.of(case.sense, case.kspace[None], torch.tensor([NOISE_SD])).repeated(n_samples)
    start = cg_sense(case.sense, case.kspace, regularisation=0.01).expand(n_samples, -1, -1)
    generator = torch.Generator().manual_seed(seed)
    return sampler(case.oracle.denoiser(), likelihood, start, levels=noise_levels(n_levels), generator=generator)


def agreement(samples: Tensor, case: Case) -> tuple[float, float, float]:
    """Error of the mean in posterior s.d., variance over the true one, residual chi-square over the true one's."""
    exact = case.oracle.posterior(case.sense, case.kspace, NOISE_SD)
    error = ((samples.mean(0) - exact.mean).abs().square().mean() / exact.variance.mean()).sqrt()
    residual = (case.kspace - case.sense.forward(samples)).abs().square().sum((-3, -2, -1)).mean()
    return float(error), float(samples.var(0).mean() / exact.variance.mean()), float(residual) / exact.residual


CASES = [(texture, 4, True), (texture, 8, True), (lesion_or_not, 4, True), (lesion_or_not, 8, True)]


SAMPLERS = [preconditioned_langevin, decoupled_annealing]


@pytest.mark.parametrize(
    ("sampler", "make", "acceleration", "by_lines"),
    [
        *((sampler, *one) for sampler in SAMPLERS for one in CASES),
        (preconditioned_langevin, lesion_or_not, 8, False),  # solved by conjugate gradients
    ],
)
def test_samples_with_20_levels_have_nearly_the_posteriors_mean_and_variance(sampler, make, acceleration, by_lines):
    made = case(make, acceleration, by_lines)
    error, variance, chi_square = agreement(draw(sampler, made, 20, 100), made)
    assert error < 0.25
    assert 0.9 < variance < 1.2
    assert 0.9 < chi_square < 1.05


@pytest.mark.parametrize(("make", "acceleration", "by_lines"), CASES)
def test_ten_levels_are_enough_for_the_posteriors_mean(make, acceleration, by_lines):
    """Without momentum the mean would miss it by 0.12 to 0.27 posterior s.d."""
    made = case(make, acceleration, by_lines)
    error, variance, _ = agreement(draw(preconditioned_langevin, made, 10, 100), made)
    assert error < 0.11
    assert 1.0 < variance < 1.3


def test_one_sample_without_a_partner_takes_plain_steps():
    made = case(texture, 4)
    likelihood = Likelihood.of(made.sense, made.kspace[None], torch.tensor([NOISE_SD]))
    start, generator = torch.zeros(1, SIZE, SIZE, dtype=torch.complex64), torch.Generator().manual_seed(1)
    levels, image = (0.3, 0.1), start
    drawn = preconditioned_langevin(made.oracle.denoiser(), likelihood, start, levels=levels, generator=generator)
    generator.manual_seed(1)
    for sigma in levels:
        half_noise = likelihood.fluctuation(sigma, generator) / 2**0.5
        mean = likelihood.mean(denoise(made.oracle.denoiser(), image + half_noise, sigma), sigma)
        image = mean + half_noise
    assert torch.equal(drawn, mean)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("make", "acceleration", "by_lines"), CASES)
def test_samples_with_50_levels_have_the_posteriors_mean_and_variance(sampler, make, acceleration, by_lines):
    made = case(make, acceleration, by_lines)
    error, variance, chi_square = agreement(draw(sampler, made, 50), made)
    assert error < 0.15  # of which 1 / sqrt(200) = 0.07 is chance
    assert 0.9 < variance < 1.1
    assert 0.95 < chi_square < 1.08


def test_where_nothing_was_measured_the_variance_grows_by_the_temperature():
    size, n_samples, prior_variance = 8, 400, 0.04
    sense = Sense(coil_maps(2, size, size), torch.zeros(size, 1, dtype=torch.bool))
    nothing = torch.zeros(1, 2, size, size, dtype=torch.complex64)
    likelihood = Likelihood.of(sense, nothing, torch.tensor([NOISE_SD])).repeated(n_samples)

    def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
        return x * prior_variance / (prior_variance + sigma[0] ** 2)

    for temperature in (1.0, 1.5):
        samples = preconditioned_langevin(
            tempered(gaussian, temperature),
            likelihood,
            torch.zeros(n_samples, size, size, dtype=torch.complex64),
            levels=noise_levels(100),
            generator=torch.Generator().manual_seed(0),
        )
        assert samples.abs().square().mean() == pytest.approx(2 * prior_variance * temperature, rel=0.1)


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_a_lesion_that_may_be_there_is_as_strong_on_average_as_it_should_be(seed):
    made = case(lesion_or_not, 8, seed=seed)
    healthy, ill = (component.mean.reshape(SIZE, SIZE) for component in made.oracle.components)
    samples = draw(preconditioned_langevin, made, 50)
    strength = ((samples - healthy) * (ill - healthy).conj()).real.sum((-2, -1)) / (ill - healthy).norm() ** 2
    exact = made.oracle.posterior(made.sense, made.kspace, NOISE_SD).mean
    expected = ((exact - healthy) * (ill - healthy).conj()).real.sum() / (ill - healthy).norm() ** 2
    assert (strength.mean() - expected).abs() < 0.3 * strength.std()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_generator_decides_the_samples(sampler):
    made = case(texture, 4)
    assert torch.equal(draw(sampler, made, 4, 2), draw(sampler, made, 4, 2))
    assert not torch.equal(draw(sampler, made, 4, 2), draw(sampler, made, 4, 2, seed=6))


def test_levels_fall_from_first_to_last():
    levels = noise_levels(5, 0.5, 0.01)
    assert levels[0] == pytest.approx(0.5)
    assert levels[-1] == pytest.approx(0.01)
    assert list(levels) == sorted(levels, reverse=True)
    assert noise_levels(1, 0.3) == pytest.approx((0.3,))


def test_samples_in_opposite_pairs_have_nearly_the_mean_of_many() -> None:
    """Eight of them come closer to the exact mean than eight independent ones of the same posterior could."""
    made = case(lesion_or_not, 4)
    error, _, _ = agreement(draw(preconditioned_langevin, made, 20, 8), made)
    assert error < 0.25 < (1 / 8) ** 0.5


@pytest.mark.parametrize(
    "turn", [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: torch.stack([-x[:, 1], x[:, 0]], 1)]
)
def test_a_symmetric_prior_is_the_same_for_every_view_on_average(turn) -> None:
    """Mirrored or turned in phase, an image gets the mirrored or turned estimate of a network that knows one view."""

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        ramp = torch.linspace(0, 1, SIZE)
        return x * (ramp + ramp[:, None]) / 2 + torch.tensor([0.3, 0.0])[:, None, None]

    image = complex_normal((1, SIZE, SIZE), torch.Generator().manual_seed(0), torch.device("cpu"))
    images = torch.view_as_real(image).movedim(-1, 1).expand(6000, -1, -1, -1)
    sigma = torch.ones(6000)
    means = [
        symmetric(network, torch.Generator().manual_seed(seed))(x, sigma).mean(0, keepdim=True)
        for seed, x in ((1, images), (2, turn(images)))
    ]
    assert torch.allclose(turn(means[0]), means[1], atol=0.06)
    assert not torch.allclose(turn(network(images[:1], sigma)), network(turn(images[:1]), sigma), atol=0.06)
