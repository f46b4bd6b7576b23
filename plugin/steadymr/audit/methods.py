"""The methods that an audit compares, each from a problem to images in the problem's unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Complex64
from torch import Tensor

from steadymr.config import Settings
from steadymr.errors import SettingsError
from steadymr.models import choose_device
from steadymr.recon import methods, rivals
from steadymr.recon.problem import Problem
from steadymr.recon.samplers import Denoiser, Sampler, preconditioned_langevin
from steadymr.recon.varnet import SupervisedVarnet
from steadymr.recon.weights import load_prior, load_unet, load_varnet
from steadymr.types import ModelIdentity

NetworkName: TypeAlias = Literal["prior", "unet", "varnet"]

WAVELET = "db4"
WAVELET_WEIGHT = 0.002  #: of the l1 norm, in the problem's unit, where the image's 99th percentile is 1
WAVELET_ITERATIONS = 60


@dataclass(frozen=True, slots=True, eq=False)
class Networks:
    """Networks on their device, with the identity of their weights; None where no method needs them."""

    device: str
    settings: Settings
    prior: Denoiser | None = None
    unet: methods.Network | None = None
    varnet: SupervisedVarnet | None = None
    identities: tuple[ModelIdentity, ...] = ()


@dataclass(frozen=True, slots=True)
class Method:
    """One reconstruction: what it is, which network it needs, and how it draws its images.

    ``draw`` returns (sample y x), one image of a method without chance; the image is the mean of the samples.
    """

    description: str
    needs: NetworkName | None
    draw: Callable[[Problem, Networks, torch.Generator], Tensor]
    by_chance: bool = False


def reconstruct(
    name: str, problem: Problem, networks: Networks, generator: torch.Generator
) -> Complex64[Tensor, "y x"]:
    """The image of one method: the mean of its samples.

    Raises:
        SettingsError: there is no such method, or a library that it needs is not installed.
        ReconError: the image is not finite.
    """
    return samples(name, problem, networks, generator).mean(0)


def samples(
    name: str, problem: Problem, networks: Networks, generator: torch.Generator
) -> Complex64[Tensor, "sample y x"]:
    """The samples of one method, one image of a method without chance; errors as of `reconstruct`."""
    check_names((name,))
    return METHODS[name].draw(problem, networks, generator)


def check_names(names: tuple[str, ...]) -> None:
    """Raise SettingsError for a method that does not exist, saying which do."""
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise SettingsError(f"no method is called {(*unknown, '')[0]!r}; an audit has {', '.join(METHODS)}")


def load_networks(
    names: tuple[str, ...], surrogates: tuple[str, ...], settings: Settings, weights: Mapping[str, Path | None]
) -> Networks:
    """The networks that methods and surrogates need.

    Args:
        names: of the methods.
        surrogates: that worst cases are crafted on.
        settings: of the reconstructions, which name the prior.
        weights: of one's own for ``unet`` and ``varnet``; those that come with steadymr where there are none.

    Raises:
        SettingsError: there is no such method.
        WeightsError: weights are missing or damaged.
        DeviceError: the asked device is not there.
    """
    check_names(names)
    wanted = {*(METHODS[name].needs for name in names), *surrogates}
    if "ensemble" in wanted:
        wanted |= {"unet", "varnet"}
    if "diffusion" in wanted:
        wanted.add("prior")
    device = choose_device(settings.device)
    of_prior = settings.diffusion
    loaded: dict[str, Any] = {}
    identities = []
    for name, load in (
        ("prior", lambda: load_prior(device, of_prior.weights, name=f"prior_{of_prior.network}")),
        ("unet", lambda: load_unet(device, weights.get("unet"))),
        ("varnet", lambda: load_varnet(device, weights.get("varnet"))),
    ):
        if name in wanted:
            loaded[name], identity = load()
            identities.append(identity)
    return Networks(device, settings, identities=tuple(identities), **loaded)


def list_methods() -> list[dict[str, object]]:
    """Return every method of an audit, fit for JSON."""
    return [
        {"name": name, "description": one.description, "network": one.needs, "by_chance": one.by_chance}
        for name, one in METHODS.items()
    ]


def l1_wavelet(problem: Problem, networks: Networks, generator: torch.Generator) -> Complex64[Tensor, "sample=1 y x"]:
    """Compressed sensing: ``min |A x - y|^2 / 2 + lambda |W x|_1`` (Lustig 2007, doi 10.1002/mrm.21391), by sigpy.

    FISTA from zero, Daubechies wavelets, no random shifts. Nothing in it is learned.
    """
    try:
        import sigpy.mri.app
    except ImportError as error:
        raise SettingsError("l1_wavelet needs sigpy, which is not installed: pip install 'steadymr[audit]'") from error
    app = sigpy.mri.app.L1WaveletRecon(
        problem.kspace.cpu().numpy(),
        problem.supported.maps.cpu().numpy(),
        WAVELET_WEIGHT,
        weights=problem.sense.mask.expand(problem.kspace.shape[-2:]).float().cpu().numpy(),
        wave_name=WAVELET,
        max_iter=WAVELET_ITERATIONS,
        show_pbar=False,
    )
    image = torch.from_numpy(app.run()).to(problem.kspace.device, torch.complex64)
    return (image * problem.support)[None]


def _classical(problem: Problem, networks: Networks, generator: torch.Generator) -> Tensor:
    wanted = networks.settings.classical
    return methods.classical(problem, regularisation=wanted.regularisation, n_iterations=wanted.iterations)[None]


def _unet(problem: Problem, networks: Networks, generator: torch.Generator) -> Tensor:
    return methods.supervised(problem, _loaded(networks.unet, "unet"))[None]


def _varnet(problem: Problem, networks: Networks, generator: torch.Generator) -> Tensor:
    return methods.supervised_varnet(problem, _loaded(networks.varnet, "varnet"))[None]


def _sampled(sampler: Sampler) -> Callable[[Problem, Networks, torch.Generator], Tensor]:
    """Draw by a sampler, from the data as they were measured."""

    def draw(problem: Problem, networks: Networks, generator: torch.Generator) -> Tensor:
        wanted = networks.settings
        return methods.posterior_samples(
            problem,
            _loaded(networks.prior, "prior"),
            n_samples=max(wanted.samples, 1),
            n_noise_draws=0,
            generator=generator,
            n_levels=wanted.diffusion.levels,
            sigma_max=wanted.diffusion.sigma_max,
            sampler=sampler,
        )

    return draw


def _loaded(network: Any, name: str) -> Any:
    if network is None:
        raise ValueError(f"this method needs the {name}, which load_networks loads when it is asked for the method")
    return network


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "classical": Method("CG-SENSE with Tikhonov regularisation", None, _classical),
        "l1_wavelet": Method("Compressed sensing with wavelets; needs the extra [audit]", None, l1_wavelet),
        "unet": Method("U-Net on top of CG-SENSE: what replay calls supervised", "unet", _unet),
        "varnet": Method("Unrolled variational network", "varnet", _varnet),
        "diffusion": Method(
            "Mean of posterior samples under a diffusion prior: this project's own", "prior",
            _sampled(preconditioned_langevin), by_chance=True,
        ),
        "dds": Method(
            "Mean of decomposed diffusion (DDS)", "prior", _sampled(rivals.decomposed_diffusion), by_chance=True
        ),
        "dps": Method(
            "Mean of diffusion posterior guidance (DPS)", "prior", _sampled(rivals.posterior_guidance), by_chance=True
        ),
        "predictor_corrector": Method(
            "Mean of score-based predictor-corrector sampling with hard data consistency", "prior",
            _sampled(rivals.predictor_corrector), by_chance=True,
        ),
    }
)  # fmt: skip
