"""Make a calibration: reconstruct fully sampled scans as if they had been accelerated, and compare with their truth.

Each scan is looked at as it is, and once more after some harm was done to it on purpose: see `steadymr.harm`.
"""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, count, groupby, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steadymr import __version__
from steadymr.config import Settings
from steadymr.errors import SettingsError
from steadymr.harm import harmed_planes
from steadymr.models import Models, load_models
from steadymr.perturb import parse_all
from steadymr.recon.problem import prepare
from steadymr.simulate.scan import simulate_scan
from steadymr.simulate.seeds import Purpose
from steadymr.source.replay import open_scan
from steadymr.stability.calibration import Calibration, write
from steadymr.stability.fit import Observation, fit_method
from steadymr.stability.intervals import misses
from steadymr.stability.metrics import tissue_mask
from steadymr.stability.notebook import append_to_notebook, read_notebook, write_notebook
from steadymr.stability.score import DEFINITION_VERSION, local_signal, pixel_mm
from steadymr.stopwatch import Stopwatch
from steadymr.types import KSpace, SliceResult
from steadymr.volume.arriving import accelerated, whole
from steadymr.volume.fallback import Deadline
from steadymr.volume.judging import shipped_calibration
from steadymr.volume.planes import Plane, Run, conditions_of
from steadymr.volume.reconstruct import reconstruct_plane
from steadymr.volume.truth import distorted_like

logger = logging.getLogger(__name__)

FOV_MM = 230.0  #: of simulated heads
MATRICES = (96, 96, 128, 96)
COILS = (8, 16, 4, 12)
SIGNAL_TO_NOISE = (80.0, 20.0, 40.0, 160.0)
N_SENTINELS = 4  #: of a scan made to calibrate with, so that their false alarms are known


@dataclass(frozen=True, slots=True)
class Subject:
    """One simulated head and the scanner that sees it."""

    number: int
    purpose: Purpose
    matrix: int
    n_coils: int
    signal_to_noise: float

    def simulate(self, path: Path) -> Path:
        """Write its fully sampled scan."""
        simulate_scan(
            path,
            seed=self.number,
            purpose=self.purpose,
            n_coils=self.n_coils,
            matrix=(self.matrix, self.matrix),
            pixel_mm=FOV_MM / self.matrix,
            acceleration=1,
            signal_to_noise=self.signal_to_noise,
            contrast=None,
            tilt_deg=float(self.number % 7 * 5 - 15),
        )
        return path


