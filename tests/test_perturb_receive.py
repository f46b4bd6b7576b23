"""Imperfections of the receive chain against closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from perturb_scans import back, blobs, energy, scan, sensitivities, transform, uncalibrated

from steadymr.errors import PerturbationError
from steadymr.perturb import Perturbation, build
from steadymr.types import KSpace


def perturbed(perturbation: Perturbation, kspace: KSpace, seed: int = 0) -> KSpace:
    return perturbation(kspace, np.random.default_rng(seed))


def correlated(n_coils: int) -> np.ndarray:
    mix = np.random.default_rng(1).standard_normal((n_coils, n_coils, 2)) @ [1, 1j]
    return mix @ mix.conj().T


def lines_of(kspace: KSpace) -> np.ndarray:
    """Return the acquired lines in the order of acquisition, of the first slice: (coil, t, k0)."""
    return kspace.data[:, 0][:, kspace.sampled[0]]


def test_thermal_noise_has_the_covariance_of_the_noise_scan() -> None:
    covariance = correlated(3)
    kspace = scan(64, n_coils=3, covariance=covariance)
    noise = (perturbed(build("thermal_noise", {"sigma": 2.0}), kspace).data - kspace.data).reshape(3, -1)
    measured = noise @ noise.conj().T / noise.shape[1]
    assert energy(measured - 4 * covariance) < 5 * energy(4 * covariance) / np.sqrt(noise.shape[1])


def test_thermal_noise_is_circular_and_white_along_the_scan() -> None:
    kspace = scan(64, n_coils=1)
    noise = perturbed(build("thermal_noise", {"sigma": 1.0}), kspace).data - kspace.data
    bound = 5 / np.sqrt(noise.size)
    assert abs(np.mean(noise**2)) < bound
    assert abs(np.mean(noise[..., 1:] * noise[..., :-1].conj())) < bound
    assert abs(np.mean(noise)) < bound


def test_calibration_acquired_apart_gets_noise_of_its_own() -> None:
    kspace = scan(64, n_coils=1, acceleration=2, calibration="separate")
    noisy = perturbed(build("thermal_noise", {"sigma": 1.0}), kspace)
    both = kspace.sampled & kspace.calibrated
    one, other = (noisy.data - kspace.data)[:, both], (noisy.calibration - kspace.calibration)[:, both]
    assert abs(np.vdot(one, other)) < 0.3 * energy(one) * energy(other)
    assert energy(other) == pytest.approx(np.sqrt(other.size), rel=0.2)


def test_noise_of_a_singular_covariance_stays_out_of_the_silent_coil() -> None:
    kspace = scan(n_coils=2, covariance=np.diag([1.0, 0.0]).astype(complex))
    noisy = perturbed(build("thermal_noise", {"sigma": 1.0}), kspace)
    np.testing.assert_array_equal(noisy.data[1], kspace.data[1])


def test_gain_drifts_linearly_to_its_end_value_in_the_order_of_acquired_lines() -> None:
    kspace = scan(acceleration=2)
    ratio = lines_of(perturbed(build("gain_drift", {"drift_percent": 2.0}), kspace)) / lines_of(kspace)
    n_lines = ratio.shape[1]
    expected = np.broadcast_to(1 + 0.02 * np.linspace(0, 1, n_lines)[:, None], ratio.shape)
    np.testing.assert_allclose(ratio, expected, rtol=1e-5)


def test_coils_drift_apart_by_the_stated_spread() -> None:
    kspace = scan(16, n_coils=200)
    drifted = perturbed(build("gain_drift", {"coil_spread_percent": 1.0}), kspace)
    last = (lines_of(drifted) / lines_of(kspace))[:, -1, 8]
    assert np.std(last.real - 1) == pytest.approx(0.01, rel=0.2)


def test_phase_drift_turns_the_last_line_by_its_whole_and_keeps_magnitudes() -> None:
    kspace = scan(acceleration=2)
    ratio = lines_of(perturbed(build("phase_drift", {"drift_rad": 0.2}), kspace)) / lines_of(kspace)
    np.testing.assert_allclose(np.angle(ratio[:, -1]), 0.2, atol=1e-5)
    np.testing.assert_allclose(np.angle(ratio[:, 0]), 0, atol=1e-5)
    np.testing.assert_allclose(np.abs(ratio), 1, rtol=1e-5)


def test_phase_jitter_has_the_stated_spread_and_is_common_to_coils() -> None:
    kspace = scan(256, n_coils=2)
    angles = np.angle(lines_of(perturbed(build("phase_drift", {"jitter_rad": 0.1}), kspace)) / lines_of(kspace))
    np.testing.assert_allclose(angles[0, :, 128], angles[1, :, 128], atol=1e-5)
    assert np.std(angles[0, :, 128]) == pytest.approx(0.1, rel=0.2)


def test_one_coil_gets_the_wrong_gain() -> None:
    kspace = scan(n_coils=5)
    faulty = perturbed(build("coil_fault", {"gain_error_percent": 10.0}), kspace)
    gains = [energy(after) / energy(before) for before, after in zip(kspace.data, faulty.data, strict=True)]
    np.testing.assert_allclose(sorted(gains), [1, 1, 1, 1, 1.1], rtol=1e-5)


def test_a_dead_coil_hears_only_its_own_noise() -> None:
    kspace = scan(64, n_coils=2, covariance=np.diag([9.0, 9.0]).astype(complex))
    dead = perturbed(build("coil_fault", {"dead_coils": 1.0}), kspace)
    powers = np.mean(np.abs(dead.data) ** 2, axis=(1, 2, 3))
    changed = [not np.array_equal(*pair) for pair in zip(kspace.data, dead.data, strict=True)]
    assert sorted(changed) == [False, True]
    assert powers[changed.index(True)] == pytest.approx(9, rel=0.1)


def test_the_last_coil_cannot_die() -> None:
    with pytest.raises(PerturbationError, match="leave at least one coil"):
        perturbed(build("coil_fault", {"dead_coils": 1.0}), scan(n_coils=1))


def test_sensitivity_error_is_a_smooth_factor_of_the_stated_size() -> None:
    kspace = scan(n_calibration=32, object_=1 + blobs(32))
    wrong = perturbed(build("coil_sensitivity_error", {"error_percent": 8.0}), kspace)
    error = back(wrong.calibration) / back(kspace.calibration) - 1
    size = np.sqrt(np.mean(np.abs(error) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(size, 0.08, rtol=0.02)
    harmonics = np.abs(transform(error, axes=(-2, -1)))
    assert harmonics[..., 15:18, 15:18].max() > 100 * np.delete(harmonics, [15, 16, 17], axis=-1).max()


def test_sensitivity_error_leaves_the_image_lines_alone() -> None:
    kspace = scan(acceleration=2)
    wrong = perturbed(build("coil_sensitivity_error", {"error_percent": 8.0}), kspace)
    assert wrong.data is kspace.data


def test_sensitivity_error_needs_calibration_lines() -> None:
    with pytest.raises(PerturbationError, match="needs calibration lines"):
        perturbed(build("coil_sensitivity_error", {"error_percent": 8.0}), uncalibrated(scan()))


def test_a_spike_is_a_plane_wave_of_known_magnitude() -> None:
    kspace = scan(32, n_coils=2)
    spiked = perturbed(build("spikes", {"amplitude": 0.5}), kspace)
    wave = back(spiked.data - kspace.data)
    largest = np.abs(kspace.data).max(axis=(1, 2, 3))
    np.testing.assert_allclose(
        np.abs(wave), np.broadcast_to(0.5 * largest[:, None, None, None] / 32, wave.shape), rtol=1e-3
    )
    assert np.argwhere(np.abs(spiked.data - kspace.data).sum(axis=0) > 0).shape == (1, 3)


def test_as_many_samples_are_spoilt_as_stated_and_only_acquired_ones() -> None:
    kspace = scan(32, acceleration=4, k0_first=8)
    spiked = perturbed(build("spikes", {"amplitude": 1.0, "count": 5.0}), kspace)
    places = np.argwhere((spiked.data != kspace.data).any(axis=0))
    assert len(places) == 5
    assert all(kspace.sampled[k2, k1] and k0 >= 8 for k2, k1, k0 in places)


@pytest.mark.parametrize(("frequency_hz", "pixels"), [(0.0, 0), (5000.0, 6), (-10000.0, -13)])
def test_a_zipper_is_a_line_where_its_frequency_says(frequency_hz: float, pixels: int) -> None:
    kspace = scan(64, n_coils=2, covariance=np.diag([4.0, 1.0]).astype(complex))
    zipped = perturbed(build("zipper", {"amplitude": 3.0, "frequency_hz": frequency_hz}), kspace)
    added = zipped.data - kspace.data
    np.testing.assert_allclose(np.abs(added[0]), 6, rtol=1e-3)
    np.testing.assert_allclose(np.abs(added[1]), 3, rtol=1e-3)
    profile = np.abs(back(added)).sum(axis=(0, 1, 2))
    assert np.argmax(profile) == 32 - pixels


@pytest.mark.parametrize("bits", [6, 8, 10])
def test_rounding_noise_is_a_twelfth_of_the_squared_step(bits: int) -> None:
    kspace = scan(64, n_coils=1)
    noisy = replace(
        kspace, data=(np.random.default_rng(0).standard_normal((1, 1, 64, 64, 2)) @ [1, 1j]).astype(np.complex64)
    )
    noisy = replace(noisy, calibration=np.where(noisy.calibrated[..., None], noisy.data, 0))
    rounded = perturbed(build("adc", {"bits": float(bits)}), noisy)
    step = 2 * max(np.abs(noisy.data.real).max(), np.abs(noisy.data.imag).max()) / 2**bits
    assert np.var((rounded.data - noisy.data).real) == pytest.approx(step**2 / 12, rel=0.06)
    np.testing.assert_allclose(rounded.data.imag / step, np.round(rounded.data.imag / step), atol=1e-3)


def test_clipping_cuts_off_the_stated_part_and_nothing_below() -> None:
    kspace = scan(64)
    full_scale = 0.95 * max(np.abs(kspace.data.real).max(), np.abs(kspace.data.imag).max())
    clipped = perturbed(build("adc", {"clip_percent": 5.0}), kspace)
    np.testing.assert_allclose(clipped.data.real, np.clip(kspace.data.real, -full_scale, full_scale), rtol=1e-6)
    np.testing.assert_allclose(clipped.data.imag, np.clip(kspace.data.imag, -full_scale, full_scale), rtol=1e-6)
    assert not np.array_equal(clipped.data, kspace.data)


def test_a_converter_with_nothing_left_is_refused() -> None:
    with pytest.raises(PerturbationError, match="clip_percent = 100"):
        perturbed(build("adc", {"clip_percent": 100.0}), scan())


def test_the_scans_of_these_tests_show_coils_that_differ() -> None:
    maps = sensitivities(4, 32)
    assert np.abs(maps).std(axis=0).mean() > 0.05
