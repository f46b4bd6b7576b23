"""The networks of one run, loaded once and only where they are needed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steadymr.config import Settings
from steadymr.errors import DeviceError, SettingsError
from steadymr.recon import methods
from steadymr.recon.frugal import FrugalDenoiser
from steadymr.recon.problem import Problem
from steadymr.recon.samplers import Denoiser, tempered
from steadymr.recon.weights import kind_of, load_prior, load_unet, load_varnet
from steadymr.types import ModelIdentity


@dataclass(frozen=True, slots=True, eq=False)
class Supervised:
    """The supervised method with its network: from a problem to an image in the problem's unit."""

    reconstruct: Callable[[Problem], torch.Tensor]
    identity: ModelIdentity
    description: str  #: what DICOM's Derivation Description says of it


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """Networks on their device, with the identity of their weights; None where no one asked for them."""

    device: str
    prior: Denoiser | None = None
    prior_identity: ModelIdentity | None = None
    supervised: Supervised | None = None
    shortages: Callable[[], tuple[str, ...]] = tuple  #: what the device's memory did not allow so far, in sentences


def load_models(settings: Settings) -> Models:
    """Load what the settings need: the prior whenever samples are drawn, a network for the supervised series.

    Raises
    ------
    DeviceError
        If CUDA is asked for and not there.
    WeightsError
        If weights are missing or damaged.
    """
    device = choose_device(settings.device)
    wanted = settings.diffusion
    supervised = _load_supervised(settings, device) if "supervised" in settings.methods else None
    if not settings.samples:
        return Models(device, supervised=supervised)
    network, identity = load_prior(device, wanted.weights, name=f"prior_{wanted.network}")
    frugal = FrugalDenoiser(network, device)
    return Models(device, tempered(frugal, wanted.temperature), identity, supervised, frugal.shortages)


def _load_supervised(settings: Settings, device: str) -> Supervised:
    wanted = settings.supervised
    if wanted.network == "varnet":
        varnet, identity = load_varnet(device, wanted.weights)
        description = "Unrolled variational network, from measured k-space and coil maps"
        return Supervised(functools.partial(methods.supervised_varnet, network=varnet), identity, description)
    unet, identity = load_unet(device, wanted.weights)
    return Supervised(functools.partial(methods.supervised, network=unet), identity, "U-Net on top of CG-SENSE")


def settings_for(weights: list[Path]) -> dict[str, Any]:
    """The settings that use these files of weights, each where its own description says that it belongs.

    Raises
    ------
    SettingsError
        If two files are for the same method.
    WeightsError
        If a file cannot be read, or is not one that steadymr wrote.
    """
    settings: dict[str, Any] = {}
    for path in weights:
        kind = kind_of(path)
        section = "diffusion" if kind == "prior" else "supervised"
        if section in settings:
            raise SettingsError(f"--weights names two files for {section}: {settings[section]['weights']} and {path}")
        settings[section] = {"weights": str(path)} | ({} if kind == "prior" else {"network": kind})
    return settings


def choose_device(wish: str) -> str:
    """The device for ``auto``, ``cpu`` or ``cuda``."""
    there = torch.cuda.is_available()
    if wish == "cuda" and not there:
        raise DeviceError("--device cuda was asked for, but torch sees no CUDA device: use auto or cpu, or see 'check'")
    return "cuda" if there and wish != "cpu" else "cpu"
