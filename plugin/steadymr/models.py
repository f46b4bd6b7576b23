"""The networks of one run, loaded once and only where they are needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steadymr.config import Settings
from steadymr.errors import DeviceError
from steadymr.recon.methods import Network
from steadymr.recon.samplers import Denoiser
from steadymr.recon.weights import load_prior, load_unet
from steadymr.types import ModelIdentity


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """Networks on their device, with the identity of their weights; None where no one asked for them."""

    device: str
    prior: Denoiser | None = None
    prior_identity: ModelIdentity | None = None
    unet: Network | None = None
    unet_identity: ModelIdentity | None = None


def load_models(settings: Settings) -> Models:
    """Load what the settings need: the prior whenever samples are drawn, the U-Net for the supervised series.

    Raises
    ------
    DeviceError
        If CUDA is asked for and not there.
    WeightsError
        If weights are missing or damaged.
    """
    device = choose_device(settings.device)
    prior = load_prior(device, settings.diffusion.weights) if settings.samples else (None, None)
    unet = load_unet(device, settings.supervised.weights) if "supervised" in settings.methods else (None, None)
    return Models(device, *prior, *unet)


def choose_device(wish: str) -> str:
    """The device for ``auto``, ``cpu`` or ``cuda``."""
    there = torch.cuda.is_available()
    if wish == "cuda" and not there:
        raise DeviceError("--device cuda was asked for, but torch sees no CUDA device: use auto or cpu, or see 'check'")
    return "cuda" if there and wish != "cpu" else "cpu"
