"""Training of the supervised network: from CG-SENSE images to the images behind them."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from steadymr.recon.networks import Precision, SupervisedUnet
from steadymr.recon.weights import save_unet
from steadymr.train.data import BankSettings, prepare_bank, random_crops
from steadymr.train.loop import Fit, Progress, Schedule, run_steps
from steadymr.train.pairs import ScanSettings, prepare_pairs

logger = logging.getLogger(__name__)


class UnetTraining(BaseModel):
    """All that decides the supervised network's weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_channels: int = Field(18, gt=0, description="Channels of the U-Net's first level; they double at each pooling.")
    precision: Precision = Field("float32", description="Arithmetic of the U-Net in training.")
    schedule: Schedule = Schedule()
    bank: BankSettings = BankSettings()
    scan: ScanSettings = ScanSettings()


def train_unet(
    config: UnetTraining,
    out: Path,
    resume: bool = True,
    progress: Progress | None = None,
    n_processes: int = 1,
    device: str = "cpu",
) -> Path:
    """Train the supervised network and return the path of its weights, ``out/unet.safetensors``, half precision.

    ``out`` also receives the bank, the pairs, checkpoints, the loss curve and ``figures.json`` with the PSNR of
    CG-SENSE and of the network on scans of subjects that are kept for validation.
    """
    out.mkdir(parents=True, exist_ok=True)
    slices, held_out = (prepare_bank(config.bank, p, out / "bank", n_processes) for p in ("train", "validation"))
    pairs = prepare_pairs(config.scan, config.bank, slices, "train", out / "bank")
    validation = prepare_pairs(config.scan, config.bank, held_out, "validation", out / "bank")
    torch.manual_seed(config.schedule.seed)
    unet = SupervisedUnet(config.n_channels, config.precision).to(device)
    fit = Fit(unet, config.schedule, config)
    if resume:
        fit.resume(out)
    started = time.monotonic()
    run_steps(fit, lambda step: unet_loss(unet, pairs, config, step), out, progress)
    unet.load_state_dict(fit.average)
    before, after = psnr_gain(unet, validation)
    figures = {"psnr_cg_sense_db": before, "psnr_unet_db": after, "n_steps": fit.step}
    (out / "figures.json").write_text(json.dumps(figures | {"seconds": round(time.monotonic() - started)}, indent=2))
    return save_unet(unet, out / "unet.safetensors")


def unet_loss(
    unet: SupervisedUnet, pairs: Float16[np.ndarray, "pair 4 y x"], config: UnetTraining, step: int
) -> Float[Tensor, ""]:
    """Return the mean absolute error, over real and imaginary parts, of one batch of crops.

    Crops are never transposed: aliasing runs along y only.
    """
    rng = np.random.default_rng([config.schedule.seed, step])
    size = config.schedule.sizes[int(rng.integers(len(config.schedule.sizes)))]
    crops = random_crops(pairs, rng, config.schedule.batch_size, size, transpose=False)
    images, targets = torch.split(torch.from_numpy(crops).to(next(unet.parameters()).device), 2, dim=1)
    loss: Tensor = (unet(images) - targets).abs().mean()
    return loss


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
