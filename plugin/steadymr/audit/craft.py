"""Crafting the worst case of one cell: its surrogate, its loss and its budget, as the settings name them."""

from __future__ import annotations

import torch

from steadymr.audit import losses, surrogates
from steadymr.audit.aim import Aim, region
from steadymr.audit.attack import WorstCase, worst_case
from steadymr.audit.attacks import DRAWN_CONTRAST, Attack
from steadymr.audit.baseline import Baseline, Job
from steadymr.audit.methods import Networks
from steadymr.audit.norms import Budget
from steadymr.audit.plan import Cell, Strain
from steadymr.audit.scans import Slice
from steadymr.errors import SettingsError
from steadymr.recon.methods import fully_sampled
from steadymr.recon.problem import Problem
from steadymr.types import KSpace


def check_reference(slice_: Slice, attacks: tuple[Attack, ...]) -> None:
    """Raise SettingsError if worst cases against the truth are asked for and none is known."""
    if any(attack.loss == "truth" for attack in attacks):
        _truth(slice_)


def _truth(slice_: Slice) -> KSpace:
    if slice_.full is None:
        raise SettingsError(
            f"worst cases against the truth need a reference, and {slice_.scan} has none: use --undersample on a full "
            "scan, or loss: clean"
        )
    return slice_.full


def aim_of(known: Baseline, strain: Strain) -> Aim | None:
    """Where a targeted worst case draws or erases, the same at all its strengths; None if it has no target.

    Raises:
        PerturbationError: the structure does not fit into the slice.
    """
    attack = strain.attack
    if attack is None or attack.target is None:
        return None
    shown = abs(next(iter(known.images.values()))) if known.truth is None else known.truth
    where = region(attack, shown, known.mask, known.pixel_mm)
    contrast = DRAWN_CONTRAST if attack.target.contrast is None else attack.target.contrast
    return Aim(where, contrast if attack.loss == "draw" else None, float(known.problem.scale))


def craft(known: Baseline, problem: Problem, cell: Cell, job: Job, networks: Networks, aim: Aim | None) -> WorstCase:
    """The worst case of a cell.

    Raises:
        ReconError: if the scan is too small for the surrogate.
        SettingsError: if the truth is needed and unknown.
    """
    attack = cell.strain.attack
    if attack is None:
        raise ValueError(f"{cell.strain.perturbation} is not crafted")
    generator = torch.Generator().manual_seed(cell.seed)
    surrogate = surrogate_of(attack.surrogate, problem, networks, generator)
    return worst_case(
        problem,
        surrogate,
        budget=Budget(cell.strain.strength / 100, attack.norm),
        generator=generator,
        loss=_loss(attack, known, problem, surrogate, aim),
        n_steps=job.audit.worst_case.n_steps,
        n_restarts=job.audit.worst_case.n_restarts,
    )


def _loss(
    attack: Attack, known: Baseline, problem: Problem, surrogate: surrogates.Surrogate, aim: Aim | None
) -> losses.Loss | None:
    """What to maximise; None for the distance from the clean image, which `worst_case` makes itself."""
    if attack.loss == "truth":
        return losses.mse_to_truth(fully_sampled(_truth(known.slice), problem))
    if aim is None:
        return None
    with torch.no_grad():
        clean = surrogate(problem.kspace[None])[0]
    where = torch.from_numpy(aim.region).to(clean.device)
    return losses.erase(clean, where) if aim.contrast is None else losses.draw(clean, where, aim.contrast)


def surrogate_of(name: str, problem: Problem, networks: Networks, generator: torch.Generator) -> surrogates.Surrogate:
    """What a worst case is crafted on, by name; "diffusion" is a white-box attack through a shortened chain.

    Raises:
        ReconError: if the scan is too small for it.
    """
    if name == "diffusion" and networks.prior is not None:
        return surrogates.diffusion_surrogate(problem, networks.prior, generator=generator)
    crafted_on = []
    if name in ("unet", "ensemble") and networks.unet is not None:
        crafted_on.append(surrogates.unet_surrogate(problem, networks.unet))
    if name in ("varnet", "ensemble") and networks.varnet is not None:
        crafted_on.append(surrogates.varnet_surrogate(problem, networks.varnet))
    if not crafted_on:
        raise ValueError(f"the surrogate {name} needs networks that load_networks was not asked for")
    return crafted_on[0] if len(crafted_on) == 1 else surrogates.ensemble(crafted_on)
