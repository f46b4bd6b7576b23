"""Where a readout lies in k-space, and the removal of readout oversampling.

Counters become indices so that zero frequency sits at ``n // 2``. Lines missing on one side (partial Fourier) and
columns missing on one side (asymmetric echo) need no special case: they are simply not placed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Complex64
from scipy import fft

from steadymr.errors import ReadoutError
from steadymr.types import Readout, ScanHeader, Space

STICKING_OUT = 1  #: samples that may lie outside the matrix, where a scanner counts its centre from the other end


@dataclass(frozen=True, slots=True)
class Grid:
    """The Cartesian grid of a volume: ``n_k0`` columns after, ``n_k0_encoded`` before oversampling is removed."""

    n_k0_encoded: int
    n_k0: int
    n_k1: int
    n_k2: int
    k1_centre: int  #: value of the counter at zero frequency
    k2_centre: int
    space: Space  #: of the volume, oversampling removed

    @property
    def oversampling(self) -> float:
        """How many times finer than needed the readout was sampled."""
        return self.n_k0_encoded / self.n_k0


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One readout in its place: samples on all columns of the grid, and what the oversampling showed besides."""

    samples: Complex64[np.ndarray, "coil k0"]  #: zero outside ``k0_range``
    k1: int  #: index, no longer counter
    k2: int
    k0_range: tuple[int, int]
    margin: Complex64[np.ndarray, "coil margin"]
    """The part of the field of view that oversampling removal cuts off, left to right, at the noise level of one
    acquired sample."""


def grid_of(header: ScanHeader) -> Grid:
    """The grid that the header describes; without encoding limits, zero frequency is in the middle of the matrix."""
    (n_x, n_y, n_z), (fov_x, fov_y, fov_z) = header.encoded.matrix_xyz, header.encoded.fov_mm_xyz
    n_k0 = min(n_x, max(1, round(n_x * header.recon.fov_mm_xyz[0] / fov_x)))
    return Grid(
        n_k0_encoded=n_x,
        n_k0=n_k0,
        n_k1=n_y,
        n_k2=n_z,
        k1_centre=header.k1_limits.centre if header.k1_limits else n_y // 2,
        k2_centre=header.k2_limits.centre if header.k2_limits else n_z // 2,
        space=Space((n_k0, n_y, n_z), (fov_x * n_k0 / n_x, fov_y, fov_z)),
    )


def place(readout: Readout, grid: Grid) -> Line:
    """Put a readout on the grid, turned round if it was acquired in reverse.

    ``discard_pre`` counts in the order of acquisition; ``centre_sample`` counts along increasing k, which for a
    reversed readout means after turning it round (so do mapVBVD and mrpro).

    Raises ``ReadoutError`` if it falls outside the encoded matrix.
    """
    k1 = readout.k1 - grid.k1_centre + grid.n_k1 // 2
    k2 = readout.k2 - grid.k2_centre + grid.n_k2 // 2
    if not (0 <= k1 < grid.n_k1 and 0 <= k2 < grid.n_k2):
        raise ReadoutError(
            f"line k1={readout.k1}, k2={readout.k2} falls outside the encoded matrix of {grid.n_k1} x {grid.n_k2} "
            f"lines with zero frequency at k1={grid.k1_centre}, k2={grid.k2_centre}; see the header's encodingLimits"
        )
    columns, start = _columns(readout, grid)
    samples, k0_range, margin = _remove_oversampling(columns, start, grid)
    return Line(samples, k1, k2, k0_range, margin)


def with_change(readout: Readout, change: Complex64[np.ndarray, "coil k0"], grid: Grid) -> Readout:
    """The readout whose place on the grid holds ``change`` more than before.

    The adjoint of `place`: the change is padded to the oversampled field of view with zeros, where the readout stays
    as it was measured, and lands on the samples that were kept.
    """
    columns, start = _columns(readout, grid)
    full = _add_oversampling(change, grid)[:, start : start + columns.shape[1]]
    data = readout.data.copy()
    n_samples = data.shape[1]
    kept = data[:, readout.discard_pre : n_samples - readout.discard_post]
    kept = kept[:, ::-1] if readout.reversed else kept
    skipped = max(0, -_start(readout, grid))
    kept[:, skipped : skipped + full.shape[1]] += full  # a view: this writes into data
    return replace(readout, data=data)


