"""From results to the messages that carry them: images with meta attributes, and finished DICOM files.

Attributes go out under the names of FIRE and under those of Gadgetron's own DICOM writer, which reads only names that
begin with ``GADGETRON_`` (gadgetron, toolboxes/mri_core/mri_core_def.h). Those that carry the score begin with
``Stability``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, TypeAlias
from xml.sax.saxutils import escape

import ismrmrd
import numpy as np

from steadymr.errors import OutputError
from steadymr.source.wire.encode import image_head
from steadymr.source.wire.messages import ImageMessage
from steadymr.types import Image, StabilityReport, Vector, Verdict

Pixel: TypeAlias = Literal["uint16", "float32"]
Meta: TypeAlias = Mapping[str, str | Sequence[str]]

UINT16_FULL_SCALE = 4095  #: what scanners and viewers expect of a magnitude image

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_GADGETRON_NAMES = {
    "ImageComments": "GADGETRON_ImageComment",
    "ImageProcessingHistory": "GADGETRON_ImageProcessingHistory",
    "SeriesDescription": "GADGETRON_SeqDescription",
    "WindowCenter": "GADGETRON_WindowCenter",
    "WindowWidth": "GADGETRON_WindowWidth",
    "EchoTime": "GADGETRON_TE",
    "InversionTime": "GADGETRON_TI",
    "DataRole": "GADGETRON_DataRole",
}


def meta_xml(meta: Meta) -> bytes:
    """Meta attributes as MRD writes them; characters that XML cannot hold become U+FFFD."""
    elements = "".join(
        _meta_element(name, value if isinstance(value, str) else tuple(value)) for name, value in meta.items()
    )
    return f"<?xml version='1.0' encoding='UTF-8'?>\n<ismrmrdMeta>{elements}</ismrmrdMeta>".encode()


@lru_cache(maxsize=1024)  # from one image to the next nearly all names and values stay
def _meta_element(name: str, value: str | tuple[str, ...]) -> str:
    values = (value,) if isinstance(value, str) else value
    inner = "".join(f"<value>{_clean(one)}</value>" for one in values)
    return f"<meta><name>{_clean(name)}</name>{inner}</meta>"


def _clean(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text))


def image_message(
    image: Image,
    stability: StabilityReport,
    *,
    description: str,
    comment: str,
    caveats: Sequence[str] = (),
    pixel: Pixel = "uint16",
    image_number: int = 1,
    series_number: int = 1,
) -> ImageMessage:
    """One reconstructed volume as an MRD image.

    ``description`` names the series and ``comment`` is what a reader of the image sees; both come from whoever
    settles how images are marked; ``caveats`` say what was assumed, estimated or left out. As uint16 the brightest
    pixel becomes 4095, and ``RescaleSlope`` says what one count is worth.

    Raises OutputError for pixels that are not finite.
    """
    if not np.isfinite(image.data).all():
        raise OutputError("the image has pixels that are NaN or infinite and cannot be sent")
    slope = _slope(image, pixel)
    data = np.rint(image.data / slope).astype(np.uint16) if pixel == "uint16" else image.data
    peak = float(image.data.max(initial=0.0)) / slope
    meta = {**_stability_meta(stability, caveats), **_picture_meta(image, description, comment, slope, peak)}
    meta |= {theirs: meta[ours] for ours, theirs in _GADGETRON_NAMES.items() if ours in meta}
    numbers = {"image_index": image_number, "image_series_index": series_number}
    head = image_head(data[np.newaxis], image_type=ismrmrd.IMTYPE_MAGNITUDE, **numbers, **_place(image))
    return ImageMessage(head, meta_xml(meta), data[np.newaxis])


def _slope(image: Image, pixel: Pixel) -> float:
    peak = float(image.data.max(initial=0.0))
    return peak / UINT16_FULL_SCALE if pixel == "uint16" and peak > 0 else 1.0


def _place(image: Image) -> dict[str, object]:
    """Header fields that say where and when, by their MRD names."""
    index, geometry = image.index, image.geometry
    return {
        "field_of_view": geometry.fov_mm_xyz,
        "position": geometry.centre_mm,
        "read_dir": geometry.read_dir,
        "phase_dir": geometry.phase_dir,
        "slice_dir": geometry.slice_dir,
        "average": index.average,
        "slice": index.slice,
        "contrast": index.contrast,
        "phase": index.phase,
        "repetition": index.repetition,
        "set": index.set,
        "acquisition_time_stamp": image.time_stamp,
    }


def series_meta(verdict: Verdict, score: float | None, *, description: str) -> bytes:
    """Meta attributes of a finished DICOM file: its series' description and the worst verdict in it."""
    names = {"SeriesDescription": description, "GADGETRON_SeqDescription": description}
    return meta_xml({**_verdict_meta(verdict, score), **names})


def _verdict_meta(verdict: Verdict, score: float | None) -> dict[str, str]:
    return {"StabilityScore": "" if score is None else f"{score:.4f}", "StabilityVerdict": verdict}


def _stability_meta(stability: StabilityReport, caveats: Sequence[str]) -> dict[str, str | Sequence[str]]:
    return {
        **_verdict_meta(stability.verdict, stability.score),
        "StabilityReasons": list(stability.reasons) or "none",
        "StabilitySamples": str(stability.n_samples),
        "StabilityNoiseDraws": str(stability.n_noise_draws),
        "StabilityCaveats": list(caveats) or "none",
    }


def _picture_meta(
    image: Image, description: str, comment: str, slope: float, peak: float
) -> dict[str, str | Sequence[str]]:
    history = [f"steadymr {image.method}", *(f"perturbed: {record.name}" for record in image.perturbations)]
    meta: dict[str, str | Sequence[str]] = {
        "DataRole": "Image",
        "SeriesDescription": description,
        "ImageComments": comment,
        "ImageProcessingHistory": history,
        "ImageRowDir": _numbers(image.geometry.read_dir),
        "ImageColumnDir": _numbers(image.geometry.phase_dir),
        "RescaleSlope": f"{slope:.9g}",
        "RescaleIntercept": "0",
        "WindowCenter": f"{peak / 2:.6g}",
        "WindowWidth": f"{max(peak, 1.0):.6g}",
        "Keep_image_geometry": "1",
    }
    if image.geometry.assumed:
        meta["GeometryAssumed"] = image.geometry.assumed
    echo_times = image.header.sequence.te_ms
    if image.index.contrast < len(echo_times):
        meta["EchoTime"] = f"{echo_times[image.index.contrast]:g}"
    return meta


def _numbers(vector: Vector) -> list[str]:
    return [f"{value:.9f}" for value in vector]
