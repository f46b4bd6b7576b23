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
from jaxtyping import Bool, Complex64, Float32, Int64

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
    lines: Complex64[np.ndarray, "coil k2 k1 k0"]  #: what is seen of it on the acquired lines, zero elsewhere


def estimate_object(kspace: KSpace, n_iterations: int = 2) -> ObjectEstimate:
    """Return a few steps of regularised CG-SENSE (Pruessmann et al., Magn Reson Med 2001;46:638) from zero.

    Noise is not whitened and an asymmetric echo counts as symmetric: the estimate only drives a modelled change.
    More steps fit the lines better, and amplify their noise where an object is turned: with four coils and every
    second line by a quarter after three steps, by less than a tenth after two.

    Raises :class:`PerturbationError` when several coils were used and no block of central lines shows how they differ.
    """
    maps = coil_maps(kspace)
    encoding = _PhaseEncoding.of(kspace.acquired)
    measured = to_image(kspace.data[:, kspace.acquired], axes=(-1,))
    image, seen = _conjugate_gradients(maps, encoding, measured, n_iterations)
    lines: np.ndarray = np.zeros_like(kspace.data)
    lines[:, kspace.acquired] = to_frequency(seen, axes=(-1,))
    return ObjectEstimate(image, maps, lines)


def coil_images(kspace: KSpace) -> tuple[CoilImages, Complex64[np.ndarray, "coil k2 k1 k0"]]:
    """Return what each coil sees, and that on the acquired lines; exact of a full scan, else of an object estimate."""
    if kspace.acquired.all() and columns(kspace).all():
        return to_image(kspace.data), kspace.data
    estimate = estimate_object(kspace)
    return np.asarray(estimate.maps * estimate.image), estimate.lines


def encoded(images: CoilImages, lines: Bool[np.ndarray, "k2 k1"]) -> Complex64[np.ndarray, "coil line k0"]:
    """Return some lines of the k-space of coil images; what is not asked for is not transformed."""
    return to_frequency(_PhaseEncoding.of(lines).forward(images), axes=(-1,))


def coil_maps(kspace: KSpace) -> CoilImages:
    """Return relative coil sensitivities, root sum of squares 1, with the object's phase taken out.

    The phase is that of the strongest combination of coils, the first eigenvector of their covariance. A single coil
    counts as uniform.
    """
    if kspace.data.shape[0] == 1:
        return np.ones_like(kspace.data)
    lines, block = _central_lines(kspace)
    window = _window(block, lines.shape[-1])
    used = np.any(window, axis=-1)
    smoothed = lines[:, used] * window[used]
    flat = smoothed.reshape(len(smoothed), -1)
    strongest = np.linalg.eigh(flat @ flat.conj().T)[1][:, -1]  # of the images too: transforms are unitary
    images = _PhaseEncoding.of(used).adjoint(to_image(smoothed, axes=(-1,)))
    reference = np.tensordot(strongest.conj(), images, axes=1)
    size = np.sqrt(_combined(images, images).real)
    floor = max(float(np.finfo(np.float32).eps * size.max()), TINY)
    turn = np.where(reference == 0, 1, reference.conj()) / np.maximum(np.abs(reference), TINY)
    return np.asarray(images * (turn / np.maximum(size, floor)), dtype=np.complex64)


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


@dataclass(frozen=True, slots=True, eq=False)
class _PhaseEncoding:
    """The centred orthonormal transform along the phase encodings, to some lines only; the readout stays as it is.

    Images are not moved to the corner for it: that their centre lies n // 2 points away is the phase
    exp(2 pi i k (n // 2) / n) of line k, and lines are few.
    """

    corner: Bool[np.ndarray, "k2 k1"]  #: the lines, zero frequency in the corner
    order: Int64[np.ndarray, " line"]  #: place among the lines of the corner, in the order of the centred grid
    phase: Complex64[np.ndarray, "line 1"]

    @classmethod
    def of(cls, lines: Bool[np.ndarray, "k2 k1"]) -> _PhaseEncoding:
        """Return the transform to lines of a grid with zero frequency at its centre."""
        corner = scipy.fft.ifftshift(lines)
        place = np.zeros(lines.shape, dtype=np.int64)
        place[corner] = np.arange(np.count_nonzero(lines))
        turns = np.zeros(np.count_nonzero(lines))
        for k, n in zip(np.nonzero(lines), lines.shape, strict=True):
            turns += (k - n // 2) * (n // 2) % n / n
        return cls(corner, scipy.fft.fftshift(place)[lines], np.exp(2j * np.pi * turns).astype(np.complex64)[:, None])

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of images with more than one point, which is its own transform."""
        return tuple(axis for axis, n in zip(PHASE_AXES, self.corner.shape, strict=True) if n > 1)

    def forward(self, images: CoilImages) -> Complex64[np.ndarray, "coil line x"]:
        """Return the lines of images."""
        plain = scipy.fft.fftn(images, axes=self.axes, norm="ortho")[:, self.corner]
        return np.asarray(plain[:, self.order] * self.phase)

    def adjoint(self, lines: Complex64[np.ndarray, "coil line x"]) -> CoilImages:
        """Return the images of lines, the others being zero."""
        plain = np.empty_like(lines)
        plain[:, self.order] = lines * self.phase.conj()
        grid: np.ndarray = np.zeros((len(lines), *self.corner.shape, lines.shape[-1]), dtype=np.complex64)
        grid[:, self.corner] = plain
        return np.asarray(scipy.fft.ifftn(grid, axes=self.axes, norm="ortho", overwrite_x=True))


def _conjugate_gradients(
    maps: CoilImages,
    encoding: _PhaseEncoding,
    measured: Complex64[np.ndarray, "coil line x"],
    n_iterations: int,
    damping: float = 1e-2,
    tolerance_squared: float = 1e-8,
) -> tuple[Complex64[np.ndarray, "z y x"], Complex64[np.ndarray, "coil line x"]]:
    """Solve (A^H A + damping) x = A^H measured from zero; return x and A x, along the readout still images.

    The readout's transform cancels in A^H A and is left out. A x is gathered on the way; the last step needs no A^H,
    for its length follows from the direction's own lines.
    """
    residual = direction = _combined(maps, encoding.adjoint(measured))
    image, seen = np.zeros_like(residual), np.zeros_like(measured)
    size = first_size = _energy(residual)
    for iteration in range(n_iterations):
        if size <= tolerance_squared * first_size:
            break
        lines = encoding.forward(maps * direction)
        step = np.float32(size / (_energy(lines) + damping * _energy(direction)))
        image, seen = image + step * direction, seen + step * lines
        if iteration == n_iterations - 1:
            break
        residual = residual - step * (_combined(maps, encoding.adjoint(lines)) + np.float32(damping) * direction)
        size, last_size = _energy(residual), size
        direction = residual + np.float32(size / last_size) * direction
    return image, seen


def _energy(samples: Complex64[np.ndarray, "*grid"]) -> float:
    return float(np.vdot(samples, samples).real)
