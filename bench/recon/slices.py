"""Held-out simulated slices as the product sees them: scan, file, assembly, coil maps, all real; the truth is known."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from steadymr.assemble import assemble
from steadymr.recon.coils import combine_coils
from steadymr.recon.noise import whitening_matrix
from steadymr.recon.operators import fft_centred
from steadymr.recon.problem import Problem, prepare
from steadymr.simulate.scan import simulate_scan
from steadymr.source.replay import open_scan
from steadymr.stability.metrics import tissue_mask
from steadymr.types import KSpace
from steadymr.undersample import undersample

CONTRASTS = ("t1", "t2", "flair", "pd")


@dataclass(frozen=True)
class Recipe:
    """One slice; all methods see the same mask and noise."""

    subject: int
    purpose: str
    acceleration: int
    contrast: str
    matrix: int
    pixel_mm: float
    n_coils: int
    n_calibration: int
    signal_to_noise: float

    @property
    def key(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Slice:
    problem: Problem
    truth: torch.Tensor  #: (y x) complex, noiseless, in the problem's unit
    mask: torch.Tensor  #: (y x) tissue
    residual_of_truth: float  #: |y - A truth|^2 over what noise alone makes: above 1 the coil maps err
    unseen_noise: float = 0.0  #: variance, per pixel, of the truth's own noise on lines that no method was given


def recipes(n_slices: int, purpose: str, matrices: tuple[int, ...], accelerations: tuple[int, ...]) -> list[Recipe]:
    """Subjects in turn, contrasts and sizes alternating; every slice at every acceleration. Field of view 230 mm."""
    return [
        Recipe(
            subject=number,
            purpose=purpose,
            acceleration=acceleration,
            contrast=CONTRASTS[number % len(CONTRASTS)],
            matrix=(matrix := matrices[(number // len(CONTRASTS)) % len(matrices)]),
            pixel_mm=round(230 / matrix, 3),
            n_coils=8,
            n_calibration=24,
            signal_to_noise=40.0,
        )
        for number in range(n_slices)
        for acceleration in accelerations
    ]


def make(recipe: Recipe) -> Slice:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.h5"
        simulated = simulate_scan(
            path,
            seed=recipe.subject,
            purpose=recipe.purpose,
            n_coils=recipe.n_coils,
            matrix=(recipe.matrix, recipe.matrix),
            pixel_mm=recipe.pixel_mm,
            acceleration=recipe.acceleration,
            n_calibration=recipe.n_calibration,
            signal_to_noise=recipe.signal_to_noise,
            contrast=recipe.contrast,
        )
        kspace = _first_volume(path)
    (problem,) = prepare(kspace)
    white = whitening_matrix(kspace.noise_covariance).astype(np.complex64)
    clean = fft_centred(torch.from_numpy(np.einsum("cd,dyx->cyx", white, simulated.coil_maps * simulated.images[0])))
    return _judged(problem, combine_coils(clean / problem.scale, problem.supported.maps))


def from_file(path: Path, acceleration: int, n_calibration: int) -> Slice:
    """A fully sampled file, undersampled; the truth is its own coil combination, noise included.

    With maps of unit norm, the noise on the missing share of the lines has that share of the whole variance in a pixel.
    """
    full = _first_volume(path)
    (problem,) = prepare(undersample(full, acceleration, n_calibration))
    white = whitening_matrix(full.noise_covariance).astype(np.complex64)
    kspace = torch.from_numpy(np.einsum("cd,dyx->cyx", white, full.data[:, 0]))
    judged = _judged(problem, combine_coils(kspace / problem.scale, problem.supported.maps))
    missing = 1 - float(problem.sense.mask.expand(judged.truth.shape).float().mean())
    return replace(judged, unseen_noise=2 * float(problem.noise_sd) ** 2 * missing)


def _first_volume(path: Path) -> KSpace:
    with open_scan(path) as scan:
        return next(iter(assemble(scan.readouts(), scan.header)))


def _judged(problem: Problem, truth: torch.Tensor) -> Slice:
    left = (problem.kspace - problem.sense.forward(truth)).abs().square().sum()
    n_measured = int(problem.sense.mask.expand(truth.shape).sum()) * problem.kspace.shape[0]
    mask = torch.from_numpy(tissue_mask(truth.abs().numpy(), noise_sd=float(problem.noise_sd)))
    return Slice(problem, truth, mask, float(left / (2 * problem.noise_sd**2 * n_measured)))
