from __future__ import annotations

import pytest
import torch
from laws import assert_close
from scanner import coil_maps, ellipses
from sigpy.mri.app import EspiritCalib

from steadymr.errors import CalibrationError
from steadymr.recon.coils import calibration_block, combine_coils, espirit_maps
from steadymr.recon.operators import fft_centred

N_Y, N_X = 48, 40


def scan(n_coils: int, n_lines: int = 24, noise_sd: float = 0.003) -> tuple[torch.Tensor, torch.Tensor]:
    """K-space of the ellipses and the calibration lines of it."""
    kspace = fft_centred(coil_maps(n_coils, N_Y, N_X) * ellipses(N_Y, N_X))
    kspace = kspace + noise_sd * torch.randn(
        kspace.shape, dtype=kspace.dtype, generator=torch.Generator().manual_seed(0)
    )
    lines = (torch.arange(N_Y) - N_Y // 2 + 0.5).abs() < n_lines / 2
    return kspace * lines[:, None], lines


def alignment(maps: torch.Tensor, others: torch.Tensor, where: torch.Tensor) -> float:
    """Smallest |<maps, others>| over pixels: 1 if they are the same up to phase."""
    return float((maps.conj() * others).sum(0).abs()[where].min())


@pytest.mark.parametrize("n_coils", [2, 4, 8])
def test_maps_are_the_coils_where_there_is_signal(n_coils):
    calibration, lines = scan(n_coils)
    maps, tissue = espirit_maps(calibration, lines, (0, N_X)), ellipses(N_Y, N_X) != 0
    assert alignment(maps, coil_maps(n_coils, N_Y, N_X), tissue) > 0.99


def test_maps_have_unit_norm_in_their_support_and_are_zero_outside():
    maps = espirit_maps(*scan(8), (0, N_X))
    norm = torch.linalg.vector_norm(maps, dim=0)
    support = norm > 0
    assert 0.3 < support.float().mean() < 1
    assert_close(norm[support], torch.ones(int(support.sum())))


def test_maps_agree_with_sigpys():
    calibration, lines = scan(8)
    app = EspiritCalib(calibration.numpy(), calib_width=24, thresh=0.02, kernel_width=6, crop=0.8, show_pbar=False)
    theirs, ours = torch.from_numpy(app.run()), espirit_maps(calibration, lines, (0, N_X))
    tissue = ellipses(N_Y, N_X) != 0
    assert alignment(ours, theirs, tissue) > 0.995
    assert ((ours != 0).any(0) == (theirs != 0).any(0)).float().mean() > 0.95


def test_the_phase_of_the_maps_is_smooth_and_does_not_hang_on_the_calibrations_phase():
    calibration, lines = scan(4)
    maps = espirit_maps(calibration, lines, (0, N_X))
    assert_close(espirit_maps(calibration * 1j, lines, (0, N_X)), maps, rtol=1e-2, atol=1e-3)
    tissue = ellipses(N_Y, N_X) != 0
    both = tissue[1:] & tissue[:-1]
    assert (maps[:, 1:] - maps[:, :-1]).abs().amax(0)[both].max() < 0.25


def test_a_single_coil_has_the_map_one():
    calibration, lines = scan(1)
    assert torch.equal(espirit_maps(calibration, lines, (0, N_X)), torch.ones_like(calibration))


def test_few_calibration_lines_give_coarse_maps_and_a_warning(caplog):
    maps = espirit_maps(*scan(8, n_lines=8), (0, N_X))
    assert alignment(maps, coil_maps(8, N_Y, N_X), ellipses(N_Y, N_X) != 0) > 0.9
    assert "only 8 calibration lines" in caplog.text


@pytest.mark.parametrize("n_lines", [0, 1])
def test_without_lines_at_the_centre_the_refusal_says_what_to_scan(n_lines):
    lines = torch.zeros(N_Y, dtype=torch.bool)
    lines[:n_lines] = True
    with pytest.raises(CalibrationError, match="24 are plenty"):
        espirit_maps(scan(4)[0], lines, (0, N_X))


def test_the_block_is_what_was_acquired_without_gap_around_the_centre():
    calibration, lines = scan(2, n_lines=10)
    lines[0] = True
    assert calibration_block(calibration, lines, (0, N_X)).shape == (2, 10, 24)
    assert calibration_block(calibration, lines, (16, N_X)).shape == (2, 10, 16)


def test_a_full_scan_combined_is_the_image():
    maps, image = coil_maps(4, N_Y, N_X), ellipses(N_Y, N_X)
    assert_close(combine_coils(fft_centred(maps * image), maps), image, rtol=1e-4, atol=1e-5)
