"""Lines of k-space: which were acquired, in what order, and how to put changed ones back.

The order of acquisition is not kept in :class:`~steadymr.types.KSpace`. It is taken to be the order of the grid: k1
runs fastest, then k2, over all lines that were acquired, calibration lines included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Complex, Complex64, Float, Float64, Int64

from steadymr.fourier import fft, ifft
from steadymr.types import KSpace

AnyComplex: TypeAlias = Complex[np.ndarray, "coil k2 k1 k0"]  #: single or double precision, on its way to single
ALL_SPACE = (-3, -2, -1)


def to_image(data: Complex[np.ndarray, "*grid"], axes: tuple[int, ...] = ALL_SPACE) -> Complex[np.ndarray, "*grid"]:
    """Return the centred orthonormal inverse Fourier transform along ``axes``, in the precision of its input."""
    return _centred(ifft, data, axes)


def to_frequency(data: Complex[np.ndarray, "*grid"], axes: tuple[int, ...] = ALL_SPACE) -> Complex[np.ndarray, "*grid"]:
    """Return the centred orthonormal Fourier transform along ``axes``, in the precision of its input."""
    return _centred(fft, data, axes)


def acquired(kspace: KSpace) -> Bool[np.ndarray, "k2 k1"]:
    """Return which lines were acquired at all, for the image, for calibration or as sentinels."""
    return np.asarray(kspace.acquired | kspace.calibrated)


def columns(kspace: KSpace) -> Bool[np.ndarray, " k0"]:
    """Return which samples of a readout were acquired."""
    first, end = kspace.k0_range
    index = np.arange(kspace.data.shape[-1])
    return np.asarray((index >= first) & (index < end))


def acquisition_rank(kspace: KSpace) -> Int64[np.ndarray, "k2 k1"]:
    """Return the place of each acquired line in the order of acquisition, from 0; -1 where no line was acquired."""
    lines = acquired(kspace)
    rank = np.full(lines.shape, -1, dtype=np.int64)
    rank[lines] = np.arange(np.count_nonzero(lines))
    return rank


def acquisition_fraction(kspace: KSpace) -> Float64[np.ndarray, "k2 k1"]:
    """Return t/(T-1), 0 at the first acquired line and 1 at the last."""
    rank = np.maximum(acquisition_rank(kspace), 0)
    return np.asarray(rank / max(int(rank.max()), 1))


def readout_samples(kspace: KSpace) -> Float64[np.ndarray, " k0"]:
    """Return the sample number along the readout, counted from the echo at zero frequency."""
    n_samples = kspace.data.shape[-1]
    return np.asarray(np.arange(n_samples, dtype=np.float64) - n_samples // 2)


def embedded(kspace: KSpace) -> Bool[np.ndarray, "k2 k1"]:
    """Return which calibration lines are image lines too: acquired once, and the same in both arrays."""
    both = kspace.sampled & kspace.calibrated
    same: np.ndarray = np.zeros(both.shape, dtype=bool)
    same[both] = np.all(kspace.data[:, both] == kspace.calibration[:, both], axis=(0, 2))
    return same


def has_separate_calibration(kspace: KSpace) -> bool:
    """Whether some calibration lines were acquired apart from the image's."""
    return bool(np.any(kspace.calibrated & ~embedded(kspace)))


def received(kspace: KSpace, data: AnyComplex, calibration: AnyComplex) -> KSpace:
    """Return k-space with other samples: zero where nothing was acquired, embedded calibration lines as in ``data``."""
    image_lines = _kept(data, kspace.acquired, kspace.k0_range)
    calibration_lines = _kept(calibration, kspace.calibrated, kspace.k0_range)
    once = embedded(kspace)
    calibration_lines[:, once] = image_lines[:, once]
    return replace(kspace, data=image_lines, calibration=calibration_lines)


def with_lines(
    kspace: KSpace,
    k2: Int64[np.ndarray, " line"],
    k1: Int64[np.ndarray, " line"],
    lines: Complex64[np.ndarray, "coil line k0"],
) -> KSpace:
    """Return k-space with other samples in some acquired lines, and in embedded calibration lines among them."""
    taken = slice(*kspace.k0_range)
    data, calibration, once = kspace.data.copy(), np.zeros_like(kspace.calibration), embedded(kspace)
    data[:, k2, k1, taken] = lines[..., taken]
    calibration[:, kspace.calibrated] = kspace.calibration[:, kspace.calibrated]
    calibration[:, once] = data[:, once]
    return replace(kspace, data=data, calibration=calibration)


def through_receiver(kspace: KSpace, effect: Callable[[Complex64[np.ndarray, "coil k2 k1 k0"]], AnyComplex]) -> KSpace:
    """Apply an effect of the receiver to the image's lines, then to calibration lines that were acquired apart."""
    data = effect(kspace.data)
    calibration = effect(kspace.calibration) if has_separate_calibration(kspace) else kspace.calibration
    return received(kspace, data, calibration)


def delayed_along_k0(data: AnyComplex, samples: Float[np.ndarray, "*lines"] | float) -> AnyComplex:
    """Return k(n - samples): readouts moved to later samples by Fourier interpolation, per line or all alike."""
    n_samples = data.shape[-1]
    position = (np.arange(n_samples) - n_samples // 2) / n_samples
    phase = np.exp(2j * np.pi * np.asarray(samples)[..., None] * position).astype(np.complex64)
    return to_frequency(to_image(data, axes=(-1,)) * phase, axes=(-1,))


def phases(turns: Float[np.ndarray, "*grid"]) -> Complex64[np.ndarray, "*grid"]:
    """Return exp(2 pi i turns), in single precision, for phases of few turns and many points."""
    angle = (2 * np.pi * turns).astype(np.float32)
    found: np.ndarray = np.empty(angle.shape, dtype=np.complex64)
    found.real, found.imag = np.cos(angle), np.sin(angle)
    return found


def _kept(
    data: AnyComplex, lines: Bool[np.ndarray, "k2 k1"], k0_range: tuple[int, int]
) -> Complex64[np.ndarray, "coil k2 k1 k0"]:
    kept = np.zeros(data.shape, dtype=np.complex64)
    taken = slice(*k0_range)
    kept[:, lines, taken] = data[:, lines, taken]
    return kept


def _centred(
    transform: Callable[..., np.ndarray], data: Complex[np.ndarray, "*grid"], axes: tuple[int, ...]
) -> Complex[np.ndarray, "*grid"]:
    axes = tuple(axis for axis in axes if data.shape[axis] > 1)  # one point is its own transform
    if not axes:
        return np.asarray(data)
    return np.asarray(np.fft.fftshift(transform(np.fft.ifftshift(data, axes=axes), axes), axes=axes))
