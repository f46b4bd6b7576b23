"""Evidence beside repeated sampling: each piece against a case where its right value is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from perturb_scans import energy, scan
from scanner import coil_maps, ellipses
from small_scan import EYE, N_COILS, NOISE_SD, N, noise, problem, rng, sentinels, smooth_draws

from steadymr import perturb
from steadymr.recon import evidence
from steadymr.recon.moments import variances
from steadymr.recon.operators import Sense, fft_centred
from steadymr.recon.problem import Problem
from steadymr.recon.residual import residual_evidence
from steadymr.recon.withheld import sentinel_deviation, sentinel_evidence
from steadymr.stability import evidence as words


def test_variances_are_right_for_opposite_pairs_and_for_independent_samples() -> None:
    """The mean of opposite samples is exact; that of six independent ones has a sixth of their variance."""
    independent = noise(6, 4000)
    opposite = torch.stack([independent[:3], -independent[:3]], dim=1).flatten(0, 1)
    for samples, of_one, of_mean in ((independent, 2.0, 2.0 / 6), (opposite, 2.0, 0.0)):
        variance, variance_of_mean = variances(samples / NOISE_SD)
        assert float(variance.mean()) == pytest.approx(of_one, rel=0.05)
        assert float(variance_of_mean.mean()) == pytest.approx(of_mean, abs=0.02)


@pytest.mark.parametrize("n_slices", [1, 4])
def test_a_coil_that_is_deaf_is_named(n_slices: int) -> None:
    """Its data are noise, in the middle of k-space too; those of the others are not, however many slices there are."""
    healthy = scan(64, acceleration=4, n_slices=n_slices, covariance=9 * np.eye(4, dtype=complex))
    dead = perturb.apply(healthy, (perturb.build("coil_fault", {"dead_coils": 1.0}),), 3)
    powers = [energy(coil) for coil in dead.data]
    before, after = evidence.deaf_coil_evidence(healthy), evidence.deaf_coil_evidence(dead)
    assert before.values["deaf_coil"] == evidence.HEARS
    assert after.values["deaf_coil"] == pytest.approx(1, abs=0.2)
    assert after.places["deaf_coil"] == f"coil {int(np.argmin(powers))}"
    assert words.reasons(after.values, after.places) == (f"coil {int(np.argmin(powers))} hears hardly more than noise",)


def test_where_the_centre_is_missing_no_coil_is_called_deaf() -> None:
    """There is nothing to hear there."""
    centreless = scan(64)
    centreless.sampled[:, 20:44] = False
    assert evidence.deaf_coil_evidence(centreless).values == {}


def test_what_the_maps_explain_leaves_only_noise_in_every_column() -> None:
    """Degrees of freedom are counted exactly, so that the ratio is 1 for any object."""
    found = np.array([list(evidence.misfit_evidence(problem(seed=seed)).values.values()) for seed in range(5)])
    assert found[:, 0] == pytest.approx(1, abs=0.06)
    assert found[:, 1].max() < 1.5


@pytest.mark.parametrize(("wanted", "ends_with_support"), [(evidence.FREEDOM, False), (0.9, True)])
def test_with_few_samples_the_misfit_is_that_of_an_image_that_ends_with_its_support(
    wanted: float, ends_with_support: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maps everywhere would leave hardly a sample for the noise to show in."""
    everywhere = problem()
    ended = replace(everywhere, outline=ellipses(N, N).abs() > 0)
    expected = replace(everywhere, sense=ended.supported) if ends_with_support else everywhere
    monkeypatch.setattr(evidence, "FREEDOM", wanted)
    assert evidence.misfit_evidence(ended).values == evidence.misfit_evidence(expected).values


