"""The evidence beside repeated sampling, gathered for one plane and for each image made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float32

from steadymr.recon import evidence as found
from steadymr.recon.evidence import Findings
from steadymr.recon.problem import Problem, receiver_channels
from steadymr.recon.residual import residual_evidence
from steadymr.recon.withheld import Sentinels, joined, sentinel_deviation, sentinel_evidence, sentinels_of
from steadymr.stability import evidence as words
from steadymr.stability.metrics import tissue_mask
from steadymr.types import Image
from steadymr.volume.fallback import LEARNED_FAILURES, Deadline, sentence
from steadymr.volume.planes import Plane, Run, seed_for
from steadymr.volume.sampling import Draws, sampled
from steadymr.volume.vulnerable import Moved, vulnerability

Magnitude = Float32[np.ndarray, "z=1 y x"]
PAIR = 2  #: opposite samples, whose mean is nearly that of many


@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    """What is known of one plane before any of its images is looked at."""

    findings: Findings = field(default_factory=Findings)
    magnitudes: Mapping[str, Magnitude] = field(default_factory=dict)  #: the image of each method
    mask: Bool[np.ndarray, "y x"] | None = None  #: tissue; None where there is none
    moved: Mapping[str, Moved] = field(default_factory=dict)  #: how far each method's image can be moved, if asked
    missing: tuple[str, ...] = ()  #: evidence that was asked for and could not be had, in words


def examine_plane(
    plane: Plane, run: Run, draws: Draws, magnitudes: Mapping[str, Magnitude], deadline: Deadline
) -> Examination:
    """What is the same for all images of a plane: sentinels, misfit of the coil maps, differences of the samples."""
    problem, samples = plane.problem, measured_samples(draws)
    findings = found.deaf_coil_evidence(plane.kspace) | found.misfit_evidence(problem)
    findings |= found.dispersion_evidence(problem, samples)
    sentinels = sentinels_of(plane.kspace, problem)
    if sentinels is not None:
        colouring, generator = receiver_channels(plane.kspace, run.models.device), _generator(plane, run, "test")
        findings |= sentinel_evidence(problem, sentinels, samples, colouring, generator)
    mask = tissue_mask(draws.samples.data.mean(axis=0)[0])
    if mask.any():
        findings |= Findings({"differing_samples": words.differing_samples(draws.samples.data[:, 0], mask)})
    missing = []
    for wanted, name, look in (
        (run.settings.stability.tempered, "tempering", _tempering),
        (run.settings.stability.cyclic, "cyclic consistency", _cyclic),
    ):
        try:
            findings |= look(plane, run, samples, deadline) if wanted else Findings()
        except LEARNED_FAILURES as error:
            missing.append(f"the evidence from {name} is missing: {sentence(error)}")
    everything = {"diffusion": draws.mean, **magnitudes}
    moved: Mapping[str, Moved] = {}
    try:
        moved = vulnerability(plane, run, mask, _pixel_mm(plane), deadline) if mask.any() else {}
    except LEARNED_FAILURES as error:
        missing.append(f"the vulnerability is missing: {sentence(error)}")
    return Examination(findings, everything, mask if mask.any() else None, moved, tuple(missing))


def examine_image(
    plane: Plane, draws: Draws, values: Complex64[torch.Tensor, "y x"], image: Image, examination: Examination
) -> Findings:
    """What is known of the plane, and of one image: its residual, what it predicts for sentinels, who differs from it.

    ``values`` are those that the image is the magnitude of, on the encoded grid in the problem's unit.
    """
    problem = plane.problem
    colouring = receiver_channels(plane.kspace, problem.kspace.device)
    samples = measured_samples(draws)
    findings = examination.findings | residual_evidence(problem, values, samples, colouring)
    sentinels = sentinels_of(plane.kspace, problem)
    if sentinels is not None:
        findings |= sentinel_deviation(problem, sentinels, values, samples)
    if image.method in examination.moved:
        findings |= Findings({"vulnerability": examination.moved[image.method].amplification})
    mask = examination.mask
    if mask is None:
        return findings
    others = {name: other for name, other in examination.magnitudes.items() if name != image.method}
    return findings | Findings(
        {f"differs_{name}": words.difference(image.data[0], other[0], mask) for name, other in others.items()}
    )


def measured_samples(draws: Draws) -> Complex64[torch.Tensor, "sample y x"]:
    """The samples drawn from the data as they were measured, without redrawn noise."""
    return draws.images[: int((~draws.samples.noise_redrawn).sum())]


def with_sentinels(plane: Plane) -> Plane | None:
    """The plane with its sentinels among the data; None if it has none."""
    sentinels: Sentinels | None = sentinels_of(plane.kspace, plane.problem)
    return None if sentinels is None else Plane(plane.kspace, joined(plane.problem, sentinels))


def _tempering(plane: Plane, run: Run, samples: Complex64[torch.Tensor, "sample y x"], deadline: Deadline) -> Findings:
    """One more pair of samples, from the same data with their noise said to be stronger."""
    drawn = sampled(found.tempered(plane.problem), run, deadline, _generator(plane, run, "temper"), PAIR)
    return found.tempering_evidence(samples, drawn)


def _cyclic(plane: Plane, run: Run, samples: Complex64[torch.Tensor, "sample y x"], deadline: Deadline) -> Findings:
    def reconstruct(problem: Problem) -> Complex64[torch.Tensor, "y x"]:
        return sampled(problem, run, deadline, _generator(plane, run, "cycle"), PAIR).mean(0)

    generator = _generator(plane, run, "measure again")
    return found.cyclic_evidence(plane.problem, samples.mean(0), reconstruct, generator)


def _pixel_mm(plane: Plane) -> tuple[float, float]:
    recon = plane.kspace.header.recon
    return recon.fov_mm_xyz[1] / recon.matrix_xyz[1], recon.fov_mm_xyz[0] / recon.matrix_xyz[0]


def _generator(plane: Plane, run: Run, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_for(run.settings.seed, plane.kspace, purpose, plane.problem.z))
