"""An audit from scans to its folder: plan, measure what is not measured yet, and write table, figures and page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from steadymr import __version__
from steadymr.audit import figures, report, table
from steadymr.audit.baseline import Baseline, Job
from steadymr.audit.cell import measure, measure_clean
from steadymr.audit.craft import check_reference
from steadymr.audit.journal import Journal, open_journal
from steadymr.audit.plan import NONE, Cell, Strain, cells, strains
from steadymr.audit.scans import Slice, Source, checksum, slices
from steadymr.executors import Executor
from steadymr.output import written_aside
from steadymr.source.replay import open_scan

Progress = Callable[[float, float | None, str], None]  #: cells done, cells in all, what is being done


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What stays the same from scan to scan."""

    job: Job
    journal: Journal
    executor: Executor
    strains: tuple[Strain, ...]
    advance: Callable[[], None]


def audit(
    sources: Sequence[Source],
    out: Path,
    job: Job,
    executor: Executor,
    progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Measure every cell of an audit and write ``audit.json``, ``audit.csv``, ``audit.html`` and ``figures/``.

    Cells that are finished in ``out`` are not measured again; the same audit gives the same files, however often it
    was interrupted and wherever its cells were computed. Returns the content of ``audit.json``.

    Raises:
        PerturbationError: a perturbation or parameter does not exist.
        SettingsError: a method does not exist, or ``out`` holds another audit.
        SteadymrError: whatever else a replay of these scans would raise.
    """
    wanted = strains(job.audit)
    models = [asdict(model) for model in job.load_networks().identities]
    scans = [{"name": source.name, "sha256": checksum(source)} for source in sources]
    settings = _settings(job, wanted)
    journal = open_journal(out, {**settings, "scans": scans, "models": models, "version": __version__})
    run = _Run(job, journal, executor, wanted, _counter(progress, _n_cells(sources, job, len(wanted)), journal))
    rows: list[dict[str, Any]] = []
    damage: list[dict[str, Any]] = []
    pictured: list[Cell] = []
    for source in sources:
        planned = _measured(source, run, n_pictured=job.audit.pictured_slices - _n_slices(pictured))
        for cell, with_images in planned:
            rows.extend(journal.entries[cell.key]["rows"])
            damage.extend(journal.entries[cell.key]["damage"])
            pictured.extend([cell] if with_images else [])
    content = {
        "rows": rows,
        "summary": table.summarise(rows),
        "tests": table.tests(rows),
        "damage": damage,
        "advice": table.advice(damage),
        "warnings": table.warnings(rows),
        "settings": settings,
        "scans": scans,
        "models": models,
        "version": __version__,
    }
    progress(1.0, None, "writing")
    _write(content, out, [(cell, journal.images(cell.key)) for cell in pictured])
    return content


def _settings(job: Job, wanted: Sequence[Strain]) -> dict[str, Any]:
    """What can change a number in the table; devices and executors cannot, beyond rounding."""
    of_replay = job.settings.model_dump(
        mode="json", include={"samples", "seed", "assemble", "undersample", "sentinels", "classical", "diffusion"}
    )
    of_replay["diffusion"].pop("weights")
    return {
        "audit": job.audit.model_dump(mode="json", exclude={"unet_weights", "varnet_weights"}),  # models have checksums
        "reconstruction": of_replay,
        "cells": [asdict(strain) | {"parameters": dict(strain.parameters)} for strain in wanted],
    }


def _measured(source: Source, run: _Run, n_pictured: int) -> Iterator[tuple[Cell, bool]]:
    """Measure what is missing of one scan; yield its cells in order, and whether their pictures are kept."""
    found = slices(source, run.job.settings, run.job.audit.slices)
    for one in found:
        check_reference(one, tuple(strain.attack for strain in run.strains if strain.attack))
    with_images = {one.number for one in found[: max(n_pictured, 0)]}
    planned = {one.number: _cells(one, run) for one in found}
    unfinished = [one for one in found if not all(cell.key in run.journal.entries for cell in planned[one.number])]
    known = dict(_baselines(unfinished, run, with_images))
    missing = [
        (known[cell.slice], cell)
        for one in unfinished
        for cell in planned[one.number]
        if cell.key not in run.journal.entries
    ]
    tasks = ((baseline, (cell, run.job)) for baseline, cell in missing)
    for number, outcome in run.executor.run(measure, tasks):
        cell = missing[number][1]
        run.journal.add(cell.key, outcome, with_images=cell.slice in with_images)
        run.advance()
    for one in found:
        yield from ((cell, cell.slice in with_images) for cell in planned[one.number])


def _baselines(found: Sequence[Slice], run: _Run, with_images: set[int]) -> Iterator[tuple[int, Baseline]]:
    """What the cells of unfinished slices need; not kept on disk, since it is made again sooner than it is read."""
    tasks = ((one, run.job) for one in found)
    for number, (known, outcome) in run.executor.run(measure_clean, tasks):
        one = found[number]
        (cell,) = _clean_cell(one)
        if cell.key not in run.journal.entries:
            run.journal.add(cell.key, outcome, with_images=one.number in with_images)
            run.advance()
        yield one.number, known


def _cells(one: Slice, run: _Run) -> tuple[Cell, ...]:
    return (*_clean_cell(one), *cells(one.scan, one.number, run.strains, run.job.settings.seed))


def _clean_cell(one: Slice) -> tuple[Cell]:
    return (Cell(one.scan, one.number, Strain(NONE), 0),)


def _n_cells(sources: Sequence[Source], job: Job, n_strains: int) -> int:
    total = 0
    for source in sources:
        with open_scan(source.path) as scan:
            n_slices = min(scan.n_volumes, job.audit.slices or scan.n_volumes)
        total += n_slices * (n_strains + 1)
    return total


def _n_slices(pictured: Sequence[Cell]) -> int:
    return len({(cell.scan, cell.slice) for cell in pictured})


def _counter(progress: Progress, total: int, journal: Journal) -> Callable[[], None]:
    done = len(journal.entries)

    def advance() -> None:
        nonlocal done
        done += 1
        progress(float(done), float(total), "measuring")

    progress(float(done), float(total), "measuring")
    return advance


def _write(content: dict[str, Any], out: Path, pictures: Sequence[tuple[Cell, dict[str, Any]]]) -> None:
    drawn = figures.all_figures(content)
    with written_aside(out) as aside:
        (aside / "audit.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (aside / "audit.csv").write_text(table.as_csv(content["rows"]), encoding="utf-8")
        (aside / "audit.html").write_text(report.render(content, drawn, pictures), encoding="utf-8")
        (aside / "figures").mkdir()
        for name, png in drawn.items():
            (aside / "figures" / f"{name}.png").write_bytes(png)
