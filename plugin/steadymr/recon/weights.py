"""Weights on disk: safetensors files, which hold numbers and no code, checked against the checksums we ship.

Each file describes its own network in one JSON text, in the metadata entry ``steadymr``; tensors are stored in half
precision and used in single. The checksums of the files in the package stand in ``weights/manifest.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from steadymr.errors import DeviceError, OutputError, WeightsError
from steadymr.recon.networks import Denoiser, Precision, SupervisedUnet
from steadymr.recon.varnet import SupervisedVarnet
from steadymr.types import ModelIdentity

Kind: TypeAlias = Literal["prior", "unet", "varnet"]
#: Those in the package.
NAMES: Final[dict[str, Kind]] = {"prior_small": "prior", "prior_base": "prior", "unet": "unet", "varnet": "varnet"}
METADATA_KEY: Final = "steadymr"
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """One file of weights, as `steadymr check` shows it."""

    name: str
    sha256: str  #: empty if the file is not there
    n_bytes: int
    ok: bool
    problem: str = ""  #: one sentence if not ok


def weights_folder() -> Path:
    """Return the folder of the weights inside the installed package."""
    return Path(str(resources.files("steadymr") / "weights"))


def load_prior(
    device: str, path: Path | None = None, precision: Precision | None = None, name: str = "prior_small"
) -> tuple[Denoiser, ModelIdentity]:
    """Load a prior of any size, ready to use: no gradients for its weights, evaluation mode.

    Args:
        device: a torch device, such as ``cpu`` or ``cuda``.
        path: weights of one's own; their checksum is reported, not compared. None for those in the package.
        precision: arithmetic of the network; None for bfloat16 on CUDA and float32 elsewhere.
        name: which of those in the package.

    Raises:
        WeightsError: the file is missing, broken, of another kind, or not the one in the manifest.
        DeviceError: the device is not there.
    """
    recipe, tensors, identity = _read("prior", name, path)
    try:
        denoiser = Denoiser(tuple(recipe["channels"]), recipe["n_blocks"], recipe["sigma_data"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{identity.name}: the file's description makes no prior: {error!r}") from error
    denoiser.rmse_by_sigma = tuple((float(s), float(r)) for s, r in recipe.get("rmse_by_sigma", ()))
    return _ready(denoiser, tensors, device, precision, identity), identity


def load_unet(
    device: str, path: Path | None = None, precision: Precision | None = None
) -> tuple[SupervisedUnet, ModelIdentity]:
    """Load the supervised network; arguments and errors as for `load_prior`."""
    recipe, tensors, identity = _read("unet", "unet", path)
    try:
        unet = SupervisedUnet(recipe["n_channels"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{identity.name}: the file's description makes no U-Net: {error!r}") from error
    return _ready(unet, tensors, device, precision, identity), identity


def load_varnet(
    device: str, path: Path | None = None, precision: Precision | None = None
) -> tuple[SupervisedVarnet, ModelIdentity]:
    """Load the unrolled supervised network; arguments and errors as for `load_prior`."""
    recipe, tensors, identity = _read("varnet", "varnet", path)
    try:
        varnet = SupervisedVarnet(recipe["n_cascades"], recipe["n_channels"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{identity.name}: the file's description makes no VarNet: {error!r}") from error
    return _ready(varnet, tensors, device, precision, identity), identity


def describe_weights() -> tuple[WeightsReport, ...]:
    """Return what the package holds and whether it is what we shipped; raises nothing."""
    return tuple(_describe(name) for name in NAMES)


def save_prior(denoiser: Denoiser, rmse_by_sigma: list[tuple[float, float]], path: Path) -> Path:
    """Write a prior with its architecture and its error at each noise level; return the path."""
    recipe = {
        "kind": "prior",
        "channels": denoiser.unet.channels,
        "n_blocks": denoiser.unet.n_blocks,
        "sigma_data": denoiser.sigma_data,
        "rmse_by_sigma": [(s, round(r, 6)) for s, r in rmse_by_sigma],
    }
    return _write(denoiser, recipe, path)


def save_unet(unet: SupervisedUnet, path: Path) -> Path:
    """Write a supervised network with its architecture; return the path."""
    return _write(unet, {"kind": "unet", "n_channels": unet.n_channels}, path)


def save_varnet(varnet: SupervisedVarnet, path: Path) -> Path:
    """Write an unrolled supervised network with its architecture; return the path."""
    recipe: dict[str, object] = {"kind": "varnet", "n_cascades": varnet.n_cascades, "n_channels": varnet.n_channels}
    return _write(varnet, recipe, path)


def _write(network: nn.Module, recipe: dict[str, object], path: Path) -> Path:
    tensors = {name: t.detach().to("cpu", torch.float16).contiguous() for name, t in network.state_dict().items()}
    try:
        partial = path.with_suffix(".part")
        partial.write_bytes(save(tensors, {METADATA_KEY: json.dumps(recipe, sort_keys=True)}))
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"the weights could not be written to {path}: {error}") from error
    return path


def kind_of(path: Path) -> Kind:
    """Return which network a file of weights is for, as the file says itself.

    Raises:
        WeightsError: the file cannot be read, or is not one that steadymr wrote.
    """
    return _kind(_recipe(path, _content(path)), path)


def _read(kind: Kind, name: str, path: Path | None) -> tuple[dict[str, Any], dict[str, torch.Tensor], ModelIdentity]:
    """Return a file's description of its network, its tensors in single precision, and its identity."""
    shipped = path is None
    path = weights_folder() / f"{name}.safetensors" if path is None else path
    content = _content(path)
    sha256 = hashlib.sha256(content).hexdigest()
    if shipped and sha256 != (expected := _manifest().get(name, "")):
        raise WeightsError(f"{path} has SHA-256 {sha256}, the manifest says {expected or 'nothing'}; install again")
    recipe = _recipe(path, content)
    if (found := _kind(recipe, path)) != kind:
        raise WeightsError(f"{path} holds weights of kind {found!r}, expected {kind!r}")
    try:
        tensors = load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(f"{path} is not a safetensors file that steadymr wrote: {error!r}") from error
    identity = ModelIdentity(name if shipped else path.stem, sha256)
    return recipe, {key: tensor.float() for key, tensor in tensors.items()}, identity


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"the weights {path} cannot be read: {error.strerror}") from error


