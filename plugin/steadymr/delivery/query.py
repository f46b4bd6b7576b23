"""Which exam is it? Asked of a PACS by C-FIND or QIDO-RS, or of a modality worklist, by accession number or patient id.

Only answers that state the asked value exactly count: a PACS may match without regard to case, or take a star in the
value for a wildcard. C-FIND and worklist: DICOM PS3.4, annexes C and K; QIDO-RS: PS3.18, section 10.6.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, TypeAlias

import urllib3
from pydicom.dataset import Dataset
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (
    ModalityWorklistInformationFind,
    StudyRootQueryRetrieveInformationModelFind,
)

from steadymr.delivery.association import NothingAcceptedError, associated
from steadymr.delivery.destinations import Destination, DimseDestination, WebDestination
from steadymr.delivery.web import opened, request_headers
from steadymr.errors import DeliveryError, PeerError, PeerRefusedError, SettingsError

Source: TypeAlias = Literal["find", "qidors", "worklist"]
Key: TypeAlias = Literal["AccessionNumber", "PatientID"]

_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY = ("StudyInstanceUID", "AccessionNumber", "ReferringPhysicianName")
_STUDY_LEVEL = ("StudyDate", "StudyTime", "StudyDescription", "StudyID")
_PENDING = (0xFF00, 0xFF01)


def find_exam(destination: Destination, source: Source, key: Key, value: str) -> list[Dataset]:
    """The studies (or, from a worklist, the requested procedures) whose ``key`` is ``value``; often one, maybe none.

    Raises SettingsError if the destination does not speak what ``source`` needs, DeliveryError if the value cannot be
    asked for, and PeerError if there was no complete answer.
    """
    if not value or any(character in value for character in "\\*?"):
        raise DeliveryError(f"{destination.name} can't be asked: the {key} is empty or holds one of \\ * ?")
    if source == "qidors":
        found = _by_qido(_web(destination), key, value)
    else:
        found = _by_dimse(_dimse(destination, source), source, key, value)
    return [answer for answer in found if str(answer.get(key, "")).strip(" \0") == value]


def _web(destination: Destination) -> WebDestination:
    if isinstance(destination, WebDestination):
        return destination
    raise SettingsError(f"QIDO-RS needs a destination with an https:// address, but {destination.name} is a DIMSE one")


def _dimse(destination: Destination, source: Source) -> DimseDestination:
    if isinstance(destination, DimseDestination):
        return destination
    raise SettingsError(f"{source} needs a destination with a dimse:// address, but {destination.name} is a web one")


def _by_dimse(destination: DimseDestination, source: Source, key: Key, value: str) -> list[Dataset]:
    model = ModalityWorklistInformationFind if source == "worklist" else StudyRootQueryRetrieveInformationModelFind
    query = _worklist_query(key, value) if source == "worklist" else _study_query(key, value)
    try:
        with associated(destination, [build_context(model)]) as association:
            answers = list(association.send_c_find(query, model))
    except NothingAcceptedError as error:
        raise PeerRefusedError(f"{destination.url} does not offer {model.name}") from error
    except (RuntimeError, OSError, ValueError) as error:
        raise PeerError(f"{destination.url}: the association broke during C-FIND: {error}") from error
    last = answers[-1][0].get("Status") if answers else None
    if last != 0x0000:
        words = "no answer" if last is None else f"status 0x{last:04X}"
        raise PeerError(f"{destination.url}: {words} to C-FIND, so the exam is not known")
    return [found for status, found in answers if status.get("Status") in _PENDING and found is not None]


def _study_query(key: Key, value: str) -> Dataset:
    query = _asking([*_PATIENT, *_STUDY, *_STUDY_LEVEL])
    query.QueryRetrieveLevel = "STUDY"
    setattr(query, key, value)
    return query


def _worklist_query(key: Key, value: str) -> Dataset:
    query = _asking([*_PATIENT, *_STUDY, "RequestedProcedureDescription", "RequestedProcedureID"])
    query.ScheduledProcedureStepSequence = [_asking(["Modality", "ScheduledProcedureStepStartDate"])]
    setattr(query, key, value)
    return query


def _asking(keywords: Sequence[str]) -> Dataset:
    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 192"
    for keyword in keywords:
        setattr(query, keyword, "")
    return query


def _by_qido(destination: WebDestination, key: Key, value: str) -> list[Dataset]:
    fields = [(key, value), *(("includefield", keyword) for keyword in (*_PATIENT, *_STUDY, *_STUDY_LEVEL))]
    try:
        with opened(destination) as pool:
            url, headers = f"{destination.url}/studies", request_headers(destination)
            answer = pool.request("GET", url, fields=fields, headers=headers)
        if answer.status not in (200, 204):
            raise PeerError(f"{destination.url} answers QIDO-RS with HTTP {answer.status}, so the exam is not known")
        found = json.loads(answer.data) if answer.data else []
        return [Dataset.from_json(item) for item in found]
    except (urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PeerError(f"{destination.url}: no usable answer to QIDO-RS: {error}") from error
