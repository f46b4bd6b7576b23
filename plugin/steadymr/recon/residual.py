"""What an image leaves unexplained on the measured lines, against the known noise: larger is worse, 1 is the noise."""

from __future__ import annotations

import torch
from jaxtyping import Complex64
from torch import Tensor

from steadymr.recon.evidence import NULL_MODE, Findings
from steadymr.recon.moments import square, variances
from steadymr.recon.problem import Problem

BANDS = ("centre", "middle", "edge")  #: thirds of the distance from zero frequency, along k1
CLASSES = 2  #: of modes, in each decade of strength
PURE_NOISE = 0.02  #: of all modes: so many that fit as noise does are added to each class, so that chance has no say
LEAST_ALLOWED = 0.5  #: of the noise: an image that follows a mode more closely is not held to that
SINGULAR = 1e-4  #: lines whose signal sits in so narrow a range of k0 that phase and shift are one


def residual_evidence(
    problem: Problem,
    image: Complex64[Tensor, "y x"],
    samples: Complex64[Tensor, "sample y x"],
    colouring: Complex64[Tensor, "coil coil2"],
) -> Findings:
    """Squared residual on the measured samples over the noise's variance.

    In all, for the worst coil, for the worst band of k-space, for the worst class of modes, see `_by_strength`, and for
    what would bring each line in step with the image, see `_out_of_step`. ``samples`` of the posterior, drawn without
    redrawn noise, say how closely an image may follow the data; ``colouring`` is from `receiver_channels`.
    """
    mask = problem.sense.mask.expand(problem.kspace.shape[-2:])
    predicted = problem.sense.forward(image)
    white = problem.kspace - predicted
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
    findings = Findings(
        {"residual": float(by_coil.mean()), "residual_coil": float(by_coil[coil]), "residual_band": by_band[band]},
        {"residual_coil": f"coil {coil}", "residual_band": f"the {band} of k-space"},
    )
    return findings | _by_strength(problem, white, samples) | _out_of_step(problem, predicted, white)


def _by_strength(
    problem: Problem, residual: Complex64[Tensor, "coil y x"], samples: Complex64[Tensor, "sample y x"]
) -> Findings:
    """The residual by how strongly the object was measured there: in the modes of ``A^H A``, by half decades.

    A small change of the data moves an image far only along modes that the coils hardly tell apart, and among many
    well measured ones it does not show. An image follows the data's noise where they are surer than the prior: of a
    mode that is measured with strength s, one over the variance of its noise, the posterior's mean leaves the share
    ``1 - s v`` of the noise, v being the posterior's variance, if data and prior agree. Each class of modes is held to
    that, as the samples tell it; one with less residual than allowed counts as 1. Modes are those of objects that end
    with the support: with those of the air the weak ones would be half as many again, and a change that moves the
    object would drown among them. Where lines are incomplete columns mix, and nothing is said.
    """
    sense = problem.supported
    if not sense.is_by_lines:
        return Findings()
    columns, noise = sense.columns, 2 * problem.noise_sd**2
    known = columns.eigenvalues > NULL_MODE
    strength = columns.eigenvalues[known] / noise
    if not len(strength):
        return Findings()
    energy = square(columns.to_modes(sense.adjoint(residual)[None])[..., 0][known]) / (strength * noise**2)
    spread = variances(torch.stack([columns.to_modes(one[None])[..., 0][known] for one in samples]))[0]
    allowed = (1 - strength * spread).clamp(LEAST_ALLOWED, 1.0)
    classes = (CLASSES * strength.log10()).floor().to(torch.int64)
    lowest, pure = int(classes.min()), PURE_NOISE * len(classes)
    left, right = (torch.bincount(classes - lowest, one) + pure for one in (energy, allowed))
    by_class = left / right
    worst = int(by_class.argmax())
    weakest, strongest = (10 ** ((lowest + worst + end) / (2 * CLASSES)) for end in (0, 1))
    place = f"patterns of pixels that stand {weakest:.2g} to {strongest:.2g} x above the noise"
    return Findings({"residual_mode": max(float(by_class[worst]), 1.0)}, {"residual_mode": place})


def _out_of_step(
    problem: Problem, predicted: Complex64[Tensor, "coil y x"], residual: Complex64[Tensor, "coil y x"]
) -> Findings:
    """How much of the residual one phase and one shift along the readout for each line would explain, over the noise.

    Whatever changes between readouts, motion, breathing, a drifting field or receiver, turns lines against each other;
    to first order a line's residual is then ``i (phase + shift k0)`` times what the image predicts there. Two numbers a
    line are few, so that little of the noise gets in: 1 is the noise, less what the image itself follows.
    """
    n_x = predicted.shape[-1]
    k0 = (torch.arange(n_x, device=predicted.device) - n_x // 2) / n_x
    weight = square(predicted).sum(0)
    turned = (predicted.conj() * residual).imag.sum(0)
    a, b, c = ((weight * k0**power).sum(-1) for power in range(3))
    u, v = ((turned * k0**power).sum(-1) for power in range(2))
    determinant = a * c - b**2
    known = determinant > SINGULAR * a * c
    if not bool(known.any()):
        return Findings()
    explained = ((c * u**2 - 2 * b * u * v + a * v**2)[known] / determinant[known]) / problem.noise_sd**2
    distance = int(known.nonzero()[explained.argmax()]) - len(known) // 2
    place = f"{abs(distance)} lines {'after' if distance > 0 else 'before'} the centre of k-space"
    return Findings({"out_of_step": float(explained.mean()) / 2}, {"out_of_step": place})
