"""Patient and study come through unaltered, or empty with a note; never made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from dicom_cases import HEADER, KNOWN, UNKNOWN_HEADER, datasets, save, slice_result
from pydicom.dataset import Dataset

from steadymr.dicom import uids
from steadymr.dicom.identity import exam, missing_identity
from steadymr.types import ScanHeader


def header(**changes: str) -> ScanHeader:
    return replace(HEADER, identity=replace(KNOWN, **changes))


def written(**changes: str) -> Dataset:
    return exam(header(**changes), "scan-1").attributes


def test_names_and_leading_zeros_survive_a_file(tmp_path: Path) -> None:
    (path,) = save(datasets(slice_result()), tmp_path)
    read = pydicom.dcmread(path)
    assert (str(read.PatientName), read.PatientID, read.AccessionNumber) == ("Müller^Jörg", "000123", "00042")


@pytest.mark.parametrize("name", ["山田^太郎", "Ελένη^Παπ", "O'Neil^Seán"])
def test_a_name_in_any_script_survives_a_file(name: str, tmp_path: Path) -> None:
    (path,) = save(datasets(slice_result(header=header(patient_name=name))), tmp_path)
    assert str(pydicom.dcmread(path).PatientName) == name


@pytest.mark.parametrize(
    ("field", "keyword", "bad"),
    [
        ("patient_birth_date", "PatientBirthDate", "19700230"),
        ("patient_birth_date", "PatientBirthDate", "1970-02-03"),
        ("study_date", "StudyDate", "today"),
        ("study_time", "StudyTime", "250000"),
        ("study_time", "StudyTime", "09:30:00"),
        ("patient_sex", "PatientSex", "male"),
        ("patient_id", "PatientID", "1\\2"),
        ("patient_id", "PatientID", "x" * 65),
        ("accession_number", "AccessionNumber", "12345678901234567"),
        ("study_id", "StudyID", "a\nb"),
    ],
)
def test_what_dicom_cannot_hold_is_left_empty_with_a_note_that_does_not_repeat_it(
    field: str, keyword: str, bad: str
) -> None:
    block = exam(header(**{field: bad}), "scan-1")
    assert block.attributes[keyword].value in ("", None)
    (note,) = block.notes
    assert keyword in note
    assert bad not in note


@pytest.mark.parametrize("time", ["09", "0930", "093000", "093000.5", "235960.123456", ""])
def test_times_of_any_allowed_precision_are_kept(time: str) -> None:
    assert written(study_time=time).StudyTime == (time or None or "")


def test_a_header_that_says_nothing_gives_empty_attributes_and_a_list_of_what_is_missing() -> None:
    block = exam(UNKNOWN_HEADER, "scan-1")
    empty = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber")
    assert all(block.attributes[keyword].is_empty for keyword in empty)
    assert block.missing == ("patient name", "patient id", "study instance UID")
    assert missing_identity(HEADER) == ()


@pytest.mark.parametrize("stated", ["", "42", "1.02.3", "1.2.x", "study", "3.1.4", "1." + "2" * 64])
def test_a_study_uid_that_is_none_is_replaced_and_missed(stated: str) -> None:
    assert uids.is_uid(written(study_instance_uid=stated).StudyInstanceUID)
    assert written(study_instance_uid=stated).StudyInstanceUID != stated
    assert "study instance UID" in missing_identity(header(study_instance_uid=stated))


def test_a_study_uid_that_the_scanner_stated_is_kept() -> None:
    assert written().StudyInstanceUID == KNOWN.study_instance_uid


def test_derived_study_and_frame_follow_from_the_scan_alone() -> None:
    first, again, other = (exam(UNKNOWN_HEADER, scan).attributes for scan in ("a", "a", "b"))
    assert first == again
    assert first.StudyInstanceUID != other.StudyInstanceUID
    assert first.FrameOfReferenceUID not in (other.FrameOfReferenceUID, first.StudyInstanceUID)


def test_derived_uids_are_version_8_uuids() -> None:
    import uuid

    value = uuid.UUID(int=int(uids.derived_uid("study", "x").removeprefix("2.25.")))
    assert (value.version, value.variant) == (8, uuid.RFC_4122)
    assert uids.is_uid(uids.derived_uid("study", "x"))


def test_facts_do_not_run_into_one_another() -> None:
    assert uids.derived_uid("study", "ab", "c") != uids.derived_uid("study", "a", "bc")
