"""Training of the prior: a denoiser of complex images at every noise level (Karras et al. 2022, section 5)."""

from __future__ import annotations

import json
import logging
import time
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float16
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from steadymr.recon.networks import SIGMA_DATA, Denoiser, Precision
from steadymr.recon.weights import load_prior, save_prior
from steadymr.train.card import write_card
from steadymr.train.data import BankSettings, prepare_bank, random_crops
from steadymr.train.grow import grow
from steadymr.train.loop import Fit, MachineSettings, Progress, Schedule, compile_parts, copy_weights, run_steps
from steadymr.train.pictures import write_pictures
from steadymr.train.sources import DataSettings

logger = logging.getLogger(__name__)

FAILURES: Final = (
    "What it never saw it tends to smooth, or to turn into what it knows.",
    "Samples drawn with it can share an error, and then their spread does not show it.",
)

#: Noise levels at which the denoiser's error is tabulated.
TABLE_SIGMAS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
PICTURE_SIGMA: Final = 0.2
PICTURE_TITLES: Final = (f"noise {PICTURE_SIGMA}", "denoised", "truth")

#: Clean crops (crop 2 y x), the noise level of each, and noise like the crops.
Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]


class PriorTraining(BaseModel):
    """All that decides the prior's weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: tuple[int, ...] = Field((32, 64, 128), description="Channels of each level of the U-Net; multiples of 8.")
    n_blocks: int = Field(2, gt=0, description="Residual blocks a level, on the way down and on the way up.")
    sigma_data: float = Field(SIGMA_DATA, gt=0, description="Standard deviation of a real channel of the images.")
    log_sigma_mean: float = Field(-2.5, description="Mean of ln(sigma) in training; -2.5 is sigma 0.08.")
    log_sigma_sd: float = Field(1.2, gt=0, description="Standard deviation of ln(sigma).")
    precision: Precision = Field("float32", description="Arithmetic of the U-Net in training.")
    start_from: Path | None = Field(
        None, description="Weights to begin with, not random ones: of the same shape, or narrower, then widened."
    )
    schedule: Schedule = Schedule()
    bank: BankSettings = BankSettings()
    data: DataSettings = DataSettings()
    machine: MachineSettings = MachineSettings()


def train_prior(
    config: PriorTraining,
    out: Path,
    resume: bool = True,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Path:
    """Train the prior and return the path of its weights, ``out/prior.safetensors``, half precision.

    ``out`` also receives the bank of slices, checkpoints, the loss curve, ``figures.json`` with the denoiser's RMSE at
    each noise level on slices of subjects that are kept for validation, and ``validation.png``. On the same processor
    and number of threads the same configuration gives the same weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    n_workers = config.machine.n_workers
    validation, bank = (
        prepare_bank(config.bank, purpose, out / "bank", n_workers, config.data) for purpose in ("validation", "train")
    )
    torch.manual_seed(config.schedule.seed)
    denoiser = Denoiser(config.channels, config.n_blocks, config.sigma_data, config.precision).to(device)
    if config.start_from is not None:
        source, _ = load_prior(device, config.start_from)
        if source.unet.channels == denoiser.unet.channels:
            copy_weights(source, denoiser, config.start_from)
        else:
            grow(source, denoiser, config.schedule.seed)
    compile_parts([denoiser.unet], config.machine)
    fit = Fit(denoiser, config.schedule, config)
    if resume:
        fit.resume(out)
    started = time.monotonic()

    run_steps(
        fit, partial(draw_batch, bank, config), partial(prior_loss, denoiser, config), out, progress, config.machine
    )
    denoiser.load_state_dict(fit.average)
    table = error_table(denoiser, validation)
    figures = {"rmse_by_sigma": table, "n_steps": fit.step, "seconds": round(time.monotonic() - started)}
    (out / "figures.json").write_text(json.dumps(figures, indent=2))
    write_pictures(_pictures(denoiser, validation[:3]), PICTURE_TITLES, out / "validation.png")
    weights = save_prior(denoiser, table, out / "prior.safetensors")
    write_card(weights, denoiser, config, config.data, config.bank, figures, FAILURES)
    return weights


def draw_batch(bank: Float16[np.ndarray, "slice 2 y x"], config: PriorTraining, step: int) -> Batch:
    """Draw the clean crops of a step, the noise level of each, and the noise."""
    rng = np.random.default_rng([config.schedule.seed, step])
    size = config.schedule.sizes[int(rng.integers(len(config.schedule.sizes)))]
    clean = torch.from_numpy(random_crops(bank, rng, config.schedule.batch_size, size))
    log_sigma = rng.normal(config.log_sigma_mean, config.log_sigma_sd, len(clean))
    sigma = torch.from_numpy(np.exp(log_sigma).astype(np.float32)).clamp(0.002, 3.0)
    return clean, sigma, torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32))


def prior_loss(denoiser: Denoiser, config: PriorTraining, batch: Batch) -> Float[Tensor, ""]:
    """Return the weighted squared error of one batch; the weight makes every noise level count alike."""
    clean, sigma, noise = (part.to(next(denoiser.parameters()).device) for part in batch)
    error = denoiser(clean + sigma[:, None, None, None] * noise, sigma) - clean
    weight = (sigma**2 + config.sigma_data**2) / (sigma * config.sigma_data) ** 2
    loss: Tensor = (weight * error.square().mean((1, 2, 3))).mean()
    return loss


@torch.no_grad()
def _pictures(denoiser: Denoiser, slices: Float16[np.ndarray, "slice 2 y x"]) -> list[list[np.ndarray]]:
    """Return noisy, denoised and true magnitudes of some slices."""
    clean = torch.from_numpy(slices.astype(np.float32)).to(next(denoiser.parameters()).device)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean.device)
    noisy = clean + PICTURE_SIGMA * noise
    denoised = denoiser(noisy, torch.full((len(clean),), PICTURE_SIGMA, device=clean.device))
    columns = [part.norm(dim=1).cpu().numpy() for part in (noisy, denoised, clean)]
    return [list(row) for row in zip(*columns, strict=True)]


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
