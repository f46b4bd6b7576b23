"""From rows to figures: rank correlations, areas under the curve, coverage, alarms; and the table that shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scans import observation
from scipy import stats

from steadymr.calibrate import fit
from steadymr.stability.calibration import LIKENESS, WITNESSES, Calibration, Judgement, judge
from steadymr.stability.fit import Observation
from steadymr.stability.intervals import missed_at

METHOD = "diffusion"
DAMAGE_DB = 1.0
MIXED = ("clean", "noise", "imperfection", "attack")  #: scans whose scores are ranked together
SMALLEST_GROUP = 10  #: images of a condition; the coverage of fewer says nothing
TARGETS = {
    "Spearman, clean, pooled": 0.95,
    "Spearman, clean, within R = 4": 0.90,
    "AUROC, worst tenth": 0.97,
    "coverage of the bound, worst condition": 0.87,
    "pixel coverage, worst condition": 0.88,
    "Spearman, clean, noisy, imperfect and attacked": 0.90,
    "imperfections with damage flagged": 0.95,
    "cost over the bare reconstruction": 1.5,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """One image with what the calibration says of it."""

    case: dict[str, Any]
    image: dict[str, Any]
    found: Observation
    judged: Judgement | None  #: None where it is uncalibrated

    @property
    def score(self) -> float:
        return np.nan if self.judged is None else self.judged.score

    @property
    def strangeness(self) -> float:
        return np.nan if self.judged is None else self.judged.strangeness


def figures(rows: Sequence[dict[str, Any]], calibration: Calibration) -> dict[str, Any]:
    """Every figure of the table, for the diffusion images."""
    seen = {n: [one for row in rows for one in _seen(row, calibration, n)] for n in (0, 2, 4)}
    clean = [one for one in seen[4] if one.case["kind"] == "clean"]
    judged = [one for one in clean if one.judged is not None]
    found: dict[str, Any] = {
        "n images": len(seen[4]),
        "n clean": len(clean),
        "n uncalibrated, clean": len(clean) - len(judged),
    }
    found |= _ranking(judged) | _coverage(judged)
    damage = _damage(seen[4])
    for n in (0, 2, 4):
        found |= _attacks(seen[n], damage, n)
        mixed = [one for one in seen[n] if one.judged is not None and one.case["kind"] in MIXED]
        found[_pooled_name(n)] = _spearman([one.score for one in mixed], [one.found.ssim for one in mixed])
    found |= _imperfections(seen[4], damage) | _lesions(seen[4]) | _cost(rows)
    found["baselines"] = {name: _baseline(seen[4], judged, value) for name, value in BASELINES.items()}
    found["ablation"] = {}
    found["refused"] = [row["case"] | {"why": row["refused"]} for row in rows if "refused" in row]
    found["worst miss"] = _worst_miss(judged)
    return found


#: Each piece alone, as a guess at the error.
BASELINES: dict[str, Callable[[Seen], float]] = {
    "voxel variance": lambda one: one.image["spread"],
    "pairwise SSIM of samples": lambda one: one.found.evidence.get("differing_samples", np.nan),
    "residual": lambda one: one.found.evidence.get("residual", np.nan),
    "cyclic consistency": lambda one: one.found.evidence.get("cyclic", np.nan),
    "supervised against diffusion": lambda one: one.found.evidence.get("differs_supervised", np.nan),
    "agreement, uncalibrated": lambda one: 1 - one.found.agreement,
    "tempering": lambda one: one.found.evidence.get("tempering", np.nan),
    "sentinel lines": lambda one: one.found.evidence.get("sentinel", np.nan),
}


def table(found: dict[str, Any]) -> str:
    """The figures, with what must be reached where that is set."""
    lines = [f"{'figure':68} {'measured':>9} {'target':>7}"]
    for name, value in found.items():
        if isinstance(value, int | float):
            target = next((goal for begin, goal in TARGETS.items() if name.startswith(begin)), None)
            lines.append(f"{name:68} {value:9.3f} {'' if target is None else f'{target:7.2f}'}")
    for part in ("baselines", "ablation"):
        for name, values in found[part].items():
            words = ", ".join(f"{key} {value:.2f}" for key, value in values.items())
            lines.append(f"{part[:-1] if part == 'baselines' else part} {name}: {words}")
    return "\n".join(lines)


def _seen(row: dict[str, Any], calibration: Calibration, n_sentinels: int) -> list[Seen]:
    return [_judged(row["case"], image, calibration, n_sentinels) for image in _of(row)]


def _judged(case: dict[str, Any], image: dict[str, Any], calibration: Calibration, n: int) -> Seen:
    found = observation(case, image, n)
    judged = judge(calibration, found.conditions, found.agreement, found.evidence)
    return Seen(case, image, found, judged if isinstance(judged, Judgement) else None)


def _ranking(judged: Sequence[Seen]) -> dict[str, float]:
    at_four = [one for one in judged if one.case["acceleration"] == 4]
    return {
        "Spearman, clean, pooled": _spearman([o.score for o in judged], [o.found.ssim for o in judged]),
        "Spearman, clean, within R = 4": _spearman([o.score for o in at_four], [o.found.ssim for o in at_four]),
        "AUROC, worst tenth": _auroc_worst([-o.score for o in judged], [o.found.ssim for o in judged]),
    }


def _coverage(judged: Sequence[Seen]) -> dict[str, float]:
    covered = [float(one.found.ssim >= one.score) for one in judged]
    pixels = [1 - _missed(one) for one in judged]
    groups = _conditions(judged)
    found = {"coverage of the bound, all": _mean(covered), "pixel coverage, all": _mean(pixels)}
    by_bound = {name: _mean([covered[i] for i in members]) for name, members in groups.items()}
    by_pixel = {name: _mean([pixels[i] for i in members]) for name, members in groups.items()}
    found |= {f"coverage of the bound, {name}": value for name, value in by_bound.items()}
    found["coverage of the bound, worst condition"] = min(by_bound.values(), default=np.nan)
    found["pixel coverage, worst condition"] = min(by_pixel.values(), default=np.nan)
    return found


def _conditions(judged: Sequence[Seen]) -> dict[str, list[int]]:
    """Images by acceleration, by number of coils and by noise (quarters): the conditions of the table."""
    groups: dict[str, list[int]] = {}
    noise = [one.found.conditions.noise_sd for one in judged]
    edges = np.quantile(noise, (0.25, 0.5, 0.75)) if noise else []
    for number, one in enumerate(judged):
        quarter = int(np.searchsorted(edges, noise[number]))
        names = (
            f"R = {one.case['acceleration']}",
            f"{one.found.conditions.n_coils} coils",
            f"noise quarter {quarter + 1}",
        )
        for name in names:
            groups.setdefault(name, []).append(number)
    return {name: members for name, members in sorted(groups.items()) if len(members) >= SMALLEST_GROUP}


def _missed(one: Seen) -> float:
    """Share of tissue pixels outside their interval."""
    return missed_at(one.found.misses, one.judged.interval_scale if one.judged is not None else 0.0)


def _damage(seen: Sequence[Seen]) -> dict[tuple[Any, ...], float]:
    """PSNR of the clean image of each subject and acceleration, in dB."""
    return {
        (one.case["subject"], one.case["acceleration"]): one.image["psnr_db"]
        for one in seen
        if one.case["kind"] == "clean"
    }


def _damaged(seen: Sequence[Seen], clean_db: dict[tuple[Any, ...], float], **wanted: Any) -> list[Seen]:
    chosen = [one for one in seen if all(one.case[name] == value for name, value in wanted.items())]
    return [
        one
        for one in chosen
        if clean_db.get((one.case["subject"], one.case["acceleration"]), -np.inf) - one.image["psnr_db"] > DAMAGE_DB
    ]


def _attacks(seen: Sequence[Seen], clean_db: dict[tuple[Any, ...], float], n: int) -> dict[str, float]:
    """Share flagged of those that did damage, and how many did."""
    found: dict[str, float] = {}
    for kind in ("attack", "adaptive", "all knowing"):
        for strength in sorted({one.case["strength"] for one in seen if one.case["kind"] == kind}):
            damaged = _damaged(seen, clean_db, kind=kind, strength=strength)
            name = f"{kind}, eps {100 * strength:g} %, {n} sentinels"
            found[f"{name}: n with damage"] = len(damaged)
            found[f"{name}: flagged"] = _flagged(damaged)
            found[f"{name}: flagged at 5 % of these clean scans"] = _above(damaged, _level(seen))
    found[f"false alarms, {n} sentinels"] = _flagged([one for one in seen if one.case["kind"] == "clean"])
    return found


def _flagged(seen: Sequence[Seen]) -> float:
    return _mean([float(one.judged.alarm is not None) for one in seen if one.judged is not None])


def _level(seen: Sequence[Seen]) -> float:
    """The strangeness that one in 20 of these clean scans exceeds: a point of the ROC, not the product's level."""
    clean = sorted(one.strangeness for one in seen if one.case["kind"] == "clean" and one.judged is not None)
    return clean[-1 - len(clean) // 20] if clean else np.nan


def _above(seen: Sequence[Seen], level: float) -> float:
    return _mean([float(one.strangeness > level) for one in seen if one.judged is not None])


def _imperfections(seen: Sequence[Seen], clean_db: dict[tuple[Any, ...], float]) -> dict[str, float]:
    damaged = _damaged(seen, clean_db, kind="imperfection")
    found = {"imperfections with damage": float(len(damaged)), "imperfections with damage flagged": _flagged(damaged)}
    found["imperfections with damage flagged at 5 % of these clean scans"] = _above(damaged, _level(seen))
    for name in sorted({one.case["name"] for one in damaged}):
        found[f"imperfection {name} flagged"] = _flagged([one for one in damaged if one.case["name"] == name])
    return found


def _lesions(seen: Sequence[Seen]) -> dict[str, float]:
    lesions = [one for one in seen if one.case["kind"] == "lesion" and one.judged is not None]
    return {
        "lesions absent from training: covered by the bound": _mean([float(o.found.ssim >= o.score) for o in lesions])
    }


def _cost(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds for score and maps over those of sampling and reconstructing; the optional evidence is in it."""
    ratios = []
    for row in rows:
        for image in row["images"][-1:]:
            seconds = image["seconds"]
            bare = sum(seconds.get(name, 0.0) for name in ("samples", "diffusion", "supervised", "classical"))
            ratios.append(1 + (seconds.get("evidence", 0.0) + seconds.get("stability", 0.0)) / max(bare, 1e-9))
    return {"cost over the bare reconstruction, tempering included": float(np.median(ratios)) if ratios else np.nan}


def _baseline(seen: Sequence[Seen], judged: Sequence[Seen], value: Callable[[Seen], float]) -> dict[str, float]:
    mixed = [one for one in seen if one.case["kind"] in MIXED]
    return {
        "clean": _spearman([-value(one) for one in judged], [one.found.ssim for one in judged]),
        "pooled": _spearman([-value(one) for one in mixed], [one.found.ssim for one in mixed]),
        "AUROC": _auroc_worst([value(one) for one in judged], [one.found.ssim for one in judged]),
    }


def ablation(rows: Sequence[dict[str, Any]], seen: Sequence[Observation]) -> dict[str, dict[str, float]]:
    """What is left when one piece of evidence is taken away before calibrating: rank, attacks and false alarms."""
    found = {}
    for name in ("", *dict.fromkeys((*LIKENESS, *WITNESSES))):
        if name and not any(name in one.evidence for one in seen):
            continue
        less = fit([_without(one, name) for one in seen if one.conditions.method == METHOD], "less")
        judged = [_judged(row["case"], _image_without(image, name), less, 4) for row in rows for image in _of(row)]
        clean_db = _damage(judged)
        mixed = [one for one in judged if one.judged is not None and one.case["kind"] in MIXED]
        found["with all" if not name else f"without {name}"] = {
            "pooled Spearman": _spearman([one.score for one in mixed], [one.found.ssim for one in mixed]),
            "attacks": _flagged(_damaged(judged, clean_db, kind="attack")),
            "imperfections": _flagged(_damaged(judged, clean_db, kind="imperfection")),
            "false alarms": _flagged([one for one in judged if one.case["kind"] == "clean"]),
        }
    return found


def _of(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [image for image in row["images"] if image["conditions"]["method"] == METHOD]


def _without(one: Observation, name: str) -> Observation:
    return replace(one, evidence={key: value for key, value in one.evidence.items() if key != name})


def _image_without(image: dict[str, Any], name: str) -> dict[str, Any]:
    less = {n: {key: v for key, v in one.items() if key != name} for n, one in image["evidence"].items()}
    return image | {"evidence": less}


def _worst_miss(judged: Sequence[Seen]) -> dict[str, Any]:
    """The clean image that lies furthest below its score."""
    if not judged:
        return {}
    worst = max(judged, key=lambda one: one.score - one.found.ssim)
    return {"case": worst.case, "score": worst.score, "ssim": worst.found.ssim}


def _pooled_name(n: int) -> str:
    return f"Spearman, clean, noisy, imperfect and attacked, {n} sentinels"


def _spearman(one: Sequence[float], other: Sequence[float]) -> float:
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if np.isfinite(a) and np.isfinite(b)]
    if len(pairs) < 3 or len({a for a, _ in pairs}) < 2:
        return float("nan")
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)


def _auroc_worst(suspicion: Sequence[float], ssim: Sequence[float]) -> float:
    """Chance that one of the worst tenth is more suspicious than another image."""
    if len(ssim) < 10 or not np.isfinite(suspicion).all():
        return float("nan")
    bad = np.zeros(len(ssim), bool)
    bad[np.argsort(ssim)[: len(ssim) // 10]] = True
    values = np.asarray(suspicion)
    statistic = stats.mannwhitneyu(values[bad], values[~bad]).statistic
    return float(statistic / (bad.sum() * (~bad).sum()))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
