"""Scans whose truth is known, reconstructed, examined and written down as one row each: clean, imperfect, attacked.

A row holds raw numbers only, never a score, so that any calibration can be judged on it later.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steadymr import perturb
from steadymr.audit.attack import with_worst_case, worst_case
from steadymr.audit.losses import Penalty, known_lines
from steadymr.audit.norms import Budget
from steadymr.audit.surrogates import Surrogate, unet_surrogate, varnet_surrogate
from steadymr.calibrate import N_SENTINELS, Subject, accelerated_settings, observation_of, run_of, subjects
from steadymr.config import Settings
from steadymr.errors import SteadymrError, WeightsError
from steadymr.harm import IMPERFECTIONS, imperfection
from steadymr.models import Models
from steadymr.recon.problem import Problem, prepare, whitened_slice
from steadymr.recon.weights import load_unet, load_varnet
from steadymr.sentinels import place
from steadymr.simulate.seeds import Purpose
from steadymr.source.replay import open_scan
from steadymr.stability.calibration import Calibration
from steadymr.stability.conditions import Conditions
from steadymr.stability.fit import Observation
from steadymr.types import KSpace, SliceResult
from steadymr.volume.arriving import accelerated, whole
from steadymr.volume.fallback import Deadline
from steadymr.volume.planes import Plane, Run
from steadymr.volume.reconstruct import examined, make_images, reconstruct_plane, sample_plane, scored
from steadymr.volume.truth import distorted_like, reference_of


@dataclass(frozen=True, slots=True)
class Case:
    """One scan to look at."""

    purpose: Purpose
    subject: int
    acceleration: int
    kind: str  #: "clean", "noise", "imperfection", "attack", "adaptive", "all knowing" or "lesion"
    name: str = ""  #: of the imperfection, or of the surrogate
    strength: float = 0.0  #: share of the imperfection's range, or relative norm of the attack

    @property
    def key(self) -> str:
        """What a finished row is found again by."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def cases(purpose: Purpose, numbers: range, accelerations: Sequence[int], surrogates: Sequence[str]) -> list[Case]:
    """All cases of one purpose, with the subjects of those numbers."""
    clean = [Case(purpose, number, r, "clean") for number in numbers for r in accelerations]
    # each imperfection at half and at the whole of its plausible range
    names = [(name, share) for share in (1.0, 0.5) for name in IMPERFECTIONS] * max(1, len(numbers) // 12)
    imperfect = [
        Case(purpose, numbers[place % len(numbers)], 4, "imperfection", name, share)
        for place, (name, share) in enumerate(names)
    ]
    noisy = [Case(purpose, number, 4, "noise", "thermal_noise", 0.25) for number in numbers]
    attacks = [
        Case(purpose, number, 4, "attack", name, eps)
        for eps in (0.01, 0.02)
        for name in surrogates
        for number in numbers
    ]
    few = numbers[: max(2, len(numbers) // 4)]
    knowing = [
        Case(purpose, number, 4, kind, surrogates[0], eps)
        for kind in ("adaptive", "all knowing")
        for eps in (0.02, 0.05)
        for number in few
    ]
    lesions = [Case(purpose, number, 4, "lesion", "ring", 0.5) for number in few]
    return [*clean, *noisy, *imperfect, *attacks, *knowing, *lesions]


def row(case: Case, settings: Settings, models: Models) -> dict[str, Any]:
    """Reconstruct one case and write down what there is to know. A refusal becomes a row that says so."""
    wanted = accelerated_settings(settings, case.acceleration)
    started = time.process_time()
    try:
        images = list(_images(case, wanted, models))
    except SteadymrError as error:
        return {"case": dataclasses.asdict(case), "refused": str(error), "images": []}
    return {"case": dataclasses.asdict(case), "cpu_s": time.process_time() - started, "images": images}


def results(case: Case, settings: Settings, models: Models, calibration: Calibration) -> list[SliceResult]:
    """The images of one case, judged by the calibration, to be drawn."""
    kspace, truth = _scan(case, accelerated_settings(settings, case.acceleration))
    run = replace(run_of(settings, models), calibration=calibration)
    (problem,) = prepare(kspace)
    return list(reconstruct_plane(Plane(kspace, problem), truth, run, Deadline()))


def observation(case: dict[str, Any], image: dict[str, Any], n_sentinels: int) -> Observation:
    """One image of a row as calibrations know it, seen with so many sentinel lines."""
    return Observation(
        subject=f"{case['purpose']} {case['subject']}",
        harm="" if case["kind"] == "clean" else case["kind"],
        conditions=Conditions(**image["conditions"]),
        agreement=image["agreement"],
        evidence=image["evidence"][str(n_sentinels)],
        ssim=image["ssim"],
        misses=tuple(image["misses"]),
    )


def attack_models(names: Sequence[str]) -> dict[str, Any]:
    """Networks that worst cases are crafted on; those whose weights are not there are left out."""
    loaders = {"varnet": load_varnet, "unet": load_unet}
    found = {}
    for name in names:
        try:
            found[name] = loaders[name]("cpu")[0]
        except WeightsError:
            continue
    return found


def _images(case: Case, settings: Settings, models: Models) -> Iterator[dict[str, Any]]:
    kspace, truth = _scan(case, settings)
    for problem in prepare(kspace):
        yield from _looked_at(Plane(kspace, problem), truth, settings, models)


def _scan(case: Case, settings: Settings) -> tuple[KSpace, KSpace]:
    """The scan as the case wants it, and the full scan that tells its truth."""
    with tempfile.TemporaryDirectory(prefix="steadymr-") as folder:
        full = _full_scan(case, settings, Path(folder))
    return _changed(case, accelerated(full, settings), full, settings)


def _full_scan(case: Case, settings: Settings, folder: Path) -> KSpace:
    subject: Subject = subjects(case.subject + 1, case.purpose)[-1]
    with open_scan(subject.simulate(folder / "scan.h5")) as scan:
        return next(iter(whole(scan.readouts(), scan.header, settings)))


def _changed(case: Case, kspace: KSpace, full: KSpace, settings: Settings) -> tuple[KSpace, KSpace]:
    """The scan as the case wants it, and the full scan that tells its truth."""
    if case.kind in ("noise", "imperfection"):
        changed = perturb.apply(kspace, (imperfection(case.name, case.strength),), case.subject)
        return changed, distorted_like(full, changed)
    if case.kind == "lesion":
        full = _with_lesion(full, case)
        return accelerated(full, settings), full
    if case.kind in ("attack", "adaptive", "all knowing"):
        return _attacked(case, kspace, full), full
    return kspace, full


def _attacked(case: Case, kspace: KSpace, full: KSpace) -> KSpace:
    """A worst case on the acquired lines; whoever knows the sentinels changes them as well, and pays for being seen."""
    generator = torch.Generator().manual_seed(case.subject)
    known = case.kind == "all knowing"
    target = replace(kspace, sampled=kspace.acquired, sentinel=None) if known else kspace
    (problem,) = prepare(target)
    penalties: list[Penalty] = []
    if case.kind != "attack":
        lines = kspace.sentinel if known else _guessed(kspace)
        if lines is not None:
            penalties.append(_price(problem, lines, full))
    surrogate = _surrogate(case.name, problem)
    found = worst_case(
        problem, surrogate, budget=Budget(case.strength), generator=generator, penalties=penalties,
        n_steps=15, n_restarts=2,
    )  # fmt: skip
    changed = with_worst_case(target, problem, found, seed=case.subject)
    return replace(changed, sampled=kspace.sampled, sentinel=kspace.sentinel)


def _price(problem: Problem, lines: np.ndarray, full: KSpace) -> Penalty:
    """What it costs to deviate from what the coils measured on some lines: one noise variance, 0.1 % of the image."""
    measured = whitened_slice(full, problem.z) / problem.scale
    along_y = torch.from_numpy(lines.any(axis=0))
    return known_lines(problem.sense.maps, along_y, measured, float(problem.noise_sd), weight=1e-3)


def _guessed(kspace: KSpace) -> np.ndarray:
    """The sentinels that someone expects who knows how they are placed, but not this scan's draw."""
    lines = np.zeros_like(kspace.sampled)
    guess = place(kspace.sampled.any(axis=0), _centre(kspace), N_SENTINELS, np.random.default_rng(999))
    lines[:, guess] = True
    return lines


def _centre(kspace: KSpace) -> np.ndarray:
    return np.asarray(kspace.calibrated.any(axis=0))


def _surrogate(name: str, problem: Problem) -> Surrogate:
    network = _network(name)
    return varnet_surrogate(problem, network) if name == "varnet" else unet_surrogate(problem, network)


@functools.lru_cache(maxsize=2)
def _network(name: str) -> Any:
    return attack_models([name])[name]


def _with_lesion(full: KSpace, case: Case) -> KSpace:
    """A bright ring with a dark middle, such as no training image holds, drawn into the full scan's channels."""
    n_y, n_x = full.data.shape[-2:]
    rng = np.random.default_rng([case.subject, 77])
    centre = rng.uniform(-0.12, 0.12, 2)
    y, x = np.mgrid[:n_y, :n_x]
    distance = np.hypot((y - n_y // 2) / n_y - centre[0], (x - n_x // 2) / n_x - centre[1])
    factor = 1 + case.strength * (np.abs(distance - 0.05) < 0.015) - case.strength * (distance < 0.035)
    channels = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(full.data, axes=(-2, -1))), axes=(-2, -1)) * factor
    data = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(channels, axes=(-2, -1))), axes=(-2, -1)).astype(np.complex64)
    calibration = np.where(full.calibrated[None, :, :, None], data, 0).astype(np.complex64)
    return replace(full, data=data, calibration=calibration)


def _looked_at(plane: Plane, full: KSpace, settings: Settings, models: Models) -> Iterator[dict[str, Any]]:
    """Every image of a plane, with the evidence of 0, 2 and 4 sentinel lines; the samples are drawn once."""
    run = run_of(settings, models)
    sampled = sample_plane(plane, run, Deadline())
    made, _ = make_images(plane, sampled, run)
    reference = reference_of(plane, full, run)
    plain = replace(run, settings=settings.model_copy(update={"stability": _cheap(settings)}))
    whole_examination = examined(plane, sampled, made, run, Deadline())
    fewer = _with_two(plane)
    two = examined(fewer, sampled, made, plain, Deadline())
    for one in made:
        result = scored(plane, one, sampled, whole_examination, (), reference, run)
        of_two = scored(fewer, one, sampled, two, (), reference, plain)
        found = observation_of(plane, result, run)
        if found is not None:
            yield _entry(found, result, of_two.stability.evidence, run)


def _cheap(settings: Settings) -> Any:
    return settings.stability.model_copy(update={"tempered": False, "cyclic": False})


def _with_two(plane: Plane) -> Plane:
    """The same plane with two sentinel lines only: those in the first gaps beyond the calibration."""
    kspace = plane.kspace
    lines = place(kspace.sampled.any(axis=0), _centre(kspace), 2, np.random.default_rng(0))
    among = np.isin(np.arange(kspace.sampled.shape[1]), lines)
    return Plane(replace(kspace, sentinel=None if kspace.sentinel is None else kspace.sentinel & among), plane.problem)


def _entry(found: Observation, result: Any, of_two: dict[str, float], run: Run) -> dict[str, Any]:
    four = found.evidence
    none = {name: value for name, value in four.items() if not name.startswith("sentinel")}
    of_two = {**none, **{name: value for name, value in of_two.items() if name.startswith("sentinel")}}
    return {
        "conditions": dataclasses.asdict(found.conditions),
        "agreement": found.agreement,
        "ssim": found.ssim,
        "psnr_db": result.truth.psnr_db,
        "spread": float(np.nanmean(result.stability.spread_percent)),
        "misses": list(found.misses),
        "evidence": {"0": none, "2": of_two, "4": four},
        "seconds": run.watch.seconds(),
    }
