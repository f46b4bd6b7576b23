"""Smooth random maps on a pixel grid: displacements, bias fields, phases, and anything else that wobbles."""

from __future__ import annotations

import numpy as np
from jaxtyping import Complex64, Float32, Float64
from scipy import ndimage


def smooth_field(
    rng: np.random.Generator, matrix: tuple[int, int], pixel_mm: float, scale_mm: float
) -> Float32[np.ndarray, "y x"]:
    """Return a Gaussian-like random map of standard deviation about 1.3 that varies over ``scale_mm``.

    Cubic interpolation of white noise on a grid of that spacing; the grid is shifted at random, so that no pixel is
    special.
    """
    shape = tuple(int(np.ceil(n * pixel_mm / scale_mm)) + 4 for n in matrix)
    nodes = rng.standard_normal(shape).astype(np.float32)
    shift = rng.uniform(1.0, 2.0, size=2)
    coefficients = ndimage.spline_filter(nodes, order=3, output=np.float32)
    matrices = [
        _cubic_basis(start + np.arange(n) * pixel_mm / scale_mm, size)
        for start, n, size in zip(shift, matrix, shape, strict=True)
    ]
    field: Float32[np.ndarray, "y x"] = matrices[0] @ coefficients @ matrices[1].T
    return field * np.float32(1.5)


def _cubic_basis(positions: Float64[np.ndarray, "n"], size: int) -> Float32[np.ndarray, "n nodes"]:
    """Return the cubic B-spline at each position for each node: two products with it interpolate a whole map."""
    distance = np.abs(positions[:, None] - np.arange(size)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def bias_field(rng: np.random.Generator, matrix: tuple[int, int], pixel_mm: float) -> Float32[np.ndarray, "y x"]:
    """Return a positive shading, exp of a field that varies over 80 to 200 mm, of 0 to 30 per cent s.d."""
    depth = rng.uniform(0.0, 0.3)
    return np.exp(depth * smooth_field(rng, matrix, pixel_mm, rng.uniform(80, 200))).astype(np.float32)


def smooth_phase(rng: np.random.Generator, matrix: tuple[int, int], pixel_mm: float) -> Complex64[np.ndarray, "y x"]:
    """Return exp(i phi) with phi = a constant + a slope + wobbles over 100 mm and 30 mm; a fifth are nearly flat."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, n) for n in matrix), indexing="ij")
    slope_y_rad, slope_x_rad = rng.normal(0, 1.0, size=2)
    phase_rad = slope_y_rad * rows + slope_x_rad * columns
    phase_rad += rng.uniform(0, 1.2) * smooth_field(rng, matrix, pixel_mm, 100.0)
    phase_rad += rng.uniform(0, 0.4) * smooth_field(rng, matrix, pixel_mm, 30.0)
    strength = 0.1 if rng.random() < 0.2 else 1.0
    return np.asarray(np.exp(1j * (strength * phase_rad + rng.uniform(-np.pi, np.pi))), dtype=np.complex64)
