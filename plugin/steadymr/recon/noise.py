"""Thermal noise: what makes it white, and fresh draws of it."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Complex64, Complex128
from torch import Tensor

from steadymr.errors import ReconError


def whitening_matrix(noise_covariance: Complex128[np.ndarray, "coil coil2"]) -> Complex128[np.ndarray, "coil coil2"]:
    """Receiver channels to channels whose noise is independent and of standard deviation 1 per real channel.

    With ``noise_covariance = E[n n^H] = L L^H`` this is ``sqrt(2) L^-1``.

    Raises:
        ReconError: if the covariance is not positive definite, as with a channel that receives nothing.
    """
    try:
        factor = np.linalg.cholesky(noise_covariance)
    except np.linalg.LinAlgError as error:
        silent = np.flatnonzero(~(np.diagonal(noise_covariance).real > 0)).tolist()
        raise ReconError(
            "expected noise in every channel to whiten them, but the noise covariance is not positive definite "
            f"(channels without noise: {silent or 'none, so some are copies of others'}); look at the noise scan"
        ) from error
    return np.asarray(np.sqrt(2) * np.linalg.inv(factor), dtype=np.complex128)


def complex_normal(
    shape: tuple[int, ...], generator: torch.Generator, device: torch.device
) -> Complex64[Tensor, "*shape"]:
    """Standard normal, of variance 1 per real channel; a CPU generator gives the same numbers for every device."""
    parts = torch.randn((*shape, 2), generator=generator, device=generator.device)
    numbers: Tensor = torch.view_as_complex(parts.to(device))
    return numbers


def antithetic_normal(
    n: int, shape: tuple[int, ...], generator: torch.Generator, device: torch.device
) -> Complex64[Tensor, "sample *shape"]:
    """``n`` standard normal draws in pairs: each second one is the negative of the one before it.

    Each by itself is what an independent draw would be. Posterior samples made from them err in opposite directions,
    so that a few pairs have nearly the mean of infinitely many (antithetic variates, Hammersley and Morton 1956, doi
    10.1017/S0305004100031455; for diffusion models arXiv 2506.06185).
    """
    drawn = complex_normal(((n + 1) // 2, *shape), generator, device)
    pairs: Tensor = torch.stack([drawn, -drawn], dim=1).flatten(0, 1)[:n]
    return pairs


def pair_means(values: Complex64[Tensor, "*any sample y x"]) -> Complex64[Tensor, "*any sample y x"]:
    """What the two of each antithetic pair have in common, for both of them; 0 for one without a partner."""
    n_paired = values.shape[-3] // 2 * 2
    first, second = values[..., 0:n_paired:2, :, :], values[..., 1:n_paired:2, :, :]
    shared = ((first + second) / 2).repeat_interleave(2, dim=-3)
    return torch.cat([shared, torch.zeros_like(values[..., n_paired:, :, :])], dim=-3)
