"""What is measured of one slice: every method on the clean scan, on worst cases, on their noise twins, and on
imperfections, as rows of plain numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import Arm, Case, adam_worst_case, scan
from torch import Tensor

from steadymr import perturb
from steadymr.audit.attack import attacked, change_between
from steadymr.audit.methods import Networks, load_networks, samples
from steadymr.audit.metrics import (
    amplification,
    image_metrics,
    image_noise_sd,
    noise_likeness,
    radial_spectrum,
    structures,
)
from steadymr.audit.norms import gaussian_equal_norm, relative_norm
from steadymr.audit.surrogates import Surrogate, unet_surrogate, varnet_surrogate
from steadymr.config import Settings
from steadymr.recon.problem import Problem
from steadymr.stability.metrics import tissue_mask
from steadymr.stability.registration import register_to

#: Imperfections inside their plausible ranges, near the upper end; ADC and gain left out, which change little.
IMPERFECTIONS: dict[str, dict[str, float]] = {
    "thermal_noise": {"sigma": 2.0},
    "phase_drift": {"jitter_rad": 0.1},
    "rigid_motion": {"translation_mm": 1.0},
    "spikes": {"amplitude": 0.1},
    "gradient_delay": {"delay_us": 2.0},
}


@dataclass(frozen=True)
class Plan:
    """What a run measures; part of each line of the results, so that runs of different plans do not mix."""

    matrix: int
    epsilons: tuple[float, ...]
    n_projections: int
    methods: tuple[str, ...]
    surrogates: tuple[str, ...]
    imperfections: tuple[str, ...]
    n_samples: int
    n_levels: int
    own_weights: tuple[tuple[str, str], ...]  #: network and path, where it is not the one that comes with steadymr

    def load(self) -> Networks:
        weights = {name: Path(path) for name, path in self.own_weights}
        return load_networks(self.methods, self.surrogates, self._settings(), weights)

    def _settings(self) -> Settings:
        base = Settings()
        return base.model_copy(
            update={
                "samples": self.n_samples,
                "noise_draws": 0,
                "diffusion": base.diffusion.model_copy(update={"levels": self.n_levels}),
            }
        )


@dataclass(frozen=True, eq=False)
class Known:
    """The clean slice and what all methods make of it."""

    case: Case
    images: dict[str, Tensor]
    mask: np.ndarray
    noise_sd: np.ndarray


def measure_slice(plan: Plan, item: tuple[Arm, int]) -> dict[str, Any]:
    """All rows of one slice of one arm."""
    torch.set_num_threads(1)
    arm, number = item
    networks = plan.load()
    case = scan(arm, number, plan.matrix)
    images = _reconstruct(case.problem, plan, networks)
    mask = tissue_mask(case.truth.abs().numpy(), noise_sd=float(case.problem.noise_sd))
    known = Known(case, images, mask, image_noise_sd(case.problem))
    rows = [
        row for trial in _trials(known, arm, number, plan, networks) for row in _rows(known, plan, networks, *trial)
    ]
    weights = [identity.sha256 for identity in networks.identities]
    return {"arm": arm.name, "slice": number, "weights": weights, "rows": rows}


def _trials(
    known: Known, arm: Arm, number: int, plan: Plan, networks: Networks
) -> Iterator[tuple[str, str, float, Tensor, bool]]:
    """Kind, surrogate or imperfection, eps, change of k-space, and whether the object moved."""
    problem = known.case.problem
    yield "clean", "", 0.0, torch.zeros_like(problem.kspace), False
    for eps in plan.epsilons:
        yield (
            "gaussian",
            "",
            eps,
            gaussian_equal_norm(problem, eps, torch.Generator().manual_seed(1000 + number)),
            False,
        )
        for name in plan.surrogates:
            surrogate = _surrogate(name, problem, networks)
            generator = torch.Generator().manual_seed(number)
            yield (
                "worst_case",
                name,
                eps,
                adam_worst_case(problem, surrogate, eps, plan.n_projections, generator),
                False,
            )
    for name in plan.imperfections:
        wanted = perturb.build(name, IMPERFECTIONS[name])
        delta = change_between(problem, perturb.apply(known.case.kspace, (wanted,), number))
        yield "imperfection", name, relative_norm(problem, delta), delta, wanted.moves_object


def _surrogate(name: str, problem: Problem, networks: Networks) -> Surrogate:
    if name == "unet":
        return unet_surrogate(problem, networks.unet)
    return varnet_surrogate(problem, networks.varnet)


def _reconstruct(problem: Problem, plan: Plan, networks: Networks) -> dict[str, Tensor]:
    """Chance is the same for every version of a slice."""
    return {name: samples(name, problem, networks, torch.Generator().manual_seed(7)).mean(0) for name in plan.methods}


def _rows(
    known: Known, plan: Plan, networks: Networks, kind: str, source: str, eps: float, delta: Tensor, moved: bool
) -> Iterator[dict[str, Any]]:
    problem = known.case.problem
    images = known.images if kind == "clean" else _reconstruct(attacked(problem, delta), plan, networks)
    truth = known.case.truth.abs().numpy()
    for name, image in images.items():
        magnitude, clean = image.abs().numpy(), known.images[name].abs().numpy()
        if moved:
            magnitude = register_to(truth, magnitude, max_rotation_deg=0.0).image
        scale = {"noise_sd": known.noise_sd, "pixel_mm": known.case.pixel_mm}
        measured = image_metrics(magnitude, truth, known.mask, **scale)
        fakes = structures(magnitude, clean, known.mask, **scale)
        row = {
            "kind": kind,
            "source": source,
            "eps": round(eps, 5),
            "method": name,
            "psnr_db": measured.psnr_db,
            "ssim": measured.ssim,
            "nmse": measured.nmse,
            "hfen": measured.hfen,
            "n_appeared": fakes.n_appeared,
            "n_vanished": fakes.n_vanished,
        }
        if kind != "clean":
            change = torch.from_numpy(magnitude - clean).to(torch.complex64)
            row["kurtosis"], row["centroid"] = noise_likeness(change, known.mask)
            row["amplification"] = amplification(image - known.images[name], delta, problem)
            row["spectrum"] = [float(f"{value:.4g}") for value in radial_spectrum(change)]
        yield {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}
