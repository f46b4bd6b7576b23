"""The stability map as a Parametric Map of 32-bit floats: a viewer reads the spread in per cent under the cursor."""

from __future__ import annotations

from dataclasses import asdict

import highdicom
import numpy as np
from jaxtyping import Float32
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from steadymr.dicom import derived
from steadymr.dicom.derived import Stack
from steadymr.dicom.facts import SeriesFacts, SeriesVerdict, add_body_part

CONTENT = "spread map"
#: Value outside tissue, where the spread means nothing: below every true value, since viewers stumble over NaN. It lies
#: in the mapped range, since readers (highdicom's among them) refuse a map with values outside that.
OUTSIDE = -1.0


def spread_map(
    stack: Stack,
    facts: SeriesFacts,
    outcome: SeriesVerdict,
    *,
    series_number: int,
    instance_number: int,
    full_scale_percent: float = 50.0,
) -> Dataset:
    """The spread of each voxel in per cent of the local signal, -1 where there is none to judge.

    ``full_scale_percent`` is only the top of the window in which viewers first show it.
    """
    values = np.nan_to_num(stack.spread_percent, nan=OUTSIDE).astype(np.float32)
    name = derived.name(
        facts, CONTENT, stack.images, values.tobytes(), series_number=series_number, instance_number=instance_number
    )
    dataset = _parametric_map(stack, values, facts, name, full_scale_percent)
    dataset.FloatPixelPaddingValue = dataset.FloatPixelPaddingRangeLimit = OUTSIDE
    add_body_part(dataset, facts)
    return derived.complete(dataset, facts, outcome, CONTENT)


def _parametric_map(
    stack: Stack, values: Float32[np.ndarray, "z y x"], facts: SeriesFacts, name: derived.Name, full_scale: float
) -> Dataset:
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label="SPREAD",
        lut_explanation="Standard deviation over repeated reconstructions",
        unit=codes.UCUM.Percent,
        value_range=(OUTSIDE, max(full_scale, float(values.max()))),
        slope=1.0,
        intercept=0.0,
        quantity_definition=codes.SCT.StandardDeviation,
    )
    dataset: Dataset = highdicom.pm.ParametricMap(
        source_images=stack.images,
        pixel_array=values,
        **asdict(name),
        **derived.equipment(facts),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[highdicom.VOILUTTransformation(window_center=full_scale / 2, window_width=full_scale)],
        content_label="SPREAD",
        content_description=derived.content_description(facts, "Spread of repeated reconstructions"),
        content_creator_name=derived.CREATOR,
    )
    return dataset
