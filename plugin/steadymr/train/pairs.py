"""Pairs for supervised training: what classical reconstruction makes of a simulated scan, and the truth behind it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float16
from pydantic import BaseModel, ConfigDict, Field

from steadymr.errors import CalibrationError
from steadymr.recon.coils import combine_coils, espirit_maps
from steadymr.recon.operators import cg_sense, fft_centred
from steadymr.recon.problem import problem_from
from steadymr.simulate.coils import simulate_coils
from steadymr.simulate.masks import centre_lines, equispaced_lines, poisson_lines, random_lines
from steadymr.simulate.seeds import PURPOSES, Purpose
from steadymr.train.data import BANK_VERSION, BankSettings, stored

logger = logging.getLogger(__name__)

PAIRS_VERSION: Final = 1  # goes up whenever the same numbers would make other pairs


class ScanSettings(BaseModel):
    """How the simulated scans are acquired; each pair draws its own numbers from these ranges, ends included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_pairs: int = Field(480, gt=0, description="Pairs to train on, from the first slices of the bank.")
    n_coils: tuple[int, int] = Field((4, 16), description="Receive channels.")
    acceleration: tuple[int, int] = Field((2, 8), description="Acceleration between the calibration lines.")
    n_calibration: tuple[int, int] = Field((12, 32), description="Lines in the centre, all acquired.")
    noise_sd: tuple[float, float] = Field(
        (0.002, 0.03), description="Noise of a sample per real channel, image at 1; even on a log scale."
    )
    random_share: float = Field(0.25, ge=0, le=1, description="Share of scans whose lines are random, not equispaced.")
    poisson_share: float = Field(0.0, ge=0, le=1, description="Share of scans whose lines are a Poisson disc.")
    espirit_share: float = Field(
        0.35, ge=0, le=1, description="Share whose coil maps are estimated, not the true ones."
    )
    regularisation_spread: float = Field(0.5, ge=0, description="S.d. of ln of the regulariser over its usual value.")


def prepare_pairs(
    settings: ScanSettings,
    bank_settings: BankSettings,
    bank: Float16[np.ndarray, "slice 2 y x"],
    purpose: Purpose,
    folder: Path,
) -> Float16[np.ndarray, "pair 4 y x"]:
    """Return pairs, classical image first, from ``folder`` if they were made with the same settings."""
    n_pairs = min(settings.n_pairs, len(bank))
    recipe: dict[str, Any] = {"version": [BANK_VERSION, PAIRS_VERSION], "purpose": purpose, "n": n_pairs}
    recipe |= {"scan": settings.model_dump(mode="json"), "bank": bank_settings.model_dump(mode="json")}

    def make_all() -> Float16[np.ndarray, "pair 4 y x"]:
        logger.info("reconstructing %d simulated scans for %s", n_pairs, purpose)
        rngs = (np.random.default_rng([PURPOSES[purpose], number, 1]) for number in range(n_pairs))
        return np.stack([make_pair(slice_, rng, settings) for slice_, rng in zip(bank, rngs, strict=False)])

    return stored(folder / f"pairs_{purpose}.npy", recipe, make_all)


def make_pair(
    slice_: Float16[np.ndarray, "2 y x"], rng: np.random.Generator, settings: ScanSettings
) -> Float16[np.ndarray, "4 y x"]:
    """Scan one slice and reconstruct it: real and imaginary part of the CG-SENSE image, then of the truth."""
    truth = torch.from_numpy((slice_[0].astype(np.float32) + 1j * slice_[1].astype(np.float32)).astype(np.complex64))
    n_y, n_x = truth.shape
    n_coils, n_calibration = (
        int(rng.integers(low, high + 1)) for low, high in (settings.n_coils, settings.n_calibration)
    )
    noise_sd = float(np.exp(rng.uniform(*np.log(settings.noise_sd))))
    lines = torch.from_numpy(_draw_lines(rng, settings, n_y, n_calibration))
    true_maps = torch.from_numpy(simulate_coils(rng, n_coils, (n_y, n_x)))
    clean = fft_centred(true_maps * truth) / noise_sd
    noise = rng.standard_normal((2, *clean.shape), dtype=np.float32)
    measured = clean + torch.from_numpy(noise[0] + 1j * noise[1])
    maps = true_maps
    if rng.random() < settings.espirit_share:
        maps = _estimated_maps(measured, centre_lines(n_y, n_calibration), true_maps)
    problem = problem_from(measured, maps, lines[:, None])
    spread = float(np.exp(rng.normal(0, settings.regularisation_spread)))
    image = cg_sense(problem.sense, problem.kspace, regularisation=spread * problem.noise_to_signal)
    target = combine_coils(clean, maps) / problem.scale
    return torch.stack([image.real, image.imag, target.real, target.imag]).numpy().astype(np.float16)


def _draw_lines(rng: np.random.Generator, settings: ScanSettings, n_lines: int, n_calibration: int) -> np.ndarray:
    acceleration = int(rng.integers(settings.acceleration[0], settings.acceleration[1] + 1))
    kind = rng.random()
    if kind < settings.random_share:
        return random_lines(rng, n_lines, float(acceleration), n_calibration)
    if kind < settings.random_share + settings.poisson_share:
        return poisson_lines(rng, n_lines, float(acceleration), n_calibration)
    return equispaced_lines(n_lines, acceleration, n_calibration, int(rng.integers(acceleration)))


def _estimated_maps(measured: torch.Tensor, calibrated: np.ndarray, true_maps: torch.Tensor) -> torch.Tensor:
    """Return ESPIRiT's maps, or where the scan is too noisy for them, the true ones."""
    lines = torch.from_numpy(calibrated)
    try:
        return espirit_maps(measured * lines[:, None], lines, (0, measured.shape[-1]))
    except CalibrationError:
        return true_maps
