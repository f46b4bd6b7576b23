"""Lines of an object that coils see in poses of its own, computed from no more of k-space than a line needs.

A turn is three shears by Fourier interpolation (Unser et al., IEEE Trans Image Process 1995;4:1371): along y, x and y.
Along y they are phases in k-space, the shear along x carries a line of k-space to its neighbours, and smooth coil
maps add few more. So lines of a pose that lie close together are made of a band of lines around them, on a grid along
y that is as much coarser; if they are spread over k-space, the pose is computed for all of it.

With turns of up to 4 degrees, bands changed what motion does to the data by 0.3 to 0.6 % (heads of 256 lines, 8 to 256
shots) and 0.7 to 1.3 % (128 lines), and by 5 to 10 % of it for knees that reach the edges of the field of view, where
shears carry an object around to the other side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Complex64, Float64, Int64

from steadymr.fourier import fft, ifft, ramps
from steadymr.perturb.coils import Waves, kernel_of
from steadymr.perturb.hybrid import HybridImage, turn
from steadymr.perturb.lines import phases, to_frequency

Spectrum: TypeAlias = Complex64[np.ndarray, "k1 z x"]
MARGIN = 4  #: lines at each end of a band that fade out
ROUNDING = 16  #: lines to which bands are rounded up: many are then of one size, and their transforms are fast
POINTS_AT_ONCE = 2**18  #: of bands: what stays in the cache


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the object is: turned about the centre of the field of view from x towards y, then displaced."""

    x_mm: float = 0.0
    y_mm: float = 0.0
    angle_rad: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Bands:
    """Bands of one size, each of an object in a pose, that are computed together."""

    pose: Int64[np.ndarray, " band"]
    centres: Int64[np.ndarray, " band"]
    n_rows: int  #: of each band
    n_kept: int  #: of them, those of which the lines are made
    columns: Int64[np.ndarray, " column"]  #: which of the wanted lines
    band_of: Int64[np.ndarray, " column"]


