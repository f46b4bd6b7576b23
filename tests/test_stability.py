"""The stability score, its map, its verdict, and the comparison with a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from calibrations import CONDITIONS, SENTINELS, calibration_of
from images import ellipse_image, image_of, samples_of

from steadymr.stability.metrics import compare_with_truth, tissue_mask
from steadymr.stability.regions import regions_above
from steadymr.stability.score import (
    Basis,
    Thresholds,
    agreement,
    chance_error,
    score_image,
    spread_percent,
    verdict_of,
    worst,
)
from steadymr.stability.sources import total_variance
from steadymr.types import StabilityReport


def noisy_samples(image: np.ndarray, relative_sd: float, n: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, relative_sd * image.max(), (n, *image.shape))
    return np.abs(image + noise).astype(np.float32)


def scored(image: np.ndarray, samples: np.ndarray, sentinel: float = 1.0) -> StabilityReport:
    """Under conditions that a calibration of drawn numbers speaks for."""
    basis = Basis(calibration_of(200), CONDITIONS)
    seen = {"misfit": 1.0, "residual_band": 1.0}
    seen |= dict.fromkeys(SENTINELS, sentinel)
    return score_image(image_of(image), samples_of(samples), Thresholds(), evidence=seen, basis=basis)


def test_identical_samples_agree_fully_and_spread_zero() -> None:
    """If every draw shows the same image the agreement is 1 and the map is 0 in tissue."""
    image = ellipse_image()
    report = score_image(image_of(image), samples_of(np.stack([image] * 4)), Thresholds())
    assert report.agreement == pytest.approx(1.0)
    assert np.nanmax(report.spread_percent) == 0


def test_without_a_calibration_there_is_a_verdict_and_no_number() -> None:
    """Agreement is told apart from a score, and the first reason says what is missing."""
    image = ellipse_image()
    report = score_image(image_of(image), samples_of(noisy_samples(image, 0.01)), Thresholds())
    assert (report.score, report.verdict, report.interval_percent) == (None, "uncalibrated", None)
    assert report.reasons[0].startswith("not calibrated for this scan")
    assert report.agreement is not None


def test_the_score_falls_as_the_samples_differ_more() -> None:
    """More disagreement, lower score, and a worse verdict in the end."""
    image = ellipse_image()
    reports = [scored(image, noisy_samples(image, sd)) for sd in (0.01, 0.05, 0.2, 0.5)]
    scores = [report.score for report in reports]
    assert scores == sorted(scores, reverse=True)
    assert reports[-1].verdict == "unstable"


def test_an_alarm_makes_a_verdict_review_at_best() -> None:
    """Whatever the score says, and the reason names it."""
    image = ellipse_image()
    quiet, loud = (scored(image, noisy_samples(image, 0.001), sentinel=value) for value in (1.0, 1.7))
    assert quiet.verdict == "stable"
    assert loud.verdict == "review"
    (alarm,) = [reason for reason in loud.reasons if reason.startswith("alarm: evidence unlike that of clean scans")]
    assert "sentinel = 1.7" in alarm


def test_an_alarm_beyond_every_calibration_scan_makes_it_unstable() -> None:
    """A deviation that no clean scan comes near leaves no doubt."""
    image = ellipse_image()
    report = scored(image, noisy_samples(image, 0.001), sentinel=50.0)
    assert report.verdict == "unstable"
    assert any("far above all clean scans" in reason for reason in report.reasons)


def test_the_interval_is_a_multiple_of_the_spread_and_a_little_more() -> None:
    """Where samples agree to the last digit, the interval is not zero."""
    image = ellipse_image()
    report = scored(image, np.stack([image] * 4))
    assert report.interval_percent is not None
    assert np.nanmin(report.interval_percent) == pytest.approx(0.5)


def test_regions_are_named_by_the_side_of_the_patient() -> None:
    """In an axial plane x runs to the left and y to the back."""
    image = ellipse_image()
    samples = noisy_samples(image, 0.001)
    samples[:3, 16:24, 42:50] *= 2
    report = scored(image, samples)
    assert any("3 of 8 samples differ" in reason and "left anterior" in reason for reason in report.reasons)
    (region,) = regions_above(report.spread_percent[0], 20.0, image_of(image).geometry)
    assert region.area_cm2 == pytest.approx(0.64, abs=0.1)


def test_the_chance_error_falls_with_the_root_of_the_number_of_samples() -> None:
    """Four times the samples, half the error."""
    image = ellipse_image()
    mask = tissue_mask(image)
    few, many = (chance_error(image, noisy_samples(image, 0.05, n, seed=3), mask) for n in (16, 64))
    assert many / few == pytest.approx(0.5, abs=0.15)


def test_the_total_variance_is_split_into_its_two_sources() -> None:
    """Draws of variance 4 with opposite samples of variance 9 under each: both come back, without bias."""
    rng = np.random.default_rng(0)
    draws, deviation = rng.normal(0, 2, (40, 1, 48, 48)), rng.normal(0, 3, (40, 1, 48, 48))
    found = total_variance(draws + np.concatenate([deviation, -deviation], axis=1))
    assert found.sensitivity.mean() == pytest.approx(4, rel=0.05)
    assert found.posterior.mean() == pytest.approx(9, rel=0.05)


def test_imperfections_that_do_nothing_have_no_share_in_the_variance() -> None:
    """The mean of opposite samples does not differ from draw to draw."""
    deviation = np.random.default_rng(1).normal(0, 3, (64, 1, 32, 32))
    assert total_variance(np.concatenate([deviation, -deviation], axis=1)).sensitivity.mean() < 1e-9


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (4, 1, 8, 8)])
def test_a_variance_is_not_split_by_fewer_than_two_of_each(shape: tuple[int, ...]) -> None:
    """One draw has no variance over draws."""
    with pytest.raises(ValueError, match="two draws of two samples"):
        total_variance(np.zeros(shape))


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
    reports = [scored(image, noisy_samples(image, 0.001)), scored(image, noisy_samples(image, 0.5))]
    nothing = score_image(image_of(image), None, Thresholds())
    assert worst([*reports, nothing]) == (reports[1].score, "unstable")
    assert worst([nothing]) == (None, "unscored")


def test_one_image_without_a_calibrated_score_takes_the_number_from_its_series() -> None:
    """The other images' score must not speak for it, unless one of them is unstable."""
    image = ellipse_image()
    good, bad = scored(image, noisy_samples(image, 0.001)), scored(image, noisy_samples(image, 0.5))
    unknown = score_image(image_of(image), samples_of(noisy_samples(image, 0.001)), Thresholds())
    assert worst([good, unknown]) == (None, "uncalibrated")
    assert worst([good, unknown, bad]) == (bad.score, "unstable")


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
