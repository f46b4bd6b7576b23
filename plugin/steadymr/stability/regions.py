"""Connected areas of a map, and words for where they lie in the patient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

from steadymr.types import Geometry

SMALLEST_CM2 = 0.3  #: smaller areas are not named
OFF_CENTRE = 0.2  #: of the tissue's half extent: nearer to its middle a side is not named

#: Directions of the LPS frame, positive and negative.
_SIDES = (("left", "right"), ("posterior", "anterior"), ("superior", "inferior"))


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One connected area."""

    inside: Bool[np.ndarray, "y x"]
    area_cm2: float
    where: str  #: such as "left anterior", or "central"


def regions_above(
    map_percent: Float32[np.ndarray, "y x"], threshold_percent: float, geometry: Geometry
) -> tuple[Region, ...]:
    """Connected areas in which a map exceeds a threshold, the largest first; NaN counts as below."""
    above = np.nan_to_num(map_percent, nan=0.0) > threshold_percent
    labels, n_labels = ndimage.label(above, structure=np.ones((3, 3)))
    tissue = np.isfinite(map_percent)
    found = [_region(labels == number, tissue, geometry) for number in range(1, n_labels + 1)]
    kept = [region for region in found if region.area_cm2 >= SMALLEST_CM2]
    return tuple(sorted(kept, key=lambda region: -region.area_cm2))


def _region(inside: Bool[np.ndarray, "y x"], tissue: Bool[np.ndarray, "y x"], geometry: Geometry) -> Region:
    n_y, n_x = inside.shape
    pixel_cm2 = geometry.fov_mm_xyz[0] / n_x * geometry.fov_mm_xyz[1] / n_y / 100
    return Region(inside, float(inside.sum()) * pixel_cm2, " ".join(_words(inside, tissue, geometry)) or "central")


def _words(inside: Bool[np.ndarray, "y x"], tissue: Bool[np.ndarray, "y x"], geometry: Geometry) -> Iterator[str]:
    """Sides on which the area lies, seen from the middle of the tissue, along the axes that the plane spans."""
    shape = np.array(inside.shape, float)
    fov = np.array([geometry.fov_mm_xyz[1], geometry.fov_mm_xyz[0]])
    ys, xs = np.nonzero(tissue)
    middle = np.array([ys.min() + ys.max(), xs.min() + xs.max()]) / 2
    half = np.maximum(np.array([np.ptp(ys), np.ptp(xs)]) / 2, 1)
    away = (np.argwhere(inside).mean(axis=0) - middle) * fov / shape
    mm = away[0] * np.array(geometry.phase_dir) + away[1] * np.array(geometry.read_dir)
    reach_mm = np.abs(np.array(geometry.phase_dir)) * half[0] * fov[0] / shape[0]
    reach_mm += np.abs(np.array(geometry.read_dir)) * half[1] * fov[1] / shape[1]
    for offset, reach, sides in zip(mm, reach_mm, _SIDES, strict=True):
        if abs(offset) > OFF_CENTRE * reach and reach > 0.3 * reach_mm.max():
            yield sides[0] if offset > 0 else sides[1]
