"""What speaks for or against an image besides repeated sampling, as plain numbers: larger is worse, 1 is the noise.

Samples of the posterior may all invent the same structure; then they agree, and their spread stays as it was. What is
computed here looks elsewhere: at measured lines that the reconstruction did not see, at the residual on those it saw,
and at what no image under these coil maps could explain. Meanings in words: `steadymr.stability.evidence`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float, Int64
from scipy import stats
from torch import Tensor

from steadymr.recon.noise import complex_normal
from steadymr.recon.operators import Sense, fft_centred, ifft_centred
from steadymr.recon.problem import Problem, whitened_slice
from steadymr.types import KSpace

POOLED_SAMPLES = 5  #: neighbours along the readout that share one variance, since samples are few
BANDS = ("centre", "middle", "edge")  #: thirds of the distance from zero frequency, along k1
NULL_MODE = 1e-4  #: combinations of pixels that are measured with less than this weight count as not measured
CLEAN_SCATTER = 0.06  #: of the statistic's logarithm over 88 clean scans of 22 heads for calibration, whose median is 0
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


@dataclass(frozen=True, slots=True, eq=False)
class Sentinels:
    """Withheld lines of one slice, in the problem's unit, and how its white channels become the receiver's."""

    lines: Int64[np.ndarray, " line"]  #: index along y
    steps: tuple[int, ...]  #: the same lines as the scanner counts them
    columns: tuple[int, int]  #: acquired samples of each, half-open
    kspace: Complex64[Tensor, "coil line x"]


def sentinels_of(kspace: KSpace, problem: Problem) -> Sentinels | None:
    """The sentinel lines of the problem's slice; None if the scan has none."""
    if kspace.sentinel is None:
        return None
    lines = np.flatnonzero(kspace.sentinel.any(axis=0))
    n_k1, limits = kspace.data.shape[2], kspace.header.k1_limits
    first = 0 if limits is None else limits.centre - n_k1 // 2
    measured = whitened_slice(kspace, problem.z, lines).to(problem.kspace.device) / problem.scale
    return Sentinels(lines, tuple(int(line) + first for line in lines), kspace.k0_range, measured)


def receiver_channels(kspace: KSpace, device: torch.device | str = "cpu") -> Complex64[Tensor, "coil coil2"]:
    """White channels to those of the receiver, each scaled to noise of standard deviation 1 per real channel."""
    factor = np.linalg.cholesky(kspace.noise_covariance)
    scale = np.sqrt(np.diagonal(kspace.noise_covariance).real)[:, None]
    return torch.from_numpy((factor / scale).astype(np.complex64)).to(device)


