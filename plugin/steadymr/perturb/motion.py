"""The object moves while it is being scanned; the coils stay where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.fft
from jaxtyping import Complex64, Float64, Int64

from steadymr.errors import PerturbationError
from steadymr.perturb.base import Perturbation, setting, strength
from steadymr.perturb.estimate import ObjectEstimate, estimate_object
from steadymr.perturb.lines import acquisition_rank, received, to_frequency
from steadymr.types import KSpace

Image = Complex64[np.ndarray, "z y x"]
COLUMNS_AT_ONCE = 24  #: lines of one product: fewer waste time, more waste memory


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the object is: turned about the centre of the field of view from x towards y, then displaced."""

    x_mm: float = 0.0
    y_mm: float = 0.0
    angle_rad: float = 0.0


@dataclass(frozen=True, slots=True)
class RigidMotion(Perturbation):
    """The object moves in the image plane, as a rigid body, from shot to shot.

    Shot s sees the object turned by a_s about the centre and displaced by d_s (see :func:`moved`). The poses are a
    random walk that starts at rest, scaled so that the largest displacement is ``translation_mm`` and the largest
    angle ``rotation_deg``; with two shots the object moves once, half-way. A shot is a run of consecutive lines, or,
    interleaved, every S-th line. Motion through the plane and its spin history are not modelled; calibration lines
    acquired apart saw the object at rest.

    Heads move 1 to 2 mm per minute; 11 of 17 scans with a mean above 0.5 mm were not diagnostic; rotations up to 5
    degrees are the custom in studies of robustness (Morshuis et al., arXiv 2208.03161). That 5 mm is the most a scan
    of a few minutes shows is a working assumption.
    """

    name: ClassVar[str] = "rigid_motion"
    principal: ClassVar[str] = "translation_mm"
    moves_object: ClassVar[bool] = True

    translation_mm: float = strength(
        "largest displacement in the image plane", "mm", (0.0, 5.0), "heads move 1 to 2 mm per minute",
        assumption=True,
    )  # fmt: skip
    rotation_deg: float = strength(
        "largest rotation in the image plane", "degree", (0.0, 5.0), "Morshuis et al., arXiv 2208.03161"
    )  # fmt: skip
    shots: int = setting(
        8, "number of poses during the scan", "", (2.0, 256.0), "two for one sudden move, up to one a line",
        assumption=True, whole=True,
    )  # fmt: skip
    interleaved: int = setting(
        0, "1 if a shot is every S-th line, 0 if it is a run of lines", "", (0.0, 1.0), "by the protocol", whole=True
    )  # fmt: skip

    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Draw a course and move along it."""
        if self.shots < 2:
            raise PerturbationError(f"rigid_motion.shots must be at least 2 for anything to move, got {self.shots:g}")
        rank = acquisition_rank(kspace)
        n_shots = min(int(self.shots), int(rank.max()) + 1)
        shot = rank % n_shots if self.interleaved else rank * n_shots // (int(rank.max()) + 1)
        return moved(kspace, np.where(rank < 0, -1, shot), self.course(n_shots, rng))

    def course(self, n_shots: int, rng: np.random.Generator) -> tuple[Pose, ...]:
        """Return a random walk of poses, the first at rest."""
        walk = np.cumsum(rng.standard_normal((n_shots, 3)), axis=0)
        walk -= walk[0]
        away, angle = np.hypot(walk[:, 0], walk[:, 1]), np.abs(walk[:, 2])
        walk[:, :2] *= self.translation_mm / max(away.max(), np.finfo(float).tiny)
        walk[:, 2] *= np.deg2rad(self.rotation_deg) / max(angle.max(), np.finfo(float).tiny)
        return tuple(Pose(*(float(value) for value in pose)) for pose in walk)


def moved(kspace: KSpace, shot: Int64[np.ndarray, "k2 k1"], poses: tuple[Pose, ...]) -> KSpace:
    """Return the k-space of an object that was in ``poses[shot]`` when a line was acquired; -1 means at rest.

    y' = p y + A(S M x) - p A(S x), with p = exp(-2 pi i (kx dx + ky dy)) the exact phase of a displacement, M x the
    object estimate turned and displaced, S the coil maps. With one uniform coil and no rotation the last two terms
    cancel and the phase alone remains; otherwise they hold the coils in place and turn the object. What the estimate
    misses is displaced but not turned. A rotation is three shears by Fourier interpolation (Unser et al., IEEE Trans
    Image Process 1995;4:1371), so the object must leave room at the edges of the field of view.

    Raises :class:`PerturbationError` when several coils were used and nothing shows how they differ.
    """
    resting = Pose()
    active = [number for number, pose in enumerate(poses) if pose != resting]
    k2, k1 = np.nonzero(np.isin(shot, active) & kspace.acquired)
    if not len(k1):
        return kspace
    number = shot[k2, k1]
    lines, phase = kspace.data[:, k2, k1], _displacement(kspace, poses, number, k1)
    if len(lines) == 1 and not any(poses[one].angle_rad for one in np.unique(number)):
        moved_lines = phase * lines
    else:
        object_ = estimate_object(kspace)
        missed = lines - object_.lines[:, k2, k1]
        moved_lines = phase * missed + _encoded_in_poses(kspace, object_, poses, number, k2, k1)
    data = kspace.data.copy()
    data[:, k2, k1] = moved_lines
    return received(kspace, data, kspace.calibration)


def _encoded_in_poses(
    kspace: KSpace,
    object_: ObjectEstimate,
    poses: tuple[Pose, ...],
    number: Int64[np.ndarray, " line"],
    k2: Int64[np.ndarray, " line"],
    k1: Int64[np.ndarray, " line"],
) -> Complex64[np.ndarray, "coil line k0"]:
    """Return line (k2, k1) of the object in pose ``number``, for each line.

    A pose is seen by few lines, so along y each of them is a sum over its own column of phases, all coils and a batch
    of columns in one product; Fourier transforms do the rest.
    """
    n_coils, n_z, n_y, n_x = object_.maps.shape
    image = np.ascontiguousarray(object_.image.transpose(0, 2, 1))  # z x y
    maps = np.ascontiguousarray(object_.maps.transpose(1, 3, 0, 2)).transpose(0, 1, 3, 2)  # z x y coil
    wanted, place = np.unique(number * n_y + k1, return_inverse=True)
    found: np.ndarray = np.empty((n_coils, len(k1), n_x), dtype=np.complex64)
    posed: dict[int, Complex64[np.ndarray, "z x y"]] = {}
    for first in range(0, len(wanted), COLUMNS_AT_ONCE):
        batch = [divmod(int(key), n_y) for key in wanted[first : first + COLUMNS_AT_ONCE]]
        posed = {
            one: posed[one] if one in posed else _posed(kspace, image, poses[one])
            for one in dict.fromkeys(number for number, _ in batch)
        }
        hybrid: np.ndarray = np.empty((n_z, n_x, len(batch), n_coils), dtype=np.complex64)
        phases = _along_y(np.array([line for _, line in batch]), n_y)
        columns: np.ndarray = np.empty((n_x, len(batch), n_y), dtype=np.complex64)
        for z in range(n_z):
            for column, (one, _) in enumerate(batch):
                np.multiply(posed[one][z], phases[column], out=columns[:, column])
            hybrid[z] = columns @ maps[z]
        here = (place >= first) & (place < first + len(batch))
        lines = to_frequency(hybrid, axes=(0,))[k2[here], :, place[here] - first]
        found[:, here] = to_frequency(lines, axes=(1,)).transpose(2, 0, 1)
    return found


def _along_y(k1: Int64[np.ndarray, " line"], n_y: int) -> Complex64[np.ndarray, "line y"]:
    """Return the rows of the centred orthonormal Fourier transform along y that make these lines."""
    cycles = np.outer(k1 - n_y // 2, np.arange(n_y) - n_y // 2) / n_y
    return np.asarray(np.exp(-2j * np.pi * cycles) / np.sqrt(n_y), dtype=np.complex64)


def turned(
    image: Image, angle_rad: float, voxel_mm_xy: tuple[float, float], moved_mm_xy: tuple[float, float] = (0.0, 0.0)
) -> Image:
    """Return the image turned about the centre of the field of view from x towards y, by three Fourier shears.

    A displacement after the turn costs nothing more: along y it joins the second shear, and the third, whose rows have
    moved by then, takes that along x.
    """
    (x_mm, y_mm), (n_y, n_x) = voxel_mm_xy, image.shape[-2:]
    x_points, y_points = moved_mm_xy[0] / x_mm, moved_mm_xy[1] / y_mm
    slope = -np.tan(angle_rad / 2) * y_mm / x_mm
    along_x = _shear(slope, n_y, n_x)
    along_y = _shear(np.sin(angle_rad) * x_mm / y_mm, n_x, n_y).T * _phase_ramps(np.array([y_points]), n_y).T
    last = along_x * _phase_ramps(np.array([x_points - slope * y_points]), n_x)
    for phase, axis in ((along_x, -1), (along_y, -2), (last, -1)):
        frequencies = scipy.fft.fft(image, axis=axis)
        frequencies *= phase
        image = scipy.fft.ifft(frequencies, axis=axis, overwrite_x=True)
    return np.asarray(image)


def _shear(slope: float, n_lines: int, n_points: int) -> Complex64[np.ndarray, "line point"]:
    """Return what moves line j, counted from the centre, by ``slope * j`` points: products of a coarse and a fine step.

    Far fewer exponentials are computed so than the shear has points.
    """
    n_fine = int(np.ceil(np.sqrt(n_lines)))
    coarse = _phase_ramps(slope * (np.arange(0, n_lines, n_fine) - n_lines // 2), n_points)
    fine = _phase_ramps(slope * np.arange(n_fine), n_points)
    return np.asarray((coarse[:, None] * fine).reshape(-1, n_points)[:n_lines])


def _phase_ramps(moved_by: Float64[np.ndarray, " line"], n_points: int) -> Complex64[np.ndarray, "line point"]:
    """Return exp(-2 pi i k d/N), uncentred, which moves what it multiplies in k-space by d points, for each d.

    Phases of k and -k are conjugate, so that half of them are computed.
    """
    k = np.arange(n_points // 2 + 1)
    angle = np.outer(moved_by, -2 * np.pi * k / n_points).astype(np.float32)
    phases: np.ndarray = np.empty((len(moved_by), n_points), dtype=np.complex64)
    half = phases[:, : len(k)]
    half.real, half.imag = np.cos(angle), np.sin(angle)
    n_negative = n_points // 2  # k = -N/2 ... -1, or from -(N-1)/2 if N is odd
    phases[:, n_points - n_negative :] = half[:, n_negative:0:-1].conj()
    return phases


def _posed(kspace: KSpace, image: Complex64[np.ndarray, "z x y"], pose: Pose) -> Complex64[np.ndarray, "z x y"]:
    """Return the object in a pose; with x and y exchanged, so that a turn goes the other way."""
    (n_x, n_y, _), (fov_x, fov_y, _) = kspace.encoded.matrix_xyz, kspace.encoded.fov_mm_xyz
    return turned(image, -pose.angle_rad, (fov_y / n_y, fov_x / n_x), (pose.y_mm, pose.x_mm))


def _displacement(
    kspace: KSpace, poses: tuple[Pose, ...], number: Int64[np.ndarray, " line"], k1: Int64[np.ndarray, " line"]
) -> Complex64[np.ndarray, "line k0"]:
    """Return the phase by which each line's pose displaces an object."""
    (n_x, n_y, _), (fov_x, fov_y, _) = kspace.encoded.matrix_xyz, kspace.encoded.fov_mm_xyz
    x_mm, y_mm = (np.array([getattr(pose, axis) for pose in poses])[number] for axis in ("x_mm", "y_mm"))
    cycles = ((k1 - n_y // 2) * y_mm / fov_y)[:, None] + np.outer(x_mm / fov_x, np.arange(n_x) - n_x // 2)
    return np.asarray(np.exp(-2j * np.pi * cycles), dtype=np.complex64)