def subjects(n: int, purpose: Purpose = "calibration") -> list[Subject]:
    """Heads that go through coils, noise levels and matrices in turn, each at its own pace; contrasts are random."""
    return [
        Subject(
            number,
            purpose,
            MATRICES[(number + number // 4) % 4],
            COILS[number % 4],
            SIGNAL_TO_NOISE[(number // 4) % 4],
        )
        for number in range(n)
    ]


def calibrate_simulated(
    settings: Settings,
    out: Path,
    *,
    n_subjects: int,
    accelerations: Sequence[int],
    n_processes: int = 1,
    notebook: Path | None = None,
    progress: Callable[[float, float | None, str], None] = lambda done, total, what: None,
) -> Calibration:
    """Calibrate with simulated heads, each at every acceleration; never with those that figures are reported on.

    What was seen of each head is kept in ``notebook``, from which a run that was broken off, or one with more heads,
    goes on.
    """
    refuse_in_use(out, settings)
    heads = subjects(n_subjects)
    recipe = _recipe(settings, accelerations, "simulated heads")
    tasks = [heads, count(), repeat(settings), repeat(tuple(accelerations))]
    seen = _mapped(_observe_subject, tasks, len(heads), n_processes, progress, notebook, recipe)
    return _calibrated(seen, "simulated heads", out)


def calibrate_scans(
    scans: Sequence[Path],
    settings: Settings,
    out: Path,
    *,
    accelerations: Sequence[int],
    n_processes: int = 1,
    notebook: Path | None = None,
    progress: Callable[[float, float | None, str], None] = lambda done, total, what: None,
) -> Calibration:
    """Calibrate with a site's own fully sampled scans, each volume at every acceleration; see `calibrate_simulated`.

    Raises SettingsError if there are too few images of an acceleration, if one of the scans is accelerated already, or
    if ``out`` is in use.
    """
    refuse_in_use(out, settings)
    alone = len(scans) == 1
    if alone:
        logger.warning("only one scan: its volumes count as subjects, so that the bound may be too high for others")
    tasks = [scans, count(), repeat(settings), repeat(tuple(accelerations)), repeat(alone)]
    recipe = _recipe(settings, accelerations, [str(path) for path in scans])
    seen = _mapped(_observe_file, tasks, len(scans), n_processes, progress, notebook, recipe)
    return _calibrated(seen, f"{len(scans)} fully sampled scans", out)


def _recipe(settings: Settings, accelerations: Sequence[int], scans: str | list[str]) -> dict[str, Any]:
    """What observations depend on, for a notebook to be recognised by."""
    made = {"definition": DEFINITION_VERSION, "accelerations": list(accelerations), "scans": scans}
    return made | {"settings": settings.model_dump(mode="json")}


def refuse_in_use(out: Path, settings: Settings) -> None:
    """Raise SettingsError if scores rest on this file: it would change their meaning without a new name."""
    for used, why in (
        (settings.stability.calibration, "the config names it"),
        (shipped_calibration(), "it is shipped"),
    ):
        if used is not None and out.resolve() == used.resolve():
            raise SettingsError(
                f"{out} is in use ({why}): write to a new file, then name that in stability.calibration"
            )


def observe(full: KSpace, settings: Settings, models: Models, subject: str, number: int) -> Iterator[Observation]:
    """Images of one fully sampled volume, accelerated as the settings say, clean and harmed, each with its true error.

    ``number`` decides the kind of harm; its details follow from it and from the subject.
    """
    kspace, run = accelerated(full, settings), run_of(settings, models)
    rng = np.random.default_rng([number, *subject.encode()])
    clean = (("", Plane(kspace, problem)) for problem in prepare(kspace, device=models.device))
    planes = chain(clean, harmed_planes(kspace, models, number, rng))
    for harm, plane, truth in _with_truth(planes, full):
        for result in reconstruct_plane(plane, truth, run, Deadline()):
            observation = observation_of(plane, result, run, subject, harm=harm)
            if observation is not None:
                yield observation


def _with_truth(planes: Iterable[tuple[str, Plane]], full: KSpace) -> Iterator[tuple[str, Plane, KSpace | None]]:
    """The full scan beside each plane; distorted once for all planes of a volume, where its harm distorts."""
    for changed, of_volume in groupby(planes, key=lambda one: one[1].kspace):  # k-space is equal to itself alone
        truth = distorted_like(full, changed)
        yield from ((harm, plane, truth) for harm, plane in of_volume)


def run_of(settings: Settings, models: Models) -> Run:
    """A run without a calibration."""
    return Run(settings, models, parse_all(settings.perturb), Stopwatch(), lambda what: None)


def observation_of(
    plane: Plane, result: SliceResult, run: Run, subject: str = "", *, harm: str = ""
) -> Observation | None:
    """What a calibration learns from one image; None where there is nothing to compare."""
    stability, samples = result.stability, result.samples
    if result.truth is None or samples is None or result.reference is None or stability.agreement is None:
        return None
    mean = samples.data.mean(axis=0)[0]
    signal = local_signal(mean, tissue_mask(mean), pixel_mm(result.image))
    return Observation(
        subject=subject,
        harm=harm,
        conditions=conditions_of(plane, result.image.method, run),
        agreement=stability.agreement,
        evidence=stability.evidence,
        ssim=result.truth.ssim,
        misses=misses(result.image.data[0], result.reference[0], stability.spread_percent[0], signal),
    )


def fit(observations: Sequence[Observation], made_from: str) -> Calibration:
    """A calibration of every method among the observations. Raises SettingsError if there are too few."""
    methods = dict.fromkeys(one.conditions.method for one in observations)
    if not methods:
        raise SettingsError("no image could be compared with its full scan: is there tissue in these scans?")
    fitted = [fit_method([one for one in observations if one.conditions.method == method]) for method in methods]
    return Calibration(tuple(fitted), made_from, DEFINITION_VERSION, __version__)


def _calibrated(observations: Sequence[Observation], made_from: str, out: Path) -> Calibration:
    n_clean = sum(not one.harmed for one in observations)
    made_from = f"{made_from}, {n_clean} clean images and {len(observations) - n_clean} harmed on purpose"
    return write(fit(observations, made_from), out)


def _mapped(
    observe_one: Callable[..., list[Observation]],
    tasks: Sequence[Iterable[object]],
    n_tasks: int,
    n_processes: int,
    progress: Callable[[float, float | None, str], None],
    notebook: Path | None,
    recipe: dict[str, Any],
) -> list[Observation]:
    """Observe every scan that the notebook does not hold yet, and return what is known of all."""
    there = read_notebook(notebook, recipe) if notebook is not None else {}
    seen = {number: there[number] for number in range(n_tasks) if number in there}
    if notebook is not None:
        write_notebook(notebook, recipe, there)  # without a line that was cut off
    missing = [number for number in range(n_tasks) if number not in seen]
    columns = [list(islice(column, n_tasks)) for column in tasks]
    left = [[column[number] for number in missing] for column in columns]
    progress(len(seen), n_tasks, "calibrating")
    for number, found in zip(missing, _each(observe_one, left, n_processes), strict=True):
        seen[number] = found
        if notebook is not None:
            append_to_notebook(notebook, number, found)
        progress(len(seen), n_tasks, "calibrating")
    return [one for number in sorted(seen) for one in seen[number]]


def _each(
    observe_one: Callable[..., list[Observation]], tasks: Sequence[Iterable[object]], n_processes: int
) -> Iterator[list[Observation]]:
    if n_processes == 1:
        yield from map(observe_one, *tasks)
        return
    with ProcessPoolExecutor(n_processes, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(observe_one, *tasks)


def _observe_subject(
    subject: Subject, number: int, settings: Settings, accelerations: tuple[int, ...]
) -> list[Observation]:
    with tempfile.TemporaryDirectory(prefix="steadymr-") as folder:
        path = subject.simulate(Path(folder) / f"{subject.purpose}-{subject.number}.h5")
        return _observe_file(path, number, settings, accelerations)


def _observe_file(
    path: Path, number: int, settings: Settings, accelerations: tuple[int, ...], alone: bool = False
) -> list[Observation]:
    models = load_models(settings)
    observations: list[Observation] = []
    with open_scan(path) as scan:
        for place, full in enumerate(whole(scan.readouts(), scan.header, settings)):
            subject = f"{path.stem} {number}" + (f" volume {place}" if alone else "")
            for turn, acceleration in enumerate(accelerations):
                wanted = accelerated_settings(settings, acceleration)
                observations.extend(observe(full, wanted, models, subject, number + place + turn))
    return observations


def accelerated_settings(settings: Settings, acceleration: int, n_sentinels: int = N_SENTINELS) -> Settings:
    """The same settings, to accelerate a full scan, keep some of its lines as sentinels, and look at it tempered too.

    What is known of a clean scan's evidence then holds for scans with sentinels and without, tempered or not.
    """
    undersample = settings.undersample.model_copy(update={"acceleration": acceleration, "sentinels": n_sentinels})
    stability = settings.stability.model_copy(update={"tempered": True})
    return settings.model_copy(update={"undersample": undersample, "stability": stability})
