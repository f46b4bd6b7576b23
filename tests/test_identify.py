"""Patient and study from a series of the same exam, a PACS or a worklist: real peers, and the whole way to a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from commands import run_steadymr
from dicom_cases import HEADER, datasets, save, slice_result
from dicom_cases import KNOWN as OF_THE_HEADER
from pacs_peers import free_port, orthanc, running, write_series
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from scans import write_scan

from steadymr.config import load_settings
from steadymr.delivery import parse_destination
from steadymr.delivery.query import find_exam
from steadymr.errors import DeliveryError, DicomError, PeerError, SettingsError
from steadymr.series.identify import identified, identified_or_nobody
from steadymr.simulate.scan import simulate_scan
from steadymr.types import Identity

PLUGINS = "/usr/share/orthanc/plugins/lib{}.so"
KNOWN = {
    "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "PatientID": "000123",
    "AccessionNumber": "00042B",
    "PatientBirthDate": "19700228",
    "SpecificCharacterSet": "ISO_IR 192",
}
HEADER_OF_NOBODY = replace(HEADER, identity=Identity())
CLASSICAL = ("--method", "classical", "--samples", "0")


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Orthanc with one study, one requested procedure, and another patient's of each."""
    folder = tmp_path_factory.mktemp("orthanc")
    worklist(folder / "worklist" / "1.wl", **KNOWN, StudyInstanceUID="1.2.3.4")
    worklist(folder / "worklist" / "2.wl", **{**KNOWN, "PatientID": "124", "AccessionNumber": "43"})
    plugins = [PLUGINS.format("OrthancDicomWeb"), PLUGINS.format("ModalityWorklists")]
    program = orthanc(
        folder, Plugins=plugins, Worklists={"Enable": True, "Database": str(folder / "worklist")},
        DefaultEncoding="Utf8",
        DicomAlwaysAllowFindWorklist=True, DicomAlwaysAllowFind=True,
    )  # fmt: skip
    with running(program):
        other = write_series(folder / "other", 1, PatientID="124", AccessionNumber="43")
        for file in [*write_series(folder / "series", 2, **KNOWN), *other]:
            program.rest("/instances", "POST", file.read_bytes())
        yield program


def worklist(file: Path, **attributes: str) -> None:
    dataset = Dataset()
    step = Dataset()
    step.Modality, step.ScheduledStationAETitle = "MR", "MR1"
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = "20261122", "0900"
    dataset.ScheduledProcedureStepSequence = [step]
    dataset.StudyInstanceUID, dataset.RequestedProcedureDescription = "1.2.3.9", "Kopf"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.276.0.7230010.3.1.0.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.5"
    file.parent.mkdir(exist_ok=True)
    dataset.save_as(file, enforce_file_format=True)


def asked(pacs: Any, source: str, key: str = "accession_number", value: str = "00042B") -> Identity:
    destinations = {"pacs": {"url": pacs.web_url if source == "qidors" else pacs.url}}
    identity = {"source": source, "destination": "pacs", "key": key, "value": value}
    return identified(
        HEADER_OF_NOBODY, load_settings(None, {"identity": identity, "destinations": destinations})
    ).identity


@pytest.mark.parametrize("key", ["accession_number", "patient_id"])
@pytest.mark.parametrize("source", ["find", "qidors", "worklist"])
def test_a_real_peer_says_whose_exam_it_is(pacs: Any, source: str, key: str) -> None:
    found = asked(pacs, source, key, "00042B" if key == "accession_number" else "000123")
    assert (found.patient_name, found.patient_id) == (KNOWN["PatientName"], "000123")
    assert (found.accession_number, found.patient_birth_date) == ("00042B", "19700228")
    if source == "worklist":
        assert (found.study_instance_uid, found.study_description) == ("1.2.3.4", "Kopf")
    else:
        assert pacs.rest("/tools/lookup", "POST", found.study_instance_uid.encode())


@pytest.mark.parametrize("source", ["find", "qidors", "worklist"])
def test_an_exam_that_nobody_knows_is_not_guessed(pacs: Any, source: str) -> None:
    """Nor is one that differs in a leading zero or in case."""
    for value in ("42B", "00042b", "999"):
        with pytest.raises(DicomError, match="found none"):
            asked(pacs, source, value=value)


