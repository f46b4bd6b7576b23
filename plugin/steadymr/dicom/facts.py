"""What all objects of one series share: its facts, its name and description, and the DICOM modules that follow."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from steadymr.dicom import identity, uids
from steadymr.dicom.identity import Exam
from steadymr.dicom.text import describe
from steadymr.errors import DicomError
from steadymr.types import ModelIdentity, NoiseSource, ScanHeader, Verdict

MANUFACTURER = "steadymr"

#: Verdicts that come without a number: nothing was compared, or nobody knows what the comparison means here.
WITHOUT_SCORE: tuple[Verdict, ...] = ("uncalibrated", "unscored")

#: The codes of DICOM PS3.16 that images need, as (value, meaning). Importing pydicom's whole dictionary takes a second.
PROCESSING_EQUIPMENT = ("109102", "Processing Equipment")
PIXEL_BY_PIXEL_MEAN = ("113049", "Pixel by pixel mean")
SOURCE_IMAGE = ("121322", "Source image for image processing operation")


@dataclass(frozen=True, slots=True, eq=False)
class SeriesFacts:
    """What all images of one series share."""

    exam: Exam
    header: ScanHeader
    method: str
    model: ModelIdentity | None
    perturbed: bool  #: whether any image was made from data with injected imperfections
    series_number: int
    series_instance_uid: str
    scan_fingerprint: str
    settings_fingerprint: str
    definition: str  #: version of the score's definition
    noise_source: NoiseSource | None
    software_version: str
    created: datetime | None


@dataclass(frozen=True, slots=True)
class SeriesVerdict:
    """The stability of a series as a whole; ``score`` is None exactly where the verdict is one of ``WITHOUT_SCORE``."""

    verdict: Verdict
    score: float | None


def describe_series(
    *,
    exam: Exam,
    header: ScanHeader,
    method: str,
    model: ModelIdentity | None,
    perturbed: bool,
    series_number: int,
    scan_fingerprint: str,
    settings_fingerprint: str,
    definition: str,
    noise_source: NoiseSource | None,
    software_version: str,
    created: datetime | None = None,
) -> SeriesFacts:
    """Collect what a series' images share and name the series.

    ``exam`` is ``identity.exam(header, scan_fingerprint)``, or the same block from elsewhere. ``created`` is the time
    of the reconstruction; it enters no UID, and without it the images carry no time of their making.
    """
    return SeriesFacts(
        exam=exam,
        header=header,
        method=method,
        model=model,
        perturbed=perturbed,
        series_number=series_number,
        series_instance_uid=uids.series_instance_uid(
            scan_fingerprint=scan_fingerprint,
            settings_fingerprint=settings_fingerprint,
            method=method,
            model=model,
            perturbed=perturbed,
            exam=exam.attributes.to_json(),
        ),
        scan_fingerprint=scan_fingerprint,
        settings_fingerprint=settings_fingerprint,
        definition=definition,
        noise_source=noise_source,
        software_version=software_version,
        created=created,
    )


def series_description(facts: SeriesFacts, outcome: SeriesVerdict, content: str = "") -> str:
    """What a viewer shows in its list of series, such as "steadymr diffusion | UNSTABLE 0.41".

    ``content`` names what a derived series holds, as in "steadymr diffusion | UNSTABLE 0.41 | overlay".
    """
    warning = "PERTURBED " if facts.perturbed else ""
    ending = f" | {verdict_words(outcome.verdict, outcome.score)}" + (f" | {content}" if content else "")
    room = 64 - len(warning) - len(ending)
    return warning + describe(f"{MANUFACTURER} {facts.method}", "LO")[:room] + ending


def verdict_words(verdict: Verdict, score: float | None) -> str:
    """A verdict and its score as every object shows them: "UNSTABLE 0.41", "UNCALIBRATED" or "UNSCORED".

    Raises DicomError if a verdict comes without its score, or a score without a verdict.
    """
    if (score is None) != (verdict in WITHOUT_SCORE) or (score is not None and not 0 <= score <= 1):
        raise DicomError(
            f"expected a score in [0, 1] unless {' or '.join(WITHOUT_SCORE)}, but the verdict is {verdict} and the "
            f"score {score}"
        )
    return verdict.upper() if score is None else f"{verdict.upper()} {score:.2f}"


def add_series(dataset: Dataset, facts: SeriesFacts, description: str) -> None:
    """Add the series' attributes: its name, number and description, the time of its making, the body part."""
    dataset.Modality = "MR"
    dataset.SeriesInstanceUID = facts.series_instance_uid
    dataset.SeriesNumber = facts.series_number
    dataset.SeriesDescription = description
    if facts.created is not None:
        dataset.SeriesDate = facts.created.strftime("%Y%m%d")
        dataset.SeriesTime = facts.created.strftime("%H%M%S.%f")
    add_body_part(dataset, facts)


def add_body_part(dataset: Dataset, facts: SeriesFacts) -> None:
    """Add the body part, or say that the side is unknown as the body part is: no body part is made up."""
    part = identity.body_part(facts.header.identity)
    if part:
        dataset.BodyPartExamined = part
    else:
        dataset.Laterality = None


def add_equipment(dataset: Dataset, facts: SeriesFacts) -> None:
    """Add the scanner as the equipment, and steadymr as what contributed."""
    system = facts.header.system
    dataset.Manufacturer = describe(system.vendor, "LO")
    for keyword, value in (
        ("ManufacturerModelName", system.model),
        ("InstitutionName", system.institution),
        ("DeviceSerialNumber", system.device_id),
    ):
        if value:
            setattr(dataset, keyword, describe(value, "LO"))
    if system.station:
        dataset.StationName = describe(system.station, "SH")
    dataset.ContributingEquipmentSequence = [contribution(facts)]


def contribution(facts: SeriesFacts) -> Dataset:
    """Steadymr as contributing equipment: which software, which model."""
    model = f" with model {facts.model.name} (SHA-256 {facts.model.sha256})" if facts.model else ""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [dicom_code(PROCESSING_EQUIPMENT)]
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = describe(f"{MANUFACTURER} {facts.method}", "LO")
    item.SoftwareVersions = describe(facts.software_version, "LO")
    item.DeviceUID = uids.device_uid(facts.method, facts.model, facts.software_version)
    if facts.created is not None:
        item.ContributionDateTime = facts.created.strftime("%Y%m%d%H%M%S.%f")
    item.ContributionDescription = describe(f"Reconstruction by {facts.method}{model}", "ST")
    return item


def finish(dataset: Dataset, sop_class_uid: str) -> None:
    """Add the file meta information; its implementation is steadymr, not the library that writes the bytes."""
    dataset.SOPClassUID = sop_class_uid
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = sop_class_uid
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uids.derived_uid("implementation", MANUFACTURER)
    meta.ImplementationVersionName = "STEADYMR"
    dataset.file_meta = meta


def dicom_code(code: tuple[str, str]) -> Dataset:
    """A code of DICOM's own scheme as the item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodeMeaning = code
    item.CodingSchemeDesignator = "DCM"
    return item
