"""Training of the supervised network: from CG-SENSE images to the images behind them."""

from __future__ import annotations

import json
import logging
import time
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from steadymr.recon.networks import Precision, SupervisedUnet
from steadymr.recon.weights import load_unet, save_unet
from steadymr.train.card import write_card
from steadymr.train.data import BankSettings, prepare_bank, random_crops
from steadymr.train.loop import Fit, MachineSettings, Progress, Schedule, compile_parts, copy_weights, run_steps
from steadymr.train.pairs import ScanSettings, prepare_pairs
from steadymr.train.pictures import write_pictures
from steadymr.train.sources import DataSettings

logger = logging.getLogger(__name__)

FAILURES: Final = (
    "It gives one answer and no spread: where lines are missing it smooths, or invents what is likely.",
    "It does not see the data again: what it changes may disagree with the measured lines.",
)


class UnetTraining(BaseModel):
    """All that decides the supervised network's weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_channels: int = Field(18, gt=0, description="Channels of the U-Net's first level; they double at each pooling.")
    precision: Precision = Field("float32", description="Arithmetic of the U-Net in training.")
    start_from: Path | None = Field(None, description="Weights of the same shape to begin with, not random ones.")
    schedule: Schedule = Schedule()
    bank: BankSettings = BankSettings()
    scan: ScanSettings = ScanSettings()
    data: DataSettings = DataSettings()
    machine: MachineSettings = MachineSettings()


def train_unet(
    config: UnetTraining,
    out: Path,
    resume: bool = True,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Path:
    """Train the supervised network and return the path of its weights, ``out/unet.safetensors``, half precision.

    ``out`` also receives the bank, the pairs, checkpoints, the loss curve, ``figures.json`` with the PSNR of CG-SENSE
    and of the network on scans of subjects that are kept for validation, ``validation.png``, and the model card.
    """
    out.mkdir(parents=True, exist_ok=True)
    n_workers = config.machine.n_workers
    slices, held_out = (
        prepare_bank(config.bank, purpose, out / "bank", n_workers, config.data) for purpose in ("train", "validation")
    )
    pairs = prepare_pairs(config.scan, config.bank, slices, "train", out / "bank")
    validation = prepare_pairs(config.scan, config.bank, held_out, "validation", out / "bank")
    torch.manual_seed(config.schedule.seed)
    unet = SupervisedUnet(config.n_channels, config.precision).to(device)
    if config.start_from is not None:
        copy_weights(load_unet(device, config.start_from)[0], unet, config.start_from)
    compile_parts([unet.unet], config.machine)
    fit = Fit(unet, config.schedule, config)
    if resume:
        fit.resume(out)
    started = time.monotonic()
    run_steps(
        fit, lambda step: draw_crops(pairs, config, step), partial(unet_loss, unet), out, progress, config.machine
    )
    unet.load_state_dict(fit.average)
    before, after = psnr_gain(unet, validation)
    figures = {
        "psnr_cg_sense_db": before,
        "psnr_unet_db": after,
        "n_steps": fit.step,
        "seconds": round(time.monotonic() - started),
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=2))
    write_pictures(_pictures(unet, validation[:3]), ("CG-SENSE", "U-Net", "truth"), out / "validation.png")
    weights = save_unet(unet, out / "unet.safetensors")
    write_card(weights, unet, config, config.data, config.bank, figures, FAILURES)
    return weights


def draw_crops(
    pairs: Float16[np.ndarray, "pair 4 y x"], config: UnetTraining, step: int
) -> Float32[Tensor, "crop 4 y2 x2"]:
    """Draw the crops of a step; never transposed, because aliasing runs along y only."""
    rng = np.random.default_rng([config.schedule.seed, step])
    size = config.schedule.sizes[int(rng.integers(len(config.schedule.sizes)))]
    return torch.from_numpy(random_crops(pairs, rng, config.schedule.batch_size, size, transpose=False))


def unet_loss(unet: SupervisedUnet, crops: Float32[Tensor, "crop 4 y x"]) -> Float[Tensor, ""]:
    """Return the mean absolute error, over real and imaginary parts, of one batch of crops."""
    images, targets = torch.split(crops.to(next(unet.parameters()).device), 2, dim=1)
    loss: Tensor = (unet(images) - targets).abs().mean()
    return loss


@torch.no_grad()
def _pictures(unet: SupervisedUnet, pairs: Float16[np.ndarray, "pair 4 y x"]) -> list[list[np.ndarray]]:
    """Return magnitudes of CG-SENSE, of the network, and of the truth for some scans."""
    crops = torch.from_numpy(pairs.astype(np.float32)).to(next(unet.parameters()).device)
    images, targets = torch.split(crops, 2, dim=1)
    columns = [part.norm(dim=1).cpu().numpy() for part in (images, unet(images), targets)]
    return [list(row) for row in zip(*columns, strict=True)]


@torch.no_grad()
def psnr_gain(unet: SupervisedUnet, validation: Float16[np.ndarray, "pair 4 y x"]) -> tuple[float, float]:
    """Return the mean PSNR in dB of CG-SENSE and of the network, on magnitudes; the peak is the truth's largest."""
    device = next(unet.parameters()).device
    images, targets = torch.split(torch.from_numpy(validation.astype(np.float32)).to(device), 2, dim=1)
    corrected = torch.cat([unet(part) for part in torch.split(images, 8)])
    before, after = (_psnr_db(result, targets).mean() for result in (images, corrected))
    return float(before), float(after)


def _psnr_db(images: Float[Tensor, "batch 2 y x"], targets: Float[Tensor, "batch 2 y x"]) -> Float[Tensor, "batch"]:
    error, truth = images.norm(dim=1) - targets.norm(dim=1), targets.norm(dim=1)
    return 10 * torch.log10(truth.amax((1, 2)).square() / error.square().mean((1, 2)))
