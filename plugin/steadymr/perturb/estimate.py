"""An estimate of the object behind undersampled k-space, good enough to say how an imperfection changes the data.

Effects that mix phase encodings (motion, a field map) need samples that were not acquired. They are computed on the
estimate, and only the *change* is added to the measured data: y' = y + A(T x) - A(x), A the encoding of the acquired
lines. Whatever the estimate misses, noise included, so stays as it was measured; with a fully sampled scan and a
factor in image space nothing is missed.

The coils' sensitivities are those of :mod:`steadymr.perturb.coils`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Complex64, Int64
from scipy.sparse import csr_matrix

from steadymr.fourier import fft, ifft
from steadymr.perturb.coils import CoilImages, Waves, kernel_of, map_waves, on_grid
from steadymr.perturb.hybrid import HybridImage, HybridLines, image_of
from steadymr.perturb.lines import columns, to_frequency, to_image
from steadymr.types import KSpace

Encode: TypeAlias = Callable[[Complex64[np.ndarray, "#y #x"]], Complex64[np.ndarray, "coil line k0"]]
PHASE_AXES = (-3, -2)


@dataclass(frozen=True, slots=True, eq=False)
class ObjectEstimate:
    """An object and the coils that see it, ``maps * image`` being the coil images."""

    hybrid: HybridImage
    waves: Waves  #: the maps' Fourier coefficients along y, see :func:`map_waves`
    lines: Complex64[np.ndarray, "coil line k0"]  #: what is seen of it on the acquired lines
    encoding: SmoothEncoding  #: of the acquired lines

    @property
    def image(self) -> Complex64[np.ndarray, "z y x"]:
        """Return the object's image."""
        return image_of(self.hybrid)

    @property
    def maps(self) -> CoilImages:
        """Return the coil maps on the grid of the image."""
        return on_grid(self.waves, self.hybrid.shape[-1])

    def encoded(self, factor: Complex64[np.ndarray, "#y #x"]) -> Complex64[np.ndarray, "coil line k0"]:
        """Return the acquired lines of the object times a factor."""
        return self.encoding.samples(self.encoding.forward(self.hybrid * np.fft.ifftshift(factor).T))


def estimate_object(kspace: KSpace, n_iterations: int = 2) -> ObjectEstimate:
    """Return a few steps of regularised CG-SENSE (Pruessmann et al., Magn Reson Med 2001;46:638) from zero.

    Noise is not whitened and an asymmetric echo counts as symmetric: the estimate only drives a modelled change.
    More steps fit the lines better, and amplify their noise where an object is turned: with four coils and every
    second line by a quarter after three steps, by less than a tenth after two.

    Raises :class:`PerturbationError` when several coils were used and no block of central lines shows how they differ.
    """
    waves = map_waves(kspace)
    encoding = SmoothEncoding.of(waves, kspace.acquired)
    hybrid, seen = _conjugate_gradients(encoding, encoding.hybrid(kspace.data), n_iterations)
    return ObjectEstimate(hybrid, waves, encoding.samples(seen), encoding)


def encoder(kspace: KSpace) -> tuple[Encode, Complex64[np.ndarray, "coil line k0"]]:
    """Return what makes acquired lines of the object times a factor, and the lines of the object itself.

    The object is exact where the scan is full, else estimated.
    """
    if kspace.acquired.all() and columns(kspace).all():
        return partial(encoded, to_image(kspace.data), lines=kspace.acquired), kspace.data[:, kspace.acquired]
    estimate = estimate_object(kspace)
    return estimate.encoded, estimate.lines


def encoded(
    images: CoilImages, factor: Complex64[np.ndarray, "#y #x"], lines: Bool[np.ndarray, "k2 k1"]
) -> Complex64[np.ndarray, "coil line k0"]:
    """Return some lines of the k-space of coil images times a factor; what is not asked for is not transformed."""
    return to_frequency(_PhaseEncoding.of(lines).forward(images, factor), axes=(-1,))


