"""Unique identifiers that follow from content: the same scan and settings give the same UIDs, other pixels give others.

A PACS that meets a known SOP Instance UID with other pixels answers Success and keeps the old image, so the pixels are
part of the name. Form: ``2.25.`` and a UUID as one decimal integer (DICOM PS3.5, annex B.2); the UUID is of version 8
(RFC 9562, section 5.8) and holds the first bits of a SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import astuple

import numpy as np
from jaxtyping import UInt16

from steadymr.types import Identity, ModelIdentity, ScanHeader, VolumeIndex

_UID = re.compile(r"[0-2](\.(0|[1-9]\d*))+", re.ASCII)


def is_uid(value: str) -> bool:
    """Whether this is a UID as DICOM PS3.5, section 9.1 allows it, with at least two components."""
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def derived_uid(kind: str, *facts: str) -> str:
    """Name a thing after what it is: the same kind and facts always give the same UID."""
    digest = hashlib.sha256(json.dumps([kind, *facts]).encode()).digest()[:16]
    bits = int.from_bytes(digest, "big")
    bits = bits & ~(0xF << 76) | 8 << 76  # version 8: made by a rule of one's own
    bits = bits & ~(0x3 << 62) | 2 << 62  # the variant of RFC 9562
    return f"2.25.{bits}"


def study_instance_uid(header: ScanHeader, scan_fingerprint: str) -> str:
    """The study the scanner stated, if that is a UID; else one derived from the exam's facts and the scan."""
    stated = header.identity.study_instance_uid.strip()
    return stated if is_uid(stated) else derived_uid("study", *_exam_facts(header), scan_fingerprint)


def frame_of_reference_uid(header: ScanHeader, scan_fingerprint: str) -> str:
    """The frame of reference the scanner stated, if that is a UID; else one derived as the study's is."""
    stated = header.identity.frame_of_reference_uid.strip()
    return stated if is_uid(stated) else derived_uid("frame of reference", *_exam_facts(header), scan_fingerprint)


def series_instance_uid(
    *,
    scan_fingerprint: str,
    settings_fingerprint: str,
    method: str,
    model: ModelIdentity | None,
    perturbed: bool,
    exam: str,
) -> str:
    """One series: a scan, method, model and settings, and whose it is (``exam``, all its attributes as text).

    The exam counts because a PACS keeps the first of two objects of one name: what was sent for the wrong patient must
    not keep out what is sent for the right one.
    """
    return derived_uid(
        "series",
        scan_fingerprint,
        settings_fingerprint,
        method,
        model.sha256 if model else "",
        "perturbed" if perturbed else "as acquired",
        exam,
    )


def sop_instance_uid(
    series_uid: str, index: VolumeIndex, z: int, slope: float, pixels: UInt16[np.ndarray, "y x"]
) -> str:
    """One image: its series, its place in the scan, and the pixels themselves."""
    pixel_hash = hashlib.sha256(np.ascontiguousarray(pixels, dtype="<u2").tobytes()).hexdigest()
    place = ",".join(str(counter) for counter in (*astuple(index), z))
    return derived_uid("image", series_uid, place, repr(slope), str(pixels.shape), pixel_hash)


def device_uid(method: str, model: ModelIdentity | None, software_version: str) -> str:
    """The reconstruction as a device: its model's hash, or method and version where nothing was learned."""
    return derived_uid("device", method, model.sha256) if model else derived_uid("device", method, software_version)


def _exam_facts(header: ScanHeader) -> tuple[str, ...]:
    identity: Identity = header.identity
    return (
        identity.patient_id,
        identity.patient_name,
        identity.study_id,
        identity.accession_number,
        identity.study_date,
        identity.study_time,
        header.measurement_id,
    )
