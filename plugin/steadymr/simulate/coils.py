"""Receive sensitivities of loop coils around the body, by the Biot-Savart law."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Complex64, Float64
from scipy import ndimage

N_SEGMENTS: Final = 20  # straight pieces that a loop is made of
N_NODES: Final = 40  # points a side at which fields are computed; between them they are interpolated


def simulate_coils(
    rng: np.random.Generator, n_coils: int, matrix: tuple[int, int], aspect: float = 1.0
) -> Complex64[np.ndarray, "coil y x"]:
    """Return maps whose root sum of squares over the coils is 1 in every pixel.

    Loops stand on an ellipse around the field of view and face its centre, each a little out of place; a map is the
    transverse magnetic field B_x - i B_y that a unit current would make, which by reciprocity is what the loop
    receives (Hoult and Richards 1976), with a random phase for its cable.

    Args:
        rng: places the loops.
        n_coils: at least 1.
        matrix: pixels along y and x.
        aspect: field of view along y over that along x.
    """
    nodes = np.linspace(-0.55, 0.55, N_NODES)  # a little more than the field of view
    plane = np.stack([*np.meshgrid(nodes, aspect * nodes, indexing="xy"), np.zeros((N_NODES, N_NODES))], axis=-1)
    rows, columns = ((((np.arange(n) - n // 2) / n + 0.55) / 1.1) * (N_NODES - 1) for n in matrix)
    index = np.stack(np.meshgrid(rows, columns, indexing="ij"))
    distance, loop_radius = rng.uniform(0.55, 0.8), rng.uniform(0.5, 0.9) * min(1.0, 3.0 / n_coils + 0.15)
    start = rng.uniform(0, 2 * np.pi)
    maps = []
    for number in range(n_coils):
        angle = start + 2 * np.pi * (number + rng.normal(0, 0.1)) / n_coils
        centre = distance * np.array([np.cos(angle), aspect * np.sin(angle), rng.normal(0, 0.15)])
        normal = -centre + rng.normal(0, 0.1, size=3)
        field = _loop_field(plane, centre, normal / np.linalg.norm(normal), loop_radius)
        transverse = (field[..., 0] - 1j * field[..., 1]) * np.exp(1j * rng.uniform(0, 2 * np.pi))
        maps.append(ndimage.map_coordinates(transverse, index, order=3))
    stacked = np.stack(maps)
    norm = np.sqrt((np.abs(stacked) ** 2).sum(axis=0)).clip(1e-12)
    return np.asarray(stacked / norm, dtype=np.complex64)


def _loop_field(
    points: Float64[np.ndarray, "y x 3"],
    centre: Float64[np.ndarray, "3"],
    normal: Float64[np.ndarray, "3"],
    radius: float,
) -> Float64[np.ndarray, "y x 3"]:
    """Return sum over segments of dl x r / |r|^3, the field of a circular loop up to a constant."""
    first = np.cross(normal, [0.3, -0.5, 0.8])
    first /= np.linalg.norm(first)
    second = np.cross(normal, first)
    angles = 2 * np.pi * np.arange(N_SEGMENTS) / N_SEGMENTS
    field = np.zeros_like(points)
    for angle in angles:
        segment = radius * (-np.sin(angle) * first + np.cos(angle) * second) * 2 * np.pi / N_SEGMENTS
        offset = points - (centre + radius * (np.cos(angle) * first + np.sin(angle) * second))
        cubed = ((offset**2).sum(axis=-1, keepdims=True) + 0.05**2) ** 1.5  # a wire has a thickness
        field += np.cross(segment, offset) / cubed
    return field
