"""One slice before anything is done to it: its problem, what every method makes of it, and what it is judged by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float32
from torch import Tensor

from steadymr import __version__
from steadymr.audit.attack import attacked
from steadymr.audit.methods import Networks, load_networks, samples
from steadymr.audit.metrics import amplification, image_noise_sd
from steadymr.audit.norms import gaussian_equal_norm, thermal_norm
from steadymr.audit.plan import WORST_CASE
from steadymr.audit.scans import Slice
from steadymr.audit.settings import AuditSettings
from steadymr.config import Settings
from steadymr.errors import SettingsError
from steadymr.recon.methods import fully_sampled
from steadymr.recon.operators import Sense
from steadymr.recon.problem import Problem, prepare
from steadymr.stability.metrics import tissue_mask
from steadymr.types import KSpace

Magnitude = Float32[np.ndarray, "y x"]
Drawn: TypeAlias = dict[str, Tensor]  #: samples (sample y x) of each method
WHITE_PERCENTILE = 99.5


@dataclass(frozen=True, slots=True)
class Job:
    """What every cell of an audit is told."""

    audit: AuditSettings
    settings: Settings
    version: str = __version__

    def check_version(self) -> None:
        """Raise SettingsError where another version of steadymr would compute: the tables would not be the same."""
        if self.version != __version__:
            raise SettingsError(
                f"the audit was started by steadymr {self.version}, but a node of the cluster has {__version__}: "
                "install one version on all nodes"
            )

    def load_networks(self) -> Networks:
        """The networks of the methods, and of the surrogates if there are worst cases to craft."""
        crafts = any(text.startswith(WORST_CASE) for text in self.audit.perturb)
        weights = {"unet": self.audit.unet_weights, "varnet": self.audit.varnet_weights}
        surrogates = tuple(attack.surrogate for attack in self.audit.worst_case.attacks) if crafts else ()
        return load_networks(self.audit.methods, surrogates, self.settings, weights)


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """What is known of a slice before anything is done to it; magnitudes in the receiver's units."""

    slice: Slice
    problem: Problem
    images: dict[str, Complex64[np.ndarray, "y x"]]  #: of each method
    truth: Magnitude | None
    mask: Bool[np.ndarray, "y x"]  #: tissue
    noise_sd: Magnitude  #: of thermal noise in an image
    thermal: dict[str, float]  #: amplification of noise as strong as the thermal noise, of each method
    white: float
    pixel_mm: tuple[float, float]  #: along y and x


def baseline(slice_: Slice, job: Job) -> tuple[Baseline, Drawn]:
    """Reconstruct a slice as it is, by every method; also return the samples.

    Raises:
        ReconError: and others, as a replay would.
        SettingsError: if there is no tissue to measure errors in.
    """
    networks = begin(job)
    problem = prepared(slice_.kspace, networks)
    drawn = draw(problem, slice_, job, networks)
    images = {name: in_receiver_units(one.mean(0), problem) for name, one in drawn.items()}
    truth = None if slice_.full is None else np.abs(in_receiver_units(fully_sampled(slice_.full, problem), problem))
    shown = np.abs(images[job.audit.methods[0]]) if truth is None else truth
    fov_mm, (n_y, n_x) = slice_.kspace.encoded.fov_mm_xyz, shown.shape
    known = Baseline(
        slice=slice_,
        problem=without_solver(problem),
        images=images,
        truth=truth,
        mask=_tissue(shown, slice_),
        noise_sd=(image_noise_sd(problem) * problem.scale).astype(np.float32),
        thermal=_thermal_amplification(problem, images, slice_, job, networks),
        white=float(np.percentile(shown, WHITE_PERCENTILE)),
        pixel_mm=(fov_mm[1] / n_y, fov_mm[0] / n_x),
    )
    return known, drawn


def begin(job: Job) -> Networks:
    """Load what a cell needs; one thread, so that sums are added in one order wherever the cell is computed."""
    job.check_version()
    torch.set_num_threads(1)
    return job.load_networks()


def prepared(kspace: KSpace, networks: Networks) -> Problem:
    """The problem of a 2-D volume."""
    (problem,) = prepare(kspace, device=networks.device)
    return problem


def without_solver(problem: Problem) -> Problem:
    """The same problem; the exact solver's matrices, which are large, are made anew when they are asked for."""
    return replace(problem, sense=Sense(problem.sense.maps, problem.sense.mask))


def draw(problem: Problem, slice_: Slice, job: Job, networks: Networks) -> Drawn:
    """The samples of every method. Chance is the same for all versions of a slice, so that it cancels in a change."""
    return {name: samples(name, problem, networks, _generator(slice_, name, job)) for name in job.audit.methods}


def in_receiver_units(image: Complex64[Tensor, "y x"], problem: Problem) -> Complex64[np.ndarray, "y x"]:
    """From the problem's unit to the receiver's, where the noise of a sample is 1 per real channel."""
    return np.asarray((image * problem.scale).cpu().numpy(), np.complex64)


def amplification_of(
    image: Magnitude, clean: Magnitude, delta: Complex64[Tensor, "coil y x"], problem: Problem
) -> float:
    """`steadymr.audit.metrics.amplification` of magnitudes, which is what a reader sees."""
    change = torch.from_numpy(image - clean).to(problem.kspace.device, torch.complex64) / problem.scale
    return amplification(change, delta, problem)


def _tissue(shown: Magnitude, slice_: Slice) -> Bool[np.ndarray, "y x"]:
    mask = tissue_mask(shown)
    if not mask.any():
        raise SettingsError(
            f"no tissue stands out of the noise in {slice_.scan}, {slice_.title}, so there is nothing to measure "
            "errors in; audit another scan, or fewer slices"
        )
    return mask


def _generator(slice_: Slice, purpose: str, job: Job) -> torch.Generator:
    text = f"{job.settings.seed}|{slice_.scan}|{slice_.number}|{purpose}"
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big"))


def _thermal_amplification(
    problem: Problem, images: dict[str, np.ndarray], slice_: Slice, job: Job, networks: Networks
) -> dict[str, float]:
    noise = gaussian_equal_norm(problem, thermal_norm(problem), _generator(slice_, "thermal noise", job))
    drawn = draw(attacked(problem, noise), slice_, job, networks)
    return {
        name: amplification_of(np.abs(in_receiver_units(one.mean(0), problem)), np.abs(images[name]), noise, problem)
        for name, one in drawn.items()
    }
