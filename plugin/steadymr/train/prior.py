"""Training of the prior: a denoiser of complex images at every noise level (Karras et al. 2022, section 5)."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float16
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from steadymr.recon.networks import SIGMA_DATA, Denoiser, Precision
from steadymr.recon.weights import save_prior
from steadymr.train.data import BankSettings, prepare_bank, random_crops
from steadymr.train.loop import Fit, Progress, Schedule, run_steps

logger = logging.getLogger(__name__)

#: Noise levels at which the denoiser's error is tabulated.
TABLE_SIGMAS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


class PriorTraining(BaseModel):
    """All that decides the prior's weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: tuple[int, ...] = Field((32, 64, 128), description="Channels of each level of the U-Net; multiples of 8.")
    n_blocks: int = Field(2, gt=0, description="Residual blocks a level, on the way down and on the way up.")
    sigma_data: float = Field(SIGMA_DATA, gt=0, description="Standard deviation of a real channel of the images.")
    log_sigma_mean: float = Field(-2.5, description="Mean of ln(sigma) in training; -2.5 is sigma 0.08.")
    log_sigma_sd: float = Field(1.2, gt=0, description="Standard deviation of ln(sigma).")
    precision: Precision = Field("float32", description="Arithmetic of the U-Net in training.")
    schedule: Schedule = Schedule()
    bank: BankSettings = BankSettings()


def train_prior(
    config: PriorTraining,
    out: Path,
    resume: bool = True,
    progress: Progress | None = None,
    n_processes: int = 1,
    device: str = "cpu",
) -> Path:
    """Train the prior and return the path of its weights, ``out/prior_small.safetensors``, half precision.

    ``out`` also receives the bank of slices, checkpoints, the loss curve and ``figures.json`` with the denoiser's
    RMSE at each noise level on slices of subjects that are kept for validation. On the same processor and number of
    threads the same configuration gives the same weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    validation = prepare_bank(config.bank, "validation", out / "bank", n_processes)
    bank = prepare_bank(config.bank, "train", out / "bank", n_processes)
    torch.manual_seed(config.schedule.seed)
    denoiser = Denoiser(config.channels, config.n_blocks, config.sigma_data, config.precision).to(device)
    fit = Fit(denoiser, config.schedule, config)
    if resume:
        fit.resume(out)
    started = time.monotonic()
    run_steps(fit, lambda step: prior_loss(denoiser, bank, config, step), out, progress)
    denoiser.load_state_dict(fit.average)
    table = error_table(denoiser, validation)
    figures = {"rmse_by_sigma": table, "n_steps": fit.step, "seconds": round(time.monotonic() - started)}
    (out / "figures.json").write_text(json.dumps(figures, indent=2))
    return save_prior(denoiser, table, out / "prior_small.safetensors")


def prior_loss(
    denoiser: Denoiser, bank: Float16[np.ndarray, "slice 2 y x"], config: PriorTraining, step: int
) -> Float[Tensor, ""]:
    """Return the weighted squared error of one batch; the weight makes every noise level count alike."""
    device = next(denoiser.parameters()).device
    rng = np.random.default_rng([config.schedule.seed, step])
    size = config.schedule.sizes[int(rng.integers(len(config.schedule.sizes)))]
    clean = torch.from_numpy(random_crops(bank, rng, config.schedule.batch_size, size)).to(device)
    log_sigma = rng.normal(config.log_sigma_mean, config.log_sigma_sd, len(clean))
    sigma = torch.from_numpy(np.exp(log_sigma).astype(np.float32)).clamp(0.002, 3.0).to(device)
    noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32)).to(device)
    error = denoiser(clean + sigma[:, None, None, None] * noise, sigma) - clean
    weight = (sigma**2 + config.sigma_data**2) / (sigma * config.sigma_data) ** 2
    loss: Tensor = (weight * error.square().mean((1, 2, 3))).mean()
    return loss


@torch.no_grad()
def error_table(
    denoiser: Denoiser, validation: Float16[np.ndarray, "slice 2 y x"], seed: int = 0
) -> list[tuple[float, float]]:
    """Return (sigma, RMSE per real channel) of the denoiser, over whole slices of held-out subjects."""
    device = next(denoiser.parameters()).device
    clean = torch.from_numpy(validation.astype(np.float32)).to(device)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    table = []
    for sigma in TABLE_SIGMAS:
        level = torch.full((8,), sigma, device=device)
        parts = zip(torch.split(clean, 8), torch.split(noise, 8), strict=True)
        errors = [(denoiser(part + sigma * n, level[: len(part)]) - part).square().sum() for part, n in parts]
        table.append((sigma, float((torch.stack(errors).sum() / clean.numel()).sqrt())))
    return table
