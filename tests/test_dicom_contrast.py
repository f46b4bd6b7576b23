"""A scan of many slices, contrasts, repetitions, phases, sets and averages: every image says which one it is."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from dicom_cases import AXIAL, HEADER, datasets, landmark_volume, slice_result
from pydicom.dataset import Dataset

from steadymr.types import ScanHeader, Sequence, SliceResult, VolumeIndex

COUNTERS = {"slice": 2, "contrast": 2, "repetition": 3, "phase": 2, "set": 2, "average": 2}
SEQUENCE = Sequence(
    sequence_type="FLASH",
    patient_position="FFP",
    tr_ms=(4000.0,),
    te_ms=(20.0, 90.0),
    ti_ms=(150.0, 900.0),
    flip_angle_deg=(15.0, 150.0),
)


def header(**changes: object) -> ScanHeader:
    system = replace(HEADER.system, vendor="SIEMENS")
    return replace(HEADER, counters=COUNTERS, sequence=SEQUENCE, system=system, **changes)  # type: ignore[arg-type]


def result(index: VolumeIndex, brightness: float = 1.0, time_stamp: int = 0) -> SliceResult:
    centre = (AXIAL.centre_mm[0], AXIAL.centre_mm[1], 5.0 * index.slice)
    one = slice_result(
        landmark_volume() * np.float32(brightness),
        header=header(), index=index, geometry=replace(AXIAL, centre_mm=centre),
    )  # fmt: skip
    return replace(one, image=replace(one.image, time_stamp=time_stamp))


@pytest.fixture(scope="module")
def scan() -> list[tuple[VolumeIndex, Dataset]]:
    places = [
        VolumeIndex(**dict(zip(COUNTERS, p, strict=True))) for p in itertools.product(*map(range, COUNTERS.values()))
    ]
    return list(zip(places, datasets(*map(result, places)), strict=True))


def test_every_image_can_be_told_from_every_other_by_standard_attributes(
    scan: list[tuple[VolumeIndex, Dataset]],
) -> None:
    keys = {
        (i.EchoNumbers, i.TemporalPositionIdentifier, i.AcquisitionNumber, tuple(i.ImagePositionPatient))
        for _, i in scan
    }
    assert len(keys) == len(scan) == 96


def test_echo_number_and_times_and_flip_angle_follow_the_contrast(scan: list[tuple[VolumeIndex, Dataset]]) -> None:
    expected = {0: (1, 20.0, 150.0, 15.0), 1: (2, 90.0, 900.0, 150.0)}
    for place, i in scan:
        found = (i.EchoNumbers, float(i.EchoTime), float(i.InversionTime), float(i.FlipAngle))
        assert found == expected[place.contrast]
        assert (float(i.RepetitionTime), i.PatientPosition, i.ScanningSequence) == (4000.0, "FFP", "GR")


def test_temporal_positions_count_phases_within_repetitions(scan: list[tuple[VolumeIndex, Dataset]]) -> None:
    for place, i in scan:
        assert i.TemporalPositionIdentifier == 1 + place.phase + 2 * place.repetition
        assert i.NumberOfTemporalPositions == 6


def test_a_single_moment_and_contrast_claim_no_positions() -> None:
    (image,) = datasets(slice_result(header=replace(HEADER, counters={})))
    assert "TemporalPositionIdentifier" not in image
    assert "EchoNumbers" not in image


@pytest.mark.parametrize(
    ("time_stamp", "study_time", "date", "time"),
    [
        (13_680_000, "093000", "20261122", "093000.000000"),
        (13_680_001, "093000", "20261122", "093000.002500"),
        (48_000, "235900", "20261123", "000200.000000"),
        (0, "093000", None, None),
        (40_000_000, "093000", None, None),
    ],
    ids=["on the hour", "one tick later", "past midnight", "no stamp", "no time of day"],
)
def test_a_scanner_s_ticks_become_date_and_time(
    time_stamp: int, study_time: str, date: str | None, time: str | None
) -> None:
    one = result(VolumeIndex(), time_stamp=time_stamp)
    known = header(identity=replace(HEADER.identity, study_time=study_time))
    (image,) = datasets(replace(one, image=replace(one.image, header=known)))
    assert (image.get("AcquisitionDate"), image.get("AcquisitionTime")) == (date, time)


def test_ticks_of_an_unknown_clock_are_no_time() -> None:
    one = slice_result()
    (image,) = datasets(replace(one, image=replace(one.image, time_stamp=13_680_000)))
    assert "AcquisitionTime" not in image


def test_the_same_tissue_has_the_same_real_value_in_every_image_of_a_scan() -> None:
    """Also in the one that is too bright for the others' slope."""
    places = [VolumeIndex(repetition=r) for r in range(3)]
    images = datasets(*(result(p, brightness) for p, brightness in zip(places, (1.0, 0.5, 100.0), strict=True)))
    first, half, bright = (i.pixel_array * float(i.RescaleSlope) for i in images)
    np.testing.assert_allclose(half, 0.5 * first, atol=float(images[0].RescaleSlope))
    np.testing.assert_allclose(bright, 100 * first, rtol=1e-2, atol=0.6 * float(images[2].RescaleSlope) + 1)
    assert len({(i.RescaleType, i.RescaleIntercept, i.WindowCenter) for i in images}) == 1
