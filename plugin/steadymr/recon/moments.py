"""Second moments of samples, and means over neighbours: what several pieces of evidence share."""

from __future__ import annotations

import torch
from jaxtyping import Complex64, Float
from torch import Tensor


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
        of_mean = square(of_pairs - of_pairs.mean(0)).sum(0) / (n_pairs * (n_pairs - 1))
    return square(samples - samples.mean(0)).mean(0) + of_mean, of_mean


def pooled(values: Float[Tensor, "*axes"], width: int) -> Float[Tensor, "*axes"]:
    """Mean over ``width`` neighbours along the last axis, fewer at its ends."""
    flat = values.reshape(-1, 1, values.shape[-1])
    mean = torch.nn.functional.avg_pool1d(flat, width, 1, width // 2, count_include_pad=False)
    return mean.reshape(values.shape)


def square(values: Complex64[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """``|value|^2``, without the root that an absolute value would take."""
    return values.real.square() + values.imag.square()
