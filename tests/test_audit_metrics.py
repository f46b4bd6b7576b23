from __future__ import annotations

import numpy as np
import pytest
import torch
from attacks import problem
from images import ellipse_image
from scipy import ndimage

from steadymr.audit.intervals import bootstrap_mean, paired_tests
from steadymr.audit.metrics import (
    amplification,
    hfen,
    image_metrics,
    image_noise_sd,
    noise_likeness,
    radial_spectrum,
    structures,
)
from steadymr.audit.norms import gaussian_equal_norm
from steadymr.recon.noise import complex_normal
from steadymr.recon.operators import cg_sense
from steadymr.stability.registration import register_to

INSIDE = np.hypot(*(np.mgrid[:64, :64] - 32)) < 22


def head(n: int = 64) -> np.ndarray:
    """Smooth tissue of signal 1 with a soft edge."""
    disc = np.hypot(*(np.mgrid[:n, :n] - n / 2)) < 0.4 * n
    return ndimage.gaussian_filter(disc.astype(float), 2).astype(np.float32)


def lesion(y: float, x: float, contrast: float = 0.5, radius: float = 3.0) -> np.ndarray:
    return (contrast * (np.hypot(*(np.mgrid[:64, :64] - np.array([y, x])[:, None, None])) < radius)).astype(np.float32)


def count(image: np.ndarray, reference: np.ndarray, noise_sd: float = 0.01) -> tuple[int, int]:
    found = structures(image, reference, INSIDE, noise_sd=noise_sd, pixel_mm=1.0)
    assert found.labels.max() == found.n_appeared
    assert -found.labels.min() == found.n_vanished
    return found.n_appeared, found.n_vanished


def test_hfen_is_zero_for_equal_images_one_for_an_empty_one_and_blind_to_an_offset():
    image = ellipse_image()
    assert hfen(image, image, INSIDE) == 0
    assert hfen(np.zeros_like(image), image, INSIDE) == pytest.approx(1)
    assert hfen(image + 50, image, INSIDE) == pytest.approx(0, abs=1e-3)
    assert hfen(1.2 * image, image, INSIDE) == pytest.approx(0.2, rel=1e-4)


def test_all_metrics_of_a_scaled_image_are_known():
    image = ellipse_image()
    measured = image_metrics(1.1 * image, image, INSIDE, noise_sd=1.0, pixel_mm=1.0)
    peak, mean_square = image[INSIDE].max(), float(np.mean((0.1 * image[INSIDE]) ** 2))
    assert measured.psnr_db == pytest.approx(10 * np.log10(peak**2 / mean_square), rel=1e-4)
    assert measured.nmse == pytest.approx(0.01, rel=1e-4)
    assert measured.hfen == pytest.approx(0.1, rel=1e-3)
    assert measured.n_appeared + measured.n_vanished == 0


def test_the_least_squares_inverse_amplifies_by_one():
    made = problem(acceleration=1)
    delta = gaussian_equal_norm(made, 0.05, torch.Generator().manual_seed(0))
    change = cg_sense(made.sense, delta, regularisation=made.noise_to_signal)
    assert amplification(change, delta, made) == pytest.approx(1, rel=1e-3)
    assert amplification(3 * change, delta, made) == pytest.approx(3, rel=1e-3)


def test_the_noise_of_the_image_is_that_of_many_draws():
    made = problem(acceleration=2)
    shape = (300, *made.kspace.shape)
    noise = complex_normal(shape, torch.Generator().manual_seed(0), made.kspace.device) * made.noise_sd
    images = made.sense.columns.solve(made.sense.adjoint(noise * made.sense.mask), 1.0, made.noise_to_signal)
    drawn = images.abs().square().mean(0).div(2).sqrt().numpy()
    np.testing.assert_allclose(image_noise_sd(made), drawn, rtol=0.25)
    assert image_noise_sd(made).mean() == pytest.approx(drawn.mean(), rel=0.01)


def test_without_undersampling_and_with_one_coil_the_noise_of_the_image_is_that_of_a_sample():
    made = problem(acceleration=1, n_coils=1)
    damping = (1 + made.noise_to_signal) ** -1
    np.testing.assert_allclose(image_noise_sd(made), float(made.noise_sd) * damping, rtol=1e-4)
    holed = problem(acceleration=1, n_coils=1, by_lines=False)
    np.testing.assert_allclose(image_noise_sd(holed), float(holed.noise_sd) * (32 / 28) ** 0.5, rtol=1e-4)


def test_noise_is_no_structure():
    rng = np.random.default_rng(0)
    for _ in range(20):
        noise = rng.normal(scale=0.1, size=(64, 64)).astype(np.float32)
        assert count(head() + noise, head(), noise_sd=0.1) == (0, 0)


def test_lesions_that_appear_or_vanish_bright_or_dark_are_counted():
    plain, bright, dark = head(), head() + lesion(24, 30), head() - lesion(40, 36)
    assert count(bright, plain) == (1, 0)
    assert count(plain, bright) == (0, 1)
    assert count(dark, plain) == (1, 0)
    assert count(plain, dark) == (0, 1)
    assert count(head() + lesion(24, 30) - lesion(40, 36), plain) == (2, 0)
    assert count(bright, dark) == (1, 1)


