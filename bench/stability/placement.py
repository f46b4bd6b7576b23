"""Which sentinel lines see a transferred worst case, how many it takes, and what they cost in scan time.

Simulated heads of the validation purpose, undersampled, attacked through a supervised surrogate and reconstructed by
posterior sampling. All lines of the full scan are at hand, so every line and every choice of lines is tried on the
same reconstructions; only held-out lines need reconstructions of their own.

    python bench/stability/placement.py --quick
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from steadymr.assemble import assemble
from steadymr.audit.attack import attacked, worst_case
from steadymr.audit.norms import Budget
from steadymr.audit.surrogates import unet_surrogate, varnet_surrogate
from steadymr.recon import methods, withheld
from steadymr.recon.noise import complex_normal
from steadymr.recon.problem import Problem, prepare, receiver_channels
from steadymr.recon.weights import load_prior, load_unet, load_varnet
from steadymr.sentinels import calibration_block, hold_out, place
from steadymr.simulate.scan import simulate_scan
from steadymr.source.replay import open_scan
from steadymr.types import KSpace
from steadymr.undersample import undersample

BUDGETS = (0.01, 0.02)
COUNTS = (1, 2, 3, 4, 6)
N_DRAWS = 20  #: of each random choice of lines
FALSE_ALARMS = 0.05


@dataclass(frozen=True)
class Settings:
    n_slices: int
    matrix: int
    acceleration: int
    n_calibration: int
    n_coils: int
    signal_to_noise: float
    n_samples: int
    n_levels: int
    n_steps: int
    n_restarts: int
    surrogate: str
    with_random: bool  #: random changes of the same norm as well


@dataclass(frozen=True)
class Slice:
    """One slice with all its lines, and the same as an accelerated protocol would have it."""

    full: KSpace
    scan: KSpace
    problem: Problem
    truth: np.ndarray


def slices(settings: Settings) -> Iterator[Slice]:
    pixel_mm = 220 / settings.matrix
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(settings.n_slices):
            path = Path(folder) / f"{seed}.h5"
            simulate_scan(
                path, seed=seed, purpose="validation", n_coils=settings.n_coils, pixel_mm=pixel_mm, acceleration=1,
                matrix=(settings.matrix, settings.matrix), signal_to_noise=settings.signal_to_noise, contrast=None,
            )  # fmt: skip
            with open_scan(path) as scan:
                (full,) = assemble(scan.readouts(), scan.header)
            yield _slice(full, undersample(full, settings.acceleration, settings.n_calibration))


def _slice(full: KSpace, scan: KSpace) -> Slice:
    (problem,) = prepare(scan)
    return Slice(full, scan, problem, methods.fully_sampled(full, problem).abs().numpy())


def line_statistics(one: Slice, problem: Problem, samples: torch.Tensor) -> np.ndarray:
    """Of every line, as if it had been measured and withheld, what it adds to the statistic; shape (2, line).

    The sum of its weighted deviations and that of the weights, see `withheld.deviation_by_pattern`.
    """
    everything = replace(one.full, sampled=np.zeros_like(one.full.sampled), sentinel=np.ones_like(one.full.sampled))
    sentinels = withheld.sentinels_of(everything, problem)
    assert sentinels is not None
    predicted = withheld.predicted_lines(problem, samples, sentinels.lines)
    by_line = withheld.deviation_by_pattern(sentinels.kspace, predicted, problem.noise_sd)
    return np.stack([by_line.total.numpy(), by_line.weight.numpy()])


def statistic(by_line: np.ndarray, lines: Sequence[int] | np.ndarray) -> np.ndarray:
    """What the alarm listens to, with some of the lines as sentinels, from shape (slice, 2, line)."""
    total, weight = by_line[..., lines].sum(-1).T
    return total / weight


def psnr_db(image: torch.Tensor, truth: np.ndarray) -> float:
    inside = truth > 0.1
    return float(10 * np.log10(truth.max() ** 2 / np.mean((image.abs().numpy() - truth)[inside] ** 2)))


def conditions(one: Slice, surrogate: Callable, settings: Settings, seed: int) -> Iterator[tuple[str, Problem]]:
    """The scan as it is, with the worst changes, and with random ones of the same norm."""
    problem = one.problem
    yield "clean", problem
    for budget in BUDGETS:
        generator = torch.Generator().manual_seed(seed)
        found = worst_case(
            problem, surrogate, budget=Budget(budget), generator=generator, n_steps=settings.n_steps,
            n_restarts=settings.n_restarts,
        )  # fmt: skip
        yield f"worst {100 * budget:g} %", attacked(problem, found)
    if settings.with_random:
        noise = complex_normal(tuple(problem.kspace.shape), generator, problem.kspace.device) * problem.sense.mask
        noise *= BUDGETS[-1] * problem.kspace.norm() / noise.norm()
        yield f"random {100 * BUDGETS[-1]:g} %", attacked(problem, noise)


def placements(sampled: np.ndarray, calibrated: np.ndarray) -> dict[str, Callable[[int, np.random.Generator], list]]:
    """Ways to choose n of the lines that are not sampled."""
    n_k1 = len(sampled)
    free = np.flatnonzero(~sampled & ~calibrated)
    block = np.flatnonzero(calibration_block(calibrated))
    beyond = np.where(free > block[-1], free - block[-1], np.where(free < block[0], block[0] - free, 10**6))
    nearest = free[np.argsort(beyond, kind="stable")]
    weight = 1.0 / (1 + np.abs(free - n_k1 // 2))
    return {
        "first gaps, both sides": lambda n, rng: list(nearest[:n]),
        "first gaps and some at random (--sentinels)": lambda n, rng: place(sampled, calibrated, n, rng),
        "random, 1/(1+distance)": lambda n, rng: list(rng.choice(free, n, replace=False, p=weight / weight.sum())),
        "random, uniform": lambda n, rng: list(rng.choice(free, n, replace=False)),
        "edge of k-space": lambda n, rng: list(nearest[::-1][:n]),
    }


def auc(clean: np.ndarray, other: np.ndarray) -> float:
    """Probability that one of ``other`` lies above one of ``clean``."""
    higher = (other[:, None] > clean[None]).mean() + 0.5 * (other[:, None] == clean[None]).mean()
    return float(higher)


def flagged(clean: np.ndarray, other: np.ndarray) -> float:
    """Share of ``other`` above the level that one clean scan in twenty exceeds."""
    return float((other > np.quantile(clean, 1 - FALSE_ALARMS)).mean())


def measure(settings: Settings, held_out: int) -> dict:
    prior, _ = load_prior("cpu", None)
    network = load_varnet("cpu", None)[0] if settings.surrogate == "varnet" else load_unet("cpu", None)[0]
    surrogate_of = varnet_surrogate if settings.surrogate == "varnet" else unet_surrogate
    statistics: dict[str, list[np.ndarray]] = {}
    psnr: dict[str, list[float]] = {}
    p_values: list[float] = []
    held: dict[str, list[float]] = {}
    held_psnr: dict[str, list[float]] = {}
    for seed, one in enumerate(slices(settings)):
        started = time.perf_counter()
        surrogate = surrogate_of(one.problem, network)
        for name, problem in conditions(one, surrogate, settings, seed):
            samples = _samples(problem, prior, settings, seed)
            statistics.setdefault(name, []).append(line_statistics(one, problem, samples))
            psnr.setdefault(name, []).append(psnr_db(samples.mean(0), one.truth))
            if name == "clean":
                p_values.append(_p_value(one, problem, samples, seed))
        if held_out:
            withheld = hold_out(one.scan, held_out, np.random.default_rng(seed))
            other = _slice(one.full, withheld)
            for name, problem in conditions(other, surrogate_of(other.problem, network), settings, seed):
                samples = _samples(problem, prior, settings, seed)
                lines = np.flatnonzero(withheld.sentinel.any(0))
                by_line = line_statistics(other, problem, samples)
                held.setdefault(name, []).append(float(statistic(by_line[None], lines)[0]))
                held_psnr.setdefault(name, []).append(psnr_db(samples.mean(0), other.truth))
        print(f"slice {seed + 1} of {settings.n_slices}: {time.perf_counter() - started:.0f} s", flush=True)
    return {
        "settings": vars(settings),
        "sampled": np.flatnonzero(one.scan.sampled.any(0)).tolist(),
        "calibrated": np.flatnonzero(calibration_block(one.scan.calibrated.any(0))).tolist(),
        "statistics": {name: np.stack(values).tolist() for name, values in statistics.items()},
        "psnr_db": psnr,
        "p_values_clean": p_values,
        "held_out": {"n": held_out, "statistics": held, "psnr_db": held_psnr},
    }


def _samples(problem: Problem, prior: Callable, settings: Settings, seed: int) -> torch.Tensor:
    return methods.posterior_samples(
        problem, prior, n_samples=settings.n_samples, n_noise_draws=0, n_levels=settings.n_levels,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def _p_value(one: Slice, problem: Problem, samples: torch.Tensor, seed: int) -> float:
    """Of the clean scan, with the product's own three lines."""
    sampled, calibrated = one.scan.sampled.any(0), one.scan.calibrated.any(0)
    lines = np.zeros_like(one.full.sampled)
    lines[:, place(sampled, calibrated, 3, np.random.default_rng(seed))] = True
    sentinels = withheld.sentinels_of(replace(one.full, sampled=one.full.sampled & ~lines, sentinel=lines), problem)
    assert sentinels is not None
    found = withheld.sentinel_evidence(
        problem, sentinels, samples, receiver_channels(one.scan), torch.Generator().manual_seed(seed)
    )
    return float(found.places["sentinel"].split()[2])


