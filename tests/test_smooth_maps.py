from __future__ import annotations

import numpy as np
import pytest
import torch
from laws import assert_close
from scanner import coil_maps, ellipses, line_mask

from steadymr.recon import smooth_maps as module
from steadymr.recon.coils import aligned_in_phase, calibration_block, espirit_maps
from steadymr.recon.methods import classical
from steadymr.recon.operators import fft_centred
from steadymr.recon.problem import problem_from
from steadymr.recon.smooth_maps import smooth_maps
from steadymr.simulate.coils import simulate_coils

N, N_COILS = 64, 8


def head(length: float) -> torch.Tensor:
    """The ellipses, stretched along y: from 1.12 on they fill the field of view from edge to edge."""
    rows = ((torch.arange(N) - N // 2) / length).round().long() + N // 2
    return ellipses(N, N)[rows]


def scan(truth: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(maps.shape, dtype=maps.dtype, generator=torch.Generator().manual_seed(0))
    return fft_centred(maps * truth * 60) + 2**0.5 * noise


def both_maps(kspace: torch.Tensor, n_lines: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """ESPIRiT's and the smooth ones, from the central lines."""
    lines = line_mask(N, N, n_lines)[:, 0]
    calibration = kspace * lines[:, None]
    periodic = espirit_maps(calibration, lines, (0, N))
    return periodic, smooth_maps(calibration, lines, (0, N), periodic)


def psnr_db(kspace: torch.Tensor, maps: torch.Tensor, truth: torch.Tensor, n_lines: int) -> float:
    problem = problem_from(kspace, maps, line_mask(N, 4, n_lines))
    error = (classical(problem).abs() * problem.scale / 60 - truth.abs())[truth != 0]
    return float(10 * torch.log10(truth.abs().max() ** 2 / error.square().mean()))


def error(maps: torch.Tensor, coils: torch.Tensor, truth: torch.Tensor) -> float:
    """The share of the signal that the coils measure and the maps cannot explain."""
    missed = 1 - (maps.conj() * coils).sum(0).abs().square().clamp(max=1)
    weight = truth.abs().square()
    return float(((missed * weight).sum() / weight.sum()).sqrt())


@pytest.mark.parametrize(("n_lines", "lost_db"), [(24, 0.5), (12, 1.5)])
def test_a_head_across_the_edge_is_reconstructed_almost_as_with_the_true_maps(n_lines, lost_db):
    truth, coils = head(1.3), coil_maps(N_COILS, N, N)
    kspace = scan(truth, coils)
    periodic, smooth = both_maps(kspace, n_lines)
    best = psnr_db(kspace, coils * (periodic != 0).any(0), truth, n_lines)
    assert psnr_db(kspace, smooth, truth, n_lines) > best - lost_db
    assert psnr_db(kspace, periodic, truth, n_lines) < best - 5.0


@pytest.mark.parametrize("n_coils", [2, 4, 8])
def test_a_head_inside_the_field_of_view_has_maps_no_worse_than_espirits(n_coils):
    truth, coils = head(1.0), coil_maps(n_coils, N, N)
    periodic, smooth = both_maps(scan(truth, coils))
    assert error(smooth, coils, truth) < 1.05 * error(periodic, coils, truth)


def test_norm_and_phase_are_those_of_espirits_maps_and_go_on_beyond_their_support():
    kspace = scan(head(1.0), coil_maps(N_COILS, N, N))
    periodic, smooth = both_maps(kspace)
    assert not bool((periodic != 0).any(0).all())
    assert_close(torch.linalg.vector_norm(smooth, dim=0), torch.ones(N, N))
    block = calibration_block(kspace, line_mask(N, N, 24)[:, 0], (0, N))
    assert_close(aligned_in_phase(smooth, block), smooth, atol=1e-5)


def test_coils_too_fine_for_the_polynomials_keep_espirits_maps_and_say_so(caplog):
    generator = torch.Generator().manual_seed(0)
    waves = torch.zeros(N_COILS, N, N, dtype=torch.complex64)
    waves[:, N // 2 - 2 : N // 2 + 3, N // 2 - 2 : N // 2 + 3] = torch.randn(
        (N_COILS, 5, 5), dtype=torch.complex64, generator=generator
    )
    coils = torch.nn.functional.normalize(fft_centred(waves), dim=0)
    periodic, smooth = both_maps(scan(head(1.0), coils))
    assert torch.equal(smooth, periodic)
    assert "of the calibration lines unexplained" in caplog.text


def with_lines(kspace: torch.Tensor, lines: torch.Tensor) -> torch.Tensor:
    """Smooth maps from the central lines, and from others of the image."""
    centre = line_mask(N, N, 24)[:, 0]
    calibration = kspace * centre[:, None]
    periodic = espirit_maps(calibration, centre, (0, N))
    image = (kspace * lines[:, None], lines)
    return smooth_maps(calibration, centre, (0, N), periodic, noise_sd=1.0, image=image)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lines_of_the_image_make_maps_of_a_head_at_the_edge_truer(seed):
    truth, coils = head(1.3), torch.from_numpy(simulate_coils(np.random.default_rng(seed), N_COILS, (N, N)))
    kspace = scan(10 * truth, coils)
    centre_alone, more = (with_lines(kspace, line_mask(N, step, 24)[:, 0]) for step in (N, 4))
    assert error(more, coils, truth) < 0.95 * error(centre_alone, coils, truth)


def test_lines_of_an_image_without_the_centre_change_nothing_for_they_cannot_tell_maps_from_it():
    truth, coils = head(1.0), coil_maps(N_COILS, N, N)
    kspace = scan(truth, coils)
    lines = line_mask(N, N, 24)[:, 0]
    periodic, _ = both_maps(kspace)
    alone = smooth_maps(kspace * lines[:, None], lines, (0, N), periodic, noise_sd=1.0)
    assert torch.equal(with_lines(kspace, line_mask(N, 4, 0)[:, 0]), alone)


def test_a_single_coil_keeps_its_map():
    maps = torch.ones((1, N, N), dtype=torch.complex64)
    lines = line_mask(N, N, 24)[:, 0]
    assert smooth_maps(scan(head(1.0), maps), lines, (0, N), maps) is maps


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_where_little_noise_is_known_of_maps_follow_loops_close_to_the_head(seed):
    truth, coils = head(1.0), torch.from_numpy(simulate_coils(np.random.default_rng(seed), 12, (N, N)))
    lines = line_mask(N, N, 24)[:, 0]
    calibration = scan(10 * truth, coils) * lines[:, None]
    periodic = espirit_maps(calibration, lines, (0, N))
    unknown = smooth_maps(calibration, lines, (0, N), periodic)
    known = smooth_maps(calibration, lines, (0, N), periodic, noise_sd=1.0)
    assert error(known, coils, truth) < 0.7 * error(unknown, coils, truth)


def mean_error(n_coils: int, signal: float) -> float:
    """The mean over three sets of coils."""
    truth, lines, found = head(1.0), line_mask(N, N, 24)[:, 0], []
    for seed in range(3):
        coils = torch.from_numpy(simulate_coils(np.random.default_rng(seed), n_coils, (N, N)))
        calibration = scan(signal * truth, coils) * lines[:, None]
        periodic = espirit_maps(calibration, lines, (0, N))
        found.append(error(smooth_maps(calibration, lines, (0, N), periodic, noise_sd=1.0), coils, truth))
    return float(np.mean(found))


@pytest.mark.parametrize(("n_coils", "signal", "better"), [(4, 1, 0.95), (16, 1, 1.0), (16, 10, 0.85)])
def test_maps_are_as_fine_as_coils_and_noise_ask_for(n_coils, signal, better, monkeypatch):
    chosen = mean_error(n_coils, signal)
    monkeypatch.setattr(module, "DEGREES", (module.DEGREE, module.DEGREE))
    assert chosen < better * mean_error(n_coils, signal)


def test_what_noise_alone_leaves_unexplained_is_no_reason_to_keep_espirits_maps(caplog):
    truth, coils = head(1.0), coil_maps(N_COILS, N, N)
    lines = line_mask(N, N, 24)[:, 0]
    calibration = scan(0.3 * truth, coils) * lines[:, None]
    periodic = espirit_maps(calibration, lines, (0, N))
    smooth = smooth_maps(calibration, lines, (0, N), periodic, noise_sd=1.0)
    assert not caplog.text
    assert error(smooth, coils, truth) < error(periodic, coils, truth)
