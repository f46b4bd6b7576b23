"""An estimate of the object behind undersampled k-space, good enough to say how an imperfection changes the data.

Effects that mix phase encodings (motion, a field map) need samples that were not acquired. They are computed on the
estimate, and only the *change* is added to the measured data: y' = y + A(T x) - A(x), A the encoding of the acquired
lines. Whatever the estimate misses, noise included, so stays as it was measured; with a fully sampled scan and a
factor in image space nothing is missed.

Coil sensitivities are low-resolution images of the calibration lines, relative to their root sum of squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from jaxtyping import Bool, Complex, Complex64, Float32

from steadymr.errors import PerturbationError
from steadymr.perturb.lines import columns, to_frequency, to_image
from steadymr.types import KSpace

CoilImages = Complex64[np.ndarray, "coil z y x"]
PHASE_AXES = (-3, -2)
FEWEST_CALIBRATION_LINES = 4
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True, eq=False)
class ObjectEstimate:
    """An object and the coils that see it, ``maps * image`` being the coil images."""

    image: Complex64[np.ndarray, "z y x"]
    maps: CoilImages


def estimate_object(kspace: KSpace, n_iterations: int = 2) -> ObjectEstimate:
    """Return a few steps of regularised CG-SENSE (Pruessmann et al., Magn Reson Med 2001;46:638) from zero.

    Noise is not whitened and an asymmetric echo counts as symmetric: the estimate only drives a modelled change.
    More steps fit the lines better, and amplify their noise where an object is turned: with four coils and every
    second line by a quarter after three steps, by less than a tenth after two.

    Raises :class:`PerturbationError` when several coils were used and no block of central lines shows how they differ.
    """
    maps = coil_maps(kspace)
    lines = to_image(kspace.data, axes=(-1,))
    image = _conjugate_gradients(maps, kspace.acquired, _combined(maps, to_image(lines, axes=PHASE_AXES)), n_iterations)
    return ObjectEstimate(image=image, maps=maps)


def coil_images(kspace: KSpace) -> CoilImages:
    """Return what each coil sees: exact of a fully sampled scan, else by way of an object estimate."""
    if kspace.acquired.all() and columns(kspace).all():
        return to_image(kspace.data)
    estimate = estimate_object(kspace)
    return np.asarray(estimate.maps * estimate.image)


def encoded(images: CoilImages, lines: Bool[np.ndarray, "k2 k1"]) -> Complex64[np.ndarray, "coil k2 k1 k0"]:
    """Return the k-space of coil images on some lines, zero elsewhere; what is not asked for is not transformed."""
    hybrid = to_frequency(images, axes=PHASE_AXES)
    wanted: np.ndarray = np.zeros_like(hybrid)
    wanted[:, lines] = to_frequency(hybrid[:, lines], axes=(-1,))
    return wanted


def coil_maps(kspace: KSpace) -> CoilImages:
    """Return relative coil sensitivities, root sum of squares 1, with the object's phase taken out.

    The phase is that of the strongest combination of coils, the first eigenvector of their covariance. A single coil
    counts as uniform.
    """
    if kspace.data.shape[0] == 1:
        return np.ones_like(kspace.data)
    lines, block = _central_lines(kspace)
    images = _smoothed(lines, _window(block, lines.shape[-1]))
    size = np.sqrt(np.sum(np.abs(images) ** 2, axis=0))
    flat = images.reshape(len(images), -1)
    strongest = np.linalg.eigh(flat @ flat.conj().T)[1][:, -1]
    reference = np.tensordot(strongest.conj(), images, axes=1)
    turn = np.exp(-1j * np.angle(reference))
    floor = float(np.finfo(np.float32).eps * size.max())
    return np.asarray(images * (turn / np.maximum(size, max(floor, TINY))), dtype=np.complex64)


def _central_lines(kspace: KSpace) -> tuple[CoilImages, Bool[np.ndarray, "k2 k1"]]:
    """Return the gapless lines around zero frequency and where they lie, of the calibration or else of the image."""
    for data, lines in ((kspace.calibration, kspace.calibrated), (kspace.data, kspace.acquired)):
        block = _central_block(lines)
        if np.count_nonzero(block.any(axis=0)) >= FEWEST_CALIBRATION_LINES:
            return np.where(block[..., None], data, 0), block
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


def _window(block: Bool[np.ndarray, "k2 k1"], n_k0: int) -> Float32[np.ndarray, "k2 k1 k0"]:
    """Return a Hann window over central lines, as wide along the readout as along k1, at most a quarter of k1."""
    n_k2, n_k1 = block.shape
    reach = min(_reach(np.any(block, axis=0)), float(max(n_k1 // 8, FEWEST_CALIBRATION_LINES)))
    along_k2 = _hann(n_k2, _reach(np.any(block, axis=1)))
    return np.asarray(along_k2[:, None, None] * _hann(n_k1, reach)[:, None] * _hann(n_k0, reach))


def _smoothed(lines: CoilImages, window: Float32[np.ndarray, "k2 k1 k0"]) -> CoilImages:
    """Return the images of windowed lines; only lines within the window are transformed along the readout."""
    within = np.any(window, axis=(0, 2))
    hybrid = np.zeros_like(lines)
    hybrid[:, :, within] = to_image(lines[:, :, within] * window[:, within], axes=(-1,))
    return to_image(hybrid, axes=PHASE_AXES)


def _reach(used: Bool[np.ndarray, " line"]) -> float:
    """Return how far the lines reach from zero frequency, on the side that reaches further."""
    return float(np.abs(np.flatnonzero(used) - len(used) // 2).max()) + 1


def _hann(n_points: int, reach: float) -> Float32[np.ndarray, " point"]:
    distance = np.abs(np.arange(n_points) - n_points // 2) / reach
    return np.where(distance < 1, np.cos(np.pi / 2 * distance) ** 2, 0).astype(np.float32)


def _combined(maps: CoilImages, images: CoilImages) -> Complex64[np.ndarray, "z y x"]:
    return np.asarray(np.einsum("czyx,czyx->zyx", maps.conj(), images))


def _conjugate_gradients(
    maps: CoilImages,
    sampled: Bool[np.ndarray, "k2 k1"],
    target: Complex64[np.ndarray, "z y x"],
    n_iterations: int,
    damping: float = 1e-2,
    tolerance_squared: float = 1e-8,
) -> Complex64[np.ndarray, "z y x"]:
    """Solve (A^H A + damping) x = target; the readout's transform cancels in A^H A and is left out.

    Centring cancels as well: maps, mask and images are moved to the corner once, and the transforms left as they are.
    """
    maps, target = (scipy.fft.ifftshift(array, axes=PHASE_AXES) for array in (maps, target))
    mask = scipy.fft.ifftshift(sampled)[..., None]

    def normal(image: Complex[np.ndarray, "z y x"]) -> Complex[np.ndarray, "z y x"]:
        lines = scipy.fft.fftn(maps * image, axes=PHASE_AXES, overwrite_x=True) * mask
        seen = scipy.fft.ifftn(lines, axes=PHASE_AXES, overwrite_x=True)
        return np.asarray(_combined(maps, seen) + np.float32(damping) * image)

    image = np.zeros_like(target)
    residual, direction = target, target
    size = first_size = float(np.vdot(residual, residual).real)
    for _ in range(n_iterations):
        if size <= tolerance_squared * first_size:
            break
        ahead = normal(direction)
        step = np.float32(size / float(np.vdot(direction, ahead).real))
        image, residual = image + step * direction, residual - step * ahead
        size, last_size = float(np.vdot(residual, residual).real), size
        direction = residual + np.float32(size / last_size) * direction
    return np.asarray(scipy.fft.fftshift(image, axes=PHASE_AXES))
