"""Fourier transforms of NumPy arrays, orthonormal, zero first, in the precision of their input.

By torch, whose transforms take a quarter of the time of SciPy's. Torch itself takes seconds to import, and is only
imported when something is transformed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Complex

if TYPE_CHECKING:
    from torch import Tensor


def fft(data: Complex[np.ndarray, "*grid"], axes: tuple[int, ...]) -> Complex[np.ndarray, "*grid"]:
    """Return the transform along ``axes``."""
    import torch

    return np.asarray(torch.fft.fftn(_tensor(data), dim=axes, norm="ortho").numpy())


def ifft(data: Complex[np.ndarray, "*grid"], axes: tuple[int, ...]) -> Complex[np.ndarray, "*grid"]:
    """Return the inverse of :func:`fft`."""
    import torch

    return np.asarray(torch.fft.ifftn(_tensor(data), dim=axes, norm="ortho").numpy())


def _tensor(data: Complex[np.ndarray, "*grid"]) -> Tensor:
    import torch

    return torch.from_numpy(np.require(data, requirements="W"))  # what can't be written is copied: torch would warn
