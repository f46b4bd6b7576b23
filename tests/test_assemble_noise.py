"""Noise: a covariance that was put in comes out again, whichever way it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mrd
import numpy as np
import pytest

from steadymr.assemble import assemble
from steadymr.assemble.noise import Covariance
from steadymr.types import KSpace, Readout, ScanHeader, VolumeIndex

N = 64
HEADER = mrd.scan_header(N, N)
TRUE = mrd.covariance(level=0.02)


def only(lines: Sequence[Readout], header: ScanHeader = HEADER, **options: str) -> KSpace:
    (volume,) = assemble(lines, header, **options)
    return volume


def noisy(oversampling: int = 2, seed: int = 0, covariance: np.ndarray = TRUE) -> np.ndarray:
    """k-space of the object with noise of the given covariance."""
    clean = mrd.kspace(seed, len(covariance), N, N, oversampling=oversampling)
    white = mrd.complex_normal(np.random.default_rng(seed + 7), clean.shape) / np.sqrt(2)
    return (clean + np.einsum("cd,dzyx->czyx", np.linalg.cholesky(covariance), white)).astype(np.complex64)


def error(found: np.ndarray, expected: np.ndarray = TRUE) -> float:
    """How far one covariance is from another, relative to the expected one: 0 if whitening by it is right."""
    whiten = np.linalg.inv(np.linalg.cholesky(expected))
    return float(np.abs(whiten @ found @ whiten.conj().T - np.eye(len(found))).max())


def test_a_noise_scan_is_recovered() -> None:
    volume = only([mrd.noise_readout(TRUE), *mrd.readouts(noisy())])
    assert volume.noise_source == "noise scan"
    assert error(volume.noise_covariance) < 0.08


@pytest.mark.parametrize(
    ("dwell_us", "noise_dwell_us", "bandwidth_ratio", "scale"),
    [(10.0, 10.0, 1.0, 1), (10.0, 5.0, 1.0, 0.5), (5.0, 10.0, 0.8, 2.5), (0.0, 10.0, 0.8, 1), (10.0, 0.0, 0.8, 1)],
)
def test_a_noise_scan_is_scaled_to_the_bandwidth_of_the_image(
    dwell_us: float, noise_dwell_us: float, bandwidth_ratio: float, scale: float
) -> None:
    header = mrd.scan_header(N, N, bandwidth_ratio=bandwidth_ratio)
    noise = mrd.noise_readout(TRUE, sample_time_us=noise_dwell_us)
    volume = only([noise, *mrd.readouts(noisy(), sample_time_us=dwell_us)], header)
    assert error(volume.noise_covariance, scale * TRUE) < 0.08


def test_a_noise_scan_whitens_as_gadgetron_documents() -> None:
    """Its whitening, sqrt(2 dwell / dwell_noise ratio) chol(C)^-1, must give each real channel unit variance."""
    dwell, noise_dwell, ratio = 5.0, 10.0, 0.8
    header = mrd.scan_header(N, N, bandwidth_ratio=ratio)
    noise = mrd.noise_readout(TRUE, sample_time_us=noise_dwell)
    volume = only([noise, *mrd.readouts(noisy(), sample_time_us=dwell)], header)
    measured = noise.data @ noise.data.conj().T / noise.data.shape[1]
    whiten = np.sqrt(2 * dwell / noise_dwell * ratio) * np.linalg.inv(np.linalg.cholesky(measured))
    assert np.allclose(whiten @ volume.noise_covariance @ whiten.conj().T, 2 * np.eye(4), atol=0.01)


def test_noise_readouts_of_different_dwell_agree() -> None:
    noises = [mrd.noise_readout(TRUE * 10 / dwell, seed=int(dwell), sample_time_us=dwell) for dwell in (5.0, 20.0)]
    volume = only([*noises, *mrd.readouts(noisy())])
    assert error(volume.noise_covariance) < 0.08


def test_discarded_samples_of_a_noise_readout_are_not_used() -> None:
    noise = mrd.noise_readout(TRUE, discard_pre=10, discard_post=20)
    noise.data[:, :10] = 100
    noise.data[:, -20:] = 100
    assert error(only([noise, *mrd.readouts(noisy())]).noise_covariance) < 0.08


@pytest.mark.parametrize("mask", [range(N), range(0, N, 4), range(20, N)], ids=["full", "accelerated", "partial"])
def test_the_oversampled_margin_recovers_the_covariance(mask: range) -> None:
    volume = only(mrd.readouts(noisy(), mask))
    assert volume.noise_source == "oversampled margin"
    assert error(volume.noise_covariance) < 0.25


def test_the_margin_of_an_asymmetric_echo_counts_what_was_acquired() -> None:
    volume = only(mrd.readouts(noisy()[..., 40:], centre_sample=24))
    assert volume.noise_source == "oversampled margin"
    assert error(volume.noise_covariance) < 0.25


def test_a_receiver_filter_that_rolls_off_disqualifies_the_margin() -> None:
    """The outermost field of view is then quieter than the image: trusting it would understate the noise."""
    profile = mrd.ifft(noisy(), (3,))
    position = np.abs(np.linspace(-1, 1, profile.shape[-1]))
    filtered = mrd.fft(profile * np.where(position < 0.5, 1, 1.8 * (1.05 - position)), (3,))
    volume = only(mrd.readouts(filtered))
    assert volume.noise_source == "k-space edge"
    assert error(volume.noise_covariance) < 0.35


def test_an_object_that_reaches_into_the_margin_disqualifies_it() -> None:
    profile = mrd.ifft(noisy(), (3,))
    moved = mrd.fft(np.roll(profile, N // 2, axis=3), (3,))
    sharp = moved + 0.2 * np.exp(2j * np.pi * 0.3 * np.arange(2 * N))
    assert only(mrd.readouts(sharp)).noise_source == "k-space edge"


def test_the_edge_of_k_space_recovers_the_covariance() -> None:
    volume = only(mrd.readouts(noisy(oversampling=1)), mrd.scan_header(N, N, oversampling=1))
    assert volume.noise_source == "k-space edge"
    assert error(volume.noise_covariance) < 0.35


def test_white_noise_keeps_its_variance_when_oversampling_is_removed() -> None:
    noise_only = noisy() - mrd.kspace(0, 4, N, N)
    data = only(mrd.readouts(noise_only)).data.reshape(4, -1)
    assert error(data @ data.conj().T / data.shape[1]) < 0.08


@pytest.mark.parametrize("source", ["noise scan", "oversampled margin", "k-space edge"])
def test_a_mean_of_averages_has_the_covariance_of_a_mean(source: str) -> None:
    oversampling = 1 if source == "k-space edge" else 2
    lines = [
        line
        for average in range(4)
        for line in mrd.readouts(noisy(oversampling, average), index=VolumeIndex(average=average))
    ]
    noise = [mrd.noise_readout(TRUE)] if source == "noise scan" else []
    header = mrd.scan_header(N, N, oversampling=oversampling, counters={"average": 4})
    volume = only([*noise, *lines], header, averages="combine")
    assert volume.noise_source == source
    assert error(4 * volume.noise_covariance) < 0.35


def test_repeated_lines_lower_the_covariance_by_their_share() -> None:
    """Half of the lines twice: a mean variance of 3/4."""
    twice = mrd.readouts(noisy(seed=1), range(0, N, 2), last=False)
    volume = only([mrd.noise_readout(TRUE), *twice, *mrd.readouts(noisy())])
    assert error(volume.noise_covariance / 0.75) < 0.08


@pytest.mark.parametrize("n_samples", [1, 3, 40])
def test_few_samples_still_give_a_covariance_that_can_be_inverted(n_samples: int) -> None:
    found = Covariance()
    found.add(mrd.complex_normal(np.random.default_rng(0), (8, n_samples)).astype(np.complex64))
    estimate = found.estimate()
    assert np.allclose(estimate, estimate.conj().T)
    assert np.linalg.cond(estimate) < 1e3


def test_a_dead_channel_does_not_make_the_covariance_singular() -> None:
    noise = mrd.noise_readout(TRUE)
    noise.data[2] = 0
    np.linalg.cholesky(only([noise, *mrd.readouts(noisy())]).noise_covariance)


def test_a_single_coil_has_a_single_positive_real_variance() -> None:
    one = np.array([[0.002]])
    volume = only(mrd.readouts(noisy(covariance=one)))
    assert volume.noise_covariance.imag == 0
    assert volume.noise_covariance.real == pytest.approx(0.002, rel=0.1)


def test_noiseless_data_has_a_small_covariance_that_can_be_inverted() -> None:
    flat = np.zeros((4, 1, N, N), np.complex64)
    flat[:, 0, N // 2, N // 2] = 1
    volume = only(mrd.readouts(flat), mrd.scan_header(N, N, oversampling=1))
    variances = np.diag(np.linalg.cholesky(volume.noise_covariance)).real ** 2
    assert (variances > 0).all()
    assert (variances < 1e-12).all()


def test_each_contrast_is_scaled_by_its_own_bandwidth() -> None:
    lines = [
        line
        for contrast, dwell in enumerate((10.0, 20.0))
        for line in mrd.readouts(noisy(), index=VolumeIndex(contrast=contrast), sample_time_us=dwell)
    ]
    first, second = assemble([mrd.noise_readout(TRUE), *lines], HEADER)
    assert np.allclose(first.noise_covariance, 2 * second.noise_covariance)


def test_noise_that_comes_in_several_readouts_is_pooled() -> None:
    parts = [mrd.noise_readout(TRUE, n_samples=512, seed=seed) for seed in range(8)]
    assert error(only([*parts, *mrd.readouts(noisy())]).noise_covariance) < 0.08
    assert error(only([replace(parts[0]), *mrd.readouts(noisy())]).noise_covariance) < 0.3
