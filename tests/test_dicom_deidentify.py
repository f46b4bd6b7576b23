"""A research export: valid, consistent in itself, with its verdict, and without anybody in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from commands import run_steadymr
from dicom_cases import HEADER, KNOWN, complaints, save
from pydicom.dataset import Dataset
from scans import write_scan
from test_dicom_derived import result, study

from steadymr.dicom import private
from steadymr.dicom.deidentify import METHODS, deidentified, stripped
from steadymr.types import ScanHeader

PLANTED = {
    "patient_name": "Plantedname^Jörg",
    "patient_id": "000987654",
    "patient_birth_date": "19610203",
    "study_instance_uid": "1.2.826.0.1.3680043.8.498.424242",
    "frame_of_reference_uid": "1.2.826.0.1.3680043.8.498.525252",
    "study_date": "20250607",
    "study_time": "081513.25",
    "study_description": "Planteddescription",
    "study_id": "PLANTEDSTUDY",
    "accession_number": "PLANTEDACC",
    "referring_physician": "Plantedphysician^A",
}
OF_THE_SCANNER = {"institution": "Plantedhospital", "station": "PLANTEDSTATION", "device_id": "PLANTEDSERIAL"}
SALT = "a salt"


def planted_header() -> ScanHeader:
    return replace(
        HEADER,
        measurement_id="Plantedmeasurement",
        identity=replace(KNOWN, **PLANTED),
        sequence=replace(HEADER.sequence, protocol_name="Plantedprotocol"),
        system=replace(HEADER.system, **OF_THE_SCANNER),
    )


def secrets() -> list[bytes]:
    values = [*PLANTED.values(), *OF_THE_SCANNER.values(), "Plantedmeasurement", "Plantedprotocol"]
    words = [word for value in values for word in value.split("^") if len(word) > 1]
    return [word.encode() for word in words] + ["Jörg".encode("latin-1")]


@pytest.fixture(scope="module")
def export() -> dict[str, list[Dataset]]:
    made = study(result(header=planted_header()))
    return {kind: [deidentified(dataset, SALT) for dataset in datasets] for kind, datasets in made.items()}


def test_nothing_planted_is_in_the_bytes_of_any_object(export: dict[str, list[Dataset]], tmp_path: Path) -> None:
    files = [path for kind, made in export.items() for path in save(made, tmp_path, kind)]
    assert len(files) == 3 + 3 + 5
    for file in files:
        content = file.read_bytes()
        assert [secret for secret in secrets() if secret in content] == [], file.name


def test_before_it_was_there_in_every_object(tmp_path: Path) -> None:
    files = [p for kind, made in study(result(header=planted_header())).items() for p in save(made, tmp_path, kind)]
    assert all(b"Plantedname" in file.read_bytes() for file in files)


def test_the_validators_find_no_error_in_the_export(export: dict[str, list[Dataset]], tmp_path: Path) -> None:
    assert complaints([path for kind, made in export.items() for path in save(made, tmp_path, kind)]) == []


def test_every_object_says_what_was_done(export: dict[str, list[Dataset]]) -> None:
    for made in (dataset for datasets in export.values() for dataset in datasets):
        assert made.PatientIdentityRemoved == "YES"
        assert [item.CodeValue for item in made.DeidentificationMethodCodeSequence] == [code for code, _ in METHODS]
        assert "PS3.15" in made.DeidentificationMethod[0]


def uids_in(dataset: Dataset) -> set[str]:
    """UIDs that name an instance, wherever they stand."""
    found: set[str] = set()
    dataset.walk(lambda _, element: found.add(element.value) if element.keyword in REFERENCES else None)
    return {str(uid) for uid in found}


REFERENCES = ("SOPInstanceUID", "ReferencedSOPInstanceUID")


def test_references_among_the_objects_still_hold(export: dict[str, list[Dataset]]) -> None:
    there = {str(made.SOPInstanceUID) for datasets in export.values() for made in datasets}
    for kind, datasets in export.items():
        for made in datasets:
            assert uids_in(made) <= there, kind
            assert kind == "mr" or len(uids_in(made)) > 1, kind
            assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    whole = [made for datasets in export.values() for made in datasets]
    assert len({made.StudyInstanceUID for made in whole}) == len({made.PatientID for made in whole}) == 1
    assert len({made.FrameOfReferenceUID for made in whole if "FrameOfReferenceUID" in made}) == 1
    assert len({made.SeriesInstanceUID for made in whole}) == len(export)


def test_no_uid_of_the_original_is_left_and_another_salt_gives_others(export: dict[str, list[Dataset]]) -> None:
    before = study(result(header=planted_header()))["mr"][0]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        after, other = export["mr"][0][keyword].value, deidentified(before, "another")[keyword].value
        assert len({before[keyword].value, after, other}) == 3


def test_the_verdict_stays_in_description_comment_private_block_report_and_pixels(
    export: dict[str, list[Dataset]],
) -> None:
    before = study(result(header=planted_header()))
    for kind, datasets in export.items():
        assert all("UNSTABLE 0.41" in made.SeriesDescription for made in datasets), kind
    assert (export["mr"][0].pixel_array == before["mr"][0].pixel_array).all()
    assert private.read(export["mr"][0])["score"] == 0.41
    assert "scan_fingerprint" not in private.read(export["mr"][0])
    assert "stability-score" in export["sr"][0].to_json()
    assert "UNSTABLE 0.41" in export["pr"][0].to_json()


def test_the_geometry_and_the_contrast_stay(export: dict[str, list[Dataset]]) -> None:
    before = study(result(header=planted_header()))["mr"]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "EchoTime", "RescaleSlope"):
        assert [one[keyword].value for one in export["mr"]] == [one[keyword].value for one in before]


def test_a_header_is_stripped_of_all_that_was_planted() -> None:
    left = repr(stripped(planted_header()))
    assert [secret for secret in secrets() if secret.decode("utf-8", "replace") in left] == []


def test_an_export_from_raw_data_has_nobody_in_any_file(tmp_path: Path) -> None:
    """Not in the images, nor the report, nor the summary, whose scan's very file name was a patient's."""
    planted = (
        "<subjectInformation><patientName>Plantedname^J</patientName><patientID>000987654</patientID>"
        "</subjectInformation><studyInformation><studyDate>2025-06-07</studyDate></studyInformation>"
        "<measurementInformation><measurementID>Plantedmeasurement</measurementID><patientPosition>HFS</patientPosition>"
        "<protocolName>Plantedprotocol</protocolName></measurementInformation>"
    )
    write_scan(tmp_path / "plain.h5")
    scan = with_header(tmp_path / "plain.h5", tmp_path / "Plantedname.h5", planted)
    done = run_steadymr(
        "replay", scan, "--out", tmp_path / "out", "--method", "classical", "--samples", "0", "--deidentify"
    )
    assert done.returncode == 0, done.stderr
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert {file.name for file in files} == {"00001.dcm", "report.html", "summary.json"}
    for file in files:
        assert not [secret for secret in secrets() if secret in file.read_bytes()], file.name
    (made,) = (pydicom.dcmread(file) for file in files if file.suffix == ".dcm")
    assert made.PatientIdentityRemoved == "YES"
    assert made.PatientID.startswith("SUBJECT-")


def with_header(scan: Path, to: Path, addition: str) -> Path:
    """The same scan with more in its XML header."""
    import h5py

    scan.rename(to)
    with h5py.File(to, "r+") as file:
        text = file["dataset/xml"][0].decode()
        head, _, end = text.rpartition("</")
        file["dataset/xml"][0] = f"{head}{addition}</{end}"
    return to
