"""Without calibration lines there are no coil maps: refuse, or make folded images that say so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_recon_problem import N_Y, scan, visible

from steadymr.config import load_settings
from steadymr.errors import CalibrationError
from steadymr.models import Models
from steadymr.stopwatch import Stopwatch
from steadymr.types import KSpace
from steadymr.volume.reconstruct import begin, reconstruct


def uncalibrated(acceleration: int = 1) -> KSpace:
    made = scan(acceleration, noise_sd=0.002)
    return replace(made, calibrated=np.zeros_like(made.calibrated), calibration=np.zeros_like(made.calibration))


def run(on_no_calibration: str, said: list[str]):
    settings = load_settings(None, {"fallback": {"on_no_calibration": on_no_calibration}})
    return begin(settings, Models("cpu"), Stopwatch(), note=said.append)


def test_by_default_a_scan_without_calibration_lines_is_refused():
    with pytest.raises(CalibrationError, match="calibration lines"):
        list(reconstruct(uncalibrated(), None, run("refuse", [])))


def test_if_the_settings_want_it_the_channels_are_combined_and_the_image_says_what_it_is():
    said: list[str] = []
    (result,) = reconstruct(uncalibrated(), None, run("map-free", said))
    assert result.stability.verdict == "unscored"
    assert "no coil maps" in said[0]
    assert result.stability.reasons == (said[0],)
    assert "no coil maps" in result.image.derivation
    truth = visible(0.002)
    image = torch.from_numpy(result.image.data[0])
    assert (image - truth).norm() < 0.05 * truth.norm()


def test_lines_that_are_missing_count_as_zero():
    (result,) = reconstruct(uncalibrated(2), None, run("map-free", []))
    assert result.image.data.shape[1] == N_Y
    assert np.isfinite(result.image.data).all()
