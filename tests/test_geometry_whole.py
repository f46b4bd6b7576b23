"""From raw data to what an independent reader sees: each voxel of a landmark lies where it was in the patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_cases import ORIENTATIONS, complaints
from letter_phantom import BODY, LETTER, POSITIONS, density, write_scan
from scipy.spatial import cKDTree

from steadymr.config import load_settings
from steadymr.dicom import overlay
from steadymr.pipeline import replay
from steadymr.stability.metrics import tissue_mask

TOLERANCE_MM = 0.01
OBJECTS = ["overlay", "segmentation", "parametric_map", "structured_report", "key_objects", "presentation_state"]
CASES = [
    ("axial", "HFS"), ("sagittal", "HFS"), ("coronal", "FFS"), ("oblique", "HFS"), ("double oblique", "HFS"),
    ("double oblique", "HFP"), ("oblique", "FFP"),
]  # fmt: skip


def directions(orientation: str, position: str) -> np.ndarray:
    """Read, phase and slice directions in the patient, of slices that were placed in the magnet."""
    in_the_magnet = np.array(ORIENTATIONS[orientation])
    return in_the_magnet @ POSITIONS[position].T


def run(folder: Path, orientation: str, position: str, **overrides: Any) -> tuple[np.ndarray, Path]:
    letters_mm = write_scan(folder / "scan.h5", directions(orientation, position), position)
    settings = {
        "methods": ["classical"],
        "samples": 0,
        "classical": {"regularisation": 0.01, "iterations": 10},
        **overrides,
    }
    replay(folder / "scan.h5", folder / "out", load_settings(None, settings))
    return letters_mm, folder / "out" / "dicom"


def as_itk_sees(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def points_mm(image: sitk.Image) -> np.ndarray:
    """Where the reader puts each voxel (z y x 3)."""
    z, y, x = np.indices(sitk.GetArrayViewFromImage(image).shape)
    axes = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    return np.stack([x, y, z], -1) @ axes.T + np.array(image.GetOrigin())


@pytest.mark.parametrize(("orientation", "position"), CASES, ids=[" ".join(case) for case in CASES])
def test_every_voxel_of_three_letters_lies_where_it_was_in_the_patient(
    orientation: str, position: str, tmp_path: Path
) -> None:
    letters_mm, dicom = run(tmp_path, orientation, position)
    image = as_itk_sees(next(dicom.iterdir()))
    magnitude, points = sitk.GetArrayFromImage(image), points_mm(image)
    magnitude /= np.percentile(magnitude, 99)  # the letters'
    found_mm = points[magnitude > (BODY + LETTER) / 2]
    assert len(found_mm) == len(letters_mm) > 100
    distances, partners = cKDTree(letters_mm).query(found_mm)
    assert distances.max() < TOLERANCE_MM
    assert len(set(partners)) == len(letters_mm)
    assert ((magnitude > BODY / 2) == (density(points) > 0)).mean() > 0.995  # the cube too, but for its edges
    (first, *_) = sorted(dicom.rglob("*.dcm"))
    assert pydicom.dcmread(first).PatientPosition == position


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Path]:
    """A whole study, double oblique and feet first, prone; regions above a threshold that some voxels exceed."""
    dicom = {"objects": OBJECTS, "region_percent": 1.0}
    sampled = {"samples": 4, "diffusion": {"levels": 2}, "dicom": dicom}
    return run(tmp_path_factory.mktemp("study"), "double oblique", "FFP", **sampled)


def object_files(study: tuple[np.ndarray, Path], kind: str) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(file) for file in sorted(study[1].glob(f"*-classical-{kind}/*.dcm"))]


def test_the_validators_find_no_error_in_a_whole_study_with_all_objects(study: tuple[np.ndarray, Path]) -> None:
    files = sorted(study[1].rglob("*.dcm"))
    kinds = {file.parent.name.partition("-classical")[2] for file in files}
    assert kinds >= {"", "-overlay", "-segmentation", "-parametric-map", "-structured-report", "-presentation-state"}
    assert complaints(files) == []


@pytest.mark.parametrize("kind", ["parametric-map", "segmentation"])
def test_frames_of_derived_objects_lie_on_the_images_they_are_about(study: tuple[np.ndarray, Path], kind: str) -> None:
    image = as_itk_sees(study[1] / "7001-classical")
    (made,) = object_files(study, kind)
    of_kind = highdicom.pm.ParametricMap if kind == "parametric-map" else highdicom.seg.Segmentation
    options = {} if kind == "parametric-map" else {"combine_segments": True, "rescale_fractional": False}
    volume = of_kind.from_dataset(made).get_volume(**options)
    on_map_mm = volume.map_indices_to_reference(np.argwhere(volume.array[..., :] > 0)[:, :3])
    distances, _ = cKDTree(points_mm(image).reshape(-1, 3)).query(on_map_mm)
    assert distances.max() < TOLERANCE_MM


def test_the_map_judges_the_tissue_of_the_image_in_the_same_place(study: tuple[np.ndarray, Path]) -> None:
    """So its frames are in the order of its positions: a swapped frame or axis would show."""
    image = as_itk_sees(study[1] / "7001-classical")
    tissue = np.stack([tissue_mask(plane) for plane in sitk.GetArrayFromImage(image).astype(np.float32)])
    (made,) = object_files(study, "parametric-map")
    volume = highdicom.pm.ParametricMap.from_dataset(made).get_volume()
    judged_mm = volume.map_indices_to_reference(np.argwhere(volume.array >= 0)[:, :3])
    distances, partners = cKDTree(points_mm(image)[tissue]).query(judged_mm)
    here = distances < TOLERANCE_MM
    assert here.mean() > 0.995  # stored values are rounded, which decides a voxel at the edge of the tissue
    assert len(set(partners[here])) > 0.995 * tissue.sum() > 500


def test_each_picture_shows_its_own_image_in_its_own_place(study: tuple[np.ndarray, Path]) -> None:
    """Position, and content: grey where nothing is tinted is the image in its window."""
    images = {str(made.SOPInstanceUID): made for made in map(pydicom.dcmread, (study[1] / "7001-classical").iterdir())}
    for picture in object_files(study, "overlay"):
        image = images[picture.SourceImageSequence[0].ReferencedSOPInstanceUID]
        factor = picture.Columns // image.Columns
        shown = picture.pixel_array[overlay.BANNER_ROWS : -overlay.SCALE_ROWS : factor, ::factor].astype(int)
        grey = shown.max(-1) == shown.min(-1)
        np.testing.assert_allclose(shown[grey][:, 0], 255 * overlay.windowed(image)[grey], atol=1)
        assert 0.2 < grey.mean() < 1
        middle = (factor - 1) / 2
        np.testing.assert_allclose(
            corner_mm(picture, overlay.BANNER_ROWS + middle, middle), corner_mm(image, 0, 0), atol=TOLERANCE_MM
        )


def corner_mm(image: pydicom.Dataset, row: float, column: float) -> np.ndarray:
    """Equation C.7.6.2.1-1 of DICOM PS3.3."""
    along_row, along_column = np.reshape(np.array(image.ImageOrientationPatient, float), (2, 3))
    dy, dx = (float(value) for value in image.PixelSpacing)
    return np.array(image.ImagePositionPatient, float) + column * dx * along_row + row * dy * along_column
