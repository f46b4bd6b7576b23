"""One plane of a volume on its way through a run: its k-space, what is to be solved, where it lies, its seed."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Complex64, Float32

from steadymr.config import Settings
from steadymr.models import Models
from steadymr.perturb import Perturbation
from steadymr.perturb.site import SiteModel
from steadymr.recon import methods
from steadymr.recon.problem import Problem
from steadymr.stability.calibration import Calibration
from steadymr.stability.conditions import Conditions, anatomy_name
from steadymr.stopwatch import Stopwatch
from steadymr.types import Geometry, KSpace


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What stays the same from volume to volume."""

    settings: Settings
    models: Models
    perturbations: tuple[Perturbation, ...]
    watch: Stopwatch
    step: Callable[[str], None]  #: called after each step with its name
    calibration: Calibration | None = None
    site: SiteModel | None = None
    failure: str = ""  #: why nothing learned is made; empty if all is well
    note: Callable[[str], None] = lambda sentence: None  #: told what failed


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One plane of a volume on its way: the k-space it comes from and what is to be solved."""

    kspace: KSpace
    problem: Problem

    def on_recon_grid(self, image: Complex64[torch.Tensor, "y x"]) -> Float32[np.ndarray, "z=1 y x"]:
        """Magnitude in the receiver's units on the grid that the protocol asks for."""
        grid = methods.to_recon_grid(image * self.problem.scale, self.kspace.encoded, self.kspace.header.recon)
        return np.asarray(grid.abs().cpu().numpy()[None], np.float32)


def conditions_of(plane: Plane, method: str, run: Run) -> Conditions:
    """Under which conditions an image of this plane is made, as calibrations know them."""
    settings, models, recon = run.settings, run.models, plane.kspace.header.recon
    sampler = settings.diffusion.model_dump(exclude={"weights"})
    sampler |= {"samples": settings.samples, "noise_draw_share": settings.stability.noise_draw_share}
    own = {"classical": settings.classical, "supervised": settings.supervised}.get(method)
    network = models.supervised if method == "supervised" else None
    return Conditions(
        method=method,
        anatomy=anatomy_name(settings.stability.anatomy or plane.kspace.header.identity.body_part),
        acceleration=acceleration_of(plane.kspace),
        n_coils=plane.kspace.data.shape[0],
        noise_sd=float(plane.problem.noise_sd.mean()),
        pixel_mm=max(recon.fov_mm_xyz[axis] / recon.matrix_xyz[axis] for axis in (0, 1)),
        prior="" if models.prior_identity is None else models.prior_identity.sha256,
        model="" if network is None else network.identity.sha256,
        sampler=_words(sampler),
        reconstruction="" if own is None else _words(own.model_dump(exclude={"weights"})),
    )


def acceleration_of(kspace: KSpace) -> float:
    """The mean step from one sampled line to the next beyond the gapless centre of k-space; 1 where there is none.

    Sentinels do not count, nor do lines before the first and after the last: partial Fourier is no acceleration.
    """
    sampled = np.asarray(kspace.sampled.any(axis=0))
    lines, gaps, middle = np.flatnonzero(sampled), np.flatnonzero(~sampled), len(sampled) // 2
    first = int(gaps[gaps < middle].max(initial=-1)) + 1
    end = int(gaps[gaps >= middle].min(initial=len(sampled)))
    steps = np.concatenate([np.diff(lines[lines < first]), np.diff(lines[lines >= end])])
    return float(steps.mean()) if steps.size else 1.0


def wanted_partitions(kspace: KSpace) -> range:
    """The partitions inside the protocol's field of view along z; the others are slice oversampling."""
    n_z = kspace.data.shape[1]
    n_wanted = min(max(round(kspace.header.recon.fov_mm_xyz[2] / _thickness_mm(kspace)), 1), n_z)
    first = n_z // 2 - n_wanted // 2
    return range(first, first + n_wanted)


def plane_geometry(kspace: KSpace, z: int) -> Geometry:
    """Where plane ``z`` lies; index ``n_z // 2`` is at the volume's centre, as in every transform here."""
    volume, thickness_mm = kspace.geometry, _thickness_mm(kspace)
    offset_mm = (z - kspace.data.shape[1] // 2) * thickness_mm
    x_mm, y_mm, z_mm = (c + offset_mm * d for c, d in zip(volume.centre_mm, volume.slice_dir, strict=True))
    return replace(volume, centre_mm=(x_mm, y_mm, z_mm), fov_mm_xyz=(*volume.fov_mm_xyz[:2], thickness_mm))


def seed_for(seed: int, kspace: KSpace, *purpose: str | int) -> int:
    """A seed of its own for each volume and purpose, so that the order of volumes changes nothing."""
    index = kspace.index
    counters = (index.repetition, index.set, index.phase, index.contrast, index.average, index.slice)
    words = [word if isinstance(word, int) else zlib.crc32(word.encode()) for word in purpose]
    return int(np.random.SeedSequence([seed, *counters, *words]).generate_state(1)[0])


def _thickness_mm(kspace: KSpace) -> float:
    n_z = kspace.data.shape[1]
    return kspace.encoded.fov_mm_xyz[2] / n_z if n_z > 1 else kspace.geometry.fov_mm_xyz[2]


def _words(settings: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(settings.items()))