def table(measured: dict) -> list[dict]:
    """AUC for each placement and number of lines, and the share flagged of worst cases that cost more than 1 dB."""
    statistics = {name: np.array(values) for name, values in measured["statistics"].items()}
    n_k1 = statistics["clean"].shape[-1]
    sampled, calibrated = np.zeros((2, n_k1), bool)
    sampled[measured["sampled"]], calibrated[measured["calibrated"]] = True, True
    rows = []
    for name, choose in placements(sampled, calibrated).items():
        for n in COUNTS:
            chosen = [choose(n, np.random.default_rng(draw)) for draw in range(N_DRAWS)]
            row = {"placement": name, "lines": n, "scan_time_percent": 100 * n / int(sampled.sum())}
            for condition, values in statistics.items():
                if condition == "clean":
                    continue
                damaged = _damaged(measured["psnr_db"], condition)
                pairs = [(statistic(statistics["clean"], c), statistic(values, c)) for c in chosen]
                row[f"auc {condition}"] = float(np.mean([auc(*pair) for pair in pairs]))
                row[f"flagged {condition}"] = (
                    float(np.mean([flagged(clean, other[damaged]) for clean, other in pairs]))
                    if damaged.any()
                    else None
                )
            rows.append(row)
    return rows


def single_lines(measured: dict) -> list[dict]:
    """AUC of each line on its own, by its distance from zero frequency."""
    statistics = {name: np.array(values) for name, values in measured["statistics"].items()}
    clean = statistics["clean"]
    n_k1 = clean.shape[-1]
    free = [k for k in range(n_k1) if k not in measured["sampled"]]
    worst = [name for name in statistics if name.startswith("worst")]
    return [
        {
            "ky": k - n_k1 // 2,
            **{name: auc(statistic(clean, [k]), statistic(statistics[name], [k])) for name in worst},
        }
        for k in sorted(free, key=lambda k: abs(k - n_k1 // 2))
    ]


def _damaged(psnr: dict[str, list[float]], condition: str) -> np.ndarray:
    """Worst cases count if they cost more than 1 dB; random changes all count."""
    loss = np.array(psnr["clean"]) - np.array(psnr[condition])
    return loss > 1 if condition.startswith("worst") else np.ones(len(loss), bool)


def show(measured: dict, rows: list[dict], lines: list[dict]) -> None:
    psnr = measured["psnr_db"]
    print("\nPSNR, dB: " + ", ".join(f"{name} {np.mean(values):.1f}" for name, values in psnr.items()))
    conditions_ = [name for name in measured["statistics"] if name != "clean"]
    counts = ", ".join(f"{name}: {int(_damaged(psnr, name).sum())}" for name in conditions_)
    print(f"slices that lost more than 1 dB, for 'flagged': {counts} of {len(psnr['clean'])}\n")
    print("| placement | lines | scan time | " + " | ".join(f"AUC {c} (flagged)" for c in conditions_) + " |")
    print("|" + "---|" * (3 + len(conditions_)))
    for row in rows:
        cells = [f"{row[f'auc {c}']:.2f} ({_percent(row[f'flagged {c}'])})" for c in conditions_]
        print(
            f"| {row['placement']} | {row['lines']} | +{row['scan_time_percent']:.0f} % | " + " | ".join(cells) + " |"
        )
    print("\none line alone, AUC:")
    for line in lines:
        print(f"  ky {line['ky']:4d}  " + "  ".join(f"{n} {v:.2f}" for n, v in line.items() if n != "ky"))
    held = measured["held_out"]
    if held["n"]:
        clean = np.array(held["statistics"]["clean"])
        cells = [f"{name} {auc(clean, np.array(v)):.2f}" for name, v in held["statistics"].items() if name != "clean"]
        cost = np.mean(psnr["clean"]) - np.mean(held["psnr_db"]["clean"])
        print(
            f"\n{held['n']} acquired lines held out: AUC " + ", ".join(cells) + f"; they cost the image {cost:.1f} dB"
        )
    p_values = np.sort(measured["p_values_clean"])
    print(f"\np-values of clean scans, three lines: below 0.1 {np.mean(p_values < 0.1):.2f}, below 0.5 "
          f"{np.mean(p_values < 0.5):.2f}, mean {p_values.mean():.2f}")  # fmt: skip


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 slices of 96 x 96 instead of 48 of 128 x 128")
    parser.add_argument("--surrogate", choices=("unet", "varnet"), default="unet")
    parser.add_argument("--slices", type=int)
    parser.add_argument("--held-out", type=int, default=0, metavar="N", help="try N held-out lines as well")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    asked = parser.parse_args()
    quick = Settings(16, 96, 4, 16, 6, 40.0, 8, 10, 10, 1, asked.surrogate, False)
    full = Settings(48, 128, 4, 24, 8, 40.0, 8, 20, 30, 3, asked.surrogate, True)
    settings = quick if asked.quick else full
    settings = replace(settings, n_slices=asked.slices or settings.n_slices)
    measured = measure(settings, asked.held_out)
    rows, lines = table(measured), single_lines(measured)
    show(measured, rows, lines)
    asked.out.write_text(json.dumps({"measured": measured, "placements": rows, "single_lines": lines}, indent=1))


if __name__ == "__main__":
    main()