@pytest.mark.parametrize("value", ["*", "0004?B", "1\\2"])
def test_a_value_that_matches_more_than_itself_is_not_asked(value: str) -> None:
    with pytest.raises(DeliveryError, match="can't be asked"):
        find_exam(parse_destination("dimse://A@127.0.0.1:1"), "find", "AccessionNumber", value)


@pytest.mark.parametrize(("source", "url"), [("qidors", "dimse://A@127.0.0.1:1"), ("find", "http://127.0.0.1:1/x")])
def test_a_destination_that_speaks_otherwise_is_refused(source: Any, url: str) -> None:
    with pytest.raises(SettingsError, match="needs a destination"):
        find_exam(parse_destination(url), source, "AccessionNumber", "1")


@pytest.mark.parametrize("url", ["dimse://A@127.0.0.1:{}", "http://127.0.0.1:{}/dicom-web"])
def test_a_pacs_that_is_down_is_no_answer_and_no_guess(url: str) -> None:
    where = parse_destination(url.format(free_port()))
    with pytest.raises(PeerError):
        find_exam(where, "find" if url.startswith("dimse") else "qidors", "AccessionNumber", "1")


def test_a_header_without_the_key_says_what_to_give() -> None:
    wanted = {"identity": {"source": "find", "destination": "pacs"}, "destinations": {"pacs": {"url": "dimse://A@h:1"}}}
    with pytest.raises(DicomError, match=r"states no accession number; give it as identity\.value"):
        identified(HEADER_OF_NOBODY, load_settings(None, wanted))


def test_a_destination_that_is_none_of_the_config_s_is_refused_with_the_settings() -> None:
    with pytest.raises(SettingsError, match=r"identity\.destination names 'pacs', but there are: none"):
        load_settings(None, {"identity": {"source": "find", "destination": "pacs"}})


def test_a_live_scan_goes_on_without_an_identity_where_nobody_answers(caplog: pytest.LogCaptureFixture) -> None:
    identity = {"source": "find", "destination": "pacs", "value": "1"}
    destinations = {"pacs": {"url": f"dimse://A@127.0.0.1:{free_port()}"}}
    header = identified_or_nobody(HEADER, load_settings(None, {"identity": identity, "destinations": destinations}))
    assert header.identity == Identity(body_part="HEAD")
    assert "made without an identity, and no PACS gets them" in caplog.text


def test_study_puts_a_scan_of_nobody_into_the_scanner_s_study(tmp_path: Path) -> None:
    write_scan(tmp_path / "scan.h5")
    frame = {"FrameOfReferenceUID": "1.2.3.7"}
    (example, _) = write_series(tmp_path / "series", 2, **KNOWN, **frame)
    (tmp_path / "series" / "README").write_text("not DICOM")
    done = run_steadymr(
        "replay", tmp_path / "scan.h5", "--out", tmp_path / "out", *CLASSICAL, "--study", tmp_path / "series"
    )
    assert done.returncode == 0, done.stderr
    (made,), stated = map(pydicom.dcmread, (tmp_path / "out").rglob("*.dcm")), pydicom.dcmread(example)
    for keyword in (*KNOWN, "StudyInstanceUID", "StudyDate", "StudyTime", "FrameOfReferenceUID"):
        assert made[keyword].value == stated[keyword].value, keyword
    assert "000123" not in (tmp_path / "out" / "summary.json").read_text()


def test_study_of_another_patient_ends_before_anything_is_written(tmp_path: Path) -> None:
    simulate_scan(tmp_path / "scan.h5", seed=0, matrix=(32, 32), acceleration=1)
    (file,) = write_series(tmp_path / "series", 1)
    done = run_steadymr("replay", tmp_path / "scan.h5", "--out", tmp_path / "out", *CLASSICAL, "--study", file)
    assert done.returncode != 0
    assert "is not the exam of this scan: its patient name, patient id, study instance UID differ" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_known_patient_in_an_unknown_study_is_not_sent(tmp_path: Path) -> None:
    """The study that steadymr made up is none of the PACS's: the files say so, and stay on disk."""
    header = replace(HEADER, identity=replace(OF_THE_HEADER, study_instance_uid=""))
    files = save(datasets(slice_result(header=header)), tmp_path / "dicom")
    done = run_steadymr("send", *files, "--to", f"dimse://A@127.0.0.1:{free_port()}", "--outbox", tmp_path / "outbox")
    assert done.returncode == 8
    assert "nobody stated whose it is: no study instance UID; 'steadymr replay --study'" in done.stderr