def _add_oversampling(change: Complex64[np.ndarray, "coil k0"], grid: Grid) -> Complex64[np.ndarray, "coil encoded"]:
    if grid.n_k0 == grid.n_k0_encoded:
        return change
    left = grid.n_k0_encoded // 2 - grid.n_k0 // 2
    right = grid.n_k0_encoded - grid.n_k0 - left
    return _to_kspace(np.pad(_to_image(change), ((0, 0), (left, right))))


def _columns(readout: Readout, grid: Grid) -> tuple[Complex64[np.ndarray, "coil sample"], int]:
    """The samples to keep, in the order of increasing k, and the encoded column of the first of them."""
    n_samples = readout.data.shape[1]
    kept = readout.data[:, readout.discard_pre : n_samples - readout.discard_post]
    start = _start(readout, grid)
    kept = kept[:, ::-1] if readout.reversed else kept
    if start < -STICKING_OUT or start + kept.shape[1] > grid.n_k0_encoded + STICKING_OUT:
        raise ReadoutError(
            f"the readout of line k1={readout.k1}, k2={readout.k2} has {kept.shape[1]} samples with zero frequency at "
            f"sample {readout.centre_sample}, which do not fit in {grid.n_k0_encoded} encoded columns"
        )
    kept = kept[:, max(0, -start) :][:, : grid.n_k0_encoded - max(0, start)]
    return kept, max(0, start)


def _start(readout: Readout, grid: Grid) -> int:
    """The encoded column of the first sample kept; negative if the readout sticks out."""
    discarded = readout.discard_post if readout.reversed else readout.discard_pre
    return grid.n_k0_encoded // 2 - readout.centre_sample + discarded


def _remove_oversampling(
    columns: Complex64[np.ndarray, "coil sample"], start: int, grid: Grid
) -> tuple[Complex64[np.ndarray, "coil k0"], tuple[int, int], Complex64[np.ndarray, "coil margin"]]:
    """Centred orthonormal transform along k0, the outer field of view cut off, and back.

    Orthonormal on both sides, so white noise keeps its variance per sample.
    """
    n_coils, n_samples = columns.shape
    full = np.zeros((n_coils, grid.n_k0_encoded), np.complex64)
    full[:, start : start + n_samples] = columns
    if grid.n_k0 == grid.n_k0_encoded:
        return full, (start, start + n_samples), full[:, :0]
    profile = _to_image(full)
    left = grid.n_k0_encoded // 2 - grid.n_k0 // 2
    samples = _to_kspace(profile[:, left : left + grid.n_k0])
    first, stop = _k0_range(start, start + n_samples, grid)
    samples[:, :first] = 0
    samples[:, stop:] = 0
    margin = np.concatenate([profile[:, :left], profile[:, left + grid.n_k0 :]], axis=1)
    return samples, (first, stop), margin * np.float32(math.sqrt(grid.n_k0_encoded / n_samples))


def _k0_range(start: int, stop: int, grid: Grid) -> tuple[int, int]:
    """The columns, after oversampling removal, whose frequency lies between those of the first and last sample."""
    shrink = grid.n_k0 / grid.n_k0_encoded
    middle, middle_encoded = grid.n_k0 // 2, grid.n_k0_encoded // 2
    first = math.ceil((start - middle_encoded) * shrink - 1e-9) + middle
    past = math.ceil((stop - middle_encoded) * shrink - 1e-9) + middle if stop < grid.n_k0_encoded else grid.n_k0
    return max(0, first), min(grid.n_k0, past)


def _to_image(kspace: Complex64[np.ndarray, "coil k0"]) -> Complex64[np.ndarray, "coil k0"]:
    return np.asarray(fft.fftshift(fft.ifft(fft.ifftshift(kspace, axes=-1), norm="ortho"), axes=-1), np.complex64)


def _to_kspace(profile: Complex64[np.ndarray, "coil k0"]) -> Complex64[np.ndarray, "coil k0"]:
    return np.asarray(fft.fftshift(fft.fft(fft.ifftshift(profile, axes=-1), norm="ortho"), axes=-1), np.complex64)
