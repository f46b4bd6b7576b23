"""What speaks for or against an image besides repeated sampling, as plain numbers: larger is worse, 1 is the noise.

Samples of the posterior may all invent the same structure; then they agree, and their spread stays as it was. What is
computed here looks elsewhere: at what no image under these coil maps could explain, at coils that hear nothing, at
where the samples differ. What an image leaves unexplained on the measured lines: `steadymr.recon.residual`. Lines that
the reconstruction did not see: `steadymr.recon.withheld`. Meanings in words: `steadymr.stability.evidence`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Complex64
from torch import Tensor

from steadymr.recon.moments import pooled, square, variances
from steadymr.recon.noise import complex_normal
from steadymr.recon.operators import Sense, ifft_centred
from steadymr.recon.problem import Problem
from steadymr.types import KSpace

NULL_MODE = 1e-4  #: combinations of pixels that are measured with less than this weight count as not measured
CENTRE = 8  #: samples on each side of zero frequency where any coil that hears the object hears it well
HEARS = 0.1  #: a coil of whose signal noise makes less is not deaf, and how much less says nothing
FREEDOM = 0.25  #: of its measured samples a column keeps at least so many that its image cannot follow
POOLED_COLUMNS = 3  #: image columns whose misfit is judged together


@dataclass(frozen=True, slots=True)
class Findings:
    """Numbers by name, and for some of them the place where they were found, such as "coil 5"."""

    values: dict[str, float] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def __or__(self, other: Findings) -> Findings:
        """Both together."""
        return Findings(self.values | other.values, self.places | other.places)


def deaf_coil_evidence(kspace: KSpace) -> Findings:
    """The noise's share in what the coil that hears least measured at the centre of k-space, where signals are strong.

    A dead element leaves data and maps consistent, so nothing else names it. Shares below ``HEARS`` count as that:
    how far a coil lies from the object is not a fault. Nothing is said if the centre is missing.
    """
    n_k1, n_k0 = kspace.data.shape[2:]
    lines, columns = (slice(max(n // 2 - CENTRE, 0), n // 2 + CENTRE) for n in (n_k1, n_k0))
    sampled = kspace.sampled[:, lines]
    if not sampled.any():
        return Findings()
    measured = kspace.data[:, :, lines, columns][:, sampled]
    noise = np.diagonal(kspace.noise_covariance).real / np.maximum(np.mean(np.abs(measured) ** 2, axis=(1, 2)), 1e-30)
    coil = int(noise.argmax())
    return Findings({"deaf_coil": max(float(noise[coil]), HEARS)}, {"deaf_coil": f"coil {coil}"})


def misfit_evidence(problem: Problem) -> Findings:
    """What no image under these coil maps explains, over what noise leaves unexplained: in all, and in worst columns.

    Where whole lines are acquired each column x of the image is a system of its own, and least squares leave
    ``coils * lines - rank`` complex samples of pure noise, whatever the object is. More is the fault of the maps: an
    object that reaches over the edge of the field of view, a coil that moved, motion, a misplaced line. Where so few
    samples are left that chance would have its way, the image ends with the object's support. Where lines are
    incomplete columns mix, and nothing is said.
    """
    if not problem.sense.is_by_lines:
        return Findings()
    n_samples = problem.kspace.shape[0] * int(problem.sense.mask.sum())
    sense = problem.sense if _freedom(problem.sense, n_samples) >= FREEDOM else problem.supported
    if not _freedom(sense, n_samples) > 0:
        return Findings()
    columns = sense.columns
    known = columns.eigenvalues > NULL_MODE
    modes = columns.to_modes(sense.adjoint(problem.kspace)[None])
    image = columns.from_modes(modes * (known / columns.eigenvalues.clamp_min(NULL_MODE))[..., None])[0]
    residual = ifft_centred(problem.kspace - sense.forward(image), (-1,))
    energy = square(residual).sum((0, 1)) / (2 * problem.noise_sd**2)
    degrees = n_samples - known.sum(1)
    ratio = pooled(energy, POOLED_COLUMNS) / pooled(degrees.to(energy.dtype), POOLED_COLUMNS)
    column = int(ratio.argmax())
    return Findings(
        {"misfit": float(energy.sum() / degrees.sum()), "misfit_column": float(ratio[column])},
        {"misfit_column": f"column {column} of {len(ratio)}"},
    )


def _freedom(sense: Sense, n_samples: int) -> float:
    """The share of a column's measured samples that no image can follow, in the column that has fewest of them."""
    known = (sense.columns.eigenvalues > NULL_MODE).sum(1)
    return float((n_samples - known).min()) / max(n_samples, 1)


