"""How large a change of the measurement may be: budgets relative to the measurement itself, and their balls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch
from jaxtyping import Bool, Complex64, Float32
from torch import Tensor

from steadymr.errors import SettingsError
from steadymr.recon.noise import complex_normal
from steadymr.recon.problem import Problem

Norm: TypeAlias = Literal["scan", "coil", "maximum"]

AXES: Final[dict[Norm, tuple[int, ...]]] = {"scan": (-3, -2, -1), "coil": (-2, -1), "maximum": ()}
TINY: Final = 1e-20  #: keeps a zero gradient from becoming NaN


@dataclass(frozen=True, slots=True)
class Budget:
    """``relative`` times the measurement's own size, as one of three norms tells it.

    scan: ``|delta|_2 <= relative |y|_2`` over all coils. coil: the same in each coil on its own. maximum: no sample
    changes by more than ``relative`` times the root mean square of the acquired samples, so that this ball lies inside
    the first one.
    """

    relative: float
    norm: Norm = "scan"

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        if not 0 <= self.relative < 1:
            raise SettingsError(f"a budget is a share of the measurement from 0 to below 1, not {self.relative}")


@dataclass(frozen=True, slots=True, eq=False)
class Ball:
    """All changes within a budget, for several measurements at once; only acquired samples may change."""

    norm: Norm
    radius: Float32[Tensor, "row #coil 1 1"]
    acquired: Bool[Tensor, "row 1 y x"]

    @classmethod
    def around(cls, problems: Sequence[Problem], budget: Budget, n_restarts: int = 1) -> Ball:
        """The ball of each problem's measurement, ``n_restarts`` times over, the restarts of one problem together."""
        kspace = torch.stack([problem.kspace for problem in problems])
        masks = torch.stack([problem.sense.mask.expand(problem.kspace.shape[-2:]) for problem in problems])[:, None]
        size = _size(kspace, budget.norm)
        if budget.norm == "maximum":
            n_samples = masks.sum((-2, -1), keepdim=True) * kspace.shape[1]
            size = _size(kspace, "scan") / n_samples.sqrt()
        radius, acquired = budget.relative * size, masks
        return cls(budget.norm, radius.repeat_interleave(n_restarts, 0), acquired.repeat_interleave(n_restarts, 0))

    def project(self, delta: Complex64[Tensor, "row coil y x"]) -> Complex64[Tensor, "row coil y x"]:
        """The nearest change within the ball."""
        acquired = delta * self.acquired
        return acquired * (self.radius / _size(acquired, self.norm).clamp_min(TINY)).clamp_max(1.0)

    def steepest(self, gradient: Complex64[Tensor, "row coil y x"]) -> Complex64[Tensor, "row coil y x"]:
        """The change on the ball's surface along which a function of this gradient rises most."""
        acquired = gradient * self.acquired
        return acquired * (self.radius / _size(acquired, self.norm).clamp_min(TINY))

    def draw(self, coils: int, generator: torch.Generator) -> Complex64[Tensor, "row coil y x"]:
        """Random changes on the ball's surface, white on the acquired samples."""
        n_rows, _, n_y, n_x = self.acquired.shape
        return self.steepest(complex_normal((n_rows, coils, n_y, n_x), generator, self.radius.device))


def _size(kspace: Complex64[Tensor, "row coil y x"], norm: Norm) -> Float32[Tensor, "row #coil #y #x"]:
    axes = AXES[norm]
    return torch.linalg.vector_norm(kspace, dim=axes, keepdim=True) if axes else kspace.abs()


def relative_norm(problem: Problem, delta: Complex64[Tensor, "coil y x"]) -> float:
    """``|delta|_2 / |y|_2`` over all coils."""
    return float(torch.linalg.vector_norm(delta) / torch.linalg.vector_norm(problem.kspace))


def scaled_to_norm(
    problem: Problem, delta: Complex64[Tensor, "coil y x"], norm: float
) -> Complex64[Tensor, "coil y x"]:
    """The same change, on the acquired samples only, made as strong as ``norm`` times the measurement.

    Raises:
        SettingsError: if the change is zero, which nothing makes larger.
    """
    acquired = delta * problem.sense.mask
    size = relative_norm(problem, acquired)
    if size == 0:
        raise SettingsError("a change of zero cannot be scaled to a norm; choose an imperfection of some strength")
    return acquired * (norm / size)


def gaussian_equal_norm(problem: Problem, norm: float, generator: torch.Generator) -> Complex64[Tensor, "coil y x"]:
    """White Gaussian noise on the acquired samples, exactly ``norm`` times as strong as the measurement."""
    return scaled_to_norm(problem, complex_normal(tuple(problem.kspace.shape), generator, problem.kspace.device), norm)


def thermal_norm(problem: Problem) -> float:
    """What the thermal noise itself is expected to make up of the measurement's norm."""
    n_samples = int(problem.sense.mask.expand(problem.kspace.shape[-2:]).sum()) * problem.kspace.shape[-3]
    noise = float(problem.noise_sd) * math.sqrt(2 * n_samples)
    return noise / float(torch.linalg.vector_norm(problem.kspace))