@dataclass(frozen=True, slots=True, eq=False)
class _PhaseEncoding:
    """The centred orthonormal transform along the phase encodings, to some lines only; the readout stays as it is.

    Images are not moved to the corner for it: that their centre lies n // 2 points away is the phase
    exp(2 pi i k (n // 2) / n) of line k, and lines are few.
    """

    places: tuple[Int64[np.ndarray, " line"], Int64[np.ndarray, " line"]]  #: k2 and k1, zero frequency in the corner
    shape: tuple[int, int]
    phase: Complex64[np.ndarray, "line 1"]

    @classmethod
    def of(cls, lines: Bool[np.ndarray, "k2 k1"]) -> _PhaseEncoding:
        """Return the transform to lines of a grid with zero frequency at its centre."""
        n_k2, n_k1 = lines.shape
        k2, k1 = np.nonzero(lines)
        k2, k1 = k2 - n_k2 // 2, k1 - n_k1 // 2
        turns = k2 * (n_k2 // 2) % n_k2 / n_k2 + k1 * (n_k1 // 2) % n_k1 / n_k1
        return cls((k2 % n_k2, k1 % n_k1), (n_k2, n_k1), np.exp(2j * np.pi * turns).astype(np.complex64)[:, None])

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of images with more than one point, which is its own transform."""
        return tuple(axis for axis, n in zip(PHASE_AXES, self.shape, strict=True) if n > 1)

    def forward(
        self, maps: CoilImages, image: Complex64[np.ndarray, "*z #y #x"]
    ) -> Complex64[np.ndarray, "coil line x"]:
        """Return the lines of an image that coils see, coil by coil so that the work stays in the cache."""
        lines: np.ndarray = np.empty((len(maps), *self.phase.shape[:1], maps.shape[-1]), dtype=np.complex64)
        for coil, of_coil in enumerate(maps):
            grid = fft(of_coil * image, self.axes) if self.axes else of_coil * image
            np.multiply(grid[self.places], self.phase, out=lines[coil])
        return lines


@dataclass(frozen=True, slots=True, eq=False)
class SmoothEncoding:
    """Lines that coils with smooth maps see: each a sum over few lines of the object around it."""

    k1: Int64[np.ndarray, " k1"]  #: where lines were acquired for any k2
    acquired: Bool[np.ndarray, "k2 k1"]  #: which of these
    neighbours: Int64[np.ndarray, "wave k1"]  #: lines of the object, zero frequency first
    spread: csr_matrix  #: adds what came from neighbours to all lines of the object
    kernel: Complex64[np.ndarray, "z x coil wave"]
    adjoint_kernel: Complex64[np.ndarray, "z x wave coil"]

    @classmethod
    def of(cls, waves: Waves, acquired: Bool[np.ndarray, "k2 k1"]) -> SmoothEncoding:
        """Return the encoding of acquired lines: line k of a coil is the sum of waves(q) times line k - q."""
        (k1,), n_y, n_waves = np.nonzero(acquired.any(axis=0)), acquired.shape[1], waves.shape[2]
        neighbours = (k1 - n_y // 2 + (np.arange(n_waves) - n_waves // 2)[:, None]) % n_y
        order = np.argsort(neighbours, axis=None, kind="stable").astype(np.int32)
        rows = np.searchsorted(neighbours.ravel()[order], np.arange(n_y + 1)).astype(np.int32)
        spread = csr_matrix((np.ones(len(order), dtype=np.complex64), order, rows), shape=(n_y, len(order)))
        kernel = kernel_of(np.fft.ifftshift(waves, axes=-1))
        adjoint_kernel = np.ascontiguousarray(kernel.conj().swapaxes(-1, -2))
        return cls(k1, acquired[:, k1], neighbours, spread, kernel, adjoint_kernel)

    def forward(self, image: HybridImage) -> HybridLines:
        """Return the lines of an image."""
        spectrum = fft(image, (-1,))
        lines = to_frequency(self.kernel @ np.take(spectrum, self.neighbours, axis=-1), axes=(0,))
        return lines if self.acquired.all() else np.where(self.acquired[:, None, None], lines, 0)

    def adjoint(self, lines: HybridLines) -> HybridImage:
        """Return the sum over coils of conj(maps) times the images of lines."""
        n_z, n_x = lines.shape[:2]
        shares = self.adjoint_kernel @ to_image(lines, axes=(0,))
        spectrum = self.spread @ np.ascontiguousarray(shares.reshape(n_z * n_x, -1).T)
        image = ifft(np.ascontiguousarray(spectrum.T), (-1,))
        return np.asarray(image.reshape(n_z, n_x, -1))

    def hybrid(self, data: Complex64[np.ndarray, "coil k2 line x"]) -> HybridLines:
        """Return the acquired lines of k-space, in the order of this encoding."""
        lines = ifft(data[:, :, self.k1], (-1,))
        return np.ascontiguousarray(lines.transpose(1, 3, 0, 2))

    def samples(self, lines: HybridLines) -> Complex64[np.ndarray, "coil line k0"]:
        """Return the samples of acquired lines."""
        along_x = lines.transpose(2, 0, 3, 1)[:, self.acquired]
        return fft(along_x, (-1,))


def _conjugate_gradients(
    encoding: SmoothEncoding,
    measured: HybridLines,
    n_iterations: int,
    damping: float = 1e-2,
    tolerance_squared: float = 1e-8,
) -> tuple[HybridImage, HybridLines]:
    """Solve (A^H A + damping) x = A^H measured from zero; return x and A x.

    The readout's transform cancels in A^H A and is left out. A x is gathered on the way; the last step needs no A^H,
    for its length follows from the direction's own lines.
    """
    residual = direction = encoding.adjoint(measured)
    image, seen = np.zeros_like(residual), np.zeros_like(measured)
    size = first_size = _energy(residual)
    for iteration in range(n_iterations):
        if size <= tolerance_squared * first_size:
            break
        lines = encoding.forward(direction)
        step = np.float32(size / (_energy(lines) + damping * _energy(direction)))
        image, seen = image + step * direction, seen + step * lines
        if iteration == n_iterations - 1:
            break
        residual = residual - step * (encoding.adjoint(lines) + np.float32(damping) * direction)
        size, last_size = _energy(residual), size
        direction = residual + np.float32(size / last_size) * direction
    return image, seen


def _energy(samples: Complex64[np.ndarray, "*grid"]) -> float:
    return float(np.vdot(samples, samples).real)