def predicted_lines(
    problem: Problem, images: Complex64[Tensor, "sample y x"], lines: Int64[np.ndarray, " line"]
) -> Complex64[Tensor, "sample coil line x"]:
    """What the coils would measure on some lines if the object were as in the images."""
    n_y = images.shape[-2]
    cycles = np.outer(lines - n_y // 2, np.arange(n_y) - n_y // 2) / n_y
    rows = torch.from_numpy((np.exp(-2j * np.pi * cycles) / np.sqrt(n_y)).astype(np.complex64)).to(images.device)
    maps = problem.sense.maps
    along_y = torch.stack([torch.einsum("ly,cyx->clx", rows, maps * image) for image in images])
    return fft_centred(along_y, (-1,))


def sentinel_evidence(
    problem: Problem,
    sentinels: Sentinels,
    samples: Complex64[Tensor, "sample y x"],
    colouring: Complex64[Tensor, "coil coil2"],
    generator: torch.Generator,
) -> Findings:
    """Compare withheld lines with the posterior predictive distribution, given by samples from the measured data.

    The statistic is the squared deviation from the samples' mean over the variance expected of it,
    ``2 s^2 + v + w``, with s the noise per real channel, v the samples' variance and w that of their mean, averaged
    over a line's samples and coils. It is 1 if the truth is one more sample. Coils and neighbouring samples are
    correlated, so its scatter is not that of a chi-square: each sample in turn, with noise added, takes the
    measurement's place among the other pairs, and the logarithm of the measured statistic is held against those by
    Student's t, see `p_value`.

    Args:
        problem: as it was reconstructed, without the sentinels.
        sentinels: the withheld lines.
        samples: at least three, drawn without redrawn noise.
        colouring: from `receiver_channels`.
        generator: the source of the noise that is added.
    """
    predicted = _predicted(problem, sentinels, samples)
    measured = _acquired(sentinels.kspace, sentinels)
    ratio = deviation(measured, predicted, problem.noise_sd)
    others = left_out(predicted, problem.noise_sd, generator)
    by_line, by_coil = ratio.mean((0, 2)), _deviation_by_coil(measured, predicted, problem.noise_sd, colouring)
    line, coil = int(by_line.argmax()), int(by_coil.argmax())
    statistic = float(ratio.mean())
    return Findings(
        {"sentinel": statistic, "sentinel_line": float(by_line[line]), "sentinel_coil": float(by_coil[coil])},
        {
            "sentinel": f"p = {p_value(statistic, others):.2g} on clean scans",
            "sentinel_line": f"line {sentinels.steps[line]}",
            "sentinel_coil": f"coil {coil}",
        },
    )


def joined(problem: Problem, sentinels: Sentinels) -> Problem:
    """The problem with the sentinels among its data, for an image that is made after the test."""
    first, end = sentinels.columns
    mask, data = problem.sense.mask.clone(), problem.kspace.clone()
    lines = torch.from_numpy(sentinels.lines).to(mask.device)
    mask[lines] = mask.any(0)
    data[:, lines, first:end] = sentinels.kspace[..., first:end]
    return replace(problem, sense=Sense(problem.sense.maps, mask), kspace=data)


def sentinel_deviation(
    problem: Problem,
    sentinels: Sentinels,
    image: Complex64[Tensor, "y x"],
    samples: Complex64[Tensor, "sample y x"],
) -> Findings:
    """The same statistic for one image: its squared deviation from the withheld lines, over what samples allow."""
    predicted = _predicted(problem, sentinels, samples)
    by_image = _acquired(predicted_lines(problem, image[None], sentinels.lines)[0], sentinels)
    difference = _square(_acquired(sentinels.kspace, sentinels) - by_image)
    return Findings({"sentinel_image": float((difference / _expected(predicted, problem.noise_sd)).mean())})


def residual_evidence(
    problem: Problem, image: Complex64[Tensor, "y x"], colouring: Complex64[Tensor, "coil coil2"]
) -> Findings:
    """Squared residual on the measured samples over the noise's variance.

    In all, for the worst coil, for the worst band of k-space, and for the worst class of modes, see `_by_strength`.
    """
    mask = problem.sense.mask.expand(problem.kspace.shape[-2:])
    white = problem.kspace - problem.sense.forward(image)
    residual = _square(torch.einsum("ij,jyx->iyx", colouring, white)) / (2 * problem.noise_sd**2)
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
    energy = _square(modes) / (strength * noise**2)
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
    energy = _square(residual).sum((0, 1)) / (2 * problem.noise_sd**2)
    degrees = problem.kspace.shape[0] * int(problem.sense.mask.sum()) - known.sum(1)
    if not bool((degrees > 0).all()):
        return Findings()
    pooled = _pooled(energy, POOLED_COLUMNS) / _pooled(degrees.to(energy.dtype), POOLED_COLUMNS)
    column = int(pooled.argmax())
    return Findings(
        {"misfit": float(energy.sum() / degrees.sum()), "misfit_column": float(pooled[column])},
        {"misfit_column": f"column {column} of {len(pooled)}"},
    )


def dispersion_evidence(problem: Problem, samples: Complex64[Tensor, "sample y x"]) -> Findings:
    """The samples' variance in k-space: where it was measured, over the noise's; elsewhere, over the image's energy.

    The first stays at or below the noise, the second is what undersampling leaves open (arXiv 2606.28448).
    """
    deviation, n = samples - samples.mean(0), len(samples)
    everywhere = float(_square(deviation).sum()) / n
    measured = float((deviation.conj() * problem.sense.normal(deviation)).real.sum()) / n
    n_measured = problem.kspace.shape[0] * int(problem.sense.mask.expand(problem.kspace.shape[-2:]).sum())
    return Findings(
        {
            "dispersion_measured": measured / (n_measured * 2 * float(problem.noise_sd) ** 2),
            "dispersion_unmeasured": max(everywhere - measured, 0.0) / float(_square(samples.mean(0)).sum()),
        }
    )


def tempering_evidence(samples: Complex64[Tensor, "sample y x"], tempered: Complex64[Tensor, "fewer y x"]) -> Findings:
    """How far the mean moves, relative to the samples' spread, when the noise is said to be stronger than it is."""
    spread = variances(samples)[0].sum()
    return Findings({"tempering": float((_square(samples.mean(0) - tempered.mean(0)).sum() / spread).sqrt())})


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
    return Findings({"cyclic": float(_square(residual).sum() / (n_samples * 2 * problem.noise_sd**2))})


def _other_lines(mask: Bool[Tensor, "y #x"]) -> Bool[Tensor, "y #x"]:
    """The mask moved to the middle of its gaps; its gapless centre stays."""
    lines = mask.any(1).cpu().numpy()
    places = np.flatnonzero(lines)
    step = int(np.bincount(np.diff(places)).argmax()) if (np.diff(places) == 1).all() else int(np.diff(places).max())
    centre = lines & np.roll(lines, 1) & np.roll(lines, -1)
    moved = np.roll(lines & ~centre, step // 2) | centre | np.roll(centre, 1) | np.roll(centre, -1)
    return torch.from_numpy(moved).to(mask.device)[:, None] & mask.any(0)[None]


def variances(
    samples: Complex64[Tensor, "sample *axes"],
) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
    """The variance of one sample and that of the samples' mean, unbiased whether pairs are opposite or independent.

    Samples come in antithetic pairs, see `steadymr.recon.noise.antithetic_normal`: their mean is surer than that of
    as many independent ones, and by how much is seen from the means of pairs. A single pair does not tell, and counts
    as exactly opposite.
    """
    n_pairs = len(samples) // 2
    of_mean = torch.zeros_like(samples[0].real)
    if n_pairs > 1:
        of_pairs = (samples[: 2 * n_pairs : 2] + samples[1 : 2 * n_pairs : 2]) / 2
        of_mean = _square(of_pairs - of_pairs.mean(0)).sum(0) / (n_pairs * (n_pairs - 1))
    return _square(samples - samples.mean(0)).mean(0) + of_mean, of_mean


def _predicted(
    problem: Problem, sentinels: Sentinels, samples: Complex64[Tensor, "sample y x"]
) -> Complex64[Tensor, "sample coil line x2"]:
    return _acquired(predicted_lines(problem, samples, sentinels.lines), sentinels)


def _acquired(
    lines: Complex64[Tensor, "*sample coil line x"], sentinels: Sentinels
) -> Complex64[Tensor, "*sample coil line x2"]:
    return lines[..., slice(*sentinels.columns)]


def _expected(
    predicted: Complex64[Tensor, "sample coil line x"], noise_sd: Float[Tensor, ""]
) -> Float[Tensor, "coil line x"]:
    """Variance of a measurement about the samples' mean; the samples' own is averaged over neighbours."""
    variance, of_mean = variances(predicted)
    return 2 * noise_sd**2 + _pooled(variance + of_mean, POOLED_SAMPLES)


def deviation(
    measured: Complex64[Tensor, "coil line x"],
    predicted: Complex64[Tensor, "sample coil line x"],
    noise_sd: Float[Tensor, ""],
) -> Float[Tensor, "coil line x"]:
    """Squared deviation of a measurement from the samples' mean, over its expected variance."""
    return _square(measured - predicted.mean(0)) / _expected(predicted, noise_sd)


def _deviation_by_coil(
    measured: Complex64[Tensor, "coil line x"],
    predicted: Complex64[Tensor, "sample coil line x"],
    noise_sd: Float[Tensor, ""],
    colouring: Complex64[Tensor, "coil coil2"],
) -> Float[Tensor, "coil"]:
    received, expected = (torch.einsum("ij,...jlx->...ilx", colouring, lines) for lines in (measured, predicted))
    return deviation(received, expected, noise_sd).mean((1, 2))


def left_out(
    predicted: Complex64[Tensor, "sample coil line x"], noise_sd: Float[Tensor, ""], generator: torch.Generator
) -> list[float]:
    """The statistic of each sample, taken as the truth and measured with noise, against the other pairs.

    Of three samples only the one itself is taken out: two must be left to say how far they spread.
    """
    noise = complex_normal(tuple(predicted.shape), generator, predicted.device) * noise_sd
    width = 2 if len(predicted) > 3 else 1
    firsts = [width * (i // width) for i in range(len(predicted))]
    others = [torch.cat([predicted[:first], predicted[first + width :]]) for first in firsts]
    return [float(deviation(predicted[i] + noise[i], rest, noise_sd).mean()) for i, rest in enumerate(others)]


def p_value(statistic: float, left_out: list[float], *, scatter: float = CLEAN_SCATTER) -> float:
    """Probability of so large a statistic on a clean scan.

    If the truth were one more sample, its statistic would be like the samples' own, taken in turn. No prior is that
    good: ``scatter`` is the standard deviation of the logarithm from clean scan to clean scan. Never below 1e-12: so
    far out Student's distribution is a figure of speech.
    """
    logs = np.log(left_out)
    scale = ((max(float(logs.var(ddof=1)), 4e-4) + scatter**2) * (1 + 1 / len(logs))) ** 0.5
    return max(float(stats.t.sf((np.log(statistic) - logs.mean()) / scale, len(logs) - 1)), 1e-12)


def _pooled(values: Float[Tensor, "*axes"], width: int) -> Float[Tensor, "*axes"]:
    """Mean over ``width`` neighbours along the last axis, fewer at its ends."""
    flat = values.reshape(-1, 1, values.shape[-1])
    mean = torch.nn.functional.avg_pool1d(flat, width, 1, width // 2, count_include_pad=False)
    return mean.reshape(values.shape)


def _square(values: Complex64[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    return values.real.square() + values.imag.square()
