"""The object moves while it is being scanned; the coils stay where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Complex64, Int64

from steadymr.errors import PerturbationError
from steadymr.perturb.base import Perturbation, setting, strength
from steadymr.perturb.estimate import estimate_object
from steadymr.perturb.lines import acquisition_rank, phases, with_lines
from steadymr.perturb.posed import Pose, encoded_in_poses
from steadymr.types import KSpace


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
        return tuple(Pose(*pose) for pose in walk.tolist())


def moved(kspace: KSpace, shot: Int64[np.ndarray, "k2 k1"], poses: tuple[Pose, ...]) -> KSpace:
    """Return the k-space of an object that was in ``poses[shot]`` when a line was acquired; -1 means at rest.

    y' = p y + A(S M x) - p A(S x), with p = exp(-2 pi i (kx dx + ky dy)) the exact phase of a displacement, M x the
    object estimate turned and displaced, S the coil maps. With one uniform coil and no rotation the last two terms
    cancel and the phase alone remains; otherwise they hold the coils in place and turn the object. What the estimate
    misses is displaced but not turned. A rotation is three shears by Fourier interpolation, so the object must leave
    room at the edges of the field of view; see :mod:`steadymr.perturb.posed`.

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
        place = np.cumsum(kspace.acquired).reshape(kspace.acquired.shape) - 1
        missed = lines - object_.lines[:, place[k2, k1]]
        moved_lines = encoded_in_poses(object_.hybrid, object_.waves, _voxel_mm_xy(kspace), poses, number, k2, k1)
        moved_lines += phase * missed
    return with_lines(kspace, k2, k1, moved_lines)


def _displacement(
    kspace: KSpace, poses: tuple[Pose, ...], number: Int64[np.ndarray, " line"], k1: Int64[np.ndarray, " line"]
) -> Complex64[np.ndarray, "line k0"]:
    """Return the phase by which each line's pose displaces an object."""
    (n_x, n_y, _), (fov_x, fov_y, _) = kspace.encoded.matrix_xyz, kspace.encoded.fov_mm_xyz
    x_mm, y_mm = (np.array([getattr(pose, axis) for pose in poses])[number] for axis in ("x_mm", "y_mm"))
    cycles = ((k1 - n_y // 2) * y_mm / fov_y)[:, None] + np.outer(x_mm / fov_x, np.arange(n_x) - n_x // 2)
    return phases(-cycles)


def _voxel_mm_xy(kspace: KSpace) -> tuple[float, float]:
    (n_x, n_y, _), (fov_x, fov_y, _) = kspace.encoded.matrix_xyz, kspace.encoded.fov_mm_xyz
    return fov_x / n_x, fov_y / n_y
