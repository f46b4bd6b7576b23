"""Small scans of a known object through known coils, for the tests of perturbations."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from steadymr.perturb import PERTURBATIONS, Perturbation, parameters_of
from steadymr.types import Geometry, KSpace, ScanHeader, Space, VolumeIndex

FOV_MM = 64.0


def transform(images: np.ndarray, axes: tuple[int, ...] = (-3, -2, -1)) -> np.ndarray:
    """Return the centred orthonormal Fourier transform, by NumPy and in double precision."""
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(images, axes), axes=axes, norm="ortho"), axes)


def back(kspace: np.ndarray, axes: tuple[int, ...] = (-3, -2, -1)) -> np.ndarray:
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(kspace, axes), axes=axes, norm="ortho"), axes)


def grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return y and x from the centre, as fractions of the field of view."""
    axis = (np.arange(n) - n // 2) / n
    return axis[:, None], axis[None, :]


def blobs(n: int, angle_rad: float = 0.0, x_mm: float = 0.0, y_mm: float = 0.0) -> np.ndarray:
    """Return a smooth object that can be evaluated in any pose: turned from x towards y, then displaced."""
    y, x = grid(n)
    x, y = x - x_mm / FOV_MM, y - y_mm / FOV_MM
    x, y = np.cos(angle_rad) * x + np.sin(angle_rad) * y, -np.sin(angle_rad) * x + np.cos(angle_rad) * y
    image = np.zeros((n, n), dtype=complex)
    for x0, y0, wx, wy, size in [(0, 0, 0.1, 0.12, 1), (0.1, 0.12, 0.05, 0.04, 0.8), (-0.12, -0.05, 0.04, 0.07, -0.5)]:
        image += size * np.exp(-(((x - x0) / wx) ** 2) / 2 - ((y - y0) / wy) ** 2 / 2)
    return image * np.exp(0.5j)


def sensitivities(n_coils: int, n: int) -> np.ndarray:
    """Return smooth complex coil maps; a single coil is uniform."""
    if n_coils == 1:
        return np.ones((1, n, n), dtype=complex)
    y, x = grid(n)
    angles = 2 * np.pi * np.arange(n_coils)[:, None, None] / n_coils
    away = (x - 0.5 * np.cos(angles)) ** 2 + (y - 0.5 * np.sin(angles)) ** 2
    maps = np.exp(-away / 0.5 + 1j * (angles + x * np.sin(angles) + y * np.cos(angles)))
    return maps / np.sqrt(np.sum(np.abs(maps) ** 2, axis=0))


def scan(
    n: int = 32,
    *,
    n_coils: int = 4,
    acceleration: int = 1,
    n_calibration: int = 10,
    calibration: Literal["embedded", "separate"] = "embedded",
    k0_first: int = 0,
    n_slices: int = 1,
    object_: np.ndarray | None = None,
    covariance: np.ndarray | None = None,
) -> KSpace:
    """Return a noiseless scan; every ``acceleration``-th line and the calibration lines are acquired."""
    image = blobs(n) if object_ is None else object_
    depth = np.linspace(1, 0.5, n_slices)[:, None, None]
    data = 100 * transform(sensitivities(n_coils, n)[:, None] * (depth * image)[None])
    k1 = np.arange(n) - n // 2
    central = np.broadcast_to((k1 >= -(n_calibration // 2)) & (k1 < n_calibration - n_calibration // 2), (n_slices, n))
    every = np.broadcast_to(k1 % acceleration == 0, (n_slices, n))
    sampled = every | central if calibration == "embedded" else every.copy()
    data[..., :k0_first] = 0
    own = data if calibration == "embedded" else 0.5 * data
    return KSpace(
        data=np.where(sampled[..., None], data, 0).astype(np.complex64),
        sampled=sampled,
        k0_range=(k0_first, n),
        calibration=np.where(central[..., None], own, 0).astype(np.complex64),
        calibrated=central.copy(),
        noise_covariance=np.eye(n_coils, dtype=complex) if covariance is None else covariance,
        noise_source="noise scan",
        index=VolumeIndex(),
        geometry=Geometry((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (FOV_MM, FOV_MM, 5.0)),
        encoded=Space((n, n, n_slices), (FOV_MM, FOV_MM, 5.0)),
        header=_header(n, n_slices),
    )


def uncalibrated(kspace: KSpace) -> KSpace:
    return replace(kspace, calibration=np.zeros_like(kspace.calibration), calibrated=np.zeros_like(kspace.calibrated))


def strong(name: str) -> Perturbation:
    """Return a perturbation with every strength in the upper half of its plausible range."""
    kind = PERTURBATIONS[name]
    facts = {key: item for key, item in parameters_of(kind).items() if item.role == "strength"}
    return kind(**{key: int(item.high) if item.whole else 0.75 * item.high for key, item in facts.items()})


def energy(samples: np.ndarray) -> float:
    return float(np.linalg.norm(samples))


def _header(n: int, n_slices: int) -> ScanHeader:
    space = Space((n, n, n_slices), (FOV_MM, FOV_MM, 5.0))
    return ScanHeader(
        xml="<x/>", measurement_id="1", trajectory="cartesian", encoded=space, recon=space,
        k1_limits=None, k2_limits=None, counters={}, acceleration=(1, 1),
    )  # fmt: skip
