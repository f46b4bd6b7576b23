"""Measured heads as anatomy to train on: a volume in NIfTI, of which every slice is made another subject's.

Drawn heads have the folds that chance gives them; a measured one has sulci, marrow, muscles and vessels as they are.
Bent planes through it, with its contrast changed at random, are no longer the person's, and still look like a person.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nibabel
import numpy as np
from jaxtyping import Float32
from nibabel.filebasedimages import ImageFileError
from scipy import interpolate, ndimage

from steadymr.errors import SettingsError
from steadymr.simulate.planes import bent_plane_mm

AIR: Final = 0.06  #: what is darker than this share of the 99th percentile is fading air, and made black
KNOTS: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.4)  #: signals, 1 the 99th percentile, between which a curve is drawn


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A head's signal, 99th percentile of its tissue 1, as coefficients of cubic splines.

    Axes run to the right, forwards and upwards; ``centre`` is the index of the brain's middle.
    """

    coefficients: Float32[np.ndarray, "i j k"]
    voxel_mm: tuple[float, float, float]
    centre: tuple[float, float, float]


@functools.lru_cache(maxsize=4)
def load_head(path: Path) -> Head:
    """Read a volume of a head (NIfTI, one contrast, voxels of 2 mm or less).

    The brain's middle is taken to be the volume's: half-way through the tissue from left to right and from back to
    front, and 92 mm below the vertex.

    Raises:
        SettingsError: the file cannot be read, is no volume, is empty, or too coarse.
    """
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))  # type: ignore[no-untyped-call]
        volume = np.asarray(image.get_fdata(dtype=np.float32)).squeeze()
    except (OSError, ValueError, EOFError, ImageFileError) as error:
        raise SettingsError(f"{path} should be a volume of a head in NIfTI (*.nii, *.nii.gz): {error}") from error
    voxel_mm = tuple(float(size) for size in image.header.get_zooms()[:3])
    if volume.ndim != 3 or not np.isfinite(volume).all() or not (volume > 0).any():
        raise SettingsError(f"{path} should hold one volume with signal, of three axes, not {volume.shape}")
    if max(voxel_mm) > 2.0:
        raise SettingsError(f"{path} has voxels of {max(voxel_mm):.1f} mm; to draw slices from it takes 2 mm or less")
    tissue = volume > AIR * np.percentile(volume[volume > 0], 99)
    scaled = np.clip(volume / np.percentile(volume[tissue], 99) - AIR, 0, None) / (1 - AIR)
    coefficients = ndimage.spline_filter(scaled, order=3, output=np.float32)
    return Head(coefficients, (voxel_mm[0], voxel_mm[1], voxel_mm[2]), _middle(tissue, voxel_mm))


def _middle(tissue: np.ndarray, voxel_mm: tuple[float, ...]) -> tuple[float, float, float]:
    """Return the index of the brain's middle; a plane counts as tissue from a fiftieth of its voxels on."""
    edges = []
    for axis in range(3):
        share = tissue.mean(axis=tuple(other for other in range(3) if other != axis))
        inside = np.nonzero(share > 0.02)[0]
        edges.append((float(inside[0]), float(inside[-1])))
    return sum(edges[0]) / 2, sum(edges[1]) / 2, edges[2][1] - 92.0 / voxel_mm[2]


def slice_head(
    rng: np.random.Generator, matrix: tuple[int, int], pixel_mm: float, head: Head
) -> Float32[np.ndarray, "y x"]:
    """Return the magnitude along a random, bent plane, with a random contrast."""
    place = bent_plane_mm(rng, matrix, pixel_mm, cut=None)
    index = place / np.asarray(head.voxel_mm)[:, None, None] + np.asarray(head.centre)[:, None, None]
    signal = ndimage.map_coordinates(head.coefficients, index, order=3, prefilter=False, output=np.float32)
    return _change_contrast(rng, np.clip(signal, 0, None))


def _change_contrast(rng: np.random.Generator, signal: Float32[np.ndarray, "y x"]) -> Float32[np.ndarray, "y x"]:
    """Bend the signal's scale: half of the slices a little, as another T1 weighting would, the others at random."""
    if rng.random() < 0.5:
        return np.asarray(signal ** rng.uniform(0.6, 1.6), np.float32)
    levels = np.concatenate([[0.0], rng.uniform(0.05, 1.2, len(KNOTS) - 1)])
    curve = interpolate.PchipInterpolator(KNOTS, levels)
    return np.asarray(curve(np.minimum(signal, KNOTS[-1])), np.float32)