def test_an_object_over_the_edge_of_the_field_of_view_is_seen_in_its_columns() -> None:
    """Folded over, it is seen with two sensitivities at once, which one set of maps cannot explain."""
    truth = torch.zeros(N, N, dtype=torch.complex64)
    truth[:4, 10:14] = 1.0
    folded = problem(ellipses(N, N))
    other_side = torch.roll(coil_maps(N_COILS, N, N), N // 2, 1)
    folded = replace(folded, kspace=folded.kspace + fft_centred(other_side * truth) * folded.sense.mask)
    found = evidence.misfit_evidence(folded)
    assert found.values["misfit_column"] > 3
    assert int(found.places["misfit_column"].split()[1]) in range(9, 15)
    fitted = evidence.misfit_evidence(problem(ellipses(N, N) + truth))
    assert fitted.values["misfit_column"] < 1.5


def test_misfit_says_nothing_where_columns_mix() -> None:
    """An asymmetric echo."""
    plain = problem()
    mask = plain.sense.mask & (torch.arange(N) > 5)
    asymmetric = replace(plain, sense=Sense(plain.sense.maps, mask), kspace=plain.kspace * mask)
    assert evidence.misfit_evidence(asymmetric).values == {}


def test_samples_that_differ_by_noise_alone_are_dispersed_by_as_much_in_measured_k_space() -> None:
    """Energy is counted per sample of k-space where it was measured."""
    plain = problem()
    deviation = noise(100, N, N)
    samples = ellipses(N, N) + torch.cat([deviation, -deviation])
    found = evidence.dispersion_evidence(plain, samples).values
    per_sample = float(plain.sense.normal(samples).abs().square().mean()) > 0
    assert per_sample
    measured = (plain.sense.forward(samples) - plain.sense.forward(samples).mean(0)).abs().square().sum() / 200
    n_measured = N_COILS * N * int(plain.sense.mask.sum())
    assert found["dispersion_measured"] == pytest.approx(float(measured) / n_measured / (2 * NOISE_SD**2), rel=1e-3)
    assert found["dispersion_unmeasured"] > 0


def test_tempering_is_the_shift_of_the_mean_in_units_of_the_spread() -> None:
    """Two clouds of points whose distance is known."""
    samples = ellipses(N, N) + smooth_draws(64, 0, sd=0.1)
    spread = float((samples - samples.mean(0)).abs().square().sum() / 63) ** 0.5
    shifted = samples + 2 * spread / N
    assert evidence.tempering_evidence(samples, shifted).values["tempering"] == pytest.approx(2, rel=1e-3)


def test_cyclic_consistency_of_a_true_image_is_about_the_noise() -> None:
    """Other lines are measured, the reconstruction is right, and the acquired lines are met again."""
    truth, seen = ellipses(N, N), []

    def reconstruct(again: Problem) -> torch.Tensor:
        seen.append(again.sense.mask[:, 0])
        return truth

    found = evidence.cyclic_evidence(problem(), truth, reconstruct, rng())
    assert found.values["cyclic"] == pytest.approx(1, abs=0.05)
    assert not torch.equal(seen[0], problem().sense.mask[:, 0])
    assert seen[0][N // 2 - 3 : N // 2 + 3].all()


def test_every_number_has_a_meaning_and_words() -> None:
    """What the reconstruction computes is what the report explains."""
    truth = ellipses(N, N)
    samples = truth + smooth_draws(6, 0)
    plain = problem()
    found = (
        sentinel_evidence(plain, sentinels(truth), samples, EYE, rng())
        | sentinel_deviation(plain, sentinels(truth), truth, samples)
        | residual_evidence(plain, truth, samples, EYE)
        | evidence.misfit_evidence(plain)
        | evidence.dispersion_evidence(plain, samples)
        | evidence.tempering_evidence(samples, samples)
        | evidence.cyclic_evidence(plain, truth, lambda again: truth, rng())
    )
    assert set(found.values) <= set(words.EVIDENCE)
    assert all(np.isfinite(value) and value >= 0 for value in found.values.values())


def test_only_what_is_notable_becomes_a_reason() -> None:
    """With the place where it was found."""
    reasons = words.reasons({"residual_coil": 3.2, "sentinel_line": 1.1}, {"residual_coil": "coil 5"})
    assert reasons == ("receiver residual 3.2 x the noise on coil 5",)


def test_samples_that_are_equal_do_not_differ() -> None:
    """And an image resembles itself."""
    image = np.abs(ellipses(N, N).numpy()).astype(np.float32)
    mask = image > 0.1
    assert words.differing_samples(np.stack([image] * 3), mask) == pytest.approx(0, abs=1e-6)
    assert words.difference(image, image, mask) == pytest.approx(0, abs=1e-6)
    assert words.difference(image, image * 0.5, mask) > 0.1
