"""What a worst case is worst at: each loss maps images ``(row y x)`` to one number a row, larger is worse.

All compare magnitudes, which is what a reader sees. Rows belong to slices in order, the same number to each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float32
from scipy import ndimage
from torch import Tensor

from steadymr.errors import SettingsError
from steadymr.recon.operators import fft_centred

Loss: TypeAlias = Callable[[Tensor], Tensor]  #: (row y x) complex images -> (row)
Penalty: TypeAlias = Callable[[Tensor, Tensor], Tensor]  #: (row coil y x) k-space, (row y x) images -> (row)

RIM_PIXELS = 3  #: width of the surroundings that an erased structure is painted over with


def mse_to(reference: Float32[Tensor, "slice y x"] | Complex64[Tensor, "slice y x"]) -> Loss:
    """Mean squared difference of the magnitude from a reference's, over the mean square of the reference."""
    magnitude = reference.abs()
    power = magnitude.square().mean((-2, -1))

    def loss(images: Tensor) -> Float32[Tensor, "row"]:
        n_rows = len(images) // len(magnitude)
        difference = images.abs() - magnitude.repeat_interleave(n_rows, 0)
        return difference.square().mean((-2, -1)) / power.repeat_interleave(n_rows)

    return loss


def mse_to_clean(clean: Complex64[Tensor, "y x"]) -> Loss:
    """Distance from what the surrogate makes of the unchanged scan: the loss of the paper this project repeats."""
    return mse_to(clean[None])


def mse_to_truth(truth: Complex64[Tensor, "y x"]) -> Loss:
    """Distance from the true image, in the problem's unit."""
    return mse_to(truth[None])


def draw(clean: Complex64[Tensor, "y x"], region: Bool[Tensor, "y x"], contrast: float) -> Loss:
    """How nearly the image is the clean one with a structure drawn inside ``region``.

    ``contrast`` is added to the magnitude there; the image's 99th percentile is 1. The loss is -1 for the clean image
    and 0 for one with exactly that structure and nothing else changed.
    """
    return _towards(clean.abs(), clean.abs() + contrast * region)


def erase(clean: Complex64[Tensor, "y x"], region: Bool[Tensor, "y x"]) -> Loss:
    """How nearly the image is the clean one with ``region`` painted over by the mean of its surroundings; see `draw`.

    Raises:
        SettingsError: if the region has no surroundings.
    """
    inside = region.cpu().numpy()
    rim = torch.from_numpy(ndimage.binary_dilation(inside, iterations=RIM_PIXELS) & ~inside).to(clean.device)
    if not bool(rim.any()):
        raise SettingsError("the structure to erase fills the image; choose a region with surroundings")
    magnitude = clean.abs()
    return _towards(magnitude, torch.where(region, magnitude[rim].mean(), magnitude))


def _towards(clean: Float32[Tensor, "y x"], target: Float32[Tensor, "y x"]) -> Loss:
    distance = (target - clean).square().sum()
    if not float(distance) > 0:
        raise SettingsError("the target equals the clean image; choose a region with pixels and a contrast")
    return lambda images: -(images.abs() - target).square().sum((-2, -1)) / distance


def disc(shape: tuple[int, int], centre_yx: tuple[float, float], radius_pixels: float) -> Bool[Tensor, "y x"]:
    """A round region for `draw` and `erase`."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return torch.from_numpy((y - centre_yx[0]) ** 2 + (x - centre_yx[1]) ** 2 <= radius_pixels**2)


def known_lines(
    maps: Complex64[Tensor, "coil y x"],
    lines: Bool[Tensor, "y"],
    measured: Complex64[Tensor, "coil y x"],
    noise_sd: float,
    weight: float = 1.0,
) -> Penalty:
    """The price of being seen on lines that are measured but withheld, for an attacker who knows where they lie.

    ``weight`` times the mean squared deviation of what the image predicts on ``lines`` from ``measured``, in units of
    the noise's variance: 1 where only noise deviates.
    """

    def penalty(_: Tensor, images: Tensor) -> Tensor:
        predicted = fft_centred(maps * images.unsqueeze(-3))[..., lines, :]
        deviation = (predicted - measured[..., lines, :]).abs().square().mean((-3, -2, -1))
        return weight * deviation / (2 * noise_sd**2)

    return penalty
