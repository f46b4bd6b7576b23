"""One cell of the table: a slice, perturbed in one way, reconstructed by every method and compared."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from steadymr import perturb
from steadymr.audit.attack import attacked, change_between
from steadymr.audit.baseline import Baseline, Job, baseline, begin, draw, prepared, without_solver
from steadymr.audit.craft import aim_of, craft
from steadymr.audit.methods import Networks
from steadymr.audit.norms import gaussian_equal_norm, scaled_to_norm
from steadymr.audit.plan import EQUAL_NORM, GAUSSIAN, NONE, WORST_CASE, Cell, Strain
from steadymr.audit.rows import Outcome, Trial, facts_of
from steadymr.audit.scans import Slice
from steadymr.errors import PerturbationError


def measure_clean(slice_: Slice, job: Job) -> tuple[Baseline, Outcome]:
    """Reconstruct a slice as it is and compare it with its reference; what the other cells need comes with it."""
    known, drawn = baseline(slice_, job)
    outcome = Outcome()
    unchanged = Trial(NONE, known.problem, torch.zeros_like(known.problem.kspace))
    outcome.add_trial(known, unchanged, drawn, Strain(NONE), 0)
    return known, outcome


def measure(known: Baseline, item: tuple[Cell, Job]) -> Outcome:
    """Perturb a slice as the cell says, reconstruct it by every method, and compare.

    A perturbation that cannot be applied to this scan makes rows that say so.

    Raises:
        ReconError: and others, as a replay would; among them that a scan is too small for a surrogate.
        SettingsError: worst cases against the truth are asked for, and there is none.
    """
    cell, job = item
    networks = begin(job)
    outcome = Outcome()
    try:
        for trial in _trials(known, cell, job, networks):
            drawn = draw(trial.problem, known.slice, job, networks)
            outcome.add_trial(known, trial, drawn, cell.strain, cell.seed)
    except PerturbationError as error:
        facts = facts_of(known, cell.strain.perturbation, cell.strain, cell.seed)
        return Outcome([facts | {"method": name, "error": " ".join(str(error).split())} for name in job.audit.methods])
    return outcome


def _trials(known: Baseline, cell: Cell, job: Job, networks: Networks) -> Iterator[Trial]:
    if cell.strain.perturbation == WORST_CASE:
        yield from _worst_trials(known, cell, job, networks)
        return
    wanted = cell.strain.build()
    perturbed = perturb.apply(known.slice.kspace, (wanted,), cell.seed)
    delta = change_between(known.problem, perturbed)
    yield Trial(wanted.name, prepared(perturbed, networks), delta, wanted if wanted.moves_object else None)


def _worst_trials(known: Baseline, cell: Cell, job: Job, networks: Networks) -> Iterator[Trial]:
    """The worst case, noise of its norm, and imperfections scaled to its norm; coil maps stay those of the scan."""
    problem = without_solver(known.problem)
    aim = aim_of(known, cell.strain)
    found = craft(known, problem, cell, job, networks, aim)
    yield Trial(WORST_CASE, attacked(problem, found), found.delta, aim=aim)
    noise = gaussian_equal_norm(problem, found.relative_norm, torch.Generator().manual_seed(cell.seed + 1))
    yield Trial(GAUSSIAN, attacked(problem, noise), noise, aim=aim)
    for name in job.audit.worst_case.equal_norm:
        wanted = strongest(name)
        change = change_between(problem, perturb.apply(known.slice.kspace, (wanted,), cell.seed))
        delta = scaled_to_norm(problem, change, found.relative_norm)
        yield Trial(name + EQUAL_NORM, attacked(problem, delta), delta, wanted if wanted.moves_object else None, aim)


def strongest(name: str) -> perturb.Perturbation:
    """The perturbation with its principal strength at the top of its range: what is then scaled to a norm."""
    kind = perturb.PERTURBATIONS[name]
    return perturb.build(name, {kind.principal: perturb.parameters_of(kind)[kind.principal].high})
