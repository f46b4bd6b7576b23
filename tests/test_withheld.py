"""Sentinel lines against samples: each statistic against a case where its right value is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scanner import coil_maps, ellipses
from scipy import stats
from small_scan import EYE, LINES, N_COILS, NOISE_SD, N, noise, problem, rng, sentinels, smooth_draws

from steadymr.recon import withheld
from steadymr.recon.operators import fft_centred


def test_predicted_lines_are_those_of_the_full_transform() -> None:
    """Only the lines asked for are computed, and they are right."""
    images = torch.stack([ellipses(N, N), 1j * ellipses(N, N)])
    lines = withheld.predicted_lines(problem(), images, LINES)
    expected = fft_centred(coil_maps(N_COILS, N, N) * images[:, None])[:, :, LINES]
    np.testing.assert_allclose(lines.numpy(), expected.numpy(), atol=1e-5)


def test_the_sentinel_statistic_is_one_if_the_truth_is_one_more_sample() -> None:
    """Whatever the samples' spread; here it is five times the noise."""
    found = []
    for seed in range(8):
        draws = ellipses(N, N) + smooth_draws(9, seed)
        truth, samples = draws[0], draws[1:]
        result = withheld.sentinel_evidence(problem(truth), sentinels(truth), samples, EYE, rng())
        found.append([result.values["sentinel"], result.values["sentinel_pattern"]])
    np.testing.assert_allclose(np.mean(found, axis=0), 1, atol=0.15)


def test_p_values_are_uniform_if_the_truth_is_one_more_sample() -> None:
    """Coils and neighbours are correlated, so a chi-square would be wrong; the samples know how much."""
    p_values = []
    for seed in range(60):
        draws = smooth_draws(9, seed)
        predicted = withheld.predicted_lines(problem(), draws, LINES)
        noisy = predicted[0] + noise(N_COILS, 3, N, seed=1000 + seed)
        statistic = float(withheld.deviation(noisy, predicted[1:], torch.tensor(NOISE_SD)).mean())
        left_out = withheld.left_out(predicted[1:], torch.tensor(NOISE_SD), rng(seed))
        p_values.append(withheld.p_value(statistic, left_out, scatter=0.0))
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_structure_that_all_samples_share_and_the_scan_does_not_have_is_seen() -> None:
    """The samples agree as before; the withheld lines do not."""
    truth = ellipses(N, N)
    invented = torch.zeros_like(truth)
    invented[10:14, 12:16] = 1.0
    honest = truth + smooth_draws(8, 1, sd=0.01)
    clean = withheld.sentinel_evidence(problem(), sentinels(truth), honest, EYE, rng())
    caught = withheld.sentinel_evidence(problem(), sentinels(truth), honest + invented, EYE, rng())
    assert clean.values["sentinel"] < 1.5
    assert caught.values["sentinel"] > 2 * clean.values["sentinel"]
    assert caught.places["sentinel_line"] in {f"line {k}" for k in LINES}
    assert float(caught.places["sentinel"].split()[2]) < 0.05 < float(clean.places["sentinel"].split()[2])


def test_a_faulty_coil_is_named() -> None:
    """In the receiver's numbering."""
    truth = ellipses(N, N)
    samples = truth + smooth_draws(6, 0, sd=0.01)
    lines = sentinels(truth)
    lines.kspace[2] *= 1.5
    found = withheld.sentinel_evidence(problem(), lines, samples, EYE, rng())
    assert found.places["sentinel_coil"] == "coil 2"


def test_combinations_of_coils_in_which_samples_agree_do_not_dilute_the_others() -> None:
    """A deviation along the one in which they differ counts in full, one across it not at all."""
    combination = torch.tensor([1, 1j, 0, 0])[:, None, None]
    predicted = 10 * noise(8, 1, 3, N, seed=4) * combination
    thermal, noise_sd = noise(N_COILS, 3, N, seed=5), torch.tensor(NOISE_SD)
    along, across = (thermal + 40 * NOISE_SD * one for one in (combination, combination.conj()))
    seen = withheld.deviation_by_pattern(along, predicted, noise_sd).mean
    assert seen == pytest.approx(2 * 40**2 / (2 * 2 * 10**2), rel=0.1)
    assert float(withheld.deviation(along, predicted, noise_sd).mean()) < 5
    assert withheld.deviation_by_pattern(across, predicted, noise_sd).mean < 0.5


def test_how_a_receiver_combines_its_coils_does_not_change_the_deviation_by_pattern() -> None:
    """Any unitary combination of white channels holds the same data."""
    unitary = torch.linalg.qr(noise(N_COILS, N_COILS, seed=9)).Q
    draws = ellipses(N, N) + smooth_draws(9, 2)
    predicted = withheld.predicted_lines(problem(), draws[1:], LINES)
    measured = sentinels(draws[0]).kspace
    mixed = [torch.einsum("cd,...dlx->...clx", unitary, lines) for lines in (measured, predicted)]
    expected = withheld.deviation_by_pattern(measured, predicted, torch.tensor(NOISE_SD)).mean
    assert withheld.deviation_by_pattern(*mixed, torch.tensor(NOISE_SD)).mean == pytest.approx(expected, rel=1e-3)


def test_joining_sentinels_adds_their_lines_to_the_data() -> None:
    """For an image that is made after the test."""
    truth = ellipses(N, N)
    plain, lines = problem(), sentinels(truth)
    joined = withheld.joined(plain, lines)
    assert int(joined.sense.mask.sum()) == int(
        (plain.sense.mask[:, 0] | torch.isin(torch.arange(N), torch.tensor(LINES))).sum()
    )
    np.testing.assert_array_equal(joined.kspace[:, LINES].numpy(), lines.kspace.numpy())
    assert not plain.kspace[:, LINES][:, ~plain.sense.mask[LINES, 0]].any()
