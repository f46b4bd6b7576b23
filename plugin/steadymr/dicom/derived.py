"""What all objects derived from a series share: the stack of images they lie on, and their names and modules.

A stack is the images of one moment and one contrast that lie side by side in space, with the stability map of each.
Objects made by highdicom take patient and study from the images, then get here what highdicom leaves out or takes from
the clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from steadymr.dicom import private, uids
from steadymr.dicom.facts import (
    MANUFACTURER,
    SOURCE_IMAGE,
    SeriesFacts,
    SeriesVerdict,
    add_equipment,
    dicom_code,
    series_description,
)
from steadymr.dicom.identity import SPATIAL
from steadymr.dicom.series import StoredImage
from steadymr.dicom.text import describe
from steadymr.errors import DicomError

#: Designator of this project's own codes; their meanings are listed in ``docs/dicom-conformance.md``.
SCHEME = "99STEADYMR"
UNSTABLE_REGION = Code("unstable-region", SCHEME, "Region where repeated reconstructions disagree")
SCORE = Code("stability-score", SCHEME, "Reconstruction stability score")
VERDICT = Code("stability-verdict", SCHEME, "Reconstruction stability verdict")
ALGORITHM_FAMILY = Code("repeated-sampling", SCHEME, "Repeated sampling of the reconstruction")

#: Creator of the content as a person's name of one component.
CREATOR = f"{MANUFACTURER}^"

StackKey: TypeAlias = tuple[object, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Images side by side in space, as ``series.mr_image`` made them, and the map of each in the same order."""

    images: tuple[Dataset, ...]
    spread_percent: Float32[np.ndarray, "z y x"]  #: NaN where there is nothing to judge


@dataclass(frozen=True, slots=True)
class Name:
    """What a derived object is called, in highdicom's words: UIDs that follow from its content, and its numbers."""

    series_instance_uid: str
    sop_instance_uid: str
    series_number: int
    instance_number: int


def stack_key(stored: StoredImage) -> StackKey:
    """Images with equal keys make one stack: all counters but the slice, and orientation, spacing and matrix alike."""
    index, plane = stored.index, stored.plane
    counters = (index.repetition, index.set, index.phase, index.contrast, index.average)
    orientation = tuple(round(cosine, 6) for cosine in plane.image_orientation_patient)
    return (*counters, orientation, plane.pixel_spacing, stored.pixels.data.shape)


def stack(images: Sequence[Dataset], spread_percent: Float32[np.ndarray, "z y x"]) -> Stack:
    """Join images and their maps. Raises DicomError unless they lie side by side and there is one map for each."""
    shapes = {(image.Rows, image.Columns) for image in images}
    if not images or shapes != {spread_percent.shape[1:]} or len(images) != len(spread_percent):
        raise DicomError(
            f"expected one stability map for each image, but {len(images)} images of shape {sorted(shapes)} "
            f"came with maps of shape {spread_percent.shape}"
        )
    orientations = {tuple(map(str, image.ImageOrientationPatient)) for image in images}
    positions = {tuple(map(str, image.ImagePositionPatient)) for image in images}
    if len(orientations) > 1 or len(positions) < len(images):
        raise DicomError("expected parallel images at different positions; sort them by derived.stack_key first")
    return Stack(tuple(images), spread_percent)


def name(
    facts: SeriesFacts,
    content: str,
    images: Sequence[Dataset],
    data: bytes,
    *,
    series_number: int,
    instance_number: int,
) -> Name:
    """Name an object after its kind, the images it is about, and its own content ``data``."""
    series_uid = uids.derived_uid("derived series", facts.series_instance_uid, content)
    about = [str(image.SOPInstanceUID) for image in images]
    sop_uid = uids.derived_uid("object", series_uid, hashlib.sha256(data).hexdigest(), *about)
    return Name(series_uid, sop_uid, series_number, instance_number)


def equipment(facts: SeriesFacts) -> dict[str, str]:
    """What made a derived object, in highdicom's words; ``complete`` then puts in what is known of the scanner."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": f"{MANUFACTURER} {facts.method}"[:64],
        "software_versions": facts.software_version,
        "device_serial_number": facts.software_version,
    }


def complete(
    dataset: Dataset, facts: SeriesFacts, outcome: SeriesVerdict, content: str, *, spatial: bool = True
) -> Dataset:
    """Give an object made by highdicom the exam, description, equipment and times that the images carry.

    ``spatial`` is False for documents, which lie nowhere. Enhanced objects must name a manufacturer, so they name
    steadymr where the scanner's is unknown.
    """
    maker = dataset.get("Manufacturer") or MANUFACTURER
    for element in facts.exam.attributes:
        if spatial or element.keyword not in SPATIAL:
            dataset.add(element)
    dataset.SeriesDescription = series_description(facts, outcome, content)
    add_equipment(dataset, facts)
    dataset.Manufacturer = dataset.Manufacturer or maker
    private.write(dataset, {"missing_identity": ", ".join(facts.exam.missing)})
    _times(dataset, facts)
    _name_dimensions(dataset)
    dataset.file_meta.ImplementationClassUID = uids.derived_uid("implementation", MANUFACTURER)
    dataset.file_meta.ImplementationVersionName = "STEADYMR"
    return dataset


def content_description(facts: SeriesFacts, text: str) -> str:
    """What an object shows, with the warning in front where imperfections were injected."""
    return describe(f"PERTURBED: {text}" if facts.perturbed else text, "LO")


def source_reference(image: Dataset) -> Dataset:
    """A reference to the image that something was made from."""
    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [dicom_code(SOURCE_IMAGE)]
    return item


def image_verdict(image: Dataset) -> str:
    """The verdict and score of one MR image, such as "UNSTABLE 0.41"."""
    facts = private.read(image)
    return f"{facts['verdict']} {facts['score']:.2f}" if "score" in facts else str(facts["verdict"])


def _times(dataset: Dataset, facts: SeriesFacts) -> None:
    """The time of the reconstruction instead of the clock's, so that the same content gives the same bytes."""
    if facts.created is None:
        return
    date, time = facts.created.strftime("%Y%m%d"), facts.created.strftime("%H%M%S.%f")
    for moment in ("Content", "Series", "InstanceCreation"):
        setattr(dataset, f"{moment}Date", date)
        setattr(dataset, f"{moment}Time", time)


def _name_dimensions(dataset: Dataset) -> None:
    """Name the frames' dimensions after the object: highdicom draws that UID at random, under its own root."""
    uid = uids.derived_uid("dimensions of", dataset.SOPInstanceUID)
    for item in (*dataset.get("DimensionOrganizationSequence", ()), *dataset.get("DimensionIndexSequence", ())):
        item.DimensionOrganizationUID = uid
