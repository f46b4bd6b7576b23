"""Files on their way into the outbox: read, checked for who they belong to, copied aside and fsynced.

An image of nobody must not reach a PACS: Patient ID and the UIDs of study, series and instance are required.
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag

from steadymr.delivery.outbox import Instance
from steadymr.errors import DeliveryError, OutputError

logger = logging.getLogger(__name__)

_REQUIRED = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
#: Where steadymr says what nobody stated about the exam (docs/dicom-conformance.md); such an image has a made-up study.
_CREATOR, _CREATOR_NAME, _MISSING_IDENTITY = Tag(0x0071, 0x0010), "STEADYMR", Tag(0x0071, 0x1013)
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_READ = [*map(tag_for_keyword, (*_REQUIRED, *_PIXELS)), _CREATOR, _MISSING_IDENTITY]
_UNDEFINED_LENGTH = 0xFFFFFFFF
_SYNCS_AT_ONCE = 16
_HINT = "; 'steadymr replay --study' takes it from the scanner's own series"


def dicom_files(paths: Iterable[Path | str]) -> list[Path]:
    """The files named, and those ending in ``.dcm`` under the folders named, in order of name.

    Raises ``DeliveryError`` where a path does not exist or nothing is found.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(path.rglob("*.dcm"))
        elif path.is_file():
            files.append(path)
        else:
            raise DeliveryError(f"nothing to send at {path}: expected a DICOM file or a folder of .dcm files")
    if not files:
        raise DeliveryError("no .dcm file in the folders given")
    return files


def take_in(files: Iterable[Path], folder: Path) -> Iterator[Instance]:
    """Copy each file into ``folder`` under a name of its own and say what it is; ``sync`` makes the copies durable.

    Raises ``DeliveryError`` for what is no DICOM file or lacks an identity, ``OutputError`` if the copy fails.
    """
    for file in files:
        content = _read(file)
        dataset = _parse(content, file)
        name = f"{uuid.uuid4().hex}.dcm"
        _write(folder / name, content)
        yield Instance(
            sop_instance_uid=str(dataset.SOPInstanceUID),
            sop_class_uid=str(dataset.SOPClassUID),
            transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
            study_instance_uid=str(dataset.StudyInstanceUID),
            series_instance_uid=str(dataset.SeriesInstanceUID),
            file=name,
            sha256=hashlib.sha256(content).hexdigest(),
            pixels_sha256=_pixels_sha256(dataset),
            n_bytes=len(content),
        )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DeliveryError(f"cannot read {file}: {error.strerror}") from error


def _parse(content: bytes, file: Path) -> Dataset:
    try:
        dataset = pydicom.dcmread(BytesIO(content), specific_tags=_READ)
        missing = [keyword for keyword in _REQUIRED if not str(dataset.get(keyword, "")).strip()]
        if "TransferSyntaxUID" not in dataset.file_meta:
            missing.append("TransferSyntaxUID")
        _same_uids_in_meta(dataset, file)
        unstated = _unstated(dataset)
        _whole(dataset)
    except (InvalidDicomError, EOFError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise DeliveryError(f"{file} is no DICOM file: {error}") from error
    if missing:
        raise DeliveryError(
            f"{file} is not sent, because a PACS could not tell whose it is: {', '.join(missing)} empty or missing"
            f"{_HINT}"
        )
    if unstated:
        raise DeliveryError(f"{file} is not sent, because nobody stated whose it is: no {unstated}{_HINT}")
    return dataset


def _whole(dataset: Dataset) -> None:
    """Raises ValueError if the pixel data end before their length."""
    for keyword in _PIXELS:
        raw = dataset.get_item(keyword) if keyword in dataset else None
        if isinstance(raw, RawDataElement) and raw.length not in (_UNDEFINED_LENGTH, len(raw.value or b"")):
            raise ValueError(f"it ends {raw.length - len(raw.value or b'')} bytes before its {keyword} does")


def _unstated(dataset: Dataset) -> str:
    ours = _CREATOR in dataset and dataset[_CREATOR].value == _CREATOR_NAME
    return str(dataset[_MISSING_IDENTITY].value) if ours and _MISSING_IDENTITY in dataset else ""


def _same_uids_in_meta(dataset: Dataset, file: Path) -> None:
    """The file's header is what travels in the command, so it must name the same object as the data set."""
    for keyword in ("SOPInstanceUID", "SOPClassUID"):
        stated = dataset.file_meta.get(f"MediaStorage{keyword}", None)
        if stated != dataset.get(keyword, stated):
            raise DeliveryError(f"{file}: {keyword} differs between file header ({stated}) and data set")


def _pixels_sha256(dataset: Dataset) -> str:
    found = [dataset[keyword].value for keyword in _PIXELS if keyword in dataset]
    return hashlib.sha256(b"".join(found)).hexdigest() if found else ""


def _write(path: Path, content: bytes) -> None:
    try:
        with open(path, "xb") as stream:
            stream.write(content)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write into the outbox {path.parent}: {error.strerror}; nothing was queued"
        ) from error


def sync(paths: Sequence[Path]) -> None:
    """Make files, or the names in a folder, survive a power cut. Raises ``OutputError``.

    Several at a time, so that the file system can write its journal once for all of them.
    """
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
        for _ in pool.map(_sync, paths):
            pass


def _sync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot sync the outbox {path}: {error.strerror}; nothing was queued") from error
