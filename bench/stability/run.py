"""What the stability score holds: ``python bench/stability/run.py [--quick] [--out DIR] [--processes N]``.

Reconstructs simulated scans of subjects that served neither training nor calibration, clean, imperfect and attacked,
judges them by the shipped calibration (or that of ``--calibration FILE``), and prints the figures that the score is
judged by, with baselines. Rows are appended to ``DIR/rows.jsonl`` as they are done, and a run that was broken off goes
on from there. ``--quick`` takes 12 subjects in place of 32 (or of ``--subjects``), and leaves cyclic consistency out.
Subjects are those from ``--first`` on: the ones before have been looked at, and what was missed there led to changes
since.

With ``--notebook FILE``, what ``steadymr calibrate --notebook FILE`` saw of its scans, each piece of evidence is also
taken away before calibrating, and the table says what is left. ``--report`` only draws up the table from the rows that
are there.
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
from scans import Case, attack_models, cases, row

from steadymr.config import Settings, load_settings
from steadymr.models import load_models
from steadymr.stability.calibration import load
from steadymr.stability.notebook import read_notebook
from steadymr.volume.judging import shipped_calibration

ACCELERATIONS = (2, 4, 6, 8)
FIRST = 300  #: subjects before it no longer judge: evidence and maps were changed after their misses had been seen


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is looked at."""

    settings: Settings
    n_test: int


def plan_of(quick: bool, n_test: int) -> Plan:
    settings = load_settings(None, {"stability": {"tempered": True, "cyclic": not quick}})
    return Plan(settings, min(n_test, 12) if quick else n_test)


def main() -> None:
    arguments = _arguments()
    plan = plan_of(arguments.quick, arguments.subjects)
    rows_path = arguments.out / "rows.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        numbers = range(arguments.first, arguments.first + plan.n_test)
        wanted = cases("test", numbers, ACCELERATIONS, list(attack_models(["varnet", "unet"])))
        _look_at(wanted, plan, rows_path, arguments.processes)
    rows = [json.loads(line) for line in rows_path.read_text().splitlines()]
    calibration = load(arguments.calibration or shipped_calibration())
    found = figures(rows, calibration)
    if arguments.notebook is not None:
        seen = read_notebook(arguments.notebook)
        found["ablation"] = ablation(rows, [one for observations in seen.values() for one in observations])
    (arguments.out / "result.json").write_text(json.dumps(found, indent=2) + "\n")
    if found["worst miss"] and not arguments.report:
        write_worst_miss(found["worst miss"], plan.settings, calibration, arguments.out / "worst_miss.png")
    print(table(found))
    print(f"rows: {rows_path}, figures: {arguments.out / 'result.json'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="12 subjects, half an hour instead of hours")
    parser.add_argument("--report", action="store_true", help="only draw up the table from the rows that are there")
    parser.add_argument("--calibration", type=Path, help="to judge this one, not the shipped one")
    parser.add_argument("--notebook", type=Path, help="what the calibration saw, for the ablation")
    parser.add_argument("--first", type=int, default=FIRST, help="number of the first subject")
    parser.add_argument("--subjects", type=int, default=32, help="how many subjects")
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
    tasks = (missing, repeat(plan.settings))
    if n_processes == 1:
        yield from map(_row, *tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_processes, context, torch.set_num_threads, (1,)) as pool:
        yield from pool.map(_row, *tasks)


def _row(case: Case, settings: Settings) -> dict[str, Any]:
    return row(case, settings, load_models(settings))


if __name__ == "__main__":
    main()
