"""One image with its stability map in colour and a banner, as RGB Secondary Capture: what every viewer can show.

The banner stands above the image and the colour scale below, so no tissue is covered. The image is enlarged by a whole
factor until the letters are legible; position and spacing state where the enlarged pixels lie, so a viewer that
links series finds the same point in both.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from steadymr.dicom import derived, private
from steadymr.dicom.facts import SeriesFacts, SeriesVerdict, add_equipment, add_series, finish, series_description
from steadymr.dicom.text import decimal, describe
from steadymr.errors import DicomError

CONTENT = "overlay"
#: Smallest width and height of the enlarged image, in pixels.
LEGIBLE = 512
BANNER_ROWS = 64
SCALE_ROWS = 32
STRONGEST_TINT = 0.65

_COLOURS = {
    "STABLE": (60, 180, 90),
    "REVIEW": (240, 180, 40),
    "UNSTABLE": (225, 50, 50),
    "UNCALIBRATED": (110, 100, 175),  # no traffic light: nobody knows
    "UNSCORED": (150, 150, 150),
}
_YELLOW, _RED = np.array([255.0, 225.0, 60.0]), np.array([255.0, 0.0, 60.0])


def overlay_image(
    image: Dataset,
    spread_percent: Float32[np.ndarray, "y x"],
    facts: SeriesFacts,
    outcome: SeriesVerdict,
    *,
    series_number: int,
    instance_number: int,
    full_scale_percent: float = 50.0,
) -> Dataset:
    """One MR image as a picture: grey as its window shows it, tinted yellow to red up to ``full_scale_percent``.

    Raises DicomError if the map is not of the image's shape.
    """
    if spread_percent.shape != (image.Rows, image.Columns):
        raise DicomError(f"expected a map of shape {(image.Rows, image.Columns)}, but got {spread_percent.shape}")
    factor = math.ceil(LEGIBLE / min(image.Rows, image.Columns)) if min(image.Rows, image.Columns) < LEGIBLE else 1
    tinted = tint(windowed(image), spread_percent, full_scale_percent)
    enlarged = tinted.repeat(factor, axis=0).repeat(factor, axis=1)
    picture = np.concatenate(
        [_banner(enlarged.shape[1], image, facts), enlarged, _scale(enlarged.shape[1], full_scale_percent)]
    )
    name = derived.name(
        facts, CONTENT, [image], picture.tobytes(), series_number=series_number, instance_number=instance_number
    )
    return _secondary_capture(picture, image, factor, facts, outcome, name)


def windowed(image: Dataset) -> Float32[np.ndarray, "y x"]:
    """An MR image as its own window shows it, from 0 (black) to 1 (white)."""
    stored = np.frombuffer(image.PixelData, dtype="<u2").reshape(image.Rows, image.Columns)
    low = float(image.WindowCenter) - float(image.WindowWidth) / 2
    shown = (stored * float(image.RescaleSlope) - low) / float(image.WindowWidth)
    return np.clip(shown, 0, 1).astype(np.float32)


def tint(
    grey: Float32[np.ndarray, "y x"], spread_percent: Float32[np.ndarray, "y x"], full_scale_percent: float
) -> UInt8[np.ndarray, "y x rgb=3"]:
    """Blend colour over grey in proportion to the spread; where the spread is NaN the image stays grey."""
    strength = np.clip(np.nan_to_num(spread_percent, nan=0.0) / full_scale_percent, 0, 1)[..., np.newaxis]
    opacity = STRONGEST_TINT * strength
    colour = (1 - strength) * _YELLOW + strength * _RED
    blended: UInt8[np.ndarray, "y x rgb=3"] = np.rint(
        (1 - opacity) * 255 * grey[..., np.newaxis] + opacity * colour
    ).astype(np.uint8)
    return blended


def _banner(width: int, image: Dataset, facts: SeriesFacts) -> UInt8[np.ndarray, "y x rgb=3"]:
    verdict = derived.image_verdict(image)
    picture = Picture.new("RGB", (width, BANNER_ROWS), _COLOURS[verdict.split()[0]])
    draw = ImageDraw.Draw(picture)
    warning = "PERTURBED DATA   " if facts.perturbed else ""
    _line(draw, f"{warning}{verdict}   {facts.method}", 4, 26, width)
    _line(draw, "RESEARCH: NOT FOR DIAGNOSIS   tint = spread of repeated reconstructions", 38, 18, width)
    return np.asarray(picture)


def _scale(width: int, full_scale_percent: float) -> UInt8[np.ndarray, "y x rgb=3"]:
    """The colours from 0 to full scale, over mid grey, with their values in per cent of the local signal."""
    bar = np.tile(np.linspace(0, full_scale_percent, width // 3, dtype=np.float32), (SCALE_ROWS - 12, 1))
    picture = Picture.new("RGB", (width, SCALE_ROWS))
    picture.paste(Picture.fromarray(tint(np.full_like(bar, 0.5), bar, full_scale_percent)), (width // 3, 6))
    draw = ImageDraw.Draw(picture)
    _line(draw, "0 %", 6, 16, width // 3, right=width // 3 - 6)
    _line(draw, f"{full_scale_percent:g} % of signal", 6, 16, width // 3, left=2 * (width // 3) + 6)
    return np.asarray(picture)


def _line(
    draw: ImageDraw.ImageDraw, text: str, y: int, size: int, width: int, *, left: int = 8, right: int | None = None
) -> None:
    """Write one line of white text with a black outline, smaller if it would not fit in ``width``."""
    room = width - 16
    length = draw.textlength(text, font=ImageFont.load_default(size))
    font = ImageFont.load_default(size if length <= room else size * room / length)
    x = left if right is None else right - draw.textlength(text, font=font)
    draw.text((x, y), text, fill="white", font=font, stroke_width=1, stroke_fill="black")


def _secondary_capture(
    picture: UInt8[np.ndarray, "y x rgb=3"],
    image: Dataset,
    factor: int,
    facts: SeriesFacts,
    outcome: SeriesVerdict,
    name: derived.Name,
) -> Dataset:
    dataset = Dataset()
    dataset.update(facts.exam.attributes)
    add_series(dataset, facts, series_description(facts, outcome, CONTENT))
    add_equipment(dataset, facts)
    dataset.SeriesInstanceUID, dataset.SeriesNumber = name.series_instance_uid, name.series_number
    dataset.SOPInstanceUID, dataset.InstanceNumber = name.sop_instance_uid, name.instance_number
    dataset.ImageType = ["DERIVED", "SECONDARY", "OVERLAY", *(["PERTURBED"] if facts.perturbed else [])]
    dataset.ConversionType = "WSD"
    dataset.PatientOrientation = None
    dataset.BurnedInAnnotation = "NO"  # none that tells who the patient is
    dataset.ContentQualification = "RESEARCH"
    dataset.LossyImageCompression = "00"
    dataset.DerivationDescription = describe(
        f"Stability map over the image, with a banner. {image.ImageComments}", "ST"
    )
    dataset.SourceImageSequence = [derived.source_reference(image)]
    if facts.created is not None:
        dataset.InstanceCreationDate = dataset.ContentDate = facts.created.strftime("%Y%m%d")
        dataset.InstanceCreationTime = dataset.ContentTime = facts.created.strftime("%H%M%S.%f")
    private.write(dataset, {"missing_identity": ", ".join(facts.exam.missing)})
    _place(dataset, image, factor)
    _add_pixels(dataset, picture)
    finish(dataset, SecondaryCaptureImageStorage)
    return dataset


def _place(dataset: Dataset, image: Dataset, factor: int) -> None:
    """The enlarged picture's first pixel: half a pixel outwards, half a small pixel inwards, the banner's rows up."""
    row, column = np.reshape(np.array(image.ImageOrientationPatient, dtype=float), (2, 3))
    dy, dx = (float(value) / factor for value in image.PixelSpacing)
    corner = np.array(image.ImagePositionPatient, dtype=float)
    first = corner - (factor - 1) / 2 * (dx * row + dy * column) - BANNER_ROWS * dy * column
    dataset.ImagePositionPatient = [decimal(value) for value in first]
    dataset.ImageOrientationPatient = image.ImageOrientationPatient
    dataset.PixelSpacing = [decimal(dy), decimal(dx)]
    dataset.SliceThickness = image.SliceThickness


def _add_pixels(dataset: Dataset, picture: UInt8[np.ndarray, "y x rgb=3"]) -> None:
    dataset.Rows, dataset.Columns = picture.shape[:2]
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    pixels = picture.tobytes()
    dataset.add_new("PixelData", "OB", pixels + b"\0" * (len(pixels) % 2))
