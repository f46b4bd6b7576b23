"""What the stability score holds: ``python bench/stability/run.py [--quick] [--out DIR] [--processes N]``.

Reconstructs simulated scans of subjects that served neither training nor calibration, clean, imperfect and attacked,
and prints the figures that the score is judged by, with baselines and the ablation of each piece of evidence. Rows
are appended to ``DIR/rows.jsonl`` as they are done, and a run that was broken off goes on from there.

``--quick`` takes small images and few noise levels, and calibrates on subjects of its own, since the shipped
calibration does not speak for those settings. Without it the shipped calibration is judged. ``--report`` only draws
up the table from the rows that are there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from figures import ablation, figures, table
from picture import write_worst_miss
from scans import Case, attack_models, cases, observation, row

from steadymr.calibrate import fit
from steadymr.config import Settings, load_settings
from steadymr.models import load_models
from steadymr.stability.calibration import load
from steadymr.stability.fit import Observation
from steadymr.volume.judging import shipped_calibration

ACCELERATIONS = (2, 4, 6, 8)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is looked at."""

    settings: Settings
    n_calibration: int  #: subjects to calibrate on; 0 judges the shipped calibration
    n_test: int
    matrix: int | None  #: None: as calibration subjects have it


def plan_of(quick: bool) -> Plan:
    if not quick:
        return Plan(load_settings(None, {"stability": {"tempered": True, "cyclic": True}}), 0, 32, None)
    overrides = {
        "diffusion": {"levels": 12},
        "undersample": {"calibration_lines": 16},
        "stability": {"tempered": True, "max_samples": 8},
    }
    return Plan(load_settings(None, overrides), 20, 12, 64)


def main() -> None:
    arguments = _arguments()
    plan = plan_of(arguments.quick)
    surrogates = list(attack_models(["varnet", "unet"]))
    wanted = cases("calibration", plan.n_calibration, ACCELERATIONS, surrogates)
    wanted += cases("test", plan.n_test, ACCELERATIONS, surrogates)
    rows_path = arguments.out / "rows.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        _look_at(wanted, plan, rows_path, arguments.processes)
    rows = [json.loads(line) for line in rows_path.read_text().splitlines()]
    judged_on = [one for one in rows if one["case"]["purpose"] == "test"]
    seen = _seen(rows) if plan.n_calibration else []
    found = figures(judged_on, fit(seen, "calibration subjects of this run") if seen else load(shipped_calibration()))
    if seen:
        found["ablation"] = ablation(judged_on, seen)
    (arguments.out / "result.json").write_text(json.dumps(found, indent=2) + "\n")
    if found["worst miss"] and not arguments.report:
        write_worst_miss(found["worst miss"], plan.settings, plan.matrix, arguments.out / "worst_miss.png")
    print(table(found))
    print(f"rows: {rows_path}, figures: {arguments.out / 'result.json'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small images, minutes instead of hours")
    parser.add_argument("--report", action="store_true", help="only draw up the table from the rows that are there")
    parser.add_argument("--out", type=Path, default=Path("runs/stability"))
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


def _look_at(wanted: list[Case], plan: Plan, rows_path: Path, n_processes: int) -> None:
    """Make the rows that are not there yet; each is on disk before the next is waited for."""
    there = _keys(rows_path)
    missing = [case for case in wanted if case.key not in there]
    print(f"{len(missing)} of {len(wanted)} scans to look at", flush=True)
    with rows_path.open("a") as file:
        for done, one in enumerate(_rows(missing, plan, n_processes), start=1):
            file.write(json.dumps(one) + "\n")
            file.flush()
            if done % 10 == 0:
                print(f"{done} of {len(missing)}", flush=True)


def _keys(rows_path: Path) -> set[str]:
    if not rows_path.exists():
        return set()
    return {Case(**json.loads(line)["case"]).key for line in rows_path.read_text().splitlines()}


def _rows(missing: list[Case], plan: Plan, n_processes: int) -> Iterator[dict[str, Any]]:
    tasks = (missing, repeat(plan.settings), repeat(plan.matrix))
    if n_processes == 1:
        yield from map(_row, *tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_processes, context, torch.set_num_threads, (1,)) as pool:
        yield from pool.map(_row, *tasks)


def _row(case: Case, settings: Settings, matrix: int | None) -> dict[str, Any]:
    return row(case, settings, load_models(settings), matrix)


def _seen(rows: list[dict[str, Any]]) -> list[Observation]:
    ours = [one for one in rows if one["case"]["purpose"] == "calibration"]
    return [observation(one["case"], image, 4) for one in ours for image in one["images"]]


if __name__ == "__main__":
    main()
