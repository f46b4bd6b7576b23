"""Where each image lies in the patient, as DICOM states it.

MRD and DICOM share the LPS frame, so nothing is flipped. A volume's position is its centre, which the centred transform
puts at index ``n // 2`` of each axis; DICOM wants the centre of the first pixel (PS3.3, section C.7.6.2.1.1):

    ImagePositionPatient(z) = centre - (Nx // 2) dx row - (Ny // 2) dy column + (z - Nz // 2) dz slice

``row`` is the direction of rising x and ``column`` that of rising y. The slice direction may run against
row x column: rows and columns stay as they are and the positions of the slices tell the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from steadymr.dicom.text import decimal
from steadymr.errors import DicomError
from steadymr.types import Geometry, Vector

#: How far directions may be from perpendicular (a cosine). Cosines rounded to four digits pass, a sheared volume
#: does not: DICOM has no way to write one.
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Plane:
    """One image's place in the patient (LPS), under DICOM's names; lengths in mm."""

    image_position_patient: Vector  #: centre of the first pixel
    image_orientation_patient: tuple[float, float, float, float, float, float]  #: direction of rows, then of columns
    pixel_spacing: tuple[float, float]  #: between rows (y), then between columns (x)
    slice_thickness: float | None  #: None if the scanner did not state it
    spacing_between_slices: float | None  #: None for a single slice, whose neighbours another volume holds
    slice_location: float  #: position along row x column

    def decimals(self) -> dict[str, list[str] | str | None]:
        """The plane as DICOM attributes, each number as a decimal string."""
        return {
            "ImagePositionPatient": [decimal(value) for value in self.image_position_patient],
            "ImageOrientationPatient": [decimal(value) for value in self.image_orientation_patient],
            "PixelSpacing": [decimal(value) for value in self.pixel_spacing],
            "SliceThickness": None if self.slice_thickness is None else decimal(self.slice_thickness),
            "SliceLocation": decimal(self.slice_location),
        }


def plane(geometry: Geometry, matrix_xyz: tuple[int, int, int], z: int) -> Plane:
    """Place image ``z`` of a volume.

    Raises DicomError if directions vanish or are not perpendicular, or a field of view is not positive.
    """
    row, column, along_slices = _directions(geometry)
    n_x, n_y, n_z = matrix_xyz
    if not 0 <= z < n_z:
        raise DicomError(f"expected an image number from 0 to {n_z - 1} in a volume of {n_z} images, but got {z}")
    dx, dy, dz = _spacing_mm_xyz(geometry, matrix_xyz)
    position = _vector(geometry.centre_mm, "centre_mm") - (n_x // 2) * dx * row - (n_y // 2) * dy * column
    if n_z > 1:
        position = position + (z - n_z // 2) * dz * along_slices
    return Plane(
        image_position_patient=_as_vector(position),
        image_orientation_patient=(*_as_vector(row), *_as_vector(column)),
        pixel_spacing=(dy, dx),
        slice_thickness=dz if dz > 0 else None,
        spacing_between_slices=dz if n_z > 1 else None,
        slice_location=float(position @ np.cross(row, column)),
    )


def _directions(
    geometry: Geometry,
) -> tuple[Float64[np.ndarray, "xyz=3"], Float64[np.ndarray, "xyz=3"], Float64[np.ndarray, "xyz=3"]]:
    """Unit vectors along x, y and z; y and z made exactly perpendicular where they were so within TOLERANCE."""
    row = _unit(geometry.read_dir, "read_dir")
    column = _unit(geometry.phase_dir, "phase_dir")
    along_slices = _unit(geometry.slice_dir, "slice_dir")
    cosines = [abs(float(a @ b)) for a, b in ((row, column), (row, along_slices), (column, along_slices))]
    if max(cosines) > TOLERANCE:
        raise DicomError(
            f"expected perpendicular read, phase and slice directions, but their cosines are "
            f"{', '.join(f'{cosine:.3g}' for cosine in cosines)}; see the readout headers' direction cosines"
        )
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    normal = np.cross(row, column)
    return row, column, normal * np.sign(normal @ along_slices)


def _spacing_mm_xyz(geometry: Geometry, matrix_xyz: tuple[int, int, int]) -> Vector:
    """Distance between pixels; 0 along z where a single slice has no stated thickness."""
    fov_mm = _vector(geometry.fov_mm_xyz, "fov_mm_xyz")
    must_be_positive = fov_mm if matrix_xyz[2] > 1 else fov_mm[:2]
    if min(matrix_xyz) < 1 or np.any(must_be_positive <= 0):
        raise DicomError(
            f"expected a positive field of view and matrix, but they are {geometry.fov_mm_xyz} mm and {matrix_xyz}; "
            "see reconSpace in the scan's XML header"
        )
    return _as_vector(np.maximum(fov_mm, 0) / np.asarray(matrix_xyz, dtype=float))


def _unit(direction: Vector, name: str) -> Float64[np.ndarray, "xyz=3"]:
    vector = _vector(direction, name)
    length = float(np.linalg.norm(vector))
    if abs(length - 1) > TOLERANCE:
        raise DicomError(
            f"expected a unit vector for {name}, but {direction} has length {length:.4g}; see the readout headers"
        )
    return vector / length


def _vector(values: Vector, name: str) -> Float64[np.ndarray, "xyz=3"]:
    vector = np.asarray(values, dtype=float)
    if not np.all(np.isfinite(vector)):
        raise DicomError(f"expected finite numbers for {name}, but got {values}; see the readout headers")
    return vector


def _as_vector(values: Float64[np.ndarray, "xyz=3"]) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z