def test_what_is_faint_or_tiny_or_everywhere_is_no_structure():
    plain = head()
    assert count(plain + lesion(24, 30, contrast=0.05), plain) == (0, 0)
    assert count(plain + lesion(24, 30, contrast=0.12, radius=1.0), plain) == (0, 0)
    assert count(1.3 * plain, plain) == (0, 0)
    assert count(plain + lesion(24, 30), plain, noise_sd=0.5) == (0, 0)


def test_white_noise_looks_like_noise_and_a_spot_does_not():
    generator = torch.Generator().manual_seed(0)
    noise = complex_normal((64, 64), generator, torch.device("cpu"))
    spot = torch.from_numpy(ndimage.gaussian_filter(lesion(24, 30), 2)).to(torch.complex64)
    kurtosis, centroid = noise_likeness(noise, INSIDE)
    assert kurtosis == pytest.approx(0, abs=0.3)
    assert centroid == pytest.approx(0.765, abs=0.02)  # the mean distance from the middle of a square of half-side 1
    kurtosis, centroid = noise_likeness(spot, INSIDE)
    assert kurtosis > 5
    assert centroid < 0.3


def test_the_spectrum_of_a_wave_lies_in_its_ring_and_that_of_noise_is_flat():
    wave = torch.exp(2j * torch.pi * 12 * torch.arange(64) / 64).expand(64, 64)
    noise = complex_normal((64, 64), torch.Generator().manual_seed(0), torch.device("cpu"))
    spectrum = radial_spectrum(wave.to(torch.complex64))
    assert int(np.argmax(spectrum)) == 6  # 12 of 32 frequencies, in 16 rings
    assert np.delete(spectrum, 6) == pytest.approx(0, abs=1e-5)
    assert radial_spectrum(noise)[2:] == pytest.approx(2, rel=0.3)


def test_the_bootstrap_interval_of_many_values_is_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    found = bootstrap_mean(values.tolist(), np.random.default_rng(1))
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == (
        pytest.approx(values.mean() - half, abs=0.02),
        pytest.approx(values.mean() + half, abs=0.02),
    )


def test_intervals_of_little_or_nothing_say_so():
    one = bootstrap_mean([2.0, float("inf"), float("nan")], np.random.default_rng(0))
    assert (one.mean, one.low, one.high, one.n) == (2.0, 2.0, 2.0, 1)
    assert np.isnan(bootstrap_mean([], np.random.default_rng(0)).mean)


def test_ten_differences_of_one_sign_have_the_exact_p_value_of_the_signed_ranks():
    values = list(np.random.default_rng(0).normal(size=10))
    more = [value + 1 + 0.01 * i for i, value in enumerate(values)]
    (test,) = paired_tests({"a": more, "b": values})
    assert test.p_value == pytest.approx(2 / 2**10)
    assert test.mean_difference == pytest.approx(1.045)


def test_p_values_are_corrected_for_the_number_of_pairs():
    values = list(np.random.default_rng(0).normal(size=10))
    shifted = {
        name: [v + s * (1 + 0.01 * i) for i, v in enumerate(values)] for name, s in (("a", 0), ("b", 1), ("c", 2))
    }
    tests = paired_tests({**shifted, "same": values})
    corrected = {(test.first, test.second): test.p_value for test in tests}
    assert corrected["a", "same"] == 1
    assert corrected["a", "b"] == pytest.approx(6 * 2 / 2**10)  # Holm: the smallest of six


@pytest.mark.parametrize("shift", [(3.0, -5.0), (0.37, 1.62)])
def test_a_translation_is_undone(shift):
    image = ndimage.gaussian_filter(ellipse_image(), 1.0)
    moved = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(image), shift)).real.astype(np.float32)
    back = register_to(image, moved)
    assert back.shift_pixels == (pytest.approx(-shift[0], abs=0.011), pytest.approx(-shift[1], abs=0.011))
    np.testing.assert_allclose(back.image, image, atol=0.01 * image.max())
    assert back.rotation_deg == 0


def test_a_rotation_is_undone_where_rotations_are_looked_for():
    image = ndimage.gaussian_filter(ellipse_image(), 1.5)
    turned = ndimage.rotate(ndimage.shift(image, (1.5, 0)), 2.3, reshape=False, order=3).astype(np.float32)
    back = register_to(image, turned, max_rotation_deg=4.0)
    without = register_to(image, turned)
    errors = [np.linalg.norm((moved.image - image)[INSIDE]) for moved in (back, without)]
    assert back.rotation_deg == pytest.approx(-2.3, abs=0.15)
    assert errors[0] < 0.2 * errors[1]


def test_an_image_in_place_stays_in_place():
    image = ndimage.gaussian_filter(ellipse_image(), 1.0)
    assert register_to(image, image, max_rotation_deg=1.0).rotation_deg == 0
    np.testing.assert_allclose(register_to(image, image).image, image, atol=1e-3)
