"""An exam's identity as another DICOM object states it, and whether that is the exam of the scan's header.

What two sources both state must agree; where only one speaks, it is believed. MRD writes accession numbers as integers
and names in no agreed order, so those are compared by what both spellings keep. Messages name the attribute, never its
value, since the value may identify the patient.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace

from pydicom.dataset import Dataset

from steadymr.dicom.uids import is_uid
from steadymr.errors import DicomError
from steadymr.types import Identity

#: Field of Identity -> DICOM keywords that state it, the first that is not empty wins.
KEYWORDS: dict[str, tuple[str, ...]] = {
    "patient_name": ("PatientName",),
    "patient_id": ("PatientID",),
    "patient_birth_date": ("PatientBirthDate",),
    "patient_sex": ("PatientSex",),
    "study_instance_uid": ("StudyInstanceUID",),
    "study_date": ("StudyDate",),
    "study_time": ("StudyTime",),
    "study_description": ("StudyDescription", "RequestedProcedureDescription"),
    "study_id": ("StudyID",),
    "accession_number": ("AccessionNumber",),
    "referring_physician": ("ReferringPhysicianName",),
    "frame_of_reference_uid": ("FrameOfReferenceUID",),
    "body_part": ("BodyPartExamined",),
}
_EMPTY_GROUPS = re.compile(r"(=\^*)+$")  #: of a name whose other scripts a PACS could not write
_OF_THE_SCAN = ("frame_of_reference_uid", "body_part")  #: the header knows better where it speaks


def stated(datasets: Sequence[Dataset], where: str) -> Identity:
    """The identity that all of ``datasets`` (of one series, or answers to one query) state; ``where`` is for messages.

    The frame of reference is left out where they differ in it. Raises DicomError if there are none, or if they are of
    several patients or studies, or name no study.
    """
    found = [_identity(dataset) for dataset in datasets]
    patients, studies = ({getattr(one, name) for one in found} for name in ("patient_id", "study_instance_uid"))
    if not found:
        raise DicomError(f"{where}: expected one exam, but found none")
    if len(patients) > 1 or len(studies) > 1:
        raise DicomError(
            f"{where}: expected one exam, but found {len(studies)} studies of {len(patients)} patients; name one"
        )
    if not is_uid(found[0].study_instance_uid):
        raise DicomError(f"{where}: expected a valid Study Instance UID, but found none")
    frames = {one.frame_of_reference_uid for one in found}
    return replace(found[0], frame_of_reference_uid=frames.pop() if len(frames) == 1 else "")


def joined(header: Identity, found: Identity, where: str) -> Identity:
    """What ``found`` states, and the header's word where it says nothing.

    Raises DicomError, naming the attributes, if the two are not of the same exam.
    """
    differing = disagreements(header, found)
    if differing:
        raise DicomError(
            f"{where} is not the exam of this scan: its {', '.join(differing)} differ from those in the scan's header"
        )
    names = [field.name for field in fields(Identity)]
    chosen = {name: getattr(found, name) or getattr(header, name) for name in names}
    chosen |= {name: getattr(header, name) or getattr(found, name) for name in _OF_THE_SCAN}
    if not is_uid(header.frame_of_reference_uid.strip()):
        chosen["frame_of_reference_uid"] = found.frame_of_reference_uid
    return Identity(**chosen)


def disagreements(header: Identity, found: Identity) -> tuple[str, ...]:
    """Attributes that both state and state differently, in words."""
    differing = []
    for name, same in _COMPARED.items():
        ours, theirs = getattr(header, name).strip(), getattr(found, name).strip()
        if ours and theirs and not same(ours, theirs):
            differing.append(name.replace("_uid", " UID").replace("_", " "))
    return tuple(differing)


def _identity(dataset: Dataset) -> Identity:
    weight = dataset.get("PatientWeight")
    texts = {name: _first(dataset, keywords) for name, keywords in KEYWORDS.items()}
    return Identity(**texts, patient_weight_kg=None if weight is None else float(weight))


def _first(dataset: Dataset, keywords: Iterable[str]) -> str:
    values = (dataset.get(keyword) for keyword in keywords)
    text = next((str(value).strip(" \0") for value in values if value not in (None, "")), "")
    return _EMPTY_GROUPS.sub("", text) if "PatientName" in keywords else text


def _same_name(one: str, other: str) -> bool:
    """The same words in any order, without regard to case, accents and punctuation, in the script that both use.

    A name in several scripts (``Yamada^Tarou=山田^太郎``) is the same if it is so in one of them.
    """
    ours, theirs = ([_words(group) for group in name.split("=")] for name in (one, other))
    return any(group and group in theirs for group in ours)


def _words(name: str) -> tuple[str, ...]:
    plain = unicodedata.normalize("NFKD", name.casefold())
    kept = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return tuple(sorted(re.findall(r"\w+", kept)))


def _same_number(one: str, other: str) -> bool:
    """Accession numbers, of which MRD keeps neither leading zeros nor letters: those with letters can't be compared."""
    if one.isdecimal() and other.isdecimal():
        return int(one) == int(other)
    return one == other or one.isdecimal() != other.isdecimal()


def _same_study(one: str, other: str) -> bool:
    return not is_uid(one) or one == other


def _equal(one: str, other: str) -> bool:
    return one == other


_COMPARED: dict[str, Callable[[str, str], bool]] = {
    "patient_name": _same_name,
    "patient_id": _equal,
    "patient_birth_date": _equal,
    "patient_sex": _equal,
    "accession_number": _same_number,
    "study_instance_uid": _same_study,
}
