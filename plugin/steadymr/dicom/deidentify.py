"""Objects without anything that leads to the patient: the Basic Application Confidentiality Profile (PS3.15, annex E).

What the profile does with each attribute is table E.1-1 of edition 2026c as dicom-anonymizer holds it. That library
acts on the outermost level alone, so the walk through sequences is here, and so is the treatment of UIDs: each becomes
another, the same everywhere under one ``salt``, so that references among the objects of an export still hold.

What steadymr itself has written stays, since a verdict must not get lost: its descriptions and comments, the content
of its reports, its annotations and its private block, less what names the scan. The options of the profile that allow
this are named in the objects.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache

from dicomanonymizer.simpledicomanonymizer import initialize_actions
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from steadymr.dicom import private, uids
from steadymr.dicom.facts import dicom_code
from steadymr.types import Identity, ScanHeader, Sequence, System

EDITION = "2026c"
DUMMY = "DEIDENTIFIED"
#: Of the profile and its options, PS3.16 CID 7050; each with what it keeps here.
METHODS = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113103", "Clean Graphics Option"),
    ("113104", "Clean Structured Content Option"),
    ("113105", "Clean Descriptors Option"),
    ("113111", "Retain Safe Private Option"),
)
#: Written by steadymr from methods, verdicts and numbers; nothing in them comes from the header.
OWN_WORDS = frozenset(
    {
        "SeriesDescription",
        "ImageComments",
        "DerivationDescription",
        "ContributionDescription",
        "ContentSequence",
        "GraphicAnnotationSequence",
        "UnformattedTextValue",
    }
)
#: Removed by the table although a presentation state is invalid without them.
REQUIRED = frozenset({"PresentationCreationDate", "PresentationCreationTime"})
NOT_SAFE_PRIVATE = ("scan_fingerprint", "missing_identity")
_DUMMIES = {"DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000Y", "DS": "0", "IS": "0"}


def stripped(header: ScanHeader) -> ScanHeader:
    """The scan's header with nothing that names patient, exam, hospital or device: what is not there cannot leak."""
    system, sequence = header.system, header.sequence
    return replace(
        header,
        xml="",
        measurement_id="",
        identity=Identity(body_part=header.identity.body_part),
        sequence=replace(sequence, protocol_name=Sequence().protocol_name),
        system=replace(
            system, institution=System().institution, station=System().station, device_id=System().device_id
        ),
    )


def deidentified(dataset: Dataset, salt: str) -> Dataset:
    """A copy without identity. The same salt gives the same UIDs and patient id; keep it secret, or forget it."""
    cleaned = deepcopy(dataset)
    subject = _subject(str(cleaned.get("StudyInstanceUID", "")), salt)
    facts = private.read(cleaned)
    cleaned.remove_private_tags()
    _clean(cleaned, salt, set())
    private.write(cleaned, {name: value for name, value in facts.items() if name not in NOT_SAFE_PRIVATE})
    cleaned.PatientID = subject
    cleaned.PatientIdentityRemoved = "YES"
    cleaned.DeidentificationMethod = [f"PS3.15 {EDITION} annex E, basic profile", "by steadymr"]
    cleaned.DeidentificationMethodCodeSequence = [dicom_code(code) for code in METHODS]
    cleaned.LongitudinalTemporalInformationModified = "REMOVED"
    cleaned.file_meta.MediaStorageSOPInstanceUID = cleaned.SOPInstanceUID
    return cleaned


def new_uid(uid: str, salt: str) -> str:
    """What a UID is called in the export."""
    return uids.derived_uid("deidentified", salt, uid)


def _subject(study_uid: str, salt: str) -> str:
    """A patient id of no meaning, one for each study of an export."""
    return f"SUBJECT-{int(uids.derived_uid('subject', salt, study_uid).removeprefix('2.25.')) % 10**10:010d}"


def _clean(dataset: Dataset, salt: str, done: set[int]) -> None:
    """Clean a data set and the items in it, each once: frames may share an item, whose UIDs must not change twice."""
    if id(dataset) in done:
        return
    done.add(id(dataset))
    for element in list(dataset):
        action = _actions().get((element.tag.group, element.tag.element), "keep")
        if element.keyword in OWN_WORDS:
            action = "keep"
        elif element.keyword in REQUIRED:
            action = "replace"
        _ACTIONS[action](dataset, element, salt)
        if element.tag in dataset and element.VR == "SQ":
            for item in element.value:
                _clean(item, salt, done)


@cache
def _actions() -> dict[tuple[int, ...], str]:
    """Tag -> what the profile says, in the library's words; repeating groups (overlays, curves) are never written."""
    table = initialize_actions(f"dicomfields_{EDITION}")
    return {tuple(tag): action.__name__ for tag, action in table.items()}


def _keep(dataset: Dataset, element: DataElement, salt: str) -> None:
    """Nothing to do; items of a sequence are cleaned one by one."""


def _remove(dataset: Dataset, element: DataElement, salt: str) -> None:
    del dataset[element.tag]


def _empty(dataset: Dataset, element: DataElement, salt: str) -> None:
    element.value = [] if element.VR == "SQ" else None


def _replace(dataset: Dataset, element: DataElement, salt: str) -> None:
    """A value of no meaning, where there was one; a moment that need not be there goes."""
    if element.is_empty:
        return
    if element.VR == "SQ":
        element.value = []
    elif element.VR == "UI":
        _rename(dataset, element, salt)
    else:
        element.value = _DUMMIES.get(element.VR, DUMMY)


def _remove_moment_or_replace(dataset: Dataset, element: DataElement, salt: str) -> None:
    (_remove if element.VR in ("DA", "TM", "DT") else _replace)(dataset, element, salt)


def _rename(dataset: Dataset, element: DataElement, salt: str) -> None:
    values = element.value if element.VM > 1 else [element.value]
    renamed = [new_uid(str(value), salt) for value in values if value]
    element.value = renamed if element.VM > 1 else "".join(renamed)


def _rename_inside(dataset: Dataset, element: DataElement, salt: str) -> None:
    """A sequence of references: its items are cleaned, and with that their UIDs renamed."""


_ACTIONS: dict[str, Callable[[Dataset, DataElement, str], None]] = {
    "keep": _keep,
    "delete": _remove,
    "empty": _empty,
    "delete_or_empty": _empty,
    "replace": _replace,
    "empty_or_replace": _replace,
    "delete_or_replace": _remove_moment_or_replace,
    "delete_or_empty_or_replace": _remove_moment_or_replace,
    "replace_UID": _rename,
    "delete_or_empty_or_replace_UID": _rename_inside,
}
