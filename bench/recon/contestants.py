"""Every method on one slice: complex images in the problem's unit, and the seconds they took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sigpy.mri.app
import torch
from slices import Slice

from steadymr.config import load_settings
from steadymr.errors import WeightsError
from steadymr.recon import methods
from steadymr.recon.rivals import RIVALS
from steadymr.recon.samplers import SIGMA_MAX, Denoiser, Sampler, preconditioned_langevin, tempered
from steadymr.recon.weights import load_prior, load_unet, load_varnet

WAVELET_WEIGHTS = tuple(float(weight) for weight in np.geomspace(3e-4, 3e-2, 7))
RIVAL_LEVELS = {"decomposed_diffusion": 20, "posterior_guidance": 100, "predictor_corrector": 50}


@dataclass(frozen=True)
class Made:
    """What one method made of one slice; several samples, or one image."""

    images: torch.Tensor  #: (sample y x)
    seconds: float
    note: str = ""

    @property
    def mean(self) -> torch.Tensor:
        return self.images.mean(0)


Method = Callable[[Slice], Made]


def sampling(
    denoiser: Denoiser,
    n_samples: int,
    n_levels: int,
    sigma_max: float = SIGMA_MAX,
    sampler: Sampler = preconditioned_langevin,
) -> Method:
    def run(slice_: Slice) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return methods.posterior_samples(
            slice_.problem, denoiser, n_samples=n_samples, n_noise_draws=0, n_levels=n_levels,
            sigma_max=sigma_max, sampler=sampler, generator=generator,
        )  # fmt: skip

    return timed(run)


def _cg_sense(regularisation: float) -> Method:
    """The product's own weight was tuned; 1 trusts noise and mean signal power, 0 is plain SENSE."""
    return timed(lambda slice_: methods.classical(slice_.problem, regularisation=regularisation)[None])


def timed(run: Callable[[Slice], torch.Tensor]) -> Method:
    def made(slice_: Slice) -> Made:
        start = time.perf_counter()
        images = run(slice_)
        return Made(images, time.perf_counter() - start)

    return made


def best_wavelet(slice_: Slice) -> Made:
    """l1-wavelets with the weight that comes closest to this slice's truth: more than any user could know."""
    problem = slice_.problem
    found: list[tuple[float, Made]] = []
    for weight in WAVELET_WEIGHTS:
        start = time.perf_counter()
        image = sigpy.mri.app.L1WaveletRecon(
            problem.kspace.numpy(), problem.supported.maps.numpy(), weight, show_pbar=False, max_iter=100
        ).run()
        made = Made(torch.from_numpy(np.asarray(image))[None], time.perf_counter() - start, f"lambda {weight:.1e}")
        found.append((float((made.mean.abs() - slice_.truth.abs())[slice_.mask].square().sum()), made))
    return min(found, key=lambda one: one[0])[1]


def contestants(temperature: float, n_samples: int, rivals: bool) -> dict[str, Method]:
    """By name, in the table's order; networks that the package does not hold are left out."""
    network, _ = load_prior("cpu")
    table: dict[str, Method] = {
        "CG-SENSE": _cg_sense(methods.REGULARISATION),
        "CG-SENSE, weight 1": _cg_sense(1.0),
        "CG-SENSE, unregularised": _cg_sense(0.0),
        "l1-wavelet, best lambda": best_wavelet,
    }
    try:
        unet, _ = load_unet("cpu")
        table["U-Net"] = timed(lambda slice_: methods.supervised(slice_.problem, unet)[None])
        varnet, _ = load_varnet("cpu")
        table["VarNet"] = timed(lambda slice_: methods.supervised_varnet(slice_.problem, varnet)[None])
    except WeightsError as error:
        print(f"left out: {error}")
    table["diffusion"] = sampling(tempered(network, temperature), n_samples, methods.N_LEVELS)
    for preset in ("fast", "quality"):
        wanted = load_settings(None, {"preset": preset})
        prior = tempered(network, wanted.diffusion.temperature)
        table[f"diffusion, {preset}"] = sampling(
            prior, wanted.samples, wanted.diffusion.levels, wanted.diffusion.sigma_max
        )
    if rivals:
        for rival in RIVALS:
            name = rival.__name__
            table[name] = sampling(network, n_samples, RIVAL_LEVELS[name], sampler=rival)
    return table