def _recipe(path: Path, content: bytes) -> dict[str, Any]:
    """Return the description that stands in a safetensors file's header: after 8 bytes of length, a JSON text."""
    length = int.from_bytes(content[:8], "little")
    try:
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        recipe: dict[str, Any] = json.loads(metadata[METADATA_KEY])
        recipe["kind"]
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is not a safetensors file that steadymr wrote: {error!r}") from error
    return recipe


def _kind(recipe: dict[str, Any], path: Path) -> Kind:
    kind = recipe["kind"]
    if kind in ("prior", "unet", "varnet"):
        return cast(Kind, kind)
    raise WeightsError(f"{path} holds weights of kind {kind!r}, expected 'prior', 'unet' or 'varnet'")


def _manifest() -> dict[str, str]:
    """Return the SHA-256 of each file in the package."""
    path = weights_folder() / "manifest.json"
    try:
        manifest: dict[str, str] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"the manifest of weights {path} cannot be read: {error}") from error
    return manifest


def _ready(
    network: Network,
    tensors: dict[str, torch.Tensor],
    device: str,
    precision: Precision | None,
    identity: ModelIdentity,
) -> Network:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        first_line = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{identity.name}: tensors do not fit the described network: {first_line}") from error
    try:
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own stub
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"the device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    on_cuda = torch.device(device).type == "cuda"
    network.precision = precision or ("bfloat16" if on_cuda else "float32")  # type: ignore[assignment]  # both have it
    return network.requires_grad_(False).eval()


def _describe(name: str) -> WeightsReport:
    path = weights_folder() / f"{name}.safetensors"
    try:
        _, _, identity = _read(NAMES[name], name, None)
    except WeightsError as error:
        exists = path.is_file()
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if exists else ""
        return WeightsReport(name, sha256, path.stat().st_size if exists else 0, False, str(error))
    return WeightsReport(name, identity.sha256, path.stat().st_size, True)
