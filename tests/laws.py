"""What is true of every member of a kind; tests apply these to each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def assert_adjoint(forward: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor], x: Tensor, y: Tensor):
    """``<forward x, y> = <x, adjoint y>``, and the shapes agree, which an inner product of flat vectors would hide."""
    assert forward(x).shape == y.shape
    assert adjoint(y).shape == x.shape
    left, right = torch.vdot(forward(x).flatten(), y.flatten()), torch.vdot(x.flatten(), adjoint(y).flatten())
    assert_close(left, right, rtol=1e-4, atol=1e-4)


def assert_close(actual: Tensor, expected: Tensor, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """Same shape, and equal to rounding; torch's own version imports half of torch, which takes seconds."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual.resolve_conj().numpy(), expected.resolve_conj().numpy(), rtol=rtol, atol=atol)
