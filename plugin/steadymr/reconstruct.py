"""From one volume of k-space to images with a verdict: every method, every plane."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Complex64, Float32

from steadymr import perturb
from steadymr.config import Method, Settings
from steadymr.models import Models
from steadymr.perturb import Perturbation
from steadymr.recon import methods
from steadymr.recon.problem import Problem, prepare
from steadymr.stability.metrics import compare_with_truth, tissue_mask
from steadymr.stability.score import Thresholds, score_image
from steadymr.stopwatch import Stopwatch
from steadymr.types import Geometry, Image, KSpace, ModelIdentity, SampleSet, SliceResult, TruthReport

METHOD_DESCRIPTIONS: dict[Method, str] = {
    "diffusion": "Mean of posterior samples under a diffusion prior",
    "supervised": "U-Net on top of CG-SENSE",
    "classical": "CG-SENSE with Tikhonov regularisation",
}


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What stays the same from volume to volume."""

    settings: Settings
    models: Models
    perturbations: tuple[Perturbation, ...]
    watch: Stopwatch
    step: Callable[[str], None]  #: called after each step with its name


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One plane of a volume on its way: the k-space it comes from and what is to be solved."""

    kspace: KSpace
    problem: Problem

    def on_recon_grid(self, image: Complex64[torch.Tensor, "y x"]) -> Float32[np.ndarray, "z=1 y x"]:
        """Magnitude in the receiver's units on the grid that the protocol asks for."""
        grid = methods.to_recon_grid(image * self.problem.scale, self.kspace.encoded, self.kspace.header.recon)
        return np.asarray(grid.abs().cpu().numpy()[None], np.float32)


def reconstruct(kspace: KSpace, full: KSpace | None, run: Run) -> Iterator[SliceResult]:
    """Scored images of one volume: plane by plane, one for each method of the settings.

    ``full`` is the same volume fully sampled, if known; its reconstruction is the truth that images are compared with.
    """
    seed = seed_for(run.settings.seed, kspace, "perturb")
    perturbed = perturb.apply(kspace, run.perturbations, seed)
    wanted = wanted_partitions(perturbed)
    for problem in run.watch.each("coil maps", prepare(perturbed, device=run.models.device)):
        run.step("coil maps")
        if problem.z not in wanted:
            continue
        yield from _reconstruct_plane(Plane(perturbed, problem), full, run)


def _reconstruct_plane(plane: Plane, full: KSpace | None, run: Run) -> Iterator[SliceResult]:
    stability_settings = run.settings.stability
    thresholds = Thresholds(stability_settings.stable, stability_settings.review)
    reference = _reference(plane, full, run)
    samples, mean = draw_samples(plane, run) if run.settings.samples else (None, None)
    for method in run.settings.methods:
        with run.watch(method):
            image = _image(plane, method, mean, run)
        with run.watch("stability"):
            stability = score_image(image, samples, thresholds)
            truth = None if reference is None else _compare(image.data, reference)
        run.step(method)
        yield SliceResult(image, stability, truth, samples, reference)


def draw_samples(plane: Plane, run: Run) -> tuple[SampleSet, Float32[np.ndarray, "z=1 y x"]]:
    """Posterior samples, and the magnitude of the mean of those drawn from the data as they were measured."""
    settings, denoiser = run.settings, run.models.prior
    if denoiser is None:
        raise ValueError("samples need the prior, which load_models loads when settings ask for samples")
    n_measured = settings.samples - settings.n_noise_draws
    with run.watch("samples"):
        drawn = methods.posterior_samples(
            plane.problem,
            denoiser,
            n_samples=settings.samples,
            n_noise_draws=settings.n_noise_draws,
            n_levels=settings.diffusion.levels,
            sigma_max=settings.diffusion.sigma_max,
            generator=torch.Generator().manual_seed(seed_for(settings.seed, plane.kspace, "samples", plane.problem.z)),
        )
        magnitudes = np.stack([plane.on_recon_grid(sample) for sample in drawn])
        mean = plane.on_recon_grid(drawn[:n_measured].mean(0))
    run.step("samples")
    return SampleSet(magnitudes, np.arange(settings.samples) >= n_measured), mean


def _image(plane: Plane, method: Method, mean: Float32[np.ndarray, "z=1 y x"] | None, run: Run) -> Image:
    data, model = _magnitude(plane, method, mean, run)
    kspace, z = plane.kspace, plane.problem.z
    return Image(
        data=data,
        method=method,
        index=replace(kspace.index, partition=z),
        geometry=plane_geometry(kspace, z),
        header=kspace.header,
        derivation=METHOD_DESCRIPTIONS[method],
        is_mean_of_samples=method == "diffusion",
        model=model,
        time_stamp=kspace.time_stamp,
        perturbations=kspace.perturbations,
    )


def _magnitude(
    plane: Plane, method: Method, mean: Float32[np.ndarray, "z=1 y x"] | None, run: Run
) -> tuple[Float32[np.ndarray, "z=1 y x"], ModelIdentity | None]:
    models, classical = run.models, run.settings.classical
    if method == "diffusion" and mean is not None:
        return mean, models.prior_identity
    if method == "supervised" and models.unet is not None:
        return plane.on_recon_grid(methods.supervised(plane.problem, models.unet)), models.unet_identity
    if method == "classical":
        image = methods.classical(
            plane.problem, regularisation=classical.regularisation, n_iterations=classical.iterations
        )
        return plane.on_recon_grid(image), None
    raise ValueError(f"{method} needs what load_models and draw_samples provide, and they were not asked")


def _reference(plane: Plane, full: KSpace | None, run: Run) -> Float32[np.ndarray, "z=1 y x"] | None:
    """The same plane from the full scan, combined with the coil maps of the scan that is judged."""
    if full is None:
        return None
    with run.watch("reference"):
        return plane.on_recon_grid(methods.fully_sampled(full, plane.problem))


def _compare(image: Float32[np.ndarray, "z=1 y x"], reference: Float32[np.ndarray, "z=1 y x"]) -> TruthReport | None:
    mask = tissue_mask(reference[0])
    return compare_with_truth(image[0], reference[0], mask) if mask.any() else None


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


def _thickness_mm(kspace: KSpace) -> float:
    n_z = kspace.data.shape[1]
    return kspace.encoded.fov_mm_xyz[2] / n_z if n_z > 1 else kspace.geometry.fov_mm_xyz[2]


def seed_for(seed: int, kspace: KSpace, *purpose: str | int) -> int:
    """A seed of its own for each volume and purpose, so that the order of volumes changes nothing."""
    index = kspace.index
    counters = (index.repetition, index.set, index.phase, index.contrast, index.average, index.slice)
    words = [word if isinstance(word, int) else zlib.crc32(word.encode()) for word in purpose]
    return int(np.random.SeedSequence([seed, *counters, *words]).generate_state(1)[0])
