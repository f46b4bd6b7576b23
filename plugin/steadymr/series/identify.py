"""Whose scan is it: the header's own word, or that of a DICOM series of the same exam, a PACS, or a worklist.

What the settings ask for is what is used: a source that cannot answer, or that knows another exam than the header, ends
the run with a sentence instead of a guess.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from steadymr.config import IdentitySettings, Settings
from steadymr.delivery import Destination, parse_destination
from steadymr.dicom import matching
from steadymr.errors import DeliveryError, DicomError
from steadymr.types import Identity, ScanHeader

log = logging.getLogger(__name__)


def identified(header: ScanHeader, settings: Settings) -> ScanHeader:
    """The header with patient and study as ``settings.identity`` says, or without any for a research export.

    Raises DicomError if the source names no exam, several, or another than the header; PeerError if it gives no answer.
    """
    found = _with_identity(header, settings)
    if not settings.dicom.deidentify:
        return found
    from steadymr.dicom.deidentify import stripped  # a table of a thousand rows, rarely needed

    return stripped(found)


def identified_or_nobody(header: ScanHeader, settings: Settings) -> ScanHeader:
    """As ``identified``, for a scan that is running: where the source fails, nobody's, so that no PACS gets it.

    The images are made all the same, and the log says why they belong to nobody.
    """
    try:
        return identified(header, settings)
    except (DicomError, DeliveryError) as error:
        log.error("%s; the series of this scan are made without an identity, and no PACS gets them", error)
        return replace(header, identity=Identity(body_part=header.identity.body_part))


def _with_identity(header: ScanHeader, settings: Settings) -> ScanHeader:
    wanted = settings.identity
    if wanted.source == "header":
        return header
    if wanted.source == "study":
        assert wanted.study is not None  # the settings see to it
        found, where = matching.stated(list(_read(wanted.study)), str(wanted.study)), str(wanted.study)
    else:
        found, where = _asked(wanted.source, header.identity, settings)
    return replace(header, identity=matching.joined(header.identity, found, where))


def _read(path: Path) -> Iterator[Dataset]:
    """The headers of a file, or of all DICOM files below a folder; others in the folder are passed over."""
    wanted = [keyword for keywords in matching.KEYWORDS.values() for keyword in keywords]
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        try:
            tags = [*wanted, "PatientWeight", "SpecificCharacterSet"]
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
        except OSError as error:
            raise DicomError(f"--study {file} cannot be read: {error.strerror}") from error
        except (InvalidDicomError, EOFError, ValueError) as error:
            if path.is_dir():
                continue
            raise DicomError(f"--study {file} is no DICOM file: {error}") from error
        if "StudyInstanceUID" in dataset or not path.is_dir():  # a DICOMDIR names none
            yield dataset


def _asked(source: Literal["find", "qidors", "worklist"], header: Identity, settings: Settings) -> tuple[Identity, str]:
    """What a PACS or worklist knows under the key, and its name."""
    from steadymr.delivery.query import find_exam  # loads the network libraries

    wanted, destination = settings.identity, _destination(settings)
    value = _value(header, wanted)
    where = f"what {destination.name} knows under that {wanted.key.replace('_', ' ')}"
    key: Literal["AccessionNumber", "PatientID"] = (
        "AccessionNumber" if wanted.key == "accession_number" else "PatientID"
    )
    return matching.stated(find_exam(destination, source, key, value), where), where


def _value(header: Identity, wanted: IdentitySettings) -> str:
    stated = header.accession_number if wanted.key == "accession_number" else header.patient_id
    value = (wanted.value or stated).strip()
    if not value:
        words = wanted.key.replace("_", " ")
        raise DicomError(f"identity: the scan's header states no {words}; give it as identity.value")
    return value


def _destination(settings: Settings) -> Destination:
    name = settings.identity.destination or ""  # settings without one, or with an unknown one, are refused
    return parse_destination(settings.destinations[name], name)
