"""The object moves while it is being scanned; the coils stay where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.fft
from jaxtyping import Complex64, Float64, Int64

from steadymr.errors import PerturbationError
from steadymr.perturb.base import Perturbation, setting, strength
from steadymr.perturb.estimate import encoded, estimate_object
from steadymr.perturb.lines import acquisition_rank, received, to_frequency, to_image
from steadymr.types import KSpace

Image = Complex64[np.ndarray, "z y x"]


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
    active = [number for number, pose in enumerate(poses) if pose != resting and np.any(shot == number)]
    if not active:
        return kspace
    data = kspace.data.copy()
    object_ = _object_seen(kspace, any(poses[number].angle_rad for number in active))
    for number in active:
        k2, k1 = np.nonzero((shot == number) & kspace.acquired)
        phase, lines = _displacement(kspace, poses[number])[k1], kspace.data[:, k2, k1]
        if object_ is None:
            data[:, k2, k1] = phase * lines
        else:
            missed = lines - object_.at_rest[:, k2, k1]
            data[:, k2, k1] = phase * missed + object_.encoded(_posed(kspace, object_.image, poses[number]), k2, k1)
    return received(kspace, data, kspace.calibration)


@dataclass(frozen=True, slots=True, eq=False)
class _ObjectSeen:
    """An object estimate, laid out so that few lines of it in another pose are cheap."""

    image: Image
    maps: Complex64[np.ndarray, "z x coil y"]
    at_rest: Complex64[np.ndarray, "coil k2 k1 k0"]

    def encoded(
        self, image: Image, k2: Int64[np.ndarray, " line"], k1: Int64[np.ndarray, " line"]
    ) -> Complex64[np.ndarray, "coil line k0"]:
        """Return the lines (k2, k1) of an image: one product per line along y, Fourier transforms along the rest."""
        n_y = image.shape[-2]
        wanted, place = np.unique(k1, return_inverse=True)
        cycles = np.outer(wanted - n_y // 2, np.arange(n_y) - n_y // 2) / n_y
        along_y = (np.exp(-2j * np.pi * cycles) / np.sqrt(n_y)).astype(np.complex64)
        weighted = image.transpose(0, 2, 1)[..., None] * along_y.T
        hybrid = (self.maps @ weighted).transpose(2, 0, 3, 1)
        return to_frequency(to_frequency(hybrid, axes=(-3,))[:, k2, place], axes=(-1,))


def _object_seen(kspace: KSpace, turning: bool) -> _ObjectSeen | None:
    """Return the object estimate, or None where the phase of a displacement is exact: one uniform coil, no turning."""
    if kspace.data.shape[0] == 1 and not turning:
        return None
    estimate = estimate_object(kspace)
    maps = np.ascontiguousarray(estimate.maps.transpose(1, 3, 0, 2))
    return _ObjectSeen(estimate.image, maps, encoded(estimate.maps * estimate.image, kspace.acquired))


def turned(
    image: Image, angle_rad: float, voxel_mm_xy: tuple[float, float], moved_mm_xy: tuple[float, float] = (0.0, 0.0)
) -> Image:
    """Return the image turned about the centre of the field of view from x towards y, by three Fourier shears.

    A displacement after the turn costs nothing more: along y it joins the second shear, and the third, whose rows have
    moved by then, takes that along x.
    """
    x_mm, y_mm = voxel_mm_xy
    n_y, n_x = image.shape[-2:]
    x_points, y_points = moved_mm_xy[0] / x_mm, moved_mm_xy[1] / y_mm
    slope = -np.tan(angle_rad / 2) * y_mm / x_mm
    along_x = _phase_ramps(slope * _from_centre(n_y), n_x)
    along_y = _phase_ramps(np.sin(angle_rad) * x_mm / y_mm * _from_centre(n_x) + y_points, n_y).T
    last = _phase_ramps(slope * (_from_centre(n_y) - y_points) + x_points, n_x) if any(moved_mm_xy) else along_x
    image = scipy.fft.ifftshift(image, axes=(-2, -1))
    for phase, axis in ((along_x, -1), (along_y, -2), (last, -1)):
        image = scipy.fft.ifft(scipy.fft.fft(image, axis=axis) * phase, axis=axis, overwrite_x=True)
    return np.asarray(scipy.fft.fftshift(image, axes=(-2, -1)))


def _from_centre(n_points: int) -> Float64[np.ndarray, " point"]:
    """Return positions from the centre in the order of an uncentred transform: 0, 1, ... -2, -1."""
    return np.asarray(scipy.fft.ifftshift(np.arange(n_points) - n_points // 2), dtype=np.float64)


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


def _posed(kspace: KSpace, image: Image, pose: Pose) -> Image:
    """Return the object in a pose."""
    (n_x, n_y, _), (fov_x, fov_y, _) = kspace.encoded.matrix_xyz, kspace.encoded.fov_mm_xyz
    if pose.angle_rad:
        return turned(image, pose.angle_rad, (fov_x / n_x, fov_y / n_y), (pose.x_mm, pose.y_mm))
    return to_image(to_frequency(image, axes=(-2, -1)) * _displacement(kspace, pose), axes=(-2, -1))


def _displacement(kspace: KSpace, pose: Pose) -> Complex64[np.ndarray, "k1 k0"]:
    """Return the phase that moves an object by the pose's displacement."""
    (n_x, n_y, _), (fov_x, fov_y, _) = kspace.encoded.matrix_xyz, kspace.encoded.fov_mm_xyz
    along_y = _phase_ramps(np.array([pose.y_mm / fov_y * n_y]), n_y)[0]
    along_x = _phase_ramps(np.array([pose.x_mm / fov_x * n_x]), n_x)[0]
    return np.asarray(scipy.fft.fftshift(along_y[:, None] * along_x))
