"""Two phase encodings: what a shutter leaves out is accepted, undersampling along k2 is refused."""

from __future__ import annotations

from dataclasses import replace

import mrd
import numpy as np
import pytest

from steadymr.assemble import assemble
from steadymr.errors import UnsupportedScanError
from steadymr.types import KSpace

N_K1, N_K2 = 32, 16
HEADER = mrd.scan_header(n_z=N_K2)
K2, K1 = np.mgrid[:N_K2, :N_K1]
FULL = np.ones((N_K2, N_K1), bool)
ELLIPSE = ((K1 - N_K1 // 2) / (N_K1 / 2)) ** 2 + ((K2 - N_K2 // 2) / (N_K2 / 2)) ** 2 <= 1


def assembled(mask: np.ndarray) -> KSpace:
    (volume,) = assemble(mrd.readouts(mrd.kspace(n_coils=2, n_z=N_K2), mask), HEADER)
    return volume


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(FULL, id="full"),
        pytest.param(ELLIPSE, id="elliptical corners missing"),
        pytest.param(FULL & (K1 % 2 == 0), id="accelerated along k1"),
        pytest.param(ELLIPSE & ((K1 % 3 == 0) | (abs(K1 - 16) < 4)), id="accelerated, calibration lines, ellipse"),
        pytest.param(FULL & (K2 >= 4), id="partial Fourier along k2"),
        pytest.param(FULL & (K1 < 22), id="partial Fourier along k1"),
    ],
)
def test_what_is_gapless_along_k2_is_accepted(mask: np.ndarray) -> None:
    volume = assembled(mask)
    truth = mrd.without_oversampling(mrd.kspace(n_coils=2, n_z=N_K2)) * mask[..., None]
    assert np.array_equal(volume.sampled, mask)
    assert np.allclose(volume.data, truth, atol=1e-5 * np.abs(truth).max())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        pytest.param(FULL & (K2 % 2 == 0), "lacks 7 partitions", id="every second partition"),
        pytest.param((K1 + K2) % 2 == 0, "CAIPIRINHA", id="CAIPIRINHA"),
        pytest.param(FULL & ((K1 % 2 == 0) | (abs(K2 - 8) < 3)), "CAIPIRINHA", id="denser in the middle"),
        pytest.param(np.random.default_rng(0).random((N_K2, N_K1)) < 0.4, "other lines", id="random"),
    ],
)
def test_undersampling_along_k2_is_refused(mask: np.ndarray, message: str) -> None:
    with pytest.raises(UnsupportedScanError, match=message):
        assembled(mask)


def test_the_centre_of_k2_is_the_one_in_the_limits() -> None:
    full = mrd.kspace(n_coils=2, n_z=N_K2)
    lines = [replace(line, k2=line.k2 - 4) for line in mrd.readouts(full) if line.k2 >= 4]
    header = replace(HEADER, k2_limits=replace(HEADER.k2_limits, centre=4))
    (volume,) = assemble(lines, header)
    assert np.array_equal(volume.sampled, FULL & (K2 >= 4))


def test_unflagged_calibration_is_the_gapless_centre_in_all_partitions() -> None:
    mask = ELLIPSE & ((K1 % 4 == 0) | (abs(K1 - 16) < 5))
    assert np.array_equal(assembled(mask).calibrated, mask & (K1 > 11) & (K1 < 21))
