"""A tiny scanner: smooth coil maps, masks and ellipses, a few lines each."""

from __future__ import annotations

import torch
from torch import Tensor


def coil_maps(n_coils: int, n_y: int, n_x: int) -> Tensor:
    """Smooth loops around the field of view, of unit norm in each pixel."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, n_y), torch.linspace(-1, 1, n_x), indexing="ij")
    angle = 2 * torch.pi * torch.arange(n_coils)[:, None, None] / n_coils + 0.3
    distance = (x - 1.1 * angle.cos()) ** 2 + (y - 1.1 * angle.sin()) ** 2
    maps = torch.polar(torch.exp(-distance / 1.2), angle + x * angle.cos() + y * angle.sin())
    return maps / torch.linalg.vector_norm(maps, dim=0)


def line_mask(n_y: int, acceleration: int, n_centre: int) -> Tensor:
    """Every ``acceleration``-th line through zero frequency, and a block of lines around it."""
    k1 = torch.arange(n_y) - n_y // 2
    return ((k1 % acceleration == 0) | ((k1 >= -(n_centre // 2)) & (k1 < (n_centre + 1) // 2)))[:, None]


def ellipses(n_y: int, n_x: int) -> Tensor:
    """A head with a skull, two ventricles and a slowly varying phase."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, n_y), torch.linspace(-1, 1, n_x), indexing="ij")

    def ellipse(x0: float, y0: float, a: float, b: float) -> Tensor:
        return ((((x - x0) / a) ** 2 + ((y - y0) / b) ** 2) < 1).float()

    magnitude = ellipse(0, 0, 0.7, 0.9) - 0.5 * ellipse(0, 0, 0.62, 0.8)
    magnitude = magnitude + 0.3 * ellipse(0.25, 0.1, 0.15, 0.3) - 0.3 * ellipse(-0.25, 0.1, 0.12, 0.3)
    return torch.polar(magnitude, x + 0.5 * y)
