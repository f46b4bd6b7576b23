"""Where a volume lies in the patient, from the head of its central line."""

from __future__ import annotations

import numpy as np

from steadymr.types import Geometry, Readout, ScanHeader, Vector

ORTHONORMAL = 1e-3  #: tolerance on lengths and on cosines between directions
AXIAL: tuple[Vector, Vector, Vector] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def geometry_of(readout: Readout, header: ScanHeader) -> Geometry:
    """The geometry that the readout states.

    Directions that are no orthonormal triad are replaced by an axial one (x to the left, y to the back, z to the
    head); a position at the origin is then no statement either, and slices are stacked along z without gaps.
    ``assumed`` says so.
    """
    directions = (readout.read_dir, readout.phase_dir, readout.slice_dir)
    assumed = []
    if not _is_orthonormal(directions):
        directions = AXIAL
        assumed.append("directions (axial)")
    position = readout.position_mm
    if not np.isfinite(position).all() or (assumed and not any(position)):
        position = _stacked(readout, header)
        assumed.append("position (slices stacked about the isocentre)")
    return Geometry(position, *directions, fov_mm_xyz=header.recon.fov_mm_xyz, assumed=", ".join(assumed))


def _is_orthonormal(directions: tuple[Vector, Vector, Vector]) -> bool:
    rows = np.array(directions, float)
    return bool(np.isfinite(rows).all() and np.abs(rows @ rows.T - np.eye(3)).max() <= ORTHONORMAL)


def _stacked(readout: Readout, header: ScanHeader) -> Vector:
    n_slices = max(header.counters.get("slice", 1), readout.index.slice + 1)
    return (0.0, 0.0, header.recon.fov_mm_xyz[2] * (readout.index.slice - (n_slices - 1) / 2))
