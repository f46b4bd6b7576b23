"""An exam taken from elsewhere arrives unaltered, and never in the wrong patient's study."""

from __future__ import annotations

import io
from dataclasses import replace

import pydicom
import pytest
from dicom_cases import HEADER, KNOWN
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from steadymr.dicom import matching
from steadymr.dicom.identity import exam
from steadymr.errors import DicomError
from steadymr.types import Identity

STUDY = "1.2.826.0.1.3680043.8.498.77"


def written(character_set: str | list[str] = "ISO_IR 192", **attributes: str) -> Dataset:
    """A data set as another vendor wrote it, through the bytes of a file."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = character_set
    for keyword, value in {"StudyInstanceUID": STUDY, "PatientID": "P1", **attributes}.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    dataset.save_as(stream)
    stream.seek(0)
    return pydicom.dcmread(stream, force=True)


def carried(dataset: Dataset) -> Dataset:
    """The exam of our own objects after theirs, as a reader gets it."""
    found = matching.joined(Identity(), matching.stated([dataset], "it"), "it")
    block = exam(replace(HEADER, identity=found), "scan-1")
    assert (block.notes, block.missing) == ((), () if found.patient_name else ("patient name",))
    stream = io.BytesIO()
    block.attributes.file_meta = FileMetaDataset()
    block.attributes.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    block.attributes.save_as(stream)
    stream.seek(0)
    return pydicom.dcmread(stream, force=True)


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 6", "Doe^Jane"),
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 101", "Wałęsa^Łukasz"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("ISO_IR 192", "山田^太郎"),
        ("GB18030", "王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
)
def test_a_name_in_any_character_set_arrives_unaltered(character_set: str | list[str], name: str) -> None:
    assert carried(written(character_set, PatientName=name)).PatientName == name


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", "000123"),
        ("PatientID", "A-0 0.7/B"),
        ("PatientBirthDate", "19000228"),
        ("PatientBirthDate", ""),
        ("PatientSex", "O"),
        ("AccessionNumber", "00042"),
        ("AccessionNumber", "MR0042-B"),
        ("StudyID", "007"),
        ("StudyDate", "20240229"),
        ("StudyTime", "000000"),
        ("StudyTime", "235960.123456"),
        ("StudyTime", "0930"),
        ("StudyDescription", "Kopf nativ + KM"),
        ("ReferringPhysicianName", "Doe^Jane^^Dr.^Jr."),
        ("FrameOfReferenceUID", STUDY + ".5"),
    ],
)
def test_identifiers_dates_and_times_arrive_unaltered(keyword: str, value: str) -> None:
    assert (carried(written(PatientName="A", **{keyword: value})).get(keyword) or "") == value


@pytest.mark.parametrize(
    ("field", "header", "found"),
    [
        ("patient_name", "MUELLER JOERG", "Mueller^Joerg"),
        ("patient_name", "Muller, Jorg", "Müller^Jörg"),
        ("patient_name", "山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("accession_number", "42", "00042"),
        ("accession_number", "42", "MR0042B"),
        ("study_instance_uid", "42", STUDY),
        ("patient_birth_date", "", "19700101"),
    ],
)
def test_what_only_spelling_tells_apart_is_one_exam(field: str, header: str, found: str) -> None:
    assert matching.disagreements(Identity(**{field: header}), Identity(**{field: found})) == ()


@pytest.mark.parametrize(
    ("field", "header", "found", "words"),
    [
        ("patient_name", "Doe^Jane", "Doe^John", "patient name"),
        ("patient_id", "000123", "123", "patient id"),
        ("patient_birth_date", "19700101", "19700102", "patient birth date"),
        ("patient_sex", "M", "F", "patient sex"),
        ("accession_number", "42", "43", "accession number"),
        ("study_instance_uid", STUDY, STUDY + ".1", "study instance UID"),
    ],
)
def test_another_exam_is_refused_in_one_sentence_that_names_no_one(
    field: str, header: str, found: str, words: str
) -> None:
    with pytest.raises(DicomError, match=f"S is not the exam of this scan: its {words} differ") as refusal:
        matching.joined(Identity(**{field: header}), Identity(**{field: found}), "S")
    assert found not in str(refusal.value)


def test_scripts_that_a_pacs_could_not_write_leave_no_trace() -> None:
    assert matching.stated([written(PatientName="Yamada^Tarou=^=^")], "it").patient_name == "Yamada^Tarou"


def test_the_other_s_word_counts_and_the_header_fills_the_gaps() -> None:
    other = matching.stated([written(PatientName="Müller^Jörg", PatientID="000123")], "it")
    known = matching.joined(replace(KNOWN, study_instance_uid=""), other, "it")
    assert (known.study_instance_uid, known.patient_weight_kg, known.body_part) == (STUDY, 71.5, "HEAD")


def test_the_scan_s_own_frame_of_reference_is_kept() -> None:
    other = Identity(study_instance_uid=STUDY, frame_of_reference_uid=STUDY + ".5")
    ours = Identity(frame_of_reference_uid=STUDY + ".6")
    assert matching.joined(ours, other, "it").frame_of_reference_uid == STUDY + ".6"
    assert matching.joined(Identity(frame_of_reference_uid="6"), other, "it").frame_of_reference_uid == STUDY + ".5"


def test_a_frame_of_reference_that_series_do_not_share_is_left_open() -> None:
    both = [written(FrameOfReferenceUID=STUDY + end) for end in (".5", ".6")]
    assert matching.stated(both, "it").frame_of_reference_uid == ""


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ([], "found none"),
        ([{"PatientID": "1"}, {"PatientID": "2"}], "1 studies of 2 patients"),
        ([{"StudyInstanceUID": STUDY}, {"StudyInstanceUID": STUDY + ".1"}], "2 studies of 1 patients"),
        ([{"StudyInstanceUID": ""}], "valid Study Instance UID"),
    ],
)
def test_no_exam_or_several_are_refused(datasets: list[dict[str, str]], words: str) -> None:
    with pytest.raises(DicomError, match=words):
        matching.stated([written(**attributes) for attributes in datasets], "it")
