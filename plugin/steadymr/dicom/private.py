"""The private block: facts that the standard has no attribute for, for machines to find.

Group 0071 under the private creator "STEADYMR": all of it in images, and what is missing of the identity in all
objects. An element's meaning never changes once released; new facts get new numbers. The same table is printed in
``docs/dicom-conformance.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset

GROUP = 0x0071
CREATOR = "STEADYMR"


@dataclass(frozen=True, slots=True)
class PrivateElement:
    """One row of the private dictionary."""

    offset: int  #: xx in (0071,10xx)
    vr: str
    meaning: str


DICTIONARY: Mapping[str, PrivateElement] = {
    "verdict": PrivateElement(
        0x01, "CS", "Stability verdict of the image: STABLE, REVIEW, UNSTABLE, UNCALIBRATED or UNSCORED"
    ),
    "score": PrivateElement(0x02, "FD", "Stability score of the image, 0 to 1; absent if UNCALIBRATED or UNSCORED"),
    "reasons": PrivateElement(0x03, "UT", "Why the verdict is what it is, one reason a line"),
    "definition": PrivateElement(0x04, "LO", "Version of the score's definition"),
    "n_samples": PrivateElement(0x05, "UL", "Number of repeated reconstructions behind the score"),
    "n_noise_draws": PrivateElement(0x06, "UL", "How many of them saw a fresh draw of the measured noise"),
    "noise_source": PrivateElement(0x07, "LO", "Where the noise was measured"),
    "series_verdict": PrivateElement(0x08, "CS", "Stability verdict of the series"),
    "series_score": PrivateElement(
        0x09, "FD", "Stability score of the series, 0 to 1; absent if UNCALIBRATED or UNSCORED"
    ),
    "method": PrivateElement(0x0A, "LO", "Reconstruction method"),
    "model_name": PrivateElement(0x0B, "LO", "Name of the learned model; absent if nothing was learned"),
    "model_sha256": PrivateElement(0x0C, "LO", "SHA-256 of the learned model's weights"),
    "settings_fingerprint": PrivateElement(0x0D, "LO", "Fingerprint of the settings"),
    "scan_fingerprint": PrivateElement(0x0E, "LO", "Fingerprint of the raw data"),
    "perturbations": PrivateElement(0x0F, "UT", "Injected imperfections as JSON; absent if the data are as acquired"),
    "assumed": PrivateElement(0x10, "UT", "Facts of the geometry that the scanner did not state; absent if none"),
    "volume": PrivateElement(
        0x11, "LO", "MRD counters of the volume: repetition, set, phase, contrast, average, slice, partition"
    ),
    "software_version": PrivateElement(0x12, "LO", "Version of steadymr"),
    "missing_identity": PrivateElement(0x13, "LO", "What a PACS would need and nobody stated; absent if nothing"),
}


def write(dataset: Dataset, facts: Mapping[str, str | float | int | None]) -> None:
    """Add the private block; facts that are None or empty are left out, and without any there is no block."""
    for name, value in facts.items():
        if value is not None and value != "":
            element = DICTIONARY[name]
            dataset.private_block(GROUP, CREATOR, create=True).add_new(element.offset, element.vr, value)


def read(dataset: Dataset) -> dict[str, str | float | int]:
    """The facts of a private block by name; empty if the data set carries none."""
    if CREATOR not in dataset.private_creators(GROUP):
        return {}
    block = dataset.private_block(GROUP, CREATOR)
    return {name: block[element.offset].value for name, element in DICTIONARY.items() if element.offset in block}
