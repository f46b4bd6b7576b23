"""A reader of the results learns that memory ran short."""

from __future__ import annotations

import torch
from test_recon_methods import gaussian_denoiser
from test_recon_problem import scan

from steadymr.config import load_settings
from steadymr.models import Models
from steadymr.recon.frugal import FrugalDenoiser
from steadymr.recon.networks import Denoiser
from steadymr.stopwatch import Stopwatch
from steadymr.types import ModelIdentity
from steadymr.volume.reconstruct import begin, reconstruct


class Cramped(Denoiser):
    """A Gaussian denoiser on a device with room for two images."""

    def forward(self, images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gaussian_denoiser(images, sigma)


def test_smaller_batches_are_said_where_the_summary_takes_its_warnings_from():
    said: list[str] = []
    prior = FrugalDenoiser(Cramped(channels=(8,), n_blocks=1), "cpu")
    models = Models("cpu", prior, ModelIdentity("gaussian", "0" * 64), shortages=prior.shortages)
    settings = load_settings(
        None, {"methods": ["diffusion"], "samples": 4, "stability": {"max_samples": 4}, "diffusion": {"levels": 3}}
    )
    results = list(reconstruct(scan(2, noise_sd=0.05), None, begin(settings, models, Stopwatch(), note=said.append)))
    assert any(result.image.method == "diffusion" for result in results)
    assert any("4 images at once: 2 at a time" in sentence for sentence in said)
