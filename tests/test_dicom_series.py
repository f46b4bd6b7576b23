"""A series is valid DICOM, says what it is, and cannot be mistaken for something else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_cases import (
    AXIAL,
    DRIFT,
    HEADER,
    UNKNOWN_HEADER,
    complaints,
    datasets,
    landmark_volume,
    save,
    series_facts,
    slice_result,
    turned,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from steadymr.dicom import facts, pixels, private, series
from steadymr.dicom.facts import verdict_words
from steadymr.dicom.series import SeriesVerdict, series_description
from steadymr.errors import DicomError
from steadymr.types import ModelIdentity, VolumeIndex

CASES: dict[str, Callable[[], list[Dataset]]] = {
    "one slice": lambda: datasets(slice_result()),
    "a volume": lambda: datasets(slice_result(landmark_volume((3, 24, 32)))),
    "double oblique": lambda: datasets(slice_result(geometry=turned("double oblique"))),
    "perturbed": lambda: datasets(slice_result(perturbations=(DRIFT,))),
    "unscored": lambda: datasets(slice_result(score=None)),
    "nobody knows whose": lambda: datasets(slice_result(header=UNKNOWN_HEADER)),
    "contrasts and repetitions": lambda: datasets(
        *(slice_result(index=VolumeIndex(contrast=c, repetition=r)) for c in (0, 1) for r in (0, 1, 2))
    ),
    "geometry assumed": lambda: datasets(slice_result(geometry=replace(AXIAL, assumed="directions"))),
    "no thickness": lambda: datasets(slice_result(geometry=replace(AXIAL, fov_mm_xyz=(240.0, 192.0, 0.0)))),
    "no time of making": lambda: datasets(slice_result(), facts=series_facts(created=None)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_validators_find_no_error(name: str, tmp_path: Path) -> None:
    assert complaints(save(CASES[name](), tmp_path)) == []


def test_the_validators_would_find_an_error(tmp_path: Path) -> None:
    (broken,) = datasets(slice_result())
    del broken.ScanningSequence
    assert any("ScanningSequence" in line for line in complaints(save([broken], tmp_path)))


def one(**changes: object) -> Dataset:
    return datasets(slice_result(**changes))[0]  # type: ignore[arg-type]


def test_a_file_reads_back_with_the_magnitudes_that_went_in(tmp_path: Path) -> None:
    (path,) = save([one()], tmp_path)
    read = pydicom.dcmread(path)
    magnitude = read.pixel_array * float(read.RescaleSlope)
    np.testing.assert_allclose(magnitude, landmark_volume()[0], atol=0.51 * float(read.RescaleSlope))


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, again = (save([one()], tmp_path / name)[0].read_bytes() for name in ("first", "again"))
    assert first == again


def test_other_pixels_give_another_instance_of_the_same_series() -> None:
    data = landmark_volume()
    data[0, 0, 0] *= 1.5
    assert one(data=data).SOPInstanceUID != one().SOPInstanceUID
    assert one(data=data).SeriesInstanceUID == one().SeriesInstanceUID


@pytest.mark.parametrize(
    "changes",
    [
        {"settings_fingerprint": "other"},
        {"scan_fingerprint": "other"},
        {"method": "classical"},
        {"model": None},
        {"model": ModelIdentity("prior-small", "cd" * 32)},
        {"perturbed": True},
    ],
)
def test_each_fact_of_a_series_gives_it_another_uid(changes: dict[str, object]) -> None:
    assert series_facts(**changes).series_instance_uid != series_facts().series_instance_uid


def test_identical_pixels_in_two_slices_or_repetitions_are_two_instances() -> None:
    images = datasets(slice_result(np.ones((2, 8, 8), np.float32)))
    later = datasets(slice_result(np.ones((2, 8, 8), np.float32), index=VolumeIndex(repetition=1)))
    assert len({image.SOPInstanceUID for image in images + later}) == 4


def test_score_and_verdict_stand_in_description_comment_and_private_block() -> None:
    image = one()
    assert image.SeriesDescription == "steadymr diffusion | UNSTABLE 0.41"
    assert "UNSTABLE 0.41" in image.ImageComments
    assert "samples disagree in 12 % of the tissue" in image.ImageComments
    found = private.read(image)
    assert (found["verdict"], found["score"], found["n_samples"]) == ("UNSTABLE", 0.41, 6)


def test_an_image_keeps_its_own_verdict_beside_that_of_its_series() -> None:
    (stored,) = series.store(slice_result(), 1.0)
    found = private.read(series.mr_image(stored, series_facts(), SeriesVerdict("review", 0.6), 1))
    assert (found["verdict"], found["series_verdict"], found["series_score"]) == ("UNSTABLE", "REVIEW", 0.6)


def test_an_unscored_image_shows_no_number() -> None:
    image = one(score=None)
    assert image.SeriesDescription == "steadymr diffusion | UNSCORED"
    assert "score" not in private.read(image)


@pytest.mark.parametrize(("verdict", "score"), [("unscored", 0.5), ("stable", None), ("stable", 1.5)])
def test_a_verdict_that_contradicts_its_score_is_refused(verdict: str, score: float | None) -> None:
    with pytest.raises(DicomError, match="expected a score"):
        verdict_words(verdict, score)  # type: ignore[arg-type]


def test_a_perturbed_image_says_so_wherever_one_may_look() -> None:
    image = one(perturbations=(DRIFT,))
    assert "PERTURBED" in image.ImageType
    for text in (image.SeriesDescription, image.ImageComments, image.DerivationDescription):
        assert text.startswith("PERTURBED")
    assert '"drift": 0.2' in private.read(image)["perturbations"]


def test_an_unaltered_image_never_says_perturbed(tmp_path: Path) -> None:
    (path,) = save([one()], tmp_path)
    assert b"PERTURBED" not in path.read_bytes()


def test_a_perturbed_image_cannot_join_a_series_that_does_not_say_so() -> None:
    with pytest.raises(DicomError, match="injected imperfections"):
        datasets(slice_result(perturbations=(DRIFT,)), facts=series_facts())


def test_an_image_by_another_model_cannot_join_a_series() -> None:
    with pytest.raises(DicomError, match="another model"):
        datasets(slice_result(), facts=series_facts(model=None))


@pytest.mark.parametrize("method", ["diffusion", "x" * 300])
def test_the_verdict_fits_the_description_however_long_the_method_is(method: str) -> None:
    text = series_description(series_facts(method=method, perturbed=True), SeriesVerdict("unstable", 0.41))
    assert len(text) <= 64
    assert text.startswith("PERTURBED")
    assert text.endswith("| UNSTABLE 0.41")


def test_long_texts_are_shortened_knowingly_and_still_valid(tmp_path: Path) -> None:
    result = slice_result()
    result = replace(
        result,
        image=replace(result.image, derivation="d" * 5000),
        stability=replace(result.stability, reasons=("r" * 20000,)),
    )
    (image,) = datasets(result)
    assert image.DerivationDescription.endswith("...")
    assert image.ImageComments.endswith("...")
    assert complaints(save([image], tmp_path)) == []


def test_what_was_assumed_about_the_geometry_is_in_the_comment() -> None:
    image = one(geometry=replace(AXIAL, assumed="read, phase and slice directions"))
    assert "assumed: read, phase and slice directions" in image.ImageComments


def test_contrast_and_repetition_become_echo_and_temporal_position() -> None:
    image = one(index=VolumeIndex(contrast=1, repetition=2))
    assert (image.EchoNumbers, float(image.EchoTime), image.TemporalPositionIdentifier) == (2, 90.0, 3)
    assert float(image.RepetitionTime) == 4000.0


def test_echo_times_that_do_not_match_the_contrasts_are_left_empty() -> None:
    header = replace(HEADER, counters={"contrast": 3})
    assert one(header=header).EchoTime is None


def test_no_body_part_is_made_up() -> None:
    image = one(header=UNKNOWN_HEADER)
    assert "BodyPartExamined" not in image
    assert image["Laterality"].is_empty


def test_a_brighter_image_says_that_its_slope_differs() -> None:
    first, bright = datasets(slice_result(), slice_result(landmark_volume() * 100))
    assert bright.RescaleSlope > first.RescaleSlope
    assert "slope of its own" in bright.ImageComments
    assert (bright.WindowCenter, bright.WindowWidth) == (first.WindowCenter, first.WindowWidth)


def test_a_stored_image_survives_a_spool() -> None:
    result = slice_result()
    (stored,) = series.store(result, pixels.choose_slope(result.image.data))
    spooled = pickle.loads(pickle.dumps(stored))
    outcome = SeriesVerdict("unstable", 0.41)
    assert series.mr_image(spooled, series_facts(), outcome, 1) == series.mr_image(stored, series_facts(), outcome, 1)


def test_equipment_is_the_scanner_and_the_reconstruction_contributes() -> None:
    image = one()
    (item,) = image.ContributingEquipmentSequence
    assert (image.Manufacturer, item.Manufacturer) == ("Acme", "steadymr")
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert image.DerivationCodeSequence[0].CodeValue == "113049"


@pytest.mark.parametrize(
    ("written", "owner"),
    [
        (facts.PROCESSING_EQUIPMENT, codes.DCM.ProcessingEquipment),
        (facts.PIXEL_BY_PIXEL_MEAN, codes.DCM.PixelByPixelMean),
        (facts.SOURCE_IMAGE, codes.DCM.SourceImageForImageProcessingOperation),
    ],
)
def test_codes_mean_what_the_standard_says(written: tuple[str, str], owner: Code) -> None:
    assert written == (owner.value, owner.meaning)


def test_the_private_dictionary_is_documented_as_it_is_written() -> None:
    document = (Path(__file__).parents[1] / "docs" / "dicom-conformance.md").read_text(encoding="utf-8")
    for element in private.DICTIONARY.values():
        assert f"| (0071,10{element.offset:02X}) | {element.vr} | {element.meaning} |" in document
