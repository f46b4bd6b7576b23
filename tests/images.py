"""Small images and the nouns around them, for tests."""

from __future__ import annotations

import numpy as np

from steadymr.types import Geometry, Image, SampleSet, ScanHeader, Space, VolumeIndex


def ellipse_image(n: int = 64, level: float = 100.0) -> np.ndarray:
    """A bright ellipse with some structure on an empty ground."""
    y, x = np.mgrid[:n, :n] - n / 2
    inside = (x / (0.35 * n)) ** 2 + (y / (0.42 * n)) ** 2 < 1
    texture = 1 + 0.2 * np.sin(x / 3) * np.cos(y / 4)
    return np.where(inside, level * texture, 0).astype(np.float32)


def axial_geometry(fov_x_mm: float, fov_y_mm: float, thickness_mm: float = 5.0) -> Geometry:
    """An axial slice through the isocentre."""
    fov = (fov_x_mm, fov_y_mm, thickness_mm)
    return Geometry((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), fov)


def header_of(n: int = 64) -> ScanHeader:
    """A header for an n by n scan with 1 mm pixels."""
    space = Space((n, n, 1), (float(n), float(n), 5.0))
    return ScanHeader("<ismrmrdHeader/>", "1", "cartesian", space, space, None, None, {}, (1, 1))


def image_of(data: np.ndarray, method: str = "diffusion") -> Image:
    """An Image that holds one plane."""
    n_y, n_x = data.shape
    geometry = axial_geometry(float(n_x), float(n_y))
    return Image(data[None].astype(np.float32), method, VolumeIndex(), geometry, header_of(n_y), "made for a test")


def samples_of(data: np.ndarray, n_redrawn: int = 0) -> SampleSet:
    """Samples of one plane, the last ``n_redrawn`` of them under redrawn noise."""
    redrawn = np.arange(len(data)) >= len(data) - n_redrawn
    return SampleSet(data[:, None].astype(np.float32), redrawn)
