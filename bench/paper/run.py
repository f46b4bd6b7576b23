"""Repeat the paper's protocol on simulated heads: ``python bench/paper/run.py [--quick] [--processes 2]``.

Crafts worst cases on the supervised networks, hands them to every method, and prints which of the paper's four claims
hold here, whichever way they come out; ``result.json`` beside this file holds all figures, ``slices.jsonl`` one line
for each slice. A run that was stopped goes on where it stopped. Quick: 8 slices of 96 x 96; full: 100 of 256 x 256.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from claims import Table, claims, n_fakes, onsets, text
from measure import IMPERFECTIONS, Plan, measure_slice
from protocol import ARMS, Arm, epsilons

from steadymr.executors import local_processes

METHODS = ("classical", "l1_wavelet", "unet", "varnet", "predictor_corrector", "diffusion")


def plan_of(arguments: argparse.Namespace) -> Plan:
    quick = arguments.quick
    return Plan(
        matrix=arguments.matrix or (96 if quick else 256),
        epsilons=tuple(float(eps) for eps in arguments.eps.split(",")) if arguments.eps else tuple(epsilons(quick)),
        n_projections=arguments.projections or (10 if quick else 100),
        methods=tuple(arguments.methods.split(",")),
        surrogates=tuple(arguments.surrogates.split(",")),
        imperfections=("thermal_noise", "rigid_motion") if quick else tuple(IMPERFECTIONS),
        n_samples=2 if quick else 4,  # pairs are how the product samples
        n_levels=20,
        own_weights=tuple((name, path) for name, _, path in (given.partition("=") for given in arguments.weights)),
    )


def finished(path: Path, fingerprint: str) -> dict[tuple[str, int], dict[str, Any]]:
    """What an earlier run of the same plan has measured; a line that was cut off counts for nothing."""
    done = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            one = json.loads(line)
        except json.JSONDecodeError:
            continue
        if one["plan"] == fingerprint:
            done[one["arm"], one["slice"]] = one
    return done


def measure_all(plan: Plan, items: list[tuple[Arm, int]], path: Path, n_processes: int) -> list[dict[str, Any]]:
    identities = plan.load().identities
    facts = json.dumps([dataclasses.asdict(plan), [dataclasses.asdict(identity) for identity in identities]])
    fingerprint = hashlib.sha256(facts.encode()).hexdigest()[:16]
    done = finished(path, fingerprint)
    missing = [(arm, number) for arm, number in items if (arm.name, number) not in done]
    started = time.monotonic()
    with local_processes(n_processes) as executor, path.open("a") as file:
        for count, (_, result) in enumerate(executor.run(measure_slice, ((plan, item) for item in missing)), start=1):
            if result["weights"] != [identity.sha256 for identity in identities]:
                raise SystemExit("the weights were changed during the run; run it again")
            done[result["arm"], result["slice"]] = result
            file.write(json.dumps({"plan": fingerprint} | result) + "\n")
            file.flush()
            print(f"{count} of {len(missing)} slices, {time.monotonic() - started:.0f} s", flush=True)
    return [done[arm.name, number] for arm, number in items]


def print_arm(name: str, table: Table) -> None:
    print(f"\n{name}: PSNR in dB against the truth, mean [95 % interval] over {len(table.numbers)} slices")
    columns = [("clean", "", 0.0)]
    columns += [("gaussian", "", eps) for eps in table.epsilons]
    columns += [("worst_case", source, eps) for source in table.surrogates for eps in table.epsilons]
    columns += [("imperfection", name, 0) for name in table.imperfections]
    for kind, source, eps in columns:
        label = f"{kind} {source} {f'{eps:.0%}' if eps else ''}"
        for method in table.methods:
            psnr = table.mean(kind, source, eps, method, "psnr_db")
            fakes = table.values(kind, source, eps, method, n_fakes).mean()
            line = f"  {label:28} {method:20} {text(psnr):24} fakes {fakes:5.1f}"
            if kind != "clean":
                amplified = table.mean(kind, source, eps, method, "amplification").mean
                kurtosis, centroid = (
                    table.mean(kind, source, eps, method, column).mean for column in ("kurtosis", "centroid")
                )
                line += f"  amplifies {amplified:5.2f}  kurtosis {kurtosis:6.1f}  centroid {centroid:.2f}"
            print(line)


def print_claims(name: str, found: list[dict[str, Any]]) -> None:
    titles = {
        1: "tiny transferred worst cases make diffusion show fake tissue",
        2: "larger ones make artefacts like Gaussian noise, unlike those of supervised networks",
        3: "diffusion is more vulnerable than supervised networks",
        4: "system imperfections may compromise a reconstruction",
    }
    for number, title in titles.items():
        entries = [entry for entry in found if entry["claim"] == number]
        holding = sum(entry["verdict"] == "holds" for entry in entries)
        failing = sum(entry["verdict"] == "fails" for entry in entries)
        print(f"\n{name}, claim {number}, {title}: holds in {holding}, fails in {failing} of {len(entries)}")
        for entry in entries:
            figures = f"{entry['mean']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"
            print(f"  {entry['verdict']:6} {entry['statement']}: {figures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--slices", type=int, help="heads for each way to scan; 100, or with --quick 8")
    parser.add_argument("--matrix", type=int, help="lines and samples; 256, or with --quick 96")
    parser.add_argument("--eps", help="relative norms, separated by commas")
    parser.add_argument("--projections", type=int, help="after how many the ascent stops; 100, or with --quick 10")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--surrogates", default="unet,varnet")
    parser.add_argument("--weights", action="append", default=[], help="of one's own: unet=PATH or varnet=PATH")
    parser.add_argument("--arms", default="0,1,2", help=", ".join(f"{i}: {arm.name}" for i, arm in enumerate(ARMS)))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    plan = plan_of(arguments)
    arms = [ARMS[int(number)] for number in arguments.arms.split(",")]
    numbers = range(arguments.slices or (8 if arguments.quick else 100))
    arguments.out.mkdir(parents=True, exist_ok=True)
    items = [(arm, number) for number in numbers for arm in arms]
    slices = measure_all(plan, items, arguments.out / "slices.jsonl", arguments.processes)
    result: dict[str, Any] = {"plan": dataclasses.asdict(plan), "arms": {}}
    for arm in arms:
        table = Table([one for one in slices if one["arm"] == arm.name])
        found, kinds = claims(table), onsets(table)
        print_arm(arm.name, table)
        print_claims(arm.name, found)
        print(f"\n{arm.name}: from which eps fake structure appears, from which the change looks like noise")
        for entry in kinds:
            print("  " + ", ".join(f"{key} {value}" for key, value in entry.items()))
        result["arms"][arm.name] = {
            "n_slices": len(table.numbers),
            "claims": found,
            "onsets": kinds,
            "psnr_db": {m: dataclasses.asdict(table.mean("clean", "", 0.0, m, "psnr_db")) for m in table.methods},
        }
    if any(arm.n_coils == 1 for arm in arms):
        print("\nThe networks were trained on 4 to 16 coils at R 2 to 8: one coil at R 8 lies outside of that.")
    (arguments.out / "result.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
