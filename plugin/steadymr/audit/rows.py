"""From the images of one trial to rows of the table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex64
from torch import Tensor

from steadymr import perturb
from steadymr.audit.aim import Aim
from steadymr.audit.baseline import Baseline, Drawn, Magnitude, amplification_of, in_receiver_units
from steadymr.audit.damage import disarming_lines, energy_by_line, energy_by_region, tiles
from steadymr.audit.metrics import image_metrics, structures
from steadymr.audit.norms import relative_norm
from steadymr.audit.plan import WORST_CASE, Strain
from steadymr.recon.problem import Problem
from steadymr.stability.metrics import compare_with_truth
from steadymr.stability.registration import register_to
from steadymr.stability.score import agreement, spread_percent

SCORED_METHOD = "diffusion"  #: the only one whose samples are drawn from the posterior
N_DISARMING_LINES = 4
MEASURED = (
    "relative_norm_percent", "psnr_db", "ssim", "nmse", "hfen", "n_appeared", "n_vanished", "nmse_to_clean",
    "n_appeared_since_clean", "n_vanished_since_clean", "amplification", "agreement", "structure_shown",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A version of the slice, ready to be reconstructed."""

    name: str  #: as the table calls the perturbation
    problem: Problem
    delta: Complex64[Tensor, "coil y x"]  #: what changed on the acquired samples, in the baseline's unit
    moved_by: perturb.Perturbation | None = None  #: if it moved the object
    aim: Aim | None = None  #: if a structure was to be drawn or erased


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The rows of one cell, pictures for the page, and where worst cases did their damage."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    images: dict[str, np.ndarray] = field(default_factory=dict)  #: "perturbation|method|kind"; see `add_trial`
    damage: list[dict[str, Any]] = field(default_factory=list)

    def add_trial(self, known: Baseline, trial: Trial, drawn: Drawn, strain: Strain, seed: int) -> None:
        """Compare what every method made of one trial.

        Kept in half precision: magnitudes as a share of the slice's white level, and the map of the samples' spread in
        per cent of the local tissue signal.
        """
        facts = facts_of(known, trial.name, strain, seed)
        facts["relative_norm_percent"] = 100 * relative_norm(known.problem, trial.delta)
        for name, one in drawn.items():
            image = in_receiver_units(one.mean(0), trial.problem)
            shown = _moved_back(np.abs(image), np.abs(known.images[name]), trial.moved_by)
            row = facts | {"method": name} | _compared(known, name, shown) | _amplified(known, name, shown, trial)
            if trial.aim is not None:
                row["structure_shown"] = trial.aim.shown(shown, np.abs(known.images[name]))
            self.images[f"{trial.name}|{name}|image"] = (shown / known.white).astype(np.float16)
            if name == SCORED_METHOD and len(one) > 1:
                row |= self._spread(known, trial, np.abs(image), one)
            if trial.name == WORST_CASE:
                self.damage.append(_damage(known, name, image, strain))
            self.rows.append({key: _finite(value) for key, value in row.items()})

    def _spread(self, known: Baseline, trial: Trial, image: Magnitude, samples: Tensor) -> dict[str, Any]:
        magnitudes = np.abs(np.stack([in_receiver_units(sample, trial.problem) for sample in samples]))
        spread = spread_percent(image, magnitudes, known.mask, known.pixel_mm)
        self.images[f"{trial.name}|{SCORED_METHOD}|spread"] = spread.astype(np.float16)
        return {"agreement": agreement(image, magnitudes, known.mask)}


def facts_of(known: Baseline, perturbation: str, strain: Strain, seed: int) -> dict[str, Any]:
    """The part of a row that is known beforehand, with every column in its place."""
    return {
        "scan": known.slice.scan,
        "slice": known.slice.number,
        "volume": known.slice.title,
        "method": "",
        "perturbation": perturbation,
        "parameter": strain.parameter,
        "strength": strain.strength,
        "unit": strain.unit,
        **strain.attack_columns,
        "seed": seed,
        "outside_range": strain.outside_range,
        "reference": known.slice.reference,
        **dict.fromkeys(MEASURED),
        "error": "",
    }


def _compared(known: Baseline, method: str, image: Magnitude) -> dict[str, Any]:
    """Against the reference, and against what the method made of the unperturbed slice."""
    clean = np.abs(known.images[method])
    reference = clean if known.truth is None else known.truth
    noise_sd, pixel_mm = known.noise_sd, float(np.sqrt(known.pixel_mm[0] * known.pixel_mm[1]))
    against = image_metrics(image, reference, known.mask, noise_sd=noise_sd, pixel_mm=pixel_mm)
    since = structures(image, clean, known.mask, noise_sd=noise_sd, pixel_mm=pixel_mm)
    return {
        "psnr_db": against.psnr_db,
        "ssim": against.ssim,
        "nmse": against.nmse,
        "hfen": against.hfen,
        "n_appeared": against.n_appeared,
        "n_vanished": against.n_vanished,
        "nmse_to_clean": compare_with_truth(image, clean, known.mask).nmse,
        "n_appeared_since_clean": since.n_appeared,
        "n_vanished_since_clean": since.n_vanished,
    }


def _amplified(known: Baseline, method: str, image: Magnitude, trial: Trial) -> dict[str, Any]:
    """In units of the thermal noise; of an object that moved, what is left after moving the image back."""
    if not bool(torch.any(trial.delta != 0)):
        return {}
    times = amplification_of(image, np.abs(known.images[method]), trial.delta, known.problem)
    return {"amplification": times / known.thermal[method] if known.thermal[method] > 0 else None}


def _damage(known: Baseline, method: str, image: Complex64[np.ndarray, "y x"], strain: Strain) -> dict[str, Any]:
    """Where the change lies in k-space and in the image, and which lines would disarm the worst case."""
    problem = known.problem
    change = torch.from_numpy(image - known.images[method]).to(problem.kspace.device) / problem.scale
    by_line, by_region = (
        energy_by_line(change, problem.sense.maps),
        energy_by_region(change, tiles((change.shape[0], change.shape[1]))),
    )
    lines = disarming_lines(problem, change, N_DISARMING_LINES)
    return {
        "scan": known.slice.scan,
        "slice": known.slice.number,
        "method": method,
        **strain.attack_columns,
        "strength": strain.strength,
        "sampled": problem.sense.mask.any(1).int().tolist(),
        "line_energy": (by_line / max(by_line.sum(), 1e-300)).tolist(),
        "region_energy": (by_region / max(by_region.sum(), 1e-300)).tolist(),
        "disarming_lines": list(lines.lines),
        "share_left": list(lines.share_left),
    }


def _moved_back(image: Magnitude, clean: Magnitude, moved_by: perturb.Perturbation | None) -> Magnitude:
    """Register what moved onto the same method's clean image: being elsewhere is no error."""
    if moved_by is None:
        return image
    return register_to(clean, image, max_rotation_deg=abs(float(getattr(moved_by, "rotation_deg", 0.0)))).image


def _finite(value: Any) -> Any:
    """JSON knows no infinity: an image equal to its reference has no PSNR."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
