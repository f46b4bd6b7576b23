"""Magnitudes as 16-bit stored values: real value = RescaleSlope times stored value, and nothing clips in silence.

One slope serves all images of a scan, so that their stored values compare. An image too bright for it gets a slope of
its own. All share one window in real values, so that the display does not jump from image to image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt16

from steadymr.errors import DicomError

#: Stored value of the 99.9th percentile of a scan's first volume: eightfold head room below 65535.
TYPICAL_BRIGHTEST = 8192
#: Stored value of the brightest pixel of an image that needs a slope of its own.
OWN_BRIGHTEST = 60000
LARGEST_STORED = 65535


@dataclass(frozen=True, slots=True, eq=False)
class StoredPixels:
    """One image as it will be stored, and how to read it."""

    data: UInt16[np.ndarray, "y x"]
    slope: float  #: real value of one stored step
    window_center: float  #: in real values
    window_width: float  #: in real values
    has_own_slope: bool  #: whether it was too bright for the slope of its scan


def choose_slope(first_image: Float32[np.ndarray, "z y x"]) -> float:
    """The slope for a whole scan, from its first volume: the 99.9th percentile becomes 8192. Always positive.

    Raises DicomError if the image holds a negative or not finite value.
    """
    _check(first_image)
    brightest = float(np.percentile(first_image, 99.9)) or float(first_image.max())
    return _rounded(brightest / TYPICAL_BRIGHTEST) if brightest > 0 else 1.0


def store(magnitude: Float32[np.ndarray, "y x"], slope: float) -> StoredPixels:
    """Round one image to stored values, with ``slope`` or, if it would clip, with a slope of its own.

    Raises DicomError if the image holds a negative or not finite value, or the slope is not positive.
    """
    _check(magnitude)
    if not 0 < slope < float("inf"):
        raise DicomError(f"expected a positive rescale slope, but got {slope}; see choose_slope")
    brightest = float(magnitude.max())
    clips = brightest > LARGEST_STORED * slope
    own_slope = _rounded(brightest / OWN_BRIGHTEST) if clips else slope
    return StoredPixels(
        data=np.rint(magnitude / np.float64(own_slope)).astype(np.uint16),
        slope=own_slope,
        window_center=TYPICAL_BRIGHTEST * slope / 2,
        window_width=TYPICAL_BRIGHTEST * slope,
        has_own_slope=clips,
    )


def _rounded(slope: float) -> float:
    """Six significant digits, so that the decimal string in the file is exactly the slope that was used."""
    return float(f"{slope:.6g}")


def _check(magnitude: Float[np.ndarray, "*axes"]) -> None:
    if magnitude.size == 0 or not np.all(np.isfinite(magnitude)):
        raise DicomError(
            "expected finite magnitudes, but the image holds NaN or infinite values; see the reconstruction"
        )
    if float(magnitude.min()) < 0:
        raise DicomError(
            f"expected magnitudes, but the image goes down to {magnitude.min():.4g}; see the reconstruction"
        )
