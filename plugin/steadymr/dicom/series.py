"""One MR Image series: the facts its images share, and each image as a data set ready to be saved.

In two steps, because a series' verdict is known only when its last image is. While volumes stream past, ``store`` turns
each into ``StoredImage``s, small enough to spool; at the end ``mr_image`` makes the data sets, now with the series' own
verdict in the description. A perturbed image says so in Image Type, Series Description, Image Comments, Derivation
Description and the private block, and cannot be put into a series that does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass

from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from steadymr.dicom import acquisition, geometry, pixels, private, uids
from steadymr.dicom.facts import (
    PIXEL_BY_PIXEL_MEAN,
    SeriesFacts,
    SeriesVerdict,
    add_equipment,
    add_series,
    describe_series,
    dicom_code,
    finish,
    series_description,
    verdict_words,
)
from steadymr.dicom.text import code_string, decimal, describe
from steadymr.errors import DicomError
from steadymr.types import ModelIdentity, PerturbationRecord, SliceResult, Verdict, VolumeIndex

__all__ = ["SeriesFacts", "SeriesVerdict", "StoredImage", "describe_series", "mr_image", "series_description", "store"]

RESEARCH_NOTE = "For research: not for diagnosis."


@dataclass(frozen=True, slots=True, eq=False)
class StoredImage:
    """One image on its way into a series, with what its data set needs; it pickles, for a spool."""

    pixels: pixels.StoredPixels
    plane: geometry.Plane
    index: VolumeIndex
    z: int
    n_z: int
    method: str
    model: ModelIdentity | None
    derivation: str
    is_mean_of_samples: bool
    assumed: str  #: which facts of the geometry were made up
    perturbations: tuple[PerturbationRecord, ...]
    verdict: Verdict
    score: float | None
    reasons: tuple[str, ...]
    n_samples: int
    n_noise_draws: int
    time_stamp: int  #: of the volume's first readout, in the scanner's ticks


def store(result: SliceResult, slope: float) -> tuple[StoredImage, ...]:
    """The images of one volume, in order of z, rounded with the scan's rescale slope (``pixels.choose_slope``).

    Raises DicomError for a magnitude that is negative or not finite, and for a geometry DICOM cannot state.
    """
    image, stability = result.image, result.stability
    n_z, n_y, n_x = image.data.shape
    return tuple(
        StoredImage(
            pixels=pixels.store(image.data[z], slope),
            plane=geometry.plane(image.geometry, (n_x, n_y, n_z), z),
            index=image.index,
            z=z,
            n_z=n_z,
            method=image.method,
            model=image.model,
            derivation=image.derivation,
            is_mean_of_samples=image.is_mean_of_samples,
            assumed=image.geometry.assumed,
            perturbations=image.perturbations,
            verdict=stability.verdict,
            score=stability.score,
            reasons=stability.reasons,
            n_samples=stability.n_samples,
            n_noise_draws=stability.n_noise_draws,
            time_stamp=image.time_stamp,
        )
        for z in range(n_z)
    )


def mr_image(stored: StoredImage, facts: SeriesFacts, outcome: SeriesVerdict, instance_number: int) -> Dataset:
    """One instance of MR Image Storage with its file meta information, in Explicit VR Little Endian.

    Save it with ``dataset.save_as(path, enforce_file_format=True)``. Raises DicomError if the image belongs to another
    method or model than the series, or is perturbed in a series that does not say so.
    """
    _check_belongs(stored, facts)
    dataset = Dataset()
    dataset.update(facts.exam.attributes)
    add_series(dataset, facts, series_description(facts, outcome))
    add_equipment(dataset, facts)
    _image(dataset, stored, facts, instance_number)
    acquisition.write(dataset, facts.header, stored.index, stored.n_z, stored.time_stamp)
    _placement(dataset, stored)
    _pixel_data(dataset, stored.pixels)
    private.write(dataset, _private_facts(stored, facts, outcome))
    finish(dataset, MRImageStorage)
    return dataset


def _check_belongs(stored: StoredImage, facts: SeriesFacts) -> None:
    if (stored.method, stored.model) != (facts.method, facts.model):
        raise DicomError(f"expected an image by {facts.method}, but got one by {stored.method} or by another model")
    if stored.perturbations and not facts.perturbed:
        raise DicomError(
            "expected images of unaltered data, but one was made from data with injected imperfections; "
            "describe the series with perturbed=True"
        )


def _image(dataset: Dataset, stored: StoredImage, facts: SeriesFacts, instance_number: int) -> None:
    dataset.SOPInstanceUID = uids.sop_instance_uid(
        facts.series_instance_uid, stored.index, stored.z, stored.pixels.slope, stored.pixels.data
    )
    dataset.InstanceNumber = instance_number
    dataset.ImageType = image_type(stored.method, bool(stored.perturbations))
    dataset.ImageComments = describe("\n".join(_comments(stored, facts)), "LT")
    dataset.DerivationDescription = describe(_perturbation_warning(stored) + stored.derivation, "ST")
    if stored.is_mean_of_samples:
        dataset.DerivationCodeSequence = [dicom_code(PIXEL_BY_PIXEL_MEAN)]
    if facts.created is not None:
        dataset.InstanceCreationDate = dataset.ContentDate = facts.created.strftime("%Y%m%d")
        dataset.InstanceCreationTime = dataset.ContentTime = facts.created.strftime("%H%M%S.%f")
    dataset.ContentQualification = "RESEARCH"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"


def image_type(method: str, perturbed: bool) -> list[str]:
    """Image Type: derived, primary, magnitude, the method, and PERTURBED where imperfections were injected."""
    return ["DERIVED", "PRIMARY", "M", code_string(method), *(["PERTURBED"] if perturbed else [])]


def _comments(stored: StoredImage, facts: SeriesFacts) -> Iterable[str]:
    if stored.perturbations:
        yield _perturbation_warning(stored).strip()
    yield f"Stability: {verdict_words(stored.verdict, stored.score)} (definition {facts.definition})."
    yield from stored.reasons
    if stored.assumed:
        yield f"Geometry not stated by the scanner and assumed: {stored.assumed}."
    yield from (f"{note}." for note in facts.exam.notes)
    if stored.pixels.has_own_slope:
        yield "Brighter than the rest of the scan: this image has a rescale slope of its own."
    yield RESEARCH_NOTE


def _perturbation_warning(stored: StoredImage) -> str:
    if not stored.perturbations:
        return ""
    names = ", ".join(record.name for record in stored.perturbations)
    return f"PERTURBED: made from data with injected imperfections ({names}). "


def _placement(dataset: Dataset, stored: StoredImage) -> None:
    for keyword, value in stored.plane.decimals().items():
        setattr(dataset, keyword, value)
    if stored.plane.spacing_between_slices is not None:
        dataset.SpacingBetweenSlices = decimal(stored.plane.spacing_between_slices)


def _pixel_data(dataset: Dataset, stored: pixels.StoredPixels) -> None:
    dataset.Rows, dataset.Columns = stored.data.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept = "0"
    dataset.RescaleSlope = decimal(stored.slope)
    dataset.RescaleType = "US"
    dataset.WindowCenter = decimal(stored.window_center)
    dataset.WindowWidth = decimal(stored.window_width)
    dataset.VOILUTFunction = "LINEAR_EXACT"  # LINEAR is undefined for windows narrower than 1
    dataset.add_new("PixelData", "OW", stored.data.astype("<u2").tobytes())


def _private_facts(
    stored: StoredImage, facts: SeriesFacts, outcome: SeriesVerdict
) -> dict[str, str | float | int | None]:
    records = [asdict(record) for record in stored.perturbations]
    return {
        "verdict": stored.verdict.upper(),
        "score": stored.score,
        "reasons": "\n".join(stored.reasons),
        "definition": describe(facts.definition, "LO"),
        "n_samples": stored.n_samples,
        "n_noise_draws": stored.n_noise_draws,
        "noise_source": facts.noise_source,
        "series_verdict": outcome.verdict.upper(),
        "series_score": outcome.score,
        "method": describe(facts.method, "LO"),
        "model_name": describe(facts.model.name, "LO") if facts.model else None,
        "model_sha256": facts.model.sha256 if facts.model else None,
        "settings_fingerprint": facts.settings_fingerprint,
        "scan_fingerprint": facts.scan_fingerprint,
        "perturbations": json.dumps(records, sort_keys=True) if records else None,
        "assumed": stored.assumed,
        "volume": " ".join(str(counter) for counter in astuple(stored.index)),
        "software_version": describe(facts.software_version, "LO"),
        "missing_identity": ", ".join(facts.exam.missing),
    }
