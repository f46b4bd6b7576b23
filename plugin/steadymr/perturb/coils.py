"""Coil sensitivities as an object estimate needs them: low-resolution images of the calibration lines.

They are relative to their root sum of squares, and no finer than a few waves across the field of view. Where there is
no signal they fade, so that noise is not taken for an object there.
"""

from __future__ import annotations

import functools
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Complex64, Float32

from steadymr.errors import PerturbationError
from steadymr.perturb.lines import to_image
from steadymr.types import KSpace

CoilImages: TypeAlias = Complex64[np.ndarray, "coil z y x"]
Waves: TypeAlias = Complex64[np.ndarray, "coil z wave x"]
FEWEST_CALIBRATION_LINES = 4
FAINT = 0.02  #: of the brightest low-resolution signal, where maps have faded to 0.7
FINEST_WAVE = 8  #: periods across the field of view; the sensitivities of coils are smooth
TINY = float(np.finfo(np.float32).tiny)


def coil_maps(kspace: KSpace) -> CoilImages:
    """Return relative coil sensitivities, see :func:`map_waves`."""
    return on_grid(map_waves(kspace), kspace.data.shape[-2])


def map_waves(kspace: KSpace) -> Waves:
    """Return relative coil sensitivities as few Fourier coefficients along y, with the object's phase taken out.

    Their root sum of squares is 1 where there is signal and fades to 0 below ``FAINT`` of the brightest. The phase is
    that of the strongest combination of coils, the first eigenvector of their covariance. A single coil counts as
    uniform. They are computed on a coarse grid, half as wide again in k-space as the window over the calibration lines.

    Raises :class:`PerturbationError` when several coils were used and no block of central lines shows how they differ.
    """
    n_coils, n_k2, n_k1, n_k0 = kspace.data.shape
    if n_coils == 1:
        return np.ones((1, n_k2, 1, n_k0), dtype=np.complex64)
    lines, block = _central_lines(kspace)
    reach = _window_reach(block)
    (used_k1, coarse_k1), (used_k0, coarse_k0) = (
        (min(n, 2 * reach - 1), min(n, 3 * reach))
        for n in (n_k1, n_k0)  # what the window leaves, and the coarse grid
    )
    near_k1, near_k0 = _central(n_k1, used_k1), _central(n_k0, used_k0)
    window = _window(block[:, near_k1], reach)[..., None] * _hann(used_k0, float(reach))
    smoothed = to_image(lines[:, :, near_k1, near_k0] * window, axes=(-3,))
    flat = smoothed.reshape(n_coils, -1)
    strongest = np.linalg.eigh(flat @ flat.conj().T)[1][:, -1]  # of the images too: transforms are unitary
    along_x = smoothed.reshape(-1, used_k0) @ _waves(coarse_k0, used_k0).T  # one product, not one a coil
    images = _waves(coarse_k1, used_k1) @ along_x.reshape(*smoothed.shape[:-1], coarse_k0)
    reference = np.tensordot(strongest.conj(), images, axes=1)
    power = _combined(images, images).real
    bright = np.partition(power, int(0.99 * power.size), axis=None)[int(0.99 * power.size)]
    floor = max(FAINT**2 * float(bright), TINY)
    turn = np.where(reference == 0, 1, reference.conj()) / np.maximum(np.abs(reference), TINY)
    maps = images * (turn / np.sqrt(power + floor)).astype(np.complex64)
    n_along_y, n_along_x = (2 * min(reach - 1, FINEST_WAVE, (n - 1) // 2) + 1 for n in (coarse_k1, coarse_k0))
    to_grid = _waves(n_k0, n_along_x) @ (_waves(coarse_k0, n_along_x).conj().T / np.float32(coarse_k0))
    return np.asarray((_waves(coarse_k1, n_along_y).conj().T / np.float32(coarse_k1)) @ maps @ to_grid.T)


@functools.cache
def _waves(n_points: int, n_waves: int) -> Complex64[np.ndarray, "point wave"]:
    """Return exp(2 pi i q j / n), for waves q and points j counted from their centres: few, so faster than an FFT."""
    cycles = np.outer(np.arange(n_points) - n_points // 2, np.arange(n_waves) - n_waves // 2) / n_points
    return np.asarray(np.exp(2j * np.pi * cycles).astype(np.complex64))


def on_grid(waves: Waves, n_points: int) -> Complex64[np.ndarray, "coil z point x"]:
    """Return the sum of waves about zero frequency, along the last axis but one, at the points of a centred grid."""
    return np.asarray(_waves(n_points, waves.shape[-2]) @ waves)


def _central(n_points: int, n_wanted: int) -> slice:
    """Return the central places of a centred grid, at most all of them."""
    n_kept = min(n_points, n_wanted)
    first = n_points // 2 - n_kept // 2
    return slice(first, first + n_kept)


def _central_lines(kspace: KSpace) -> tuple[CoilImages, Bool[np.ndarray, "k2 k1"]]:
    """Return lines, of the calibration or else of the image, and which of them lie around zero without a gap."""
    for data, lines in ((kspace.calibration, kspace.calibrated), (kspace.data, kspace.acquired)):
        block = _central_block(lines)
        if np.count_nonzero(block.any(axis=0)) >= FEWEST_CALIBRATION_LINES:
            return data, block
    raise PerturbationError(
        f"estimating the coils needs {FEWEST_CALIBRATION_LINES} adjacent calibration or image lines at the centre of "
        "k-space, and this scan has none; choose an imperfection that treats each line alone"
    )


def _central_block(sampled: Bool[np.ndarray, "k2 k1"]) -> Bool[np.ndarray, "k2 k1"]:
    """Return the adjacent k1 around zero frequency that are sampled for as many k2 as the central one is."""
    centre = sampled.shape[1] // 2
    gaps = np.flatnonzero(sampled.sum(axis=0) < max(int(sampled[:, centre].sum()), 1))
    first = max((int(gap) + 1 for gap in gaps if gap <= centre), default=0)
    end = min((int(gap) for gap in gaps if gap >= centre), default=sampled.shape[1])
    adjacent = np.zeros(sampled.shape[1], dtype=bool)
    adjacent[first:end] = True
    return sampled & adjacent


def _window_reach(block: Bool[np.ndarray, "k2 k1"]) -> int:
    """Return how far the window over central lines reaches, which is at most a quarter of k1 wide."""
    return int(min(_reach(np.any(block, axis=0)), max(block.shape[1] // 8, FEWEST_CALIBRATION_LINES)))


def _window(block: Bool[np.ndarray, "k2 k1"], reach: int) -> Float32[np.ndarray, "k2 k1"]:
    """Return a Hann window over central lines, and zero off them."""
    n_k2, n_k1 = block.shape
    along_k2 = _hann(n_k2, _reach(np.any(block, axis=1)))
    return np.asarray(along_k2[:, None] * _hann(n_k1, float(reach)) * block)


def _reach(used: Bool[np.ndarray, " line"]) -> float:
    """Return how far the lines reach from zero frequency, on the side that reaches further."""
    return float(np.abs(np.flatnonzero(used) - len(used) // 2).max()) + 1


def _hann(n_points: int, reach: float) -> Float32[np.ndarray, " point"]:
    distance = np.abs(np.arange(n_points) - n_points // 2) / reach
    return np.where(distance < 1, np.cos(np.pi / 2 * distance) ** 2, 0).astype(np.float32)


def _combined(maps: CoilImages, images: CoilImages) -> Complex64[np.ndarray, "z y x"]:
    """Return the sum over coils of conj(maps) * images, coil by coil so that the sum stays in the cache."""
    total: np.ndarray = np.zeros_like(images[0])
    for of_coil, image in zip(maps, images, strict=True):
        total += of_coil.conj() * image
    return total


def kernel_of(waves: Waves) -> Complex64[np.ndarray, "z x coil wave"]:
    """Return waves in the order of the object's lines that meet in one line of a coil."""
    return np.ascontiguousarray(waves[:, :, ::-1].transpose(1, 3, 0, 2))
