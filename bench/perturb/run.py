"""What perturbations cost beside CG-SENSE: ``python bench/perturb/run.py [--quick]``.

Every perturbation with all its strengths at three quarters of their ranges, and motion and field maps as dear as they
come, on one simulated scan: 256 x 256, 16 coils, every fourth line and 24 calibration lines (``--quick``: 128 x 128, 8
coils). Both sides begin with k-space and find the coils' sensitivities in it. Each round times one CG-SENSE, coil maps
and 30 iterations apart, and then each perturbation; ratios are medians over rounds, of CPU time on one thread (run it
with ``OMP_NUM_THREADS=1``), which other load on the machine disturbs less than the clock. At most a quarter is
wanted, and what exceeds it is marked, by the harder comparison: the second ratio, to the iterations alone, as if the
maps had been given to CG-SENSE and not to the perturbation. Writes ``result.json`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from steadymr.assemble import assemble
from steadymr.perturb import PERTURBATIONS, Perturbation, parameters_of
from steadymr.recon.methods import classical
from steadymr.recon.problem import prepare
from steadymr.simulate.scan import simulate_scan
from steadymr.source.replay import open_scan
from steadymr.types import KSpace

LIMIT = 0.25
PARTS = ("coil maps", "iterations")  #: of CG-SENSE


def scan(matrix: int, n_coils: int) -> KSpace:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.h5"
        simulate_scan(path, seed=0, purpose="test", matrix=(matrix, matrix), pixel_mm=230 / matrix, n_coils=n_coils)
        with open_scan(path) as opened:
            return next(iter(assemble(opened.readouts(), opened.header)))


def strong(kind: type[Perturbation]) -> Perturbation:
    """Every strength at three quarters of its range; counts at the top."""
    facts = {key: one for key, one in parameters_of(kind).items() if one.role == "strength"}
    return kind(**{key: int(one.high) if one.whole else 0.75 * one.high for key, one in facts.items()})


def cases() -> dict[str, Perturbation]:
    found = {name: strong(kind) for name, kind in PERTURBATIONS.items()}
    motion = found.pop("rigid_motion")
    for n_shots in (2, 8, 32, 256):
        found[f"rigid_motion, {n_shots} shots"] = replace(motion, shots=n_shots)
    found["rigid_motion, 32 shots, interleaved"] = replace(motion, shots=32, interleaved=1)
    found["off_resonance, 16 segments"] = replace(found["off_resonance"], segments=16)
    return found


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def measured(kspace: KSpace, n_rounds: int) -> dict[str, dict[str, float]]:
    """Seconds and ratios of each case; one round more warms up."""
    (problem,) = prepare(kspace)
    wanted = cases()
    seconds: dict[str, list[float]] = {name: [] for name in (*PARTS, *wanted)}
    for _ in range(n_rounds + 1):
        seconds["coil maps"].append(cpu_seconds(lambda: list(prepare(kspace))))
        seconds["iterations"].append(cpu_seconds(lambda: classical(problem)))
        for name, one in wanted.items():
            seconds[name].append(cpu_seconds(lambda one=one: one(kspace, np.random.default_rng(0))))
    iterations = np.array(seconds["iterations"][1:])
    whole = np.array(seconds["coil maps"][1:]) + iterations
    return {
        name: {
            "cpu_s": statistics.median(times[1:]),
            "ratio": float(np.median(times[1:] / whole)),
            "ratio_iterations": float(np.median(times[1:] / iterations)),
        }
        for name, times in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = {"matrix": 128, "n_coils": 8} if arguments.quick else {"matrix": 256, "n_coils": 16}
    found = measured(scan(**size), arguments.rounds)
    print(f"{'':36} {'CPU time':>11} {'CG-SENSE':>9} {'iterations':>11}")
    for name, one in found.items():
        over = "  above a quarter" if name not in PARTS and one["ratio_iterations"] > LIMIT else ""
        print(f"{name:36} {1000 * one['cpu_s']:8.1f} ms {one['ratio']:9.3f} {one['ratio_iterations']:11.3f}{over}")
    result = {"cases": found, "limit": LIMIT, "rounds": arguments.rounds, **size}
    (Path(__file__).parent / "result.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
