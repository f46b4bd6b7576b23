"""How good, how honest and how fast the reconstructions are: ``python bench/recon/run.py [--quick] [--json FILE]``.

All methods see the same slices, masks and noise. Every finished slice is written to the JSON file at once; the same
command continues where it was stopped. ``--purpose validation`` is for choosing settings, such as the prior's
temperature; figures are reported on ``test``, by which nothing is chosen. Pictures of the worst slices lie beside the
JSON file. PSNR is of the magnitude inside tissue, the peak being the truth's maximum there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import deepinv_peer
import torch
from contestants import Made, Method, contestants
from pictures import draw
from prices import many_against_one, overhead
from slices import Recipe, Slice, from_file, make, recipes

from steadymr.config import Settings
from steadymr.recon.weights import load_prior
from steadymr.stability.metrics import compare_with_truth

Record = dict[str, Any]


def main() -> None:
    arguments = _arguments()
    n_threads = arguments.threads or torch.get_num_threads()
    torch.set_num_threads(n_threads)
    results = _Results(arguments.json, _conditions(arguments))
    methods = contestants(arguments.temperature, 8, rivals=arguments.rivals)
    peers = _peers(arguments)
    made = recipes(arguments.slices, arguments.purpose, tuple(arguments.matrices), (4, 8))
    for number, recipe in enumerate(made):
        chosen = methods | (peers if number < 2 * arguments.peer_slices else {})
        if missing := {n: m for n, m in chosen.items() if n not in results.slice(recipe.key).get("methods", {})}:
            results.add(recipe.key, judge(make(recipe), recipe, missing))
            print(f"{number + 1}/{len(made)}  {recipe.key}", flush=True)
    if arguments.brain is not None and "brain" not in results.content:
        results.content["brain"] = judge(from_file(arguments.brain, 4, 24), None, methods)
        results.write()
    if "prices" not in results.content:
        results.content["prices"] = prices(arguments.quick)
        results.write()
    report(results.content)
    pictures(results, methods, arguments.pictures)


def judge(slice_: Slice, recipe: Recipe | None, methods: dict[str, Method]) -> Record:
    """All figures of one slice."""
    facts = {} if recipe is None else {"acceleration": recipe.acceleration, "contrast": recipe.contrast}
    facts |= {"matrix": slice_.truth.shape[-1], "residual_of_truth": slice_.residual_of_truth}
    return facts | {"methods": {name: figures(slice_, method(slice_)) for name, method in methods.items()}}


def figures(slice_: Slice, made: Made) -> Record:
    truth, mask = slice_.truth.abs().numpy(), slice_.mask.numpy()
    compared = compare_with_truth(made.mean.abs().numpy(), truth, mask)
    found: Record = {"psnr_db": compared.psnr_db, "ssim": compared.ssim, "seconds": made.seconds, "note": made.note}
    n = len(made.images)
    if n > 1:
        single = compare_with_truth(made.images[0].abs().numpy(), truth, mask)
        squared_error = (made.mean - slice_.truth).abs().square()[slice_.mask].mean()
        # the truth is one more draw: the mean of n misses it by the variance and an n-th of it
        predicted = made.images.var(0)[slice_.mask].mean() * (1 + 1 / n) + slice_.unseen_noise
        found |= {
            "psnr_db_of_one": single.psnr_db,
            "squared_error": float(squared_error),
            "predicted": float(predicted),
        }
    return found


def prices(quick: bool) -> Record:
    network, _ = load_prior("cpu")

    def recipe(matrix: int) -> Recipe:
        return recipes(1, "validation", (matrix,), (4,))[0]

    levels = 5 if quick else 20
    return {
        "overhead": [overhead(network, recipe(matrix), 8, levels) for matrix in ((128,) if quick else (128, 256))],
        "many": many_against_one(network, recipe(64 if quick else 128), levels),
    }


class _Results:
    """The JSON file: written after each slice, continued if its conditions are the same."""

    def __init__(self, path: Path, conditions: Record) -> None:
        self._path = path
        self.content: Record = {"conditions": conditions, "slices": {}}
        if path.is_file():
            before = json.loads(path.read_text())
            if before["conditions"] == conditions:
                self.content = before

    def slice(self, key: str) -> Record:
        found: Record = self.content["slices"].get(key, {})
        return found

    def add(self, key: str, record: Record) -> None:
        methods = self.slice(key).get("methods", {}) | record["methods"]
        self.content["slices"][key] = record | {"methods": methods}
        self.write()

    def write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".part")
        partial.write_text(json.dumps(self.content, indent=1))
        os.replace(partial, self._path)

    def picture(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.stem}_worst_{number}.png")


def report(content: Record) -> None:
    """The tables."""
    records = list(content["slices"].values())
    names = list(dict.fromkeys(name for record in records for name in record["methods"]))
    groups = [(f"R {r}", [one for one in records if one["acceleration"] == r]) for r in (4, 8)]
    for axis in ("contrast", "matrix"):
        values = dict.fromkeys(one[axis] for one in records)
        groups += [(f"R {r} {v}", [one for one in group if one[axis] == v]) for r, group in groups[:2] for v in values]
    groups = [(label.replace("R R", "R"), group) for label, group in groups if group]
    if "brain" in content:
        groups.append(("brain file, R 4", [content["brain"]]))
    for label, group in groups:
        print(f"\n{label}: {len(group)} slices")
        print(f"  {'method':28} {'PSNR':>6} {'worst':>6} {'one':>6} {'SSIM':>6} {'error/s.d.':>10} {'seconds':>8}")
        for name in names:
            if rows := [one["methods"][name] for one in group if name in one["methods"]]:
                print(f"  {name:28} " + _line(rows))
    _verdicts(groups)
    for row in content["prices"]["overhead"]:
        print(f"sampling over its network evaluations, 8 samples, {row['matrix']:.0f}: {row['ratio']:.2f} (<= 1.3)")
    print(f"16 samples against 1: {content['prices']['many']['ratio']:.1f} x (<= 8 on a CPU)")


def _line(rows: list[Record]) -> str:
    one = [row["psnr_db_of_one"] for row in rows if "psnr_db_of_one" in row]
    return (
        f"{_mean(rows, 'psnr_db'):6.2f} {min(row['psnr_db'] for row in rows):6.2f} "
        f"{statistics.mean(one) if one else float('nan'):6.2f} {_mean(rows, 'ssim'):6.3f} "
        f"{_calibration(rows):10.2f} {_mean(rows, 'seconds'):8.2f}"
    )


def _mean(rows: Iterable[Record], key: str) -> float:
    return statistics.mean(row[key] for row in rows)


def _calibration(rows: list[Record]) -> float:
    """RMS error of the mean over the s.d. that the samples predict for it, pooled over slices."""
    rows = [row for row in rows if "predicted" in row]
    if not rows:
        return float("nan")
    return float((sum(row["squared_error"] for row in rows) / sum(row["predicted"] for row in rows)) ** 0.5)


def _verdicts(groups: list[tuple[str, list[Record]]]) -> None:
    print()
    for label, group in groups[:2]:
        wanted = 1.5 if label == "R 4" else 3.0
        gain = _gain(group, "diffusion", "l1-wavelet, best lambda")
        print(f"{label}: diffusion - l1-wavelet {gain:+.2f} dB ({wanted:+})")
        print(f"{label}: fast - quality {_gain(group, 'diffusion, fast', 'diffusion, quality'):+.2f} dB (>= -0.3)")
        if label == "R 4" and all("VarNet" in one["methods"] for one in group):
            for rival in ("CG-SENSE, unregularised", "CG-SENSE, weight 1", "CG-SENSE"):
                print(f"{label}: VarNet - {rival} {_gain(group, 'VarNet', rival):+.2f} dB (+6)")
        calibration = _calibration([one["methods"]["diffusion"] for one in group])
        print(f"{label}: RMS error over predicted s.d. {calibration:.2f} (0.9 to 1.15)")


def _gain(group: list[Record], ours: str, theirs: str) -> float:
    return statistics.mean(one["methods"][ours]["psnr_db"] - one["methods"][theirs]["psnr_db"] for one in group)


def pictures(results: _Results, methods: dict[str, Method], n: int) -> None:
    """Slices where the diffusion image lies furthest behind, or least ahead of, the classical one."""
    scores = {
        key: one["methods"]["diffusion"]["psnr_db"] - one["methods"]["CG-SENSE"]["psnr_db"]
        for key, one in results.content["slices"].items()
    }
    by_key = {recipe.key: recipe for recipe in _all_recipes(results.content["conditions"])}
    for number, key in enumerate(sorted(scores, key=scores.__getitem__)[:n]):
        slice_ = make(by_key[key])
        images = {name: methods[name](slice_).mean for name in ("CG-SENSE", "l1-wavelet, best lambda", "diffusion")}
        draw(results.picture(number), f"{key}: {scores[key]:+.1f} dB over CG-SENSE", slice_.truth, images)


def _all_recipes(conditions: Record) -> list[Recipe]:
    return recipes(conditions["slices"], conditions["purpose"], tuple(conditions["matrices"]), (4, 8))


def _peers(arguments: argparse.Namespace) -> dict[str, Method]:
    if not arguments.peer_slices:
        return {}
    deepinv = deepinv_peer.load(arguments.deepinv)
    if deepinv is None:
        return {}
    return deepinv_peer.peers(deepinv, load_prior("cpu")[0], 8, 50 if arguments.quick else 1000)


def _conditions(arguments: argparse.Namespace) -> Record:
    _, identity = load_prior("cpu")
    return {
        "slices": arguments.slices,
        "matrices": arguments.matrices,
        "purpose": arguments.purpose,
        "temperature": arguments.temperature,
        "prior": identity.sha256,
        "threads": arguments.threads,
        "rivals": arguments.rivals,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 slices of 96 x 96")
    parser.add_argument("--json", type=Path, default=None, help="default: result.json, or quick.json, beside this file")
    parser.add_argument("--slices", type=int, default=None, help="subjects, each at R 4 and 8; default 24")
    parser.add_argument("--matrices", type=int, nargs="+", default=None, help="sizes in turn; default 128 160 128")
    parser.add_argument("--purpose", choices=("test", "validation"), default="test")
    parser.add_argument("--temperature", type=float, default=Settings().diffusion.temperature)
    parser.add_argument("--rivals", action="store_true", help="DDS, DPS and hard projection too")
    parser.add_argument("--deepinv", type=Path, default=None, help="folder of pip install --target, if not installed")
    parser.add_argument("--peer-slices", type=int, default=None, help="subjects for deepinv; default 2, quick 0")
    parser.add_argument("--brain", type=Path, default=None, help="a fully sampled ISMRMRD file")
    parser.add_argument("--pictures", type=int, default=3, help="worst slices to draw")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 for its default")
    arguments = parser.parse_args()
    quick = arguments.quick
    defaults = {
        "slices": 4 if quick else 24,
        "matrices": [96] if quick else [128, 160, 128],
        "peer_slices": 0 if quick else 2,
        "json": Path(__file__).with_name("quick.json" if quick else "result.json"),
    }
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


if __name__ == "__main__":
    main()
