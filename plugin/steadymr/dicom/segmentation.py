"""Where a stack of images is unstable, as a binary Segmentation that a viewer draws over them."""

from __future__ import annotations

from dataclasses import asdict

import highdicom
import numpy as np
from jaxtyping import UInt8
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from steadymr.dicom import derived
from steadymr.dicom.derived import Stack
from steadymr.dicom.facts import MANUFACTURER, SeriesFacts, SeriesVerdict

CONTENT = "unstable regions"


def unstable_regions(
    stack: Stack,
    facts: SeriesFacts,
    outcome: SeriesVerdict,
    *,
    threshold_percent: float,
    series_number: int,
    instance_number: int,
) -> Dataset | None:
    """The voxels whose spread exceeds the threshold; None where there are none, since DICOM has no empty segment."""
    mask = (np.nan_to_num(stack.spread_percent, nan=0.0) > threshold_percent).astype(np.uint8)
    if not mask.any():
        return None
    name = derived.name(
        facts, CONTENT, stack.images, mask.tobytes(), series_number=series_number, instance_number=instance_number
    )
    return derived.complete(_segmentation(stack, mask, facts, name, threshold_percent), facts, outcome, CONTENT)


def _segmentation(
    stack: Stack, mask: UInt8[np.ndarray, "z y x"], facts: SeriesFacts, name: derived.Name, threshold_percent: float
) -> Dataset:
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=MANUFACTURER,
        family=derived.ALGORITHM_FAMILY,
        version=facts.software_version,
        parameters={"threshold_percent": f"{threshold_percent:g}", "definition": facts.definition},
    )
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=f"Spread above {threshold_percent:g} %",
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=derived.UNSTABLE_REGION,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    dataset: Dataset = highdicom.seg.Segmentation(
        source_images=stack.images,
        pixel_array=mask,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        **asdict(name),
        **derived.equipment(facts),
        content_label="UNSTABLE",
        content_description=derived.content_description(facts, "Where repeated reconstructions disagree"),
        content_creator_name=derived.CREATOR,
    )
    return dataset
