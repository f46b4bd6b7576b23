"""Between image and k-space, in the order in which plain Fourier transforms leave points.

Along y and x points begin at the centre of the field of view, and each point along x is turned by exp(2 pi i x (n // 2)
/ n): a plain transform of it along x is then a readout as it lies in k-space, zero frequency in the middle. So no
transform has to move samples about.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jaxtyping import Complex64

HybridImage: TypeAlias = Complex64[np.ndarray, "z x y"]
HybridLines: TypeAlias = Complex64[np.ndarray, "k2 x coil k1"]


def turn(n_x: int) -> Complex64[np.ndarray, " x"]:
    """Return exp(2 pi i x (n // 2) / n), x = 0 first."""
    return np.asarray(np.exp(2j * np.pi * (np.arange(n_x) * (n_x // 2) % n_x) / n_x).astype(np.complex64))


def image_of(hybrid: HybridImage) -> Complex64[np.ndarray, "z y x"]:
    """Return the image, its centre in the middle."""
    image = (hybrid * turn(hybrid.shape[1]).conj()[:, None]).swapaxes(-1, -2)
    return np.asarray(np.fft.fftshift(image, axes=(-2, -1)))


def hybrid_of(image: Complex64[np.ndarray, "z y x"]) -> HybridImage:
    """Return the inverse of :func:`image_of`."""
    return np.asarray(np.fft.ifftshift(image, axes=(-2, -1)).swapaxes(-1, -2) * turn(image.shape[-1])[:, None])
