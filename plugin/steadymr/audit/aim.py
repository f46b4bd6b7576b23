"""Where a targeted worst case draws or erases a structure, and how much of it a method then shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy import ndimage

from steadymr.audit.attacks import Attack
from steadymr.audit.losses import RIM_PIXELS
from steadymr.errors import PerturbationError

Magnitude = Float32[np.ndarray, "y x"]


@dataclass(frozen=True, slots=True, eq=False)
class Aim:
    """A structure that is to be drawn with some contrast, or erased if that is None."""

    region: Bool[np.ndarray, "y x"]
    contrast: float | None  #: in the problem's unit, where white is 1
    scale: float  #: the problem's unit in the receiver's

    def shown(self, image: Magnitude, clean: Magnitude) -> float | None:
        """How much of the structure a method shows: 0 as in its clean image, 1 as aimed at; None if nothing is there.

        Drawing aims at the contrast added to the region's mean, erasing at the mean of the surroundings.
        """
        before = float(clean[self.region].mean())
        rim = ndimage.binary_dilation(self.region, iterations=RIM_PIXELS) & ~self.region
        wanted = float(clean[rim].mean()) - before if self.contrast is None else self.contrast * self.scale
        return None if wanted == 0 else (float(image[self.region].mean()) - before) / wanted


def region(
    attack: Attack, shown: Magnitude, tissue: Bool[np.ndarray, "y x"], pixel_mm: tuple[float, float]
) -> Bool[np.ndarray, "y x"]:
    """The pixels of the structure of a targeted attack; ``pixel_mm`` is their size along y and x.

    Without a centre the audit chooses one inside the tissue: for drawing the place where the image is flattest, for
    erasing that where a disc of this size stands out most from its surroundings.

    Raises:
        PerturbationError: if the structure holds no pixel, or nowhere fits into the tissue.
    """
    if attack.target is None:
        raise ValueError(f"an attack of loss {attack.loss} has no structure")
    radius_mm = attack.target.diameter_mm / 2
    if attack.target.centre_mm_xy is not None:
        x_mm, y_mm = attack.target.centre_mm_xy
        centre = (shown.shape[0] // 2 + y_mm / pixel_mm[0], shown.shape[1] // 2 + x_mm / pixel_mm[1])
    else:
        centre = _chosen_centre(attack, shown, tissue, pixel_mm)
    found = _disc(shown.shape, centre, radius_mm, pixel_mm)
    if not found.any():
        raise PerturbationError(f"the structure of {attack.title} holds no pixel of the slice; move or enlarge it")
    return found


def _chosen_centre(
    attack: Attack, shown: Magnitude, tissue: Bool[np.ndarray, "y x"], pixel_mm: tuple[float, float]
) -> tuple[float, float]:
    radius_mm = attack.target.diameter_mm / 2 if attack.target else 0.0
    reach = [int(np.ceil(radius_mm / mm)) + RIM_PIXELS for mm in pixel_mm]
    size = (2 * reach[0] + 1, 2 * reach[1] + 1)
    inside = _disc(size, (float(reach[0]), float(reach[1])), radius_mm, pixel_mm)
    whole = ndimage.binary_dilation(inside, iterations=RIM_PIXELS)
    fits = ndimage.binary_erosion(tissue, whole)
    if not fits.any():
        raise PerturbationError(
            f"the structure of {attack.title} with its surroundings fits nowhere into the tissue of this slice; choose "
            "a smaller diameter_mm, or name its centre"
        )
    image = shown.astype(np.float64)
    if attack.loss == "draw":
        score = _mean(image, whole) ** 2 - _mean(image**2, whole)  # minus the variance
    else:
        score = np.abs(_mean(image, inside) - _mean(image, whole & ~inside))
    y, x = np.unravel_index(int(np.argmax(np.where(fits, score, -np.inf))), shown.shape)
    return float(y), float(x)


def _mean(image: Float[np.ndarray, "y x"], over: Bool[np.ndarray, "y2 x2"]) -> Float[np.ndarray, "y x"]:
    return np.asarray(ndimage.correlate(image, over / over.sum()))


def _disc(
    shape: tuple[int, ...], centre_yx: tuple[float, float], radius_mm: float, pixel_mm: tuple[float, float]
) -> Bool[np.ndarray, "y x"]:
    y, x = np.ogrid[: shape[0], : shape[1]]
    away = np.hypot((y - centre_yx[0]) * pixel_mm[0], (x - centre_yx[1]) * pixel_mm[1])
    return np.asarray(away <= radius_mm)
