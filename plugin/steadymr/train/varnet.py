"""Training of the unrolled supervised network: from simulated undersampled k-space to the image behind it."""

from __future__ import annotations

import json
import logging
import time
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch
from jaxtyping import Complex, Float, Float16, Float32
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from steadymr.recon.methods import REGULARISATION
from steadymr.recon.networks import Precision
from steadymr.recon.operators import Sense, cg_sense
from steadymr.recon.varnet import SupervisedVarnet, cg_sense_start
from steadymr.recon.weights import load_varnet, save_varnet
from steadymr.train.card import write_card
from steadymr.train.data import BankSettings, prepare_bank
from steadymr.train.loop import Fit, MachineSettings, Progress, Schedule, compile_parts, copy_weights, run_steps
from steadymr.train.pictures import write_pictures
from steadymr.train.scans import Scans, VarnetScanSettings, draw_scans
from steadymr.train.sources import DataSettings

logger = logging.getLogger(__name__)

FAILURES: Final = (
    "It gives one answer and no spread: where lines are missing it smooths, or invents what is likely.",
    "It trusts the coil maps: where they are wrong, so is the image.",
)

ERROR_FLOOR: Final = 0.002  #: of an image whose 99th percentile is 1; keeps easy scans from counting most
Magnitude: TypeAlias = Float32[np.ndarray, "height width"]


class VarnetTraining(BaseModel):
    """All that decides the unrolled network's weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_cascades: int = Field(6, gt=0, description="How often data and U-Net take turns.")
    n_channels: int = Field(8, gt=0, description="Channels of each U-Net's first level; they double at each pooling.")
    precision: Precision = Field("float32", description="Arithmetic of the U-Nets in training.")
    start_from: Path | None = Field(None, description="Weights of the same shape to begin with, not random ones.")
    schedule: Schedule = Schedule(batch_size=2, sizes=((96, 96), (112, 80), (80, 112), (128, 72)))
    bank: BankSettings = BankSettings()
    scan: VarnetScanSettings = VarnetScanSettings()
    data: DataSettings = DataSettings()
    machine: MachineSettings = MachineSettings()


def train_varnet(
    config: VarnetTraining,
    out: Path,
    resume: bool = True,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Path:
    """Train the unrolled network and return the path of its weights, ``out/varnet.safetensors``, half precision.

    ``out`` also receives the bank, checkpoints, the loss curve, ``figures.json`` with the PSNR of CG-SENSE and of the
    network on scans of subjects that are kept for validation, ``validation.png``, and the model card.
    """
    out.mkdir(parents=True, exist_ok=True)
    n_workers = config.machine.n_workers
    bank, held_out = (
        prepare_bank(config.bank, purpose, out / "bank", n_workers, config.data) for purpose in ("train", "validation")
    )
    torch.manual_seed(config.schedule.seed)
    varnet = SupervisedVarnet(config.n_cascades, config.n_channels, config.precision).to(device)
    if config.start_from is not None:
        copy_weights(load_varnet(device, config.start_from)[0], varnet, config.start_from)
    compile_parts(varnet.corrections, config.machine)
    fit = Fit(varnet, config.schedule, config)
    if resume:
        fit.resume(out)
    started = time.monotonic()
    run_steps(fit, partial(draw_batch, bank, config), partial(varnet_loss, varnet), out, progress, config.machine)
    varnet.load_state_dict(fit.average)
    rows = reconstruct_held_out(varnet, held_out, config)
    psnrs = [(psnr_db(classical, truth), psnr_db(network, truth)) for classical, network, truth in rows]
    before, after = np.mean(psnrs, axis=0)
    figures = {
        "psnr_cg_sense_db": float(before),
        "psnr_varnet_db": float(after),
        "n_steps": fit.step,
        "seconds": round(time.monotonic() - started),
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=2))
    write_pictures(rows[:3], ("CG-SENSE", "VarNet", "truth"), out / "validation.png")
    weights = save_varnet(varnet, out / "varnet.safetensors")
    write_card(weights, varnet, config, config.data, config.bank, figures, FAILURES)
    return weights


def draw_batch(bank: Float16[np.ndarray, "slice 2 y x"], config: VarnetTraining, step: int) -> Scans:
    """Draw the scans of a step."""
    rng = np.random.default_rng([config.schedule.seed, step])
    size = config.schedule.sizes[int(rng.integers(len(config.schedule.sizes)))]
    return draw_scans(bank, rng, config.schedule.batch_size, size, config.scan)


def varnet_loss(varnet: SupervisedVarnet, scans: Scans) -> Float[Tensor, ""]:
    """Return the share of the starting image's error that is left, the mean over the scans of one batch.

    Errors are mean absolute ones over real and imaginary parts. Taken relative, a scan that allows hardly more than
    guessing counts no more than one that can be reconstructed well.
    """
    scans = scans.to(next(varnet.parameters()).device)
    with torch.no_grad():
        start = cg_sense_start(scans.kspace, scans.maps, scans.mask[:, None])
    result = varnet(scans.kspace, scans.maps, scans.mask)
    after, before = (torch.view_as_real(images - scans.truth).abs().mean((1, 2, 3)) for images in (result, start))
    loss: Tensor = (after / (before + ERROR_FLOOR)).mean()
    return loss


@torch.no_grad()
def reconstruct_held_out(
    varnet: SupervisedVarnet, held_out: Float16[np.ndarray, "slice 2 y x"], config: VarnetTraining
) -> list[tuple[Magnitude, Magnitude, Magnitude]]:
    """Return magnitudes of CG-SENSE, of the network, and of the truth, for one scan of each held-out slice."""
    device = next(varnet.parameters()).device
    rows = []
    for number in range(len(held_out)):
        rng = np.random.default_rng([config.schedule.seed, number, 1])
        scans = draw_scans(held_out[number : number + 1], rng, 1, config.schedule.sizes[0], config.scan).to(device)
        result = varnet(scans.kspace, scans.maps, scans.mask)
        rows.append((_magnitude(_classical(scans)), _magnitude(result[0]), _magnitude(scans.truth[0])))
    return rows


def _magnitude(image: Complex[Tensor, "y x"]) -> Magnitude:
    magnitude: np.ndarray = image.abs().cpu().numpy()
    return magnitude


def _classical(scans: Scans) -> Complex[Tensor, "y x"]:
    """Return CG-SENSE's image, its weight the noise over the signal, as `steadymr.recon.methods.classical` has it."""
    signal = float(scans.truth.abs().square().mean())
    weight = REGULARISATION * 2 * float(scans.noise_sd[0]) ** 2 / max(signal, 1e-12)
    return cg_sense(Sense(scans.maps[0], scans.mask[0]), scans.kspace[0], regularisation=weight)


def psnr_db(image: Magnitude, truth: Magnitude) -> float:
    """Return the peak signal-to-noise ratio; the peak is the truth's largest value."""
    return float(10 * np.log10(np.max(truth) ** 2 / np.mean((image - truth) ** 2)))
