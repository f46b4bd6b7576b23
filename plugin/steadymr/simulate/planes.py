"""Planes through a head: which slice, how tilted, how stretched and bent, so that each one is another subject's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Float64

from steadymr.simulate.fields import smooth_field
from steadymr.simulate.shapes import warped_grid_mm

PLANES: Final = ("sagittal", "coronal", "axial")


@dataclass(frozen=True, slots=True)
class Cut:
    """Which slice of a head, instead of a random one: the plane, and its height over the middle of the brain."""

    plane: Literal["sagittal", "coronal", "axial"]
    height_mm: float


def bent_plane_mm(
    rng: np.random.Generator, matrix: tuple[int, int], pixel_mm: float, cut: Cut | None
) -> Float64[np.ndarray, "3 y x"]:
    """Return where each pixel lies in a head: mm to the right, forwards and upwards of the middle of its brain.

    The plane is most often an axial one, turned by some degrees, stretched by up to a tenth, and bent smoothly.
    """
    normal = int(rng.choice(3, p=(0.12, 0.18, 0.70)))
    normal = normal if cut is None else PLANES.index(cut.plane)
    reach_mm = ((-45.0, 45.0), (-65.0, 60.0), (-32.0, 58.0))[normal]
    across, up = ((1, 2), (0, 2), (0, 1))[normal]
    axes = np.zeros((3, 3))  # columns: the slice's y, x and normal in atlas axes
    axes[up, 0], axes[across, 1], axes[normal, 2] = -1.0, 1.0, 1.0
    affine = _rotation(rng.normal(0, 0.13, size=3)) * rng.uniform(0.87, 1.10)
    affine = affine @ np.diag(rng.uniform(0.92, 1.08, size=3)) @ axes
    y, x = warped_grid_mm(rng, matrix, pixel_mm, rng.uniform(1.0, 3.5))
    height_mm = rng.uniform(*reach_mm)
    height_mm = height_mm if cut is None else cut.height_mm
    depth = height_mm + rng.uniform(0, 3.0) * smooth_field(rng, matrix, pixel_mm, 45.0)
    plane = np.stack([y + rng.normal(0, 4.0), x + rng.normal(0, 4.0), depth])
    return np.asarray(np.tensordot(affine, plane, axes=1))


def _rotation(angles_rad: np.ndarray) -> np.ndarray:
    """Return the rotation about the three axes in turn."""
    rotation = np.eye(3)
    for axis, angle in enumerate(angles_rad):
        turn = np.eye(3)
        first, second = [a for a in range(3) if a != axis]
        turn[[first, first, second, second], [first, second, first, second]] = (
            np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle),
        )  # fmt: skip
        rotation = turn @ rotation
    return rotation
