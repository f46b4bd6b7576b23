"""Sentinel lines of one slice: what the samples predict there, and how far the measurement lies from it.

Samples of the posterior may all invent the same structure; then they agree. It must be invented on lines that were not
in the reconstruction, so lines that were measured and withheld see it. Where they are placed: `steadymr.sentinels`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Complex64, Float, Int64
from scipy import stats
from torch import Tensor

from steadymr.recon.evidence import Findings
from steadymr.recon.moments import pooled, square, variances
from steadymr.recon.noise import complex_normal
from steadymr.recon.operators import Sense, fft_centred
from steadymr.recon.problem import Problem, whitened_slice
from steadymr.types import KSpace

POOLED_SAMPLES = 5  #: neighbours along the readout that share one variance, since samples are few
CLEAN_SCATTER = 0.06  #: of the statistic's logarithm over 88 clean scans of 22 heads for calibration, whose median is 0


@dataclass(frozen=True, slots=True, eq=False)
class Sentinels:
    """Withheld lines of one slice, in the problem's unit, and how its white channels become the receiver's."""

    lines: Int64[np.ndarray, " line"]  #: index along y
    steps: tuple[int, ...]  #: the same lines as the scanner counts them
    columns: tuple[int, int]  #: acquired samples of each, half-open
    kspace: Complex64[Tensor, "coil line x"]


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """Deviations of lines whose values do not all count alike."""

    total: Float[Tensor, " line"]
    weight: Float[Tensor, " line"]

    @property
    def mean(self) -> float:
        """Over all lines; 0 where samples do not differ at all."""
        return float(self.total.sum() / self.weight.sum().clamp_min(1e-12))


def sentinels_of(kspace: KSpace, problem: Problem) -> Sentinels | None:
    """The sentinel lines of the problem's slice; None if the scan has none."""
    if kspace.sentinel is None:
        return None
    lines = np.flatnonzero(kspace.sentinel.any(axis=0))
    n_k1, limits = kspace.data.shape[2], kspace.header.k1_limits
    first = 0 if limits is None else limits.centre - n_k1 // 2
    measured = whitened_slice(kspace, problem.z, lines).to(problem.kspace.device) / problem.scale
    return Sentinels(lines, tuple(int(line) + first for line in lines), kspace.k0_range, measured)


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
        {
            "sentinel": statistic,
            "sentinel_line": float(by_line[line]),
            "sentinel_coil": float(by_coil[coil]),
            "sentinel_pattern": deviation_by_pattern(measured, predicted, problem.noise_sd).mean,
        },
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
    difference = square(_acquired(sentinels.kspace, sentinels) - by_image)
    return Findings({"sentinel_image": float((difference / _expected(predicted, problem.noise_sd)).mean())})


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
    return 2 * noise_sd**2 + pooled(variance + of_mean, POOLED_SAMPLES)


def deviation(
    measured: Complex64[Tensor, "coil line x"],
    predicted: Complex64[Tensor, "sample coil line x"],
    noise_sd: Float[Tensor, ""],
) -> Float[Tensor, "coil line x"]:
    """Squared deviation of a measurement from the samples' mean, over its expected variance."""
    return square(measured - predicted.mean(0)) / _expected(predicted, noise_sd)


def _deviation_by_coil(
    measured: Complex64[Tensor, "coil line x"],
    predicted: Complex64[Tensor, "sample coil line x"],
    noise_sd: Float[Tensor, ""],
    colouring: Complex64[Tensor, "coil coil2"],
) -> Float[Tensor, "coil"]:
    received, expected = (torch.einsum("ij,...jlx->...ilx", colouring, lines) for lines in (measured, predicted))
    return deviation(received, expected, noise_sd).mean((1, 2))


def deviation_by_pattern(
    measured: Complex64[Tensor, "coil line x"],
    predicted: Complex64[Tensor, "sample coil line x"],
    noise_sd: Float[Tensor, ""],
) -> Weighted:
    """The deviation where it tells most: along those combinations of coils in which the samples differ.

    The principal directions of a line's samples over the coils hold in a few of them what an image may get wrong there,
    and noise in the others. Each value counts by the squared share of the samples' variance in what is expected of it:
    noise alone tells nothing.
    """
    apart = predicted - predicted.mean(0)
    covariance = torch.einsum("sclx,sdlx->lcd", apart, apart.conj()) / (apart.shape[0] * apart.shape[3])
    directions = torch.linalg.eigh(covariance.to(torch.complex128))[1].to(predicted.dtype).conj()
    along = torch.einsum("lcd,sclx->sdlx", directions, predicted)
    expected = _expected(along, noise_sd)
    weight = (1 - 2 * noise_sd**2 / expected).square()
    ratio = square(torch.einsum("lcd,clx->dlx", directions, measured) - along.mean(0)) / expected
    return Weighted((weight * ratio).sum((0, 2)), weight.sum((0, 2)))


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
