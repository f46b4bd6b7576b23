"""Calibrations made from numbers whose law is known, for tests that need no network."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from steadymr.config import Settings
from steadymr.models import load_models
from steadymr.recon.networks import Denoiser
from steadymr.recon.problem import prepare
from steadymr.recon.weights import save_prior
from steadymr.source.replay import open_scan
from steadymr.stability.calibration import Calibration, write
from steadymr.stability.conditions import Conditions
from steadymr.stability.fit import Observation, fit_method
from steadymr.stability.intervals import SCALES
from steadymr.stability.score import DEFINITION_VERSION
from steadymr.stopwatch import Stopwatch
from steadymr.volume.arriving import assembled
from steadymr.volume.planes import Plane, Run, conditions_of

N_PIXELS = 24
SENTINELS = ("sentinel", "sentinel_line", "sentinel_coil", "sentinel_pattern", "sentinel_image")
CONDITIONS = Conditions(
    method="diffusion",
    anatomy="head",
    acceleration=4.0,
    n_coils=8,
    noise_sd=0.02,
    pixel_mm=1.8,
    prior="p" * 64,
    model="",
    sampler="levels 20, samples 8",
    reconstruction="",
)


def observation(
    rng: np.random.Generator, acceleration: float = 4.0, *, harmed: bool = False, subject: str = ""
) -> Observation:
    """A scan whose error follows disagreement and misfit; sentinels deviate by chance, and by all harm done to it."""
    disagreement, misfit = np.exp(rng.normal(-3, 0.7)), np.exp(rng.normal(0, 0.2))
    harm = np.exp(rng.uniform(0, 2)) if harmed else 1.0
    error = disagreement * misfit * harm * np.exp(rng.normal(0.3, 0.15))
    conditions = replace(
        CONDITIONS,
        acceleration=acceleration,
        n_coils=int(rng.integers(4, 17)),
        noise_sd=float(np.exp(rng.uniform(-5, -3))),
        pixel_mm=float(rng.uniform(1.8, 2.4)),
    )
    deviation = float(harm * np.exp(rng.normal(0, 0.2)))
    sentinels = dict.fromkeys(SENTINELS, deviation)
    evidence = {"misfit": float(misfit), "residual_band": float(misfit), **sentinels}
    missed = tuple(float(max(0.0, 0.5 - 0.1 * scale)) for scale in SCALES)
    ssim = float(max(1 - error, 0.01))
    return Observation(subject, "drawn" if harmed else "", conditions, 1 - float(disagreement), evidence, ssim, missed)


def observations(n: int, seed: int = 0, *, harmed: bool = False) -> list[Observation]:
    """Scans at R = 2 and 4 in turn, two of each subject."""
    rng = np.random.default_rng([seed, harmed])
    return [
        observation(rng, acceleration=2.0 + 2 * (number % 2), harmed=harmed, subject=f"{seed} {number // 2}")
        for number in range(n)
    ]


def clean_and_harmed(n: int) -> list[Observation]:
    """What a calibration is made from: ``n`` clean scans, and as many that were harmed on purpose."""
    return [*observations(n), *observations(n, harmed=True)]


@functools.cache
def calibration_of(n: int) -> Calibration:
    """A calibration from ``n`` such scans."""
    return Calibration((fit_method(clean_and_harmed(n)),), f"{n} drawn numbers", "2", "0.0.0")


def calibration_for_scan(scan: Path, settings: Settings, out: Path) -> Path:
    """A calibration whose reach holds this scan under these settings; its figures are drawn numbers."""
    models = load_models(settings)
    run = Run(settings, models, (), Stopwatch(), lambda what: None)
    with open_scan(scan) as opened:
        kspace = next(iter(assembled(opened.readouts(), opened.header, settings)))
    plane = Plane(kspace, next(iter(prepare(kspace))))
    fitted = []
    for method in settings.methods:
        conditions = conditions_of(plane, method, run)
        drawn = [replace(one, conditions=conditions) for one in clean_and_harmed(40)]
        fitted.append(fit_method(drawn))
    write(Calibration(tuple(fitted), "drawn numbers", DEFINITION_VERSION, "0.0.0"), out)
    return out


def small_prior(path: Path, *, broken: bool = False) -> Path:
    """Weights of a tiny prior; broken ones hold NaN."""
    torch.manual_seed(0)
    denoiser = Denoiser((8, 16), n_blocks=1)
    if broken:
        for values in denoiser.parameters():
            values.data.fill_(float("nan"))
    return save_prior(denoiser, [(0.1, 0.05)], path)
