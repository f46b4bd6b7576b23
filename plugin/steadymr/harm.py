"""Scans that are harmed on purpose: what a calibration learns from about errors that all samples share.

On clean scans every piece of evidence follows the error, and so does the samples' spread. Only where an image is wrong
for another reason than missing lines can it be learned which evidence tells: imperfections of the scanner, more noise
than the noise scan knows of, and small changes crafted to move the image far.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import torch

from steadymr import perturb
from steadymr.models import Models
from steadymr.perturb.base import parameters_of
from steadymr.perturb.catalogue import PERTURBATIONS, build
from steadymr.recon.problem import prepare
from steadymr.recon.vulnerability import crafted
from steadymr.types import KSpace
from steadymr.volume.planes import Plane

BUDGETS: Final = (0.005, 0.04)  #: of worst cases, relative L2 norm; drawn evenly in the logarithm
SHARES: Final = (0.3, 1.0)  #: of an imperfection's plausible range
NOISE_SHARES: Final = (0.1, 0.5)
NOISE: Final = "thermal_noise"
KINDS: Final = ("worst case", "worst case", NOISE)  #: beside an imperfection
IMPERFECTIONS: Final = tuple(name for name in PERTURBATIONS if name != NOISE)


def harmed_planes(kspace: KSpace, models: Models, number: int, rng: np.random.Generator) -> Iterator[tuple[str, Plane]]:
    """Planes of a volume after an imperfection, and again after a worst case or with more noise; the harm's name first.

    Which goes round with ``number``; all else is drawn from ``rng``. Imperfections are many and each tells of itself in
    another way, so every volume has one. Worst cases are crafted on the prior, see `steadymr.recon.vulnerability`.
    """
    name, kind = IMPERFECTIONS[number % len(IMPERFECTIONS)], KINDS[number % len(KINDS)]
    for plane in _perturbed(kspace, models, name, SHARES, rng):
        yield name, plane
    if kind == NOISE:
        others = _perturbed(kspace, models, NOISE, NOISE_SHARES, rng)
    else:
        others = _worst_cases(kspace, models, rng)
    for plane in others:
        yield kind, plane


def imperfection(name: str, share: float) -> perturb.Perturbation:
    """One imperfection with all its strengths at a share of their plausible range; counts are 1 at least."""
    kind = PERTURBATIONS[name]
    strengths = perturb.strengths_of(kind)
    facts = {key: value for key, value in parameters_of(kind).items() if key in strengths}
    values = {key: value.low + share * (value.high - value.low) for key, value in facts.items()}
    whole_ones = {key for key, value in facts.items() if value.whole}
    return build(name, {key: float(max(1, round(v))) if key in whole_ones else v for key, v in values.items()})


def _perturbed(
    kspace: KSpace, models: Models, name: str, shares: tuple[float, float], rng: np.random.Generator
) -> Iterator[Plane]:
    change = imperfection(name, float(rng.uniform(*shares)))
    changed = perturb.apply(kspace, (change,), int(rng.integers(2**31)))
    for problem in prepare(changed, device=models.device):
        yield Plane(changed, problem)


def _worst_cases(kspace: KSpace, models: Models, rng: np.random.Generator) -> Iterator[Plane]:
    if models.prior is None:
        raise ValueError("worst cases are crafted on the prior, which load_models loads when settings ask for samples")
    for problem in prepare(kspace, device=models.device):
        budget = math.exp(rng.uniform(*np.log(BUDGETS)))
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        (changed,) = crafted(problem, models.prior, budget=budget, n_draws=1, generator=generator)
        yield Plane(kspace, changed)
