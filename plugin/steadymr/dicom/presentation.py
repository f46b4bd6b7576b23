"""How a series should be shown: its window, and the verdict over each image (Grayscale Softcopy Presentation State)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import highdicom
import numpy as np
from pydicom.dataset import Dataset

from steadymr.dicom import derived
from steadymr.dicom.facts import SeriesFacts, SeriesVerdict, add_body_part

CONTENT = "presentation"
_LAYER = "VERDICT"
#: Of the displayed area: a strip along its upper edge, so that the text does not depend on the matrix.
_BOX = (0.02, 0.02, 0.98, 0.08)


def presentation_state(
    images: Sequence[Dataset], facts: SeriesFacts, outcome: SeriesVerdict, *, series_number: int, instance_number: int
) -> Dataset:
    """The presentation of MR images of one window, as ``series.mr_image`` made them: window, verdict, warning.

    Its Rescale is that of the images, which must share it: make one presentation for each ``rescale_key``.
    """
    texts = {str(image.SOPInstanceUID): banner(image, facts) for image in images}
    content = json.dumps([texts, rescale_key(images[0])]).encode()
    name = derived.name(facts, CONTENT, images, content, series_number=series_number, instance_number=instance_number)
    document: Dataset = highdicom.pr.GrayscaleSoftcopyPresentationState(
        referenced_images=list(images),
        **asdict(name),
        **derived.equipment(facts),
        content_label="STABILITY",
        content_description=derived.content_description(facts, "Window, and the stability verdict of each image"),
        content_creator_name=derived.CREATOR,
        graphic_layers=[_layer()],
        graphic_annotations=[_annotation(image, texts[str(image.SOPInstanceUID)]) for image in images],
        modality_lut_transformation=highdicom.ModalityLUTTransformation(
            rescale_intercept=0.0, rescale_slope=float(images[0].RescaleSlope), rescale_type="US"
        ),
        voi_lut_transformations=[_window(images[0])],
    )
    if facts.created is not None:
        document.PresentationCreationDate = facts.created.strftime("%Y%m%d")
        document.PresentationCreationTime = facts.created.strftime("%H%M%S.%f")
    add_body_part(document, facts)
    return derived.complete(document, facts, outcome, CONTENT, spatial=False)


def rescale_key(image: Dataset) -> tuple[str, str, str]:
    """Images with equal keys may share a presentation: rescale slope and window."""
    return str(image.RescaleSlope), str(image.WindowCenter), str(image.WindowWidth)


def banner(image: Dataset, facts: SeriesFacts) -> str:
    """The line over an image, such as "UNSTABLE 0.41  diffusion  RESEARCH: NOT FOR DIAGNOSIS"."""
    warning = "PERTURBED DATA  " if facts.perturbed else ""
    return f"{warning}{derived.image_verdict(image)}  {facts.method}  RESEARCH: NOT FOR DIAGNOSIS"


def _layer() -> highdicom.pr.GraphicLayer:
    yellow = highdicom.color.CIELabColor(l_star=90.0, a_star=-5.0, b_star=75.0)
    return highdicom.pr.GraphicLayer(layer_name=_LAYER, order=1, description="Stability verdict", display_color=yellow)


def _annotation(image: Dataset, text: str) -> highdicom.pr.GraphicAnnotation:
    left, _, right, bottom = _BOX
    written = highdicom.pr.TextObject(
        text_value=text,
        units=highdicom.pr.AnnotationUnitsValues.DISPLAY,
        bounding_box=_BOX,
        text_justification=highdicom.pr.TextJustificationValues.LEFT,
    )
    line = highdicom.pr.GraphicObject(
        graphic_type=highdicom.pr.GraphicTypeValues.POLYLINE,
        graphic_data=np.array([[left, bottom], [right, bottom]]),
        units=highdicom.pr.AnnotationUnitsValues.DISPLAY,
    )
    return highdicom.pr.GraphicAnnotation(
        referenced_images=[image], graphic_layer=_layer(), text_objects=[written], graphic_objects=[line]
    )


def _window(image: Dataset) -> highdicom.pr.SoftcopyVOILUTTransformation:
    return highdicom.pr.SoftcopyVOILUTTransformation(
        window_center=float(image.WindowCenter), window_width=float(image.WindowWidth),
        voi_lut_function=highdicom.VOILUTFunctionValues.LINEAR_EXACT,
    )  # fmt: skip
