"""Whose images these are: the patient, study and frame of reference of a scan as DICOM attributes.

What the header does not say stays empty. What it says and DICOM cannot hold (a date that is none, an accession number
of 20 characters) stays empty too, and a note says so. Notes and messages name the attribute, never its value, since the
value may identify the patient.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from pydicom.dataset import Dataset

from steadymr.dicom import uids
from steadymr.dicom.text import TextVR, code_string, decimal, describe, identifier, is_date, is_time
from steadymr.types import Identity, ScanHeader

#: Attributes of the exam that only objects with a place in the patient carry.
SPATIAL = frozenset({"FrameOfReferenceUID", "PositionReferenceIndicator"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """The attributes that every object of one exam shares, to be copied as a block; treat them as read-only."""

    attributes: Dataset
    notes: tuple[str, ...] = ()  #: what was stated and could not be written
    missing: tuple[str, ...] = ()  #: what a PACS would need and nobody stated


def exam(header: ScanHeader, scan_fingerprint: str) -> Exam:
    """Patient, study and frame of reference as the header states them; the UIDs derived where it does not."""
    writer = _Writer()
    identity = header.identity
    writer.attributes.SpecificCharacterSet = "ISO_IR 192"
    _patient(writer, identity)
    _study(writer, identity)
    writer.attributes.StudyInstanceUID = uids.study_instance_uid(header, scan_fingerprint)
    writer.attributes.FrameOfReferenceUID = uids.frame_of_reference_uid(header, scan_fingerprint)
    writer.attributes.PositionReferenceIndicator = None
    for note in writer.notes:
        _log.warning("%s", note)
    return Exam(writer.attributes, tuple(writer.notes), missing_identity(header))


def missing_identity(header: ScanHeader) -> tuple[str, ...]:
    """What must be known before a PACS may receive these images, and is not: without it they join the wrong study."""
    identity = header.identity
    known = {
        "patient name": bool(identifier(identity.patient_name, "PN")),
        "patient id": bool(identifier(identity.patient_id, "LO")),
        "study instance UID": uids.is_uid(identity.study_instance_uid.strip()),
    }
    return tuple(name for name, is_known in known.items() if not is_known)


def _patient(writer: _Writer, identity: Identity) -> None:
    writer.identifier("PatientName", identity.patient_name, "PN")
    writer.identifier("PatientID", identity.patient_id, "LO")
    writer.checked("PatientBirthDate", identity.patient_birth_date, is_date)
    writer.checked("PatientSex", identity.patient_sex, lambda sex: sex in ("M", "F", "O"))
    if identity.patient_weight_kg is not None and 0 < identity.patient_weight_kg < float("inf"):
        writer.attributes.PatientWeight = decimal(identity.patient_weight_kg)


def _study(writer: _Writer, identity: Identity) -> None:
    writer.checked("StudyDate", identity.study_date, is_date)
    writer.checked("StudyTime", identity.study_time, is_time)
    writer.identifier("ReferringPhysicianName", identity.referring_physician, "PN")
    writer.identifier("StudyID", identity.study_id, "SH")
    writer.identifier("AccessionNumber", identity.accession_number, "SH")
    if identity.study_description:
        writer.attributes.StudyDescription = describe(identity.study_description, "LO")


def body_part(identity: Identity) -> str:
    """The body part as a code string; empty if nobody stated it."""
    return code_string(identity.body_part)


class _Writer:
    """Collects attributes, and a note for each one that was stated but cannot be written."""

    def __init__(self) -> None:
        self.attributes = Dataset()
        self.notes: list[str] = []

    def identifier(self, keyword: str, value: str, vr: TextVR) -> None:
        self._write(keyword, identifier(value, vr))

    def checked(self, keyword: str, value: str, is_valid: Callable[[str], bool]) -> None:
        self._write(keyword, value.strip() if not value.strip() or is_valid(value.strip()) else None)

    def _write(self, keyword: str, value: str | None) -> None:
        if value is None:
            self.notes.append(f"{keyword} in the scan's header is not a valid DICOM value and was left empty")
        setattr(self.attributes, keyword, value or "")
