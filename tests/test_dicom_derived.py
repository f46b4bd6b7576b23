"""The objects derived from a series are valid, lie exactly on it, and tell the same story."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_cases import (
    AXIAL,
    DRIFT,
    UNKNOWN_HEADER,
    complaints,
    datasets,
    landmark_volume,
    physics,
    save,
    series_facts,
    slice_result,
    turned,
)
from pydicom.dataset import Dataset

from steadymr.dicom import (
    derived,
    key_objects,
    overlay,
    parametric,
    presentation,
    private,
    segmentation,
    series,
    structured_report,
)
from steadymr.dicom.facts import SeriesFacts, SeriesVerdict
from steadymr.errors import DicomError
from steadymr.series.derive import Master, derived_series
from steadymr.types import Geometry, SliceResult, VolumeIndex

SHAPE = (3, 24, 32)
Study: TypeAlias = dict[str, list[Dataset]]


def geometry(name: str) -> Geometry:
    return replace(turned(name), fov_mm_xyz=(240.0, 192.0, 15.0))


def result(name: str = "double oblique", **changes: object) -> SliceResult:
    return slice_result(landmark_volume(SHAPE), **({"geometry": geometry(name)} | changes))  # type: ignore[arg-type]


def facts_of(one: SliceResult) -> SeriesFacts:
    return series_facts(one.image.header, perturbed=bool(one.image.perturbations))


def study(one: SliceResult) -> dict[str, list[Dataset]]:
    """The MR series of a result and everything derived from it."""
    facts, images = facts_of(one), datasets(one)
    outcome = SeriesVerdict(one.stability.verdict, one.stability.score)
    stack = derived.stack(images, one.stability.spread_percent)
    pictures = [
        overlay.overlay_image(image, spread, facts, outcome, series_number=902, instance_number=number)
        for number, (image, spread) in enumerate(zip(images, stack.spread_percent, strict=True), 1)
    ]
    regions = segmentation.unstable_regions(
        stack, facts, outcome, threshold_percent=20.0, series_number=903, instance_number=1
    )
    spread = parametric.spread_map(stack, facts, outcome, series_number=904, instance_number=1)
    report = structured_report.stability_report(images, facts, outcome, series_number=905, instance_number=1)
    issue = key_objects.quality_issue(images, facts, outcome, series_number=906, instance_number=1)
    shown = presentation.presentation_state(images, facts, outcome, series_number=907, instance_number=1)
    objects = {
        "mr": images,
        "overlay": pictures,
        "seg": [regions],
        "map": [spread],
        "sr": [report],
        "ko": [issue],
        "pr": [shown],
    }
    return {name: [dataset for dataset in made if dataset is not None] for name, made in objects.items()}


def as_read(dataset: Dataset) -> Dataset:
    """The data set as a reader gets it, through the bytes of a file."""
    written = io.BytesIO()
    dataset.save_as(written, enforce_file_format=True)
    written.seek(0)
    return pydicom.dcmread(written)


@pytest.fixture(scope="module")
def unstable() -> Study:
    return study(result())


@pytest.fixture(scope="module")
def unscored() -> Study:
    return study(result(score=None))


@pytest.fixture(scope="module")
def perturbed() -> Study:
    return study(result(perturbations=(DRIFT,)))


STUDIES: dict[str, Callable[[], SliceResult]] = {
    "everything known": result,
    "slices against row x column": lambda: result("slices against row x column"),
    "nobody knows whose, unscored and perturbed": lambda: result(
        header=UNKNOWN_HEADER, score=None, perturbations=(DRIFT,)
    ),
}


@pytest.mark.parametrize("name", STUDIES)
def test_the_validators_find_no_error_in_the_whole_study(name: str, tmp_path: Path) -> None:
    files = [path for kind, made in study(STUDIES[name]()).items() for path in save(made, tmp_path, kind)]
    assert complaints(files) == []


@pytest.mark.parametrize("name", ["double oblique", "sagittal", "slices against row x column"])
def test_map_and_regions_lie_on_the_voxels_they_are_about(name: str) -> None:
    one = result(name)
    one.stability.spread_percent[:] = 1.0
    one.stability.spread_percent[2, 5, 7] = 80.0
    made = study(one)
    spread = highdicom.pm.ParametricMap.from_dataset(as_read(made["map"][0])).get_volume()
    regions = highdicom.seg.Segmentation.from_dataset(as_read(made["seg"][0])).get_volume(
        combine_segments=True, rescale_fractional=False
    )
    for volume in (spread, regions):
        found = np.unravel_index(int(volume.array.argmax()), volume.array.shape)
        point = volume.map_indices_to_reference(np.array([found[:3]]))[0]
        np.testing.assert_allclose(point, physics(geometry(name), SHAPE, (2, 5, 7)), atol=0.01)


@pytest.mark.parametrize("name", ["double oblique", "coronal"])
def test_the_enlarged_picture_lies_on_its_image(name: str) -> None:
    (image, *_), (picture, *_) = (study(result(name))[kind] for kind in ("mr", "overlay"))
    factor = picture.Columns // image.Columns
    middle = (factor - 1) / 2  # of the square that shows pixel (6, 21), below the banner
    first = overlay.BANNER_ROWS + 6 * factor + middle, 21 * factor + middle
    np.testing.assert_allclose(point_of(picture, *first), point_of(image, 6, 21), atol=1e-6)


def point_of(image: Dataset, row: float, column: float) -> np.ndarray:
    """Equation C.7.6.2.1-1 of DICOM PS3.3."""
    along_row, along_column = np.reshape(np.array(image.ImageOrientationPatient, float), (2, 3))
    dy, dx = (float(value) for value in image.PixelSpacing)
    return np.array(image.ImagePositionPatient, float) + column * dx * along_row + row * dy * along_column


def test_the_map_holds_per_cent_and_minus_one_outside_tissue(unstable: Study) -> None:
    spread = as_read(unstable["map"][0])
    values = np.frombuffer(spread.FloatPixelData, np.float32).reshape(SHAPE)
    np.testing.assert_array_equal(values, np.nan_to_num(result().stability.spread_percent, nan=-1.0))
    mapping = spread.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "%"


def test_no_segmentation_is_made_where_nothing_is_unstable() -> None:
    one = result()
    stack = derived.stack(datasets(one), np.full(SHAPE, np.nan, np.float32))
    arguments = {"threshold_percent": 20.0, "series_number": 903, "instance_number": 1}
    assert segmentation.unstable_regions(stack, facts_of(one), SeriesVerdict("stable", 0.9), **arguments) is None


def test_no_quality_issue_is_raised_where_nothing_is_unstable(unscored: Study) -> None:
    assert unscored["ko"] == []


def test_the_quality_issue_never_hides_images(unstable: Study) -> None:
    (document,) = unstable["ko"]
    assert document.ConceptNameCodeSequence[0].CodeValue == "113010"


def test_the_report_gives_score_verdict_and_reason_of_each_image(unstable: Study) -> None:
    (report,) = unstable["sr"]
    text = report.to_json()
    for expected in ("stability-score", "0.41", '"unstable"', "samples disagree in 12 % of the tissue", "111236"):
        assert text.count(expected) >= SHAPE[0]
    assert text.count('"111051"') == SHAPE[0]


def test_the_report_of_unscored_images_has_no_number_and_no_judgement(unscored: Study) -> None:
    (report,) = unscored["sr"]
    text = report.to_json()
    assert "stability-score" not in text
    assert '"111050"' not in text
    assert '"unscored"' in text


def test_a_verdict_that_nobody_calibrated_is_shown_everywhere_and_nowhere_as_a_number() -> None:
    one = result(score=None)
    made = study(replace(one, stability=replace(one.stability, verdict="uncalibrated")))
    for dataset in (dataset for group in made.values() for dataset in group):
        assert "| UNCALIBRATED" in dataset.SeriesDescription
    assert private.read(made["mr"][0])["verdict"] == "UNCALIBRATED"
    assert "score" not in private.read(made["mr"][0])
    assert tuple(made["overlay"][0].pixel_array[1, 1]) == (110, 100, 175)
    report = made["sr"][0].to_json()
    assert report.count('"uncalibrated"') == SHAPE[0]
    assert "stability-score" not in report
    assert '"111050"' not in report


def test_the_presentation_state_writes_the_verdict_over_each_image_in_its_window(unstable: Study) -> None:
    (shown,) = unstable["pr"]
    images = {image.SOPInstanceUID: image for image in unstable["mr"]}
    for annotation in shown.GraphicAnnotationSequence:
        (reference,), (text,) = annotation.ReferencedImageSequence, annotation.TextObjectSequence
        assert text.UnformattedTextValue == "UNSTABLE 0.41  diffusion  RESEARCH: NOT FOR DIAGNOSIS"
        del images[reference.ReferencedSOPInstanceUID]
    assert images == {}
    (window,) = shown.SoftcopyVOILUTSequence
    first = unstable["mr"][0]
    assert (float(window.WindowCenter), float(window.WindowWidth)) == (first.WindowCenter, first.WindowWidth)
    assert float(shown.RescaleSlope) == float(first.RescaleSlope)


def test_the_presentation_of_perturbed_data_says_so_over_each_image(perturbed: Study) -> None:
    texts = [a.TextObjectSequence[0].UnformattedTextValue for a in perturbed["pr"][0].GraphicAnnotationSequence]
    assert len(texts) == SHAPE[0]
    assert all(text.startswith("PERTURBED DATA  UNSTABLE 0.41") for text in texts)


def test_images_of_two_slopes_get_a_presentation_each() -> None:
    images = datasets(slice_result(), slice_result(landmark_volume() * 100, index=VolumeIndex(repetition=1)))
    master = Master([], images, [], facts_of(slice_result()), SeriesVerdict("unstable", 0.41))
    made = derived_series("presentation_state", master, series_number=907, threshold_percent=20.0)
    slopes = [float(one.RescaleSlope) for one in made]
    assert sorted(slopes) == sorted(float(image.RescaleSlope) for image in images)
    assert len({one.SOPInstanceUID for one in made}) == 2


def test_the_banner_has_the_colour_of_the_verdict(unstable: Study, unscored: Study) -> None:
    red, grey = (made["overlay"][0].pixel_array[1, 1] for made in (unstable, unscored))
    assert red[0] > 2 * red[1]
    assert len(set(grey.tolist())) == 1


def test_the_banner_of_perturbed_data_reads_differently(unstable: Study, perturbed: Study) -> None:
    plain, warned = (made["overlay"][0] for made in (unstable, perturbed))
    assert (plain.pixel_array[: overlay.BANNER_ROWS] != warned.pixel_array[: overlay.BANNER_ROWS]).any()
    assert "PERTURBED" in warned.ImageType


def test_the_image_is_untinted_where_there_is_no_spread() -> None:
    grey = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    for spread in (np.zeros((3, 4), np.float32), np.full((3, 4), np.nan, np.float32)):
        shown = overlay.tint(grey, spread, 50.0)
        np.testing.assert_array_equal(shown, np.rint(255 * grey)[..., np.newaxis].repeat(3, axis=2))


def test_the_same_content_gives_the_same_derived_objects(unstable: Study) -> None:
    first, again = ([d for made in whole.values() for d in made] for whole in (unstable, study(result())))
    for one, other in zip(first, again, strict=True):
        assert one == other


def test_all_derived_series_are_named_apart_and_as_perturbed(perturbed: Study) -> None:
    descriptions = {kind: {dataset.SeriesDescription for dataset in group} for kind, group in perturbed.items()}
    assert all(len(texts) == 1 and next(iter(texts)).startswith("PERTURBED") for texts in descriptions.values())
    assert len(set.union(*descriptions.values())) == 7
    assert len({dataset.SeriesInstanceUID for group in perturbed.values() for dataset in group}) == 7


def test_regions_map_and_report_of_perturbed_data_say_so_inside(unstable: Study, perturbed: Study) -> None:
    assert perturbed["seg"][0].ContentDescription.startswith("PERTURBED")
    assert perturbed["map"][0].ContentDescription.startswith("PERTURBED")
    assert perturbed["sr"][0].to_json().count("gain_drift") == SHAPE[0]
    assert not any("PERTURBED" in dataset.to_json() for made in unstable.values() for dataset in made)


def test_every_object_of_an_exam_that_nobody_stated_says_so_itself() -> None:
    made = study(result(header=UNKNOWN_HEADER))
    for dataset in (dataset for group in made.values() for dataset in group):
        assert private.read(dataset)["missing_identity"] == "patient name, patient id, study instance UID"


def test_slices_of_one_moment_make_one_stack_and_repetitions_do_not() -> None:
    places = [VolumeIndex(slice=s, repetition=r) for s in (0, 1) for r in (0, 1)]
    stored = [series.store(slice_result(index=place), 1.0)[0] for place in places]
    keys = [derived.stack_key(image) for image in stored]
    assert keys[0] == keys[2] != keys[1] == keys[3]


def test_images_on_top_of_one_another_are_no_stack() -> None:
    images = datasets(slice_result(), slice_result(index=VolumeIndex(repetition=1), geometry=AXIAL))
    with pytest.raises(DicomError, match="different positions"):
        derived.stack(images, np.zeros((2, 24, 32), np.float32))


def test_maps_of_another_shape_are_refused() -> None:
    (image,) = datasets(slice_result())
    with pytest.raises(DicomError, match="one stability map for each image"):
        derived.stack([image], np.zeros((1, 32, 24), np.float32))
