"""deepinv's DPS and DiffPIR with our network, if deepinv is installed; it is no dependency of ours.

deepinv imports torchvision, which is broken beside a CPU-only torch; none of what runs here uses it, so empty modules
of that name stand in. Its images lie in [0, 1] and its network sees noise in those units: complex values are shifted
and scaled into that range, and the measurements with them, which keeps the encoding linear.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from contestants import Made, Method
from slices import Slice

from steadymr.recon.networks import Denoiser
from steadymr.recon.operators import Sense

RANGE = 1.5  #: real and imaginary part from -RANGE to RANGE become 0 to 1
SIGMA_TRAINED = 1.0  #: beyond, the network was never trained; a Gaussian prior of its s.d. takes over


class _Stub(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] == "torchvision" else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def load(folder: Path | None) -> Any:
    """The module, or None if there is none; ``folder`` is where ``pip install --target`` put it."""
    if folder is not None:
        sys.path.append(str(folder))
    sys.meta_path.insert(0, _Finder())
    try:
        return importlib.import_module("deepinv")
    except ImportError as error:
        print(f"deepinv not installed: {error}")
        return None


def peers(deepinv: Any, network: Denoiser, n_samples: int, n_steps_dps: int) -> dict[str, Method]:
    """DiffPIR with its 100 steps and as many samples as ours, DPS with one sample, for its price."""
    denoiser = _network(deepinv, network)

    def diffpir(slice_: Slice) -> Made:
        physics, y = _physics(deepinv, slice_, n_samples)
        model = deepinv.sampling.DiffPIR(denoiser, deepinv.optim.data_fidelity.L2(), sigma=physics.noise_model.sigma)
        return _run(lambda: model(y, physics, seed=1))

    def dps(slice_: Slice) -> Made:
        physics, y = _physics(deepinv, slice_, 1)
        model = deepinv.sampling.DPS(denoiser, num_steps=n_steps_dps, rng=torch.Generator().manual_seed(1))
        shape = (1, 2, *slice_.truth.shape)
        return _run(lambda: model(y, physics, x_init=shape, seed=1))

    return {"deepinv DiffPIR": diffpir, f"deepinv DPS, {n_steps_dps} steps": dps}


def _run(run: Any) -> Made:
    start = time.perf_counter()
    units = run().detach().float()
    return Made(_complex((units - 0.5) * 2 * RANGE), time.perf_counter() - start)


def _network(deepinv: Any, network: Denoiser) -> Any:
    class InUnits(deepinv.models.Denoiser):  # type: ignore[misc]
        def forward(self, x: torch.Tensor, sigma: Any, **_: Any) -> torch.Tensor:
            images = (x.float() - 0.5) * 2 * RANGE
            level = 2 * RANGE * torch.as_tensor(sigma, dtype=torch.float32).flatten().expand(len(x))
            known = network.sigma_data**2
            gaussian = images * (known / (known + level**2))[:, None, None, None]
            learned = network(images, level.clamp(1e-3, SIGMA_TRAINED))
            clean = torch.where((level <= SIGMA_TRAINED)[:, None, None, None], learned, gaussian)
            return (clean / (2 * RANGE) + 0.5).to(x.dtype)

    return InUnits()


def _physics(deepinv: Any, slice_: Slice, n: int) -> tuple[Any, torch.Tensor]:
    sense = slice_.problem.supported
    offset = sense.forward(torch.full_like(slice_.truth, 0.5 + 0.5j))
    y = _real((slice_.problem.kspace / (2 * RANGE) + offset)[None])
    noise = deepinv.physics.GaussianNoise(float(slice_.problem.noise_sd) / (2 * RANGE))
    return _linear(deepinv, sense, noise), y.expand(n, -1, -1, -1)


def _linear(deepinv: Any, sense: Sense, noise: Any) -> Any:
    return deepinv.physics.LinearPhysics(
        A=lambda x, **_: _real(sense.forward(_complex(x.float()))).to(x.dtype),
        A_adjoint=lambda y, **_: _channels(sense.adjoint(_coils(y.float()))).to(y.dtype),
        noise_model=noise,
    )


def _complex(channels: torch.Tensor) -> torch.Tensor:
    return torch.complex(channels[:, 0], channels[:, 1])


def _channels(images: torch.Tensor) -> torch.Tensor:
    return torch.stack([images.real, images.imag], 1)


def _real(kspace: torch.Tensor) -> torch.Tensor:
    return torch.cat([kspace.real, kspace.imag], 1)


def _coils(y: torch.Tensor) -> torch.Tensor:
    n_coils = y.shape[1] // 2
    return torch.complex(y[:, :n_coils], y[:, n_coils:])
