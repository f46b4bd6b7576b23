"""What an image leaves unexplained on the measured lines: the noise, or a place and a reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scanner import ellipses
from small_scan import EYE, N_COILS, NOISE_SD, N, problem, rng

from steadymr.recon.evidence import NULL_MODE, Findings
from steadymr.recon.problem import Problem
from steadymr.recon.residual import LEAST_ALLOWED, residual_evidence

SURE = torch.stack([ellipses(N, N)] * 4)  #: samples that agree: the image was not to follow any noise


def test_the_residual_of_the_true_image_is_the_noise() -> None:
    """In every coil and every band."""
    found = residual_evidence(problem(), ellipses(N, N), SURE, EYE).values
    assert found["residual"] == pytest.approx(1, abs=0.05)
    assert found["residual_coil"] == pytest.approx(1, abs=0.15)
    assert found["residual_band"] == pytest.approx(1, abs=0.15)
    assert found["residual_mode"] == pytest.approx(1, abs=0.1)


def test_the_residual_says_which_coil_and_which_band() -> None:
    """A coil that was wrong on the outer lines."""
    wrong = problem()
    wrong.kspace[1, :5] += 0.2 * wrong.sense.mask[:5]
    found = residual_evidence(wrong, ellipses(N, N), SURE, EYE)
    assert found.places["residual_coil"] == "coil 1"
    assert found.places["residual_band"] == "the edge of k-space"
    assert found.values["residual_coil"] > 2 * found.values["residual"] > 2


def test_a_small_change_along_patterns_that_coils_hardly_tell_apart_shows_there_and_nowhere_else() -> None:
    """A change that moves the image by much and the data by less than a tenth of the noise's energy."""
    scan = problem(acceleration=4)
    strength = scan.sense.columns.eigenvalues / (2 * NOISE_SD**2)
    weak = (strength > 10) & (strength < 100)
    modes = torch.where(weak, strength.clamp_min(1e-9) ** -0.5, 0.0)[..., None].to(torch.complex64)
    change = scan.sense.forward(scan.sense.columns.from_modes(modes)[0])
    of_noise = float(change.abs().square().sum()) / (2 * NOISE_SD**2 * N_COILS * N * int(scan.sense.mask.sum()))
    assert of_noise < 0.1
    changed = replace(scan, kspace=scan.kspace + change)
    before, after = (residual_evidence(one, ellipses(N, N), SURE, EYE) for one in (scan, changed))
    assert after.values["residual"] < 1.12 * before.values["residual"]
    assert after.values["residual_mode"] > 1.4 * before.values["residual_mode"]
    assert after.places["residual_mode"] == "patterns of pixels that stand 3.2 to 5.6 x above the noise"


def test_an_image_is_held_to_how_closely_the_samples_say_it_should_follow_the_data() -> None:
    """Where data are surer than the prior the posterior's mean leaves less than the noise; a quarter, say."""
    scan, truth = problem(acceleration=4), ellipses(N, N)
    columns, noise = scan.sense.columns, 2 * NOISE_SD**2
    variance = 0.75 * noise / columns.eigenvalues.clamp_min(NULL_MODE)
    draws = torch.randn(20, *columns.eigenvalues.shape, dtype=torch.complex64, generator=rng(3))
    pairs = [sign * columns.from_modes((one * variance.sqrt())[..., None])[0] for one in draws for sign in (1, -1)]
    samples = torch.stack([truth + one for one in pairs])
    residual = scan.sense.adjoint(scan.kspace - scan.sense.forward(truth))
    modes = columns.to_modes(residual[None])
    share = torch.where(columns.eigenvalues > NULL_MODE, 0.75 / columns.eigenvalues.clamp_min(NULL_MODE), 0.0)
    followed = truth + columns.from_modes(modes * share[..., None])[0]
    ignored, heeded = (residual_evidence(scan, one, samples, EYE).values["residual_mode"] for one in (truth, followed))
    assert heeded == 1
    assert ignored == pytest.approx(1 / LEAST_ALLOWED, rel=0.15)
    assert residual_evidence(scan, truth, SURE, EYE).values["residual_mode"] < 1.1


def out_of_step(scan: Problem) -> Findings:
    found = residual_evidence(scan, ellipses(N, N), SURE, EYE)
    return Findings({"out_of_step": found.values["out_of_step"]}, {"out_of_step": found.places["out_of_step"]})


def test_lines_in_step_with_the_image_show_the_noise_alone() -> None:
    """Two numbers of noise for each of 20 lines scatter by 0.22 a scan."""
    found = [out_of_step(problem(seed=seed)).values["out_of_step"] for seed in range(20)]
    assert np.mean(found) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    "turned",
    [
        pytest.param(lambda k0: torch.full_like(k0, 0.1), id="a phase"),
        pytest.param(lambda k0: 2 * torch.pi * 0.2 * k0 / N, id="a shift by 0.2 pixels along the readout"),
    ],
)
def test_a_line_out_of_step_is_named_though_its_energy_is_lost_in_the_noise(turned) -> None:
    """Motion, or a field that drifts, turns a line against the image; a random change of the same energy does not."""
    scan, line = problem(), N // 2 + 2
    k0 = torch.arange(N) - N // 2
    moved = scan.kspace.clone()
    moved[:, line] *= torch.polar(torch.ones(N), turned(k0.float()))
    change = moved[:, line] - scan.kspace[:, line]
    assert float(change.abs().square().sum()) < 0.2 * 2 * NOISE_SD**2 * N_COILS * N * int(scan.sense.mask.sum())
    found = out_of_step(replace(scan, kspace=moved))
    assert found.values["out_of_step"] > 2.5
    assert found.places["out_of_step"] == "2 lines after the centre of k-space"
    scrambled = scan.kspace.clone()
    scrambled[:, line] += change.abs() * torch.exp(2j * torch.pi * torch.rand(N_COILS, N, generator=rng(1)))
    assert out_of_step(replace(scan, kspace=scrambled)).values["out_of_step"] < 0.5 * found.values["out_of_step"]


def test_the_place_of_a_line_out_of_step_is_counted_from_the_centre() -> None:
    """On both sides of it."""
    scan = problem()
    scan.kspace[:, N // 2 - 4] *= 1j
    assert out_of_step(scan).places["out_of_step"] == "4 lines before the centre of k-space"


def test_without_signal_no_line_is_called_out_of_step() -> None:
    """An image of zeros predicts nothing that could be turned."""
    assert "out_of_step" not in residual_evidence(problem(), torch.zeros(N, N, dtype=torch.complex64), SURE, EYE).values