def encoded_in_poses(
    object_: HybridImage,
    waves: Waves,
    voxel_mm_xy: tuple[float, float],
    poses: tuple[Pose, ...],
    number: Int64[np.ndarray, " line"],
    k2: Int64[np.ndarray, " line"],
    k1: Int64[np.ndarray, " line"],
) -> Complex64[np.ndarray, "coil line k0"]:
    """Return line (k2, k1) of the object in pose ``number``, for each line, seen by coils that stay.

    ``waves`` are the Fourier coefficients of the coil maps along y, see :func:`~steadymr.perturb.coils.map_waves`:
    a coil's line k is the sum over q of waves(q) times line k - q of the object.
    """
    (n_z, n_x, n_y), reach = object_.shape, waves.shape[-2] // 2
    turned = turn(n_x)[:, None]
    spectrum = np.ascontiguousarray((fft(object_, (-1,)) * turned.conj()).transpose(2, 0, 1))
    kernel = kernel_of(np.fft.ifftshift(waves, axes=-1)) * turned[..., None]
    shears = _shears(poses, voxel_mm_xy)
    wanted, place = np.unique(number * n_y + k1, return_inverse=True)
    found: np.ndarray = np.empty((len(waves), len(wanted), n_z, n_x), dtype=np.complex64)
    for bands in _bands(wanted // n_y, wanted % n_y, np.abs(shears[:, 1]), n_y, n_z * n_x, reach):
        lines = posed(spectrum, shears[bands.pose], bands.centres, bands.n_rows, bands.n_kept)
        offset = wanted[bands.columns] % n_y - bands.centres[bands.band_of]
        rows = (bands.n_kept // 2 + offset + np.arange(-reach, reach + 1)[:, None]) % bands.n_kept
        neighbours = np.ascontiguousarray(lines[bands.band_of, rows].transpose(2, 3, 0, 1))
        found[:, bands.columns] = to_frequency(kernel @ neighbours, axes=(0,)).transpose(2, 3, 0, 1)
    return fft(found[:, place, k2], (-1,))


def _shears(poses: tuple[Pose, ...], voxel_mm_xy: tuple[float, float]) -> Float64[np.ndarray, "pose 4"]:
    """Return the slopes of the shears along y and x, in points a point, and the displacements, x first."""
    x_mm, y_mm = voxel_mm_xy
    angle, moved_x, moved_y = np.array([(one.angle_rad, one.x_mm / x_mm, one.y_mm / y_mm) for one in poses]).T
    return np.stack([np.tan(angle / 2) * x_mm / y_mm, -np.sin(angle) * y_mm / x_mm, moved_x, moved_y], axis=1)


def posed(
    spectrum: Spectrum,
    shears: Float64[np.ndarray, "pose 4"],
    centres: Int64[np.ndarray, " pose"],
    n_rows: int,
    n_kept: int,
) -> Complex64[np.ndarray, "pose row z x"]:
    """Return the object in poses, of each the ``n_kept`` lines of k-space around a centre, which is in the middle.

    ``spectrum`` is its Fourier transform along y, zero frequency and x = 0 first, of which ``n_rows`` lines around a
    centre are used. If they are not all, the outer ones fade, and what the shear along x carries in from beyond
    them is missed; see :func:`_bands`. ``shears`` are those of :func:`_shears`.
    """
    (n_y, _, n_x), (along_y, along_x, moved_x, moved_y) = spectrum.shape, shears.T[..., None]
    middle, x = n_rows // 2, _corner_order(n_x)
    rows = centres[:, None] - n_y // 2 + np.arange(n_rows) - middle
    around = (rows + n_y // 2) // n_y  # a band at the edge of k-space goes on at the other one
    to_middle = middle / n_rows  # turns a row by which y = 0 comes into the middle
    shear = ramps(phases(-along_y * rows[:, :1] / n_y * x), phases(-along_y / n_y * x - to_middle), n_rows)[:, :, None]
    beyond = np.nonzero(around)
    shear[beyond] *= phases(along_y[beyond[0]] * around[beyond][:, None] * x)[:, None]
    band = shear * np.take(spectrum, rows, axis=0, mode="wrap")
    if n_rows < n_y:
        fading = np.sin(np.pi / 2 * np.arange(MARGIN) / MARGIN).astype(np.float32)[:, None, None] ** 2
        band[:, :MARGIN] *= fading
        band[:, -MARGIN:] *= fading[::-1]
    band = fft(ifft(band, (1,)), (-1,))
    along_x = along_x * n_y / (n_rows * n_x) * x
    band *= ramps(phases(middle * along_x - moved_x / n_x * x), phases(-along_x), n_rows)[:, :, None]
    kept = slice(middle - n_kept // 2, middle - n_kept // 2 + n_kept)
    band = ifft(fft(band, (1,))[:, kept], (-1,))
    band *= shear[:, kept]
    displaced = (along_y * moved_x - moved_y) * (rows / n_y - around) + 2 * to_middle * np.arange(n_rows)
    band *= phases(displaced[:, kept])[..., None, None]
    return band


def _bands(
    number: Int64[np.ndarray, " column"],
    k1: Int64[np.ndarray, " column"],
    slope: Float64[np.ndarray, " pose"],
    n_y: int,
    n_across: int,
    reach: int,
) -> Iterator[_Bands]:
    """Yield the bands that all wanted lines are made of, alike ones as many at once as the cache holds.

    Lines come sorted by pose ``number`` and place ``k1``. Beyond the lines that are kept, a band has those that the
    shear along x carries there, by its ``slope``, and a margin. Lines further apart than that have bands of their own;
    a pose whose bands would have as many rows as all of k-space is computed whole.
    """
    beyond = 2 * (np.ceil(slope * n_y / 2).astype(np.int64) + MARGIN - 1)
    apart = (np.diff(number, prepend=-1) > 0) | (np.diff(k1, prepend=k1[0]) > 2 * reach + beyond[number])
    first = np.flatnonzero(apart)
    n_rows = _n_kept(k1, first, reach) + beyond[number[first]]
    whole = np.bincount(number[first], n_rows, len(slope)) >= n_y
    first = np.flatnonzero((np.diff(number, prepend=-1) > 0) | (apart & ~whole[number]))
    pose, last = number[first], np.append(first[1:], len(k1)) - 1
    n_kept = np.where(whole[pose], n_y, _n_kept(k1, first, reach))
    n_rows = np.minimum(-(-(n_kept + beyond[pose]) // ROUNDING) * ROUNDING, n_y)
    centres = np.where(whole[pose], n_y // 2, (k1[first] + k1[last]) // 2)
    band_of = np.repeat(np.arange(len(first)), last + 1 - first)
    for rows in np.unique(n_rows):
        (alike,) = np.nonzero(n_rows == rows)
        at_once = max(POINTS_AT_ONCE // (n_across * int(rows)), 1)
        for chosen in np.split(alike, range(at_once, len(alike), at_once)):
            place = np.full(len(first), -1)
            place[chosen] = np.arange(len(chosen))
            columns = np.flatnonzero(place[band_of] >= 0)
            n_most = int(n_kept[chosen].max())
            yield _Bands(pose[chosen], centres[chosen], int(rows), n_most, columns, place[band_of[columns]])


def _n_kept(
    k1: Int64[np.ndarray, " column"], first: Int64[np.ndarray, " band"], reach: int
) -> Int64[np.ndarray, " band"]:
    """Return how many rows runs of lines need that begin at ``first``: as many around their middle, and ``reach``."""
    last = np.append(first[1:], len(k1)) - 1
    return np.asarray(2 * reach + 1 + 2 * ((k1[last] - k1[first] + 1) // 2))


def _corner_order(n_points: int) -> Int64[np.ndarray, " point"]:
    """Return 0, 1, ... and then the places before 0, of a grid whose centre is in the corner."""
    return np.asarray((np.arange(n_points) + n_points // 2) % n_points - n_points // 2)
