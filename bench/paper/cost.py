"""What worst cases cost, in forward passes of their surrogate: ``python bench/paper/cost.py [--steps 50]``.

Counts passes and measures time, for each surrogate whose weights are there, on one slice with one restart; writes
``cost.json`` beside this file. The bound is four forward passes a step.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from protocol import ARMS, scan

from steadymr.audit.attack import worst_case
from steadymr.audit.norms import Budget
from steadymr.audit.surrogates import Surrogate, diffusion_surrogate, unet_surrogate, varnet_surrogate
from steadymr.errors import WeightsError
from steadymr.recon.problem import Problem
from steadymr.recon.weights import load_prior, load_unet, load_varnet


def surrogates(problem: Problem) -> dict[str, Surrogate]:
    makers: dict[str, Callable[[], Surrogate]] = {
        "unet": lambda: unet_surrogate(problem, load_unet("cpu")[0]),
        "varnet": lambda: varnet_surrogate(problem, load_varnet("cpu")[0]),
        "diffusion": lambda: diffusion_surrogate(
            problem, load_prior("cpu")[0], generator=torch.Generator().manual_seed(0)
        ),
    }
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except WeightsError as error:
            print(f"{name} is left out: {error}")
    return made


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of this process, which other load on the machine disturbs less than the clock."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=int, default=96)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    problem = scan(ARMS[1], 0, arguments.matrix).problem
    result = {}
    for name, surrogate in surrogates(problem).items():
        attack = functools.partial(
            worst_case, problem, surrogate, budget=Budget(0.02), n_steps=arguments.steps, n_restarts=1
        )
        with torch.no_grad():
            pass_once = functools.partial(surrogate, problem.kspace[None])
            pass_once()  # computes what is computed once
            forward = statistics.median(cpu_seconds(pass_once) for _ in range(5))
        attack_s = cpu_seconds(functools.partial(attack, generator=torch.Generator().manual_seed(0)))
        ratio = attack_s / forward / arguments.steps
        result[name] = {"forward_s": forward, "attack_s": attack_s, "forward_passes_per_step": ratio}
        print(f"{name:10} forward {forward:.3f} s, {arguments.steps} steps {attack_s:.1f} s: {ratio:.2f} passes a step")
    (Path(__file__).parent / "cost.json").write_text(json.dumps(result | {"matrix": arguments.matrix}, indent=1))


if __name__ == "__main__":
    main()