def dispersion_evidence(problem: Problem, samples: Complex64[Tensor, "sample y x"]) -> Findings:
    """The samples' variance in k-space: where it was measured, over the noise's; elsewhere, over the image's energy.

    The first stays at or below the noise, the second is what undersampling leaves open (arXiv 2606.28448).
    """
    deviation, n = samples - samples.mean(0), len(samples)
    everywhere = float(square(deviation).sum()) / n
    measured = float((deviation.conj() * problem.sense.normal(deviation)).real.sum()) / n
    n_measured = problem.kspace.shape[0] * int(problem.sense.mask.expand(problem.kspace.shape[-2:]).sum())
    return Findings(
        {
            "dispersion_measured": measured / (n_measured * 2 * float(problem.noise_sd) ** 2),
            "dispersion_unmeasured": max(everywhere - measured, 0.0) / float(square(samples.mean(0)).sum()),
        }
    )


def tempering_evidence(samples: Complex64[Tensor, "sample y x"], tempered: Complex64[Tensor, "fewer y x"]) -> Findings:
    """How far the mean moves, relative to the samples' spread, when the noise is said to be stronger than it is."""
    spread = variances(samples)[0].sum()
    return Findings({"tempering": float((square(samples.mean(0) - tempered.mean(0)).sum() / spread).sqrt())})


def tempered(problem: Problem, factor: float = 3.0) -> Problem:
    """The same data, its noise said to be ``factor`` times as strong."""
    return replace(problem, noise_sd=problem.noise_sd * factor)


def cyclic_evidence(
    problem: Problem,
    image: Complex64[Tensor, "y x"],
    reconstruct: Callable[[Problem], Complex64[Tensor, "y x"]],
    generator: torch.Generator,
) -> Findings:
    """Measure the image again on other lines, reconstruct, and compare on the lines that were acquired.

    Cyclic measurement consistency (arXiv 2501.01908). The other lines lie half-way between the acquired ones; those
    of the central block stay.
    """
    mask = _other_lines(problem.sense.mask)
    sense = Sense(problem.sense.maps, mask)
    noise = complex_normal(tuple(problem.kspace.shape), generator, problem.kspace.device) * problem.noise_sd
    again = replace(problem, sense=sense, kspace=sense.forward(image) + noise * mask)
    residual = problem.kspace - problem.sense.forward(reconstruct(again))
    n_samples = problem.kspace.shape[0] * int(problem.sense.mask.expand(problem.kspace.shape[-2:]).sum())
    return Findings({"cyclic": float(square(residual).sum() / (n_samples * 2 * problem.noise_sd**2))})


def _other_lines(mask: Bool[Tensor, "y #x"]) -> Bool[Tensor, "y #x"]:
    """The mask moved to the middle of its gaps; its gapless centre stays."""
    lines = mask.any(1).cpu().numpy()
    places = np.flatnonzero(lines)
    step = int(np.bincount(np.diff(places)).argmax()) if (np.diff(places) == 1).all() else int(np.diff(places).max())
    centre = lines & np.roll(lines, 1) & np.roll(lines, -1)
    moved = np.roll(lines & ~centre, step // 2) | centre | np.roll(centre, 1) | np.roll(centre, -1)
    return torch.from_numpy(moved).to(mask.device)[:, None] & mask.any(0)[None]
