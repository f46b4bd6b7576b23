"""Every voxel lands where the physics put it, as an independent reader sees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_cases import (
    AXIAL,
    ORIENTATIONS,
    datasets,
    landmark_index,
    landmark_volume,
    physics,
    save,
    slice_result,
    turned,
)

from steadymr.dicom.geometry import plane
from steadymr.errors import DicomError
from steadymr.types import Vector


def brightest_point(image: sitk.Image) -> np.ndarray:
    array = sitk.GetArrayFromImage(image)
    z, y, x = (int(i) for i in np.unravel_index(int(array.argmax()), array.shape))
    return np.asarray(image.TransformIndexToPhysicalPoint((x, y, z)))


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_reader_finds_the_landmark_of_a_slice_where_it_was(name: str, tmp_path: Path) -> None:
    shape = (1, 24, 32)
    (path,) = save(datasets(slice_result(landmark_volume(shape), geometry=turned(name))), tmp_path)
    image = sitk.ReadImage(str(path))
    expected = physics(turned(name), shape, landmark_index(shape))
    np.testing.assert_allclose(brightest_point(image), expected, atol=1e-3)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_reader_finds_the_landmark_of_a_volume_where_it_was(name: str, tmp_path: Path) -> None:
    shape = (5, 24, 32)
    geometry = replace(turned(name), fov_mm_xyz=(240.0, 192.0, 15.0))
    save(datasets(slice_result(landmark_volume(shape), geometry=geometry)), tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    np.testing.assert_allclose(brightest_point(image), physics(geometry, shape, landmark_index(shape)), atol=1e-3)
    np.testing.assert_allclose(image.GetSpacing(), (7.5, 8.0, 3.0), atol=1e-3)


@pytest.mark.parametrize(("n_x", "first_x"), [(32, -16 * 7.5), (31, -15 * 240 / 31), (1, 0.0)])
def test_the_centre_sits_at_half_the_matrix_rounded_down(n_x: int, first_x: float) -> None:
    placed = plane(replace(AXIAL, centre_mm=(0.0, 0.0, 0.0)), (n_x, 24, 1), 0)
    assert placed.image_position_patient == pytest.approx((first_x, -96.0, 0.0), abs=1e-9)


def test_spacing_is_between_rows_first() -> None:
    assert plane(AXIAL, (32, 24, 1), 0).pixel_spacing == (8.0, 7.5)


def test_a_single_slice_claims_a_thickness_but_no_neighbours() -> None:
    placed = plane(AXIAL, (32, 24, 1), 0)
    assert (placed.slice_thickness, placed.spacing_between_slices) == (5.0, None)


def test_a_thickness_the_scanner_left_out_stays_unknown() -> None:
    placed = plane(replace(AXIAL, fov_mm_xyz=(240.0, 192.0, 0.0)), (32, 24, 1), 0)
    assert placed.slice_thickness is None


def test_cosines_rounded_to_four_digits_are_accepted_and_come_out_perpendicular() -> None:
    read, phase, slice_ = (tuple(round(v, 4) for v in direction) for direction in ORIENTATIONS["double oblique"])
    placed = plane(replace(AXIAL, read_dir=read, phase_dir=phase, slice_dir=slice_), (32, 24, 1), 0)
    row, column = np.reshape(placed.image_orientation_patient, (2, 3))
    assert [row @ row, column @ column, row @ column] == pytest.approx([1, 1, 0], abs=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"read_dir": (0.0, 0.0, 0.0)},
        {"phase_dir": (1.0, 0.0, 0.0)},
        {"slice_dir": (0.0, 0.6, 0.8)},
        {"read_dir": (float("nan"), 0.0, 0.0)},
        {"centre_mm": (0.0, float("inf"), 0.0)},
        {"fov_mm_xyz": (0.0, 192.0, 5.0)},
        {"fov_mm_xyz": (240.0, -192.0, 5.0)},
    ],
)
def test_a_geometry_that_cannot_be_written_truthfully_is_refused(change: dict[str, Vector]) -> None:
    with pytest.raises(DicomError, match="expected"):
        plane(replace(AXIAL, **change), (32, 24, 1), 0)
