"""Stored values read back as the magnitudes they came from, and never clip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steadymr.dicom.pixels import LARGEST_STORED, choose_slope, store
from steadymr.errors import DicomError


def magnitude(scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).rayleigh(size=(1, 16, 20))).astype(np.float32)


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e4))
@settings(max_examples=50, deadline=None)
def test_every_pixel_reads_back_within_half_a_step_however_bright(first: float, later: float) -> None:
    image = magnitude(first * later)[0]
    stored = store(image, choose_slope(magnitude(first)))
    assert np.abs(stored.data * stored.slope - image).max() <= 0.5001 * stored.slope
    assert stored.data.max() <= LARGEST_STORED


def test_the_first_image_leaves_eightfold_head_room() -> None:
    image = magnitude()
    stored = store(image[0], choose_slope(image))
    assert np.percentile(stored.data, 99.9) == pytest.approx(8192, rel=0.001)
    assert not stored.has_own_slope


def test_an_image_too_bright_for_the_scans_slope_says_that_it_has_its_own() -> None:
    slope = choose_slope(magnitude())
    bright = store(magnitude(20.0)[0], slope)
    assert bright.has_own_slope
    assert bright.slope > slope


def test_all_images_of_a_scan_share_one_window() -> None:
    slope = choose_slope(magnitude())
    windows = {(s.window_center, s.window_width) for s in (store(magnitude(k)[0], slope) for k in (0.1, 1.0, 50.0))}
    assert len(windows) == 1


def test_an_image_of_zeros_has_a_slope() -> None:
    empty = np.zeros((1, 4, 4), np.float32)
    assert store(empty[0], choose_slope(empty)).data.max() == 0


@pytest.mark.parametrize("bad", [-1e-6, float("nan"), float("inf")])
def test_what_is_no_magnitude_is_refused(bad: float) -> None:
    image = magnitude()
    image[0, 3, 4] = bad
    with pytest.raises(DicomError, match="expected"):
        choose_slope(image)
    with pytest.raises(DicomError, match="expected"):
        store(image[0], 1.0)
