"""Motion and shifts move the object; what an image shows is compared only after it has been moved back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32
from scipy import ndimage, optimize
from skimage.registration import phase_cross_correlation

UPSAMPLING: Final = 100  #: shifts are found to a hundredth of a pixel
COARSE_STEP_DEG: Final = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Registered:
    """An image moved onto a reference: turned about the centre by ``rotation_deg``, then shifted."""

    image: Float32[np.ndarray, "y x"]
    shift_pixels: tuple[float, float]  #: along y and x
    rotation_deg: float


def register_to(
    reference: Float32[np.ndarray, "y x"], image: Float32[np.ndarray, "y x"], *, max_rotation_deg: float = 0.0
) -> Registered:
    """Move an image onto the reference: the shift by phase correlation to a hundredth of a pixel, the turn by search.

    Shifts wrap around the field of view, as those in k-space do (Guizar-Sicairos 2008, doi 10.1364/OL.33.000156).
    Rotations are tried up to ``max_rotation_deg`` either way, half a degree apart, and the best is refined; at 0 the
    image is not turned, and so only resampled by a linear phase.
    """
    if max_rotation_deg == 0:
        return _shifted(reference, image, 0.0)
    n_steps = int(np.ceil(max_rotation_deg / COARSE_STEP_DEG))
    angles = np.linspace(-max_rotation_deg, max_rotation_deg, 2 * n_steps + 1)
    coarse = min(angles, key=lambda angle: _distance(reference, image, float(angle)))
    refined = optimize.minimize_scalar(
        lambda angle: _distance(reference, image, float(angle)),
        bounds=(coarse - COARSE_STEP_DEG, coarse + COARSE_STEP_DEG),
        method="bounded",
        options={"xatol": 0.01},
    )
    candidates = (_shifted(reference, image, float(angle)) for angle in (0.0, refined.x))
    return min(candidates, key=lambda moved: float(np.sum((moved.image - reference) ** 2)))


def _distance(reference: Float32[np.ndarray, "y x"], image: Float32[np.ndarray, "y x"], angle_deg: float) -> float:
    return float(np.sum((_shifted(reference, image, angle_deg).image - reference) ** 2))


def _shifted(
    reference: Float32[np.ndarray, "y x"], image: Float32[np.ndarray, "y x"], rotation_deg: float
) -> Registered:
    turned = (
        image if rotation_deg == 0 else ndimage.rotate(image, rotation_deg, reshape=False, order=3, mode="constant")
    )
    shift, _, _ = phase_cross_correlation(reference, turned, upsample_factor=UPSAMPLING, normalization=None)
    moved = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(turned), shift)).real
    return Registered(moved.astype(np.float32), (float(shift[0]), float(shift[1])), rotation_deg)
