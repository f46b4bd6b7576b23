"""Score, verdict and reasons of each image as a Comprehensive SR after TID 1500, for machines to find."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import highdicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from steadymr.dicom import derived, private, uids
from steadymr.dicom.facts import MANUFACTURER, SeriesFacts, SeriesVerdict

CONTENT = "stability report"

#: DCM's own words for quality, where they fit. The standard applied is the institution's: the other verdicts claim
#: nothing, and "unstable" does not claim that the image is unusable.
_QUALITY = {
    "STABLE": codes.DCM.UsableMeetsTheQualityControlStandard,
    "UNSTABLE": codes.DCM.UsableDoesNotMeetTheQualityControlStandard,
}


def stability_report(
    images: Sequence[Dataset], facts: SeriesFacts, outcome: SeriesVerdict, *, series_number: int, instance_number: int
) -> Dataset:
    """A report on a series: one measurement group for each MR image, as ``series.mr_image`` made it."""
    findings = [private.read(image) for image in images]
    name = derived.name(
        facts,
        CONTENT,
        images,
        json.dumps(findings, sort_keys=True).encode(),
        series_number=series_number,
        instance_number=instance_number,
    )
    document: Dataset = highdicom.sr.ComprehensiveSR(
        evidence=list(images),
        content=_report(images, facts)[0],
        **asdict(name),
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=True,
    )
    return derived.complete(document, facts, outcome, CONTENT, spatial=False)


def _report(images: Sequence[Dataset], facts: SeriesFacts) -> Sequence[Dataset]:
    device = highdicom.sr.DeviceObserverIdentifyingAttributes(
        uid=uids.device_uid(facts.method, facts.model, facts.software_version),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=derived.equipment(facts)["manufacturer_model_name"],
    )
    context = highdicom.sr.ObservationContext(
        observer_device_context=highdicom.sr.ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=device
        )
    )
    report: Sequence[Dataset] = highdicom.sr.MeasurementReport(
        observation_context=context,
        procedure_reported=codes.LN.MRIUnspecifiedBodyRegion,
        imaging_measurements=[_group(image, facts) for image in images],
    )
    return report


def _group(image: Dataset, facts: SeriesFacts) -> Sequence[Dataset]:
    """Score, verdict and reasons of one image."""
    found = private.read(image)
    verdict = str(found["verdict"])
    judgements = [(derived.VERDICT, Code(verdict.lower(), derived.SCHEME, verdict.capitalize()))]
    if verdict in _QUALITY:
        judgements.append((codes.DCM.QualityAssessment, _QUALITY[verdict]))
        judgements.append((codes.DCM.QualityControlStandard, codes.DCM.InstitutionallyDefinedQualityControlStandard))
    group: Sequence[Dataset] = highdicom.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=highdicom.sr.TrackingIdentifier(
            uid=uids.derived_uid("stability of", image.SOPInstanceUID), identifier=f"Image {image.InstanceNumber}"
        ),
        algorithm_id=_algorithm(facts),
        measurements=[_score(float(found["score"]))] if "score" in found else [],
        qualitative_evaluations=[highdicom.sr.QualitativeEvaluation(name=n, value=v) for n, v in judgements],
        source_images=[
            highdicom.sr.SourceImageForMeasurementGroup(
                referenced_sop_class_uid=image.SOPClassUID, referenced_sop_instance_uid=image.SOPInstanceUID
            )
        ],
    )
    _add_comments(group, _warnings(found) + str(found.get("reasons", "")).splitlines())
    return group


def _score(score: float) -> Sequence[Dataset]:
    measurement: Sequence[Dataset] = highdicom.sr.Measurement(
        name=derived.SCORE, value=round(score, 4), unit=codes.UCUM.NoUnits
    )
    return measurement


def _algorithm(facts: SeriesFacts) -> Sequence[Dataset]:
    model = [f"model {facts.model.name} SHA-256 {facts.model.sha256}"] if facts.model else []
    algorithm: Sequence[Dataset] = highdicom.sr.AlgorithmIdentification(
        name=f"{MANUFACTURER} {facts.method}",
        version=facts.software_version,
        family=derived.ALGORITHM_FAMILY,
        parameters=[f"definition {facts.definition}", f"settings {facts.settings_fingerprint}", *model],
    )
    return algorithm


def _warnings(found: Mapping[str, object]) -> list[str]:
    injected = found.get("perturbations")
    return [f"PERTURBED: made from data with injected imperfections: {injected}"] if injected else []


def _add_comments(group: Sequence[Dataset], comments: Iterable[str]) -> None:
    """Free text of the group, for which highdicom's template has no argument."""
    for comment in filter(None, comments):
        group[0].ContentSequence.append(
            highdicom.sr.TextContentItem(
                name=codes.DCM.Comment, value=comment, relationship_type=highdicom.sr.RelationshipTypeValues.CONTAINS
            )
        )
