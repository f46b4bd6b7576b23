"""Things that are no brain: a knee drawn from ellipses, and cells within cells; they widen what a prior has seen."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64
from scipy import ndimage, spatial

from steadymr.simulate.fields import smooth_field


def pixel_grid_mm(
    matrix: tuple[int, int], pixel_mm: float
) -> tuple[Float32[np.ndarray, "y x"], Float32[np.ndarray, "y x"]]:
    """Return the y and x coordinates of each pixel in millimetres, 0 at index n // 2."""
    rows, columns = ((np.arange(n, dtype=np.float32) - n // 2) * np.float32(pixel_mm) for n in matrix)
    grid = np.meshgrid(rows, columns, indexing="ij")
    return grid[0], grid[1]


def step(distance_mm: Float32[np.ndarray, "y x"], width_mm: float) -> Float32[np.ndarray, "y x"]:
    """Return 0 where the distance is negative, 1 where positive, with a ramp of the given width between."""
    return np.clip(distance_mm / np.float32(width_mm) + np.float32(0.5), 0, 1).astype(np.float32)


def ellipse(
    grid_mm: tuple[Float32[np.ndarray, "y x"], Float32[np.ndarray, "y x"]],
    centre_mm: tuple[float, float],
    radii_mm: tuple[float, float],
    angle_rad: float,
    edge_mm: float,
) -> Float32[np.ndarray, "y x"]:
    """Return an ellipse's soft mask; its axes are turned by ``angle_rad`` from y towards x."""
    y, x = grid_mm[0] - np.float32(centre_mm[0]), grid_mm[1] - np.float32(centre_mm[1])
    cos, sin = np.float32(np.cos(angle_rad)), np.float32(np.sin(angle_rad))
    radius = np.hypot((cos * y + sin * x) / np.float32(radii_mm[0]), (cos * x - sin * y) / np.float32(radii_mm[1]))
    return step((1 - radius) * np.float32(min(radii_mm)), edge_mm)


def paint(
    canvas: Float32[np.ndarray, "y x"], mask: Float32[np.ndarray, "y x"], value: Float32[np.ndarray, "y x"] | float
) -> Float32[np.ndarray, "y x"]:
    """Return the canvas with a value laid over it where the mask is 1, mixed where it is between."""
    return (canvas + mask * (value - canvas)).astype(np.float32)


def warped_grid_mm(
    rng: np.random.Generator, matrix: tuple[int, int], pixel_mm: float, amplitude_mm: float
) -> tuple[Float32[np.ndarray, "y x"], Float32[np.ndarray, "y x"]]:
    """Return the pixel grid displaced smoothly at two scales, 50 and 14 mm."""
    y, x = pixel_grid_mm(matrix, pixel_mm)
    y, x = (
        axis
        + np.float32(amplitude_mm) * smooth_field(rng, matrix, pixel_mm, 50.0)
        + np.float32(0.25 * amplitude_mm) * smooth_field(rng, matrix, pixel_mm, 14.0)
        for axis in (y, x)
    )
    return y, x


def draw_cells(rng: np.random.Generator, matrix: tuple[int, int], pixel_mm: float) -> Float32[np.ndarray, "y x"]:
    """Return a blob of Voronoi cells, each made of smaller ones, with warped borders and a smooth texture."""
    grid = warped_grid_mm(rng, matrix, pixel_mm, rng.uniform(2.0, 8.0))
    radii_mm = rng.uniform(0.28, 0.46, size=2) * np.asarray(matrix) * pixel_mm
    outline = ellipse(grid, (0.0, 0.0), (float(radii_mm[0]), float(radii_mm[1])), rng.uniform(0, np.pi), pixel_mm)
    large = _cells(rng, grid, int(rng.integers(6, 30)), rng.uniform(0.0, 1.2, size=64))
    small = _cells(rng, grid, int(rng.integers(60, 400)), rng.normal(0, rng.uniform(0.02, 0.2), size=512))
    texture = rng.uniform(0, 0.05) * smooth_field(rng, matrix, pixel_mm, rng.uniform(3, 12))
    return np.asarray(outline * np.clip(large + small + texture, 0, None), dtype=np.float32)


def _cells(
    rng: np.random.Generator,
    grid_mm: tuple[Float32[np.ndarray, "y x"], Float32[np.ndarray, "y x"]],
    n_cells: int,
    values: Float64[np.ndarray, "n"],
) -> Float32[np.ndarray, "y x"]:
    extent_mm = float(max(np.abs(grid_mm[0]).max(), np.abs(grid_mm[1]).max()))
    sites = rng.uniform(-extent_mm, extent_mm, size=(n_cells, 2))
    _, nearest = spatial.cKDTree(sites).query(np.stack(grid_mm, axis=-1))
    return np.asarray(values[nearest], dtype=np.float32)


def draw_knee(rng: np.random.Generator, matrix: tuple[int, int], pixel_mm: float) -> Float32[np.ndarray, "y x"]:
    """Return a joint: two bones with cortex and marrow, cartilage and fluid between, muscle bundles, fat and skin."""
    grid = warped_grid_mm(rng, matrix, pixel_mm, rng.uniform(1.5, 4.0))
    half_mm = float(min(matrix)) * pixel_mm / 2
    unit = half_mm / rng.uniform(65, 85)  # the drawing is 65 to 85 of these units from centre to edge
    fat, muscle, marrow, cartilage, fluid = rng.uniform((0.6, 0.2, 0.5, 0.3, 0.2), (1.2, 0.6, 1.1, 0.8, 1.2))
    angle = float(rng.normal(0, 0.15))
    canvas = np.zeros(matrix, np.float32)
    leg = ellipse(grid, (0.0, 0.0), (95 * unit, rng.uniform(42, 58) * unit), angle, pixel_mm)
    canvas = paint(canvas, leg, fat)
    for _ in range(int(rng.integers(4, 9))):
        centre = (rng.uniform(-60, 60) * unit, rng.uniform(-35, 35) * unit)
        radii = (rng.uniform(15, 45) * unit, rng.uniform(5, 14) * unit)
        bundle = ellipse(grid, centre, radii, float(rng.normal(0, 0.3)), pixel_mm)
        canvas = paint(canvas, bundle * leg, muscle * rng.uniform(0.8, 1.2))
    for side in (-1, 1):
        canvas = _bone(rng, canvas, grid, side, unit, pixel_mm, (marrow, cartilage))
    gap = ellipse(grid, (0.0, 0.0), (rng.uniform(1.0, 3.0) * unit, 30 * unit), angle, pixel_mm)
    canvas = paint(canvas, gap, fluid)
    strands = smooth_field(rng, matrix, pixel_mm, rng.uniform(3, 8))
    textured = canvas * (1 + rng.uniform(0, 0.06) * strands)
    return np.asarray(np.clip(ndimage.gaussian_filter(textured, 0.4), 0, None), dtype=np.float32)


def _bone(
    rng: np.random.Generator,
    canvas: Float32[np.ndarray, "y x"],
    grid: tuple[Float32[np.ndarray, "y x"], Float32[np.ndarray, "y x"]],
    side: int,
    unit: float,
    edge_mm: float,
    intensities: tuple[float, float],
) -> Float32[np.ndarray, "y x"]:
    """Draw a shaft and a head, first as cartilage, then as cortex, then as marrow, each a little smaller."""
    marrow, cartilage = intensities
    head_mm, shaft_mm = rng.uniform(20, 28) * unit, rng.uniform(11, 16) * unit
    tilt = float(rng.normal(0, 0.15))
    for shrink_mm, value in ((0.0, cartilage), (2.5 * unit, 0.03), (4.5 * unit, marrow)):
        head = ellipse(grid, (side * 26 * unit, 0.0), (23 * unit - shrink_mm, head_mm - shrink_mm), tilt, edge_mm)
        shaft = ellipse(grid, (side * 70 * unit, 0.0), (60 * unit, shaft_mm - shrink_mm), tilt, edge_mm)
        canvas = paint(canvas, np.maximum(head, shaft), value)
    return canvas
