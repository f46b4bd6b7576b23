"""Retrospective acceleration keeps the lines an accelerated protocol would have measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from images import axial_geometry, header_of

from steadymr.errors import SettingsError
from steadymr.types import KSpace, Space, VolumeIndex
from steadymr.undersample import equispaced_lines, undersample


def full_kspace(n: int = 32, n_coils: int = 2) -> KSpace:
    rng = np.random.default_rng(3)
    data = (rng.normal(size=(n_coils, 1, n, n)) + 1j * rng.normal(size=(n_coils, 1, n, n))).astype(np.complex64)
    lines = np.ones((1, n), bool)
    geometry = axial_geometry(float(n), float(n))
    space = Space((n, n, 1), (float(n), float(n), 5.0))
    return KSpace(
        data, lines, (0, n), data, lines, np.eye(n_coils, dtype=complex), "noise scan", VolumeIndex(), geometry, space,
        header_of(n),
    )  # fmt: skip


def test_every_nth_line_and_the_centre_are_kept() -> None:
    """Lines count from the centre, which is always measured."""
    kept = np.flatnonzero(equispaced_lines(16, 4, 4))
    assert kept.tolist() == [0, 4, 6, 7, 8, 9, 12]


def test_acceleration_one_keeps_everything() -> None:
    """R = 1 is the identity."""
    kspace = full_kspace()
    np.testing.assert_array_equal(undersample(kspace, 1, 8).data, kspace.data)


def test_left_out_lines_are_zero_in_data_and_calibration() -> None:
    """Nothing of a line that would not have been measured leaks through."""
    accelerated = undersample(full_kspace(), 4, 8)
    assert not accelerated.data[:, ~accelerated.sampled].any()
    assert not accelerated.calibration[:, ~accelerated.sampled].any()
    assert accelerated.data[:, accelerated.sampled].all()


def test_partial_fourier_scans_may_be_accelerated() -> None:
    """Lines missing on one side only are a protocol's choice, not an acceleration."""
    kspace = full_kspace()
    sampled = kspace.sampled.copy()
    sampled[:, :6] = False
    assert not undersample(replace(kspace, sampled=sampled), 2, 8).sampled[:, :6].any()


def test_an_accelerated_scan_is_refused() -> None:
    """There would be no truth to compare with."""
    with pytest.raises(SettingsError, match="fully sampled"):
        undersample(undersample(full_kspace(), 2, 8), 2, 8)
