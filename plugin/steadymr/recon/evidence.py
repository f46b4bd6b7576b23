"""What speaks for or against an image besides repeated sampling, as plain numbers: larger is worse, 1 is the noise.

Samples of the posterior may all invent the same structure; then they agree, and their spread stays as it was. What is
computed here looks elsewhere: at the residual on the measured lines, at what no image under these coil maps could
explain, at where the samples differ. Lines that the reconstruction did not see: `steadymr.recon.withheld`. Meanings in
words: `steadymr.stability.evidence`.
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

BANDS = ("centre", "middle", "edge")  #: thirds of the distance from zero frequency, along k1
NULL_MODE = 1e-4  #: combinations of pixels that are measured with less than this weight count as not measured
CENTRE = 8  #: samples on each side of zero frequency where any coil that hears the object hears it well
POOLED_COLUMNS = 3  #: image columns whose misfit is judged together
PURE_NOISE = 0.1  #: of all modes: so many that fit as noise does are added to each class, so that chance has no say


@dataclass(frozen=True, slots=True)
class Findings:
    """Numbers by name, and for some of them the place where they were found, such as "coil 5"."""

    values: dict[str, float] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def __or__(self, other: Findings) -> Findings:
        """Both together."""
        return Findings(self.values | other.values, self.places | other.places)


def receiver_channels(kspace: KSpace, device: torch.device | str = "cpu") -> Complex64[Tensor, "coil coil2"]:
    """White channels to those of the receiver, each scaled to noise of standard deviation 1 per real channel."""
    factor = np.linalg.cholesky(kspace.noise_covariance)
    scale = np.sqrt(np.diagonal(kspace.noise_covariance).real)[:, None]
    return torch.from_numpy((factor / scale).astype(np.complex64)).to(device)


def deaf_coil_evidence(kspace: KSpace) -> Findings:
    """The noise's share in what the coil that hears least measured at the centre of k-space, where signals are strong.

    A dead element leaves data and maps consistent, so nothing else names it. Nothing is said if the centre is missing.
    """
    n_k1, n_k0 = kspace.data.shape[2:]
    lines, columns = (slice(max(n // 2 - CENTRE, 0), n // 2 + CENTRE) for n in (n_k1, n_k0))
    sampled = kspace.sampled[:, lines]
    if not sampled.any():
        return Findings()
    measured = kspace.data[:, :, lines, columns][:, sampled]
    noise = np.diagonal(kspace.noise_covariance).real / np.maximum(np.mean(np.abs(measured) ** 2, axis=(1, 2)), 1e-30)
    coil = int(noise.argmax())
    return Findings({"deaf_coil": float(noise[coil])}, {"deaf_coil": f"coil {coil}"})


def residual_evidence(
    problem: Problem, image: Complex64[Tensor, "y x"], colouring: Complex64[Tensor, "coil coil2"]
) -> Findings:
    """Squared residual on the measured samples over the noise's variance.

    In all, for the worst coil, for the worst band of k-space, and for the worst class of modes, see `_by_strength`.
    """
    mask = problem.sense.mask.expand(problem.kspace.shape[-2:])
    white = problem.kspace - problem.sense.forward(image)
    residual = square(torch.einsum("ij,jyx->iyx", colouring, white)) / (2 * problem.noise_sd**2)
    by_coil = residual[:, mask].mean(1)
    coil = int(by_coil.argmax())
    distance = (torch.arange(mask.shape[0], device=mask.device) - mask.shape[0] // 2).abs()
    third = (3 * distance // (mask.shape[0] // 2 + 1)).clamp_max(2)
    by_band = {
        name: float(residual[:, mask & (third == number)[:, None]].mean())
        for number, name in enumerate(BANDS)
        if bool((mask & (third == number)[:, None]).any())
    }
    band = max(by_band, key=lambda name: by_band[name])
    return Findings(
        {"residual": float(by_coil.mean()), "residual_coil": float(by_coil[coil]), "residual_band": by_band[band]},
        {"residual_coil": f"coil {coil}", "residual_band": f"the {band} of k-space"},
    ) | _by_strength(problem, white)


def _by_strength(problem: Problem, residual: Complex64[Tensor, "coil y x"]) -> Findings:
    """The residual by how strongly the object was measured there: in the modes of ``A^H A``, by decades.

    A small change of the data moves an image far only along modes that the coils hardly tell apart, and among many
    well measured ones it does not show. With the right prior each mode's residual is the noise's, less the share that
    the image follows; a class that fits better than the noise counts as 1, since strong modes do so by more or less.
    Where lines are incomplete columns mix, and nothing is said.
    """
    if not problem.sense.is_by_lines:
        return Findings()
    columns, noise = problem.sense.columns, 2 * problem.noise_sd**2
    known = columns.eigenvalues > NULL_MODE
    strength = columns.eigenvalues[known] / noise
    if not len(strength):
        return Findings()
    modes = columns.to_modes(problem.sense.adjoint(residual)[None])[..., 0][known]
    energy = square(modes) / (strength * noise**2)
    decades = strength.log10().floor().to(torch.int64)
    lowest, pure = int(decades.min()), PURE_NOISE * len(decades)
    by_class = (torch.bincount(decades - lowest, energy) + pure) / (torch.bincount(decades - lowest) + pure)
    worst = int(by_class.argmax())
    weakest, strongest = (float(f"{10 ** ((lowest + worst + end) / 2):.1g}") for end in (0, 1))
    place = f"patterns of pixels that stand {weakest:g} to {strongest:g} x above the noise"
    return Findings({"residual_mode": max(float(by_class[worst]), 1.0)}, {"residual_mode": place})


def misfit_evidence(problem: Problem) -> Findings:
    """What no image under these coil maps explains, over what noise leaves unexplained: in all, and in worst columns.

    Where whole lines are acquired each column x of the image is a system of its own, and least squares leave
    ``coils * lines - rank`` complex samples of pure noise, whatever the object is. More is the fault of the maps: an
    object that reaches over the edge of the field of view, a coil that moved, motion, a misplaced line. Where lines
    are incomplete columns mix, and nothing is said.
    """
    if not problem.sense.is_by_lines:
        return Findings()
    columns = problem.sense.columns
    known = columns.eigenvalues > NULL_MODE
    modes = columns.to_modes(problem.sense.adjoint(problem.kspace)[None])
    image = columns.from_modes(modes * (known / columns.eigenvalues.clamp_min(NULL_MODE))[..., None])[0]
    residual = ifft_centred(problem.kspace - problem.sense.forward(image), (-1,))
    energy = square(residual).sum((0, 1)) / (2 * problem.noise_sd**2)
    degrees = problem.kspace.shape[0] * int(problem.sense.mask.sum()) - known.sum(1)
    if not bool((degrees > 0).all()):
        return Findings()
    ratio = pooled(energy, POOLED_COLUMNS) / pooled(degrees.to(energy.dtype), POOLED_COLUMNS)
    column = int(ratio.argmax())
    return Findings(
        {"misfit": float(energy.sum() / degrees.sum()), "misfit_column": float(ratio[column])},
        {"misfit_column": f"column {column} of {len(ratio)}"},
    )


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
