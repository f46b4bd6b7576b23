"""The stability score, its map, its verdict, and the comparison with a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from images import ellipse_image, image_of, samples_of

from steadymr.stability.metrics import compare_with_truth, tissue_mask
from steadymr.stability.score import Thresholds, agreement, score_image, spread_percent, verdict_of, worst


def noisy_samples(image: np.ndarray, relative_sd: float, n: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, relative_sd * image.max(), (n, *image.shape))
    return np.abs(image + noise).astype(np.float32)


def test_identical_samples_score_one_and_spread_zero() -> None:
    """If every draw shows the same image the score is 1 and the map is 0 in tissue."""
    image = ellipse_image()
    report = score_image(image_of(image), samples_of(np.stack([image] * 4)), Thresholds())
    assert report.score == pytest.approx(1.0)
    assert report.verdict == "stable"
    assert np.nanmax(report.spread_percent) == 0


def test_the_score_falls_as_the_samples_differ_more() -> None:
    """More disagreement, lower score, and a worse verdict in the end."""
    image = ellipse_image()
    trials = [samples_of(noisy_samples(image, sd)) for sd in (0.01, 0.05, 0.2, 0.5)]
    reports = [score_image(image_of(image), trial, Thresholds()) for trial in trials]
    scores = [report.score for report in reports]
    assert scores == sorted(scores, reverse=True)
    assert reports[0].verdict == "stable"
    assert reports[-1].verdict == "unstable"


def test_the_map_is_the_relative_rms_difference_in_per_cent() -> None:
    """In a flat region a difference of 10 % of the signal reads 10."""
    image = np.full((64, 64), 50.0, np.float32)
    samples = np.stack([image * 1.1, image * 0.9])
    percent = spread_percent(image, samples, np.ones((64, 64), bool), (1.0, 1.0))
    np.testing.assert_allclose(percent, 10.0, rtol=1e-4)


def test_the_map_is_unknown_outside_tissue() -> None:
    """Air has no tissue signal to relate a difference to."""
    image = ellipse_image()
    report = score_image(image_of(image), samples_of(noisy_samples(image, 0.02)), Thresholds())
    assert np.isnan(report.spread_percent[0, 0, 0])
    assert np.isfinite(report.spread_percent[0, 32, 32])


def test_without_samples_nothing_is_scored() -> None:
    """No number stands in for one that was not computed."""
    report = score_image(image_of(ellipse_image()), None, Thresholds())
    assert (report.score, report.verdict) == (None, "unscored")
    assert "no samples" in report.reasons[0]


def test_an_image_of_noise_alone_is_unscored() -> None:
    """Where no tissue stands out of the noise, agreement would mean nothing."""
    noise = np.abs(np.random.default_rng(1).normal(0, 1, (8, 64, 64))).astype(np.float32)
    report = score_image(image_of(noise[0]), samples_of(noise), Thresholds())
    assert report.verdict == "unscored"
    assert "tissue" in report.reasons[0]


def test_a_change_that_only_one_image_has_lowers_its_score() -> None:
    """A structure in the delivered image that no sample shows costs agreement."""
    image = ellipse_image()
    invented = image.copy()
    invented[28:36, 28:36] *= 2
    samples = noisy_samples(image, 0.01)
    mask = tissue_mask(image)
    assert agreement(invented, samples, mask) < agreement(image, samples, mask)


@pytest.mark.parametrize(("score", "verdict"), [(1.0, "stable"), (0.9, "stable"), (0.89, "review"), (0.7, "unstable")])
def test_thresholds_belong_to_the_better_verdict(score: float, verdict: str) -> None:
    """A score on the threshold still has the better verdict."""
    assert verdict_of(score, Thresholds(stable=0.9, review=0.75)) == verdict


def test_a_series_is_as_stable_as_its_least_stable_image() -> None:
    """One bad slice flags the series; an unscored one neither helps nor hurts."""
    image = ellipse_image()
    reports = [
        score_image(image_of(image), samples_of(noisy_samples(image, 0.005)), Thresholds()),
        score_image(image_of(image), samples_of(noisy_samples(image, 0.5)), Thresholds()),
        score_image(image_of(image), None, Thresholds()),
    ]
    assert worst(reports) == (reports[1].score, "unstable")
    assert worst(reports[2:]) == (None, "unscored")


def test_the_tissue_mask_fills_holes_and_drops_specks() -> None:
    """A dark ventricle is inside, a bright pixel in the air is not."""
    image = ellipse_image()
    image[30:34, 30:34] = 0
    image[2, 2] = image.max()
    mask = tissue_mask(image)
    assert mask[32, 32]
    assert not mask[:4, :4].any()


def test_truth_is_compared_inside_the_mask_only() -> None:
    """PSNR and NMSE follow their definitions and ignore what lies outside."""
    reference = ellipse_image()
    mask = tissue_mask(reference)
    image = np.where(mask, reference + 1, 77).astype(np.float32)
    truth = compare_with_truth(image, reference, mask)
    assert truth.psnr_db == pytest.approx(20 * np.log10(reference[mask].max()), rel=1e-5)
    assert truth.nmse == pytest.approx(mask.sum() / np.sum(reference[mask] ** 2.0), rel=1e-5)
