"""summary.json: every figure of a run, as strict JSON that any program can read.

What is unknown is ``null``, never a number: JSON has no NaN, and a score that was not computed has no stand-in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from steadymr.types import SliceResult, StabilityReport, TruthReport, Verdict

WITHOUT_SCORE: tuple[Verdict, ...] = ("uncalibrated", "unscored")


def image_entries(result: SliceResult) -> list[dict[str, Any]]:
    """Return the figures of one volume without its arrays: one entry for each plane along z.

    Score, verdict and truth are those of the whole volume; the median spread is the plane's own.
    """
    index = result.image.index
    shared = {
        **judgement(result.stability),
        "perturbations": [asdict(record) for record in result.image.perturbations],
        "truth": None if result.truth is None else asdict(result.truth),
        "model": None if result.image.model is None else asdict(result.image.model),
        "is_mean_of_samples": result.image.is_mean_of_samples,
        "geometry_assumed": result.image.geometry.assumed,
    }
    where = {"slice": index.slice, **{name: value for name, value in asdict(index).items() if name != "slice"}}
    entries = [
        {
            **where,
            "z": z,
            "method": result.image.method,
            "spread_median_percent": tissue_median(spread),
            "interval_median_percent": _median_of(result.stability.interval_percent, z),
            "sensitivity_median_percent": _median_of(result.stability.sensitivity_percent, z),
            **shared,
        }
        for z, spread in enumerate(result.stability.spread_percent)
    ]
    strict: list[dict[str, Any]] = to_strict(entries)
    return strict


def judgement(stability: StabilityReport) -> dict[str, Any]:
    """Return score, verdict, reasons, evidence and number of trials.

    Without a finite score the verdict is ``uncalibrated`` if it says so itself, and else ``unscored``.
    """
    scored = stability.score is not None and math.isfinite(stability.score) and stability.verdict not in WITHOUT_SCORE
    without: Verdict = "uncalibrated" if stability.verdict == "uncalibrated" else "unscored"
    return {
        "score": stability.score if scored else None,
        "verdict": stability.verdict if scored else without,
        "reasons": list(stability.reasons),
        "agreement": stability.agreement,
        "evidence": dict(stability.evidence),
        "n_samples": stability.n_samples,
        "n_noise_draws": stability.n_noise_draws,
    }


def tissue_median(spread_percent: np.ndarray) -> float | None:
    """Return the median over tissue, which is where the map is finite; None where there is no tissue."""
    tissue = spread_percent[np.isfinite(spread_percent)]
    return float(np.median(tissue)) if tissue.size else None


def _median_of(volume_percent: np.ndarray | None, z: int) -> float | None:
    return None if volume_percent is None else tissue_median(volume_percent[z])


def summarise(
    *,
    images: Sequence[dict[str, Any]],
    version: str,
    input: dict[str, Any],
    settings: dict[str, Any],
    series: Sequence[dict[str, Any]],
    timings_s: dict[str, float],
    warnings: Sequence[str],
    definition: str,
    evidence_meanings: Mapping[str, str] | None = None,
    noise_source: str | None = None,
) -> dict[str, Any]:
    """Return the summary of a run from the entries of :func:`image_entries`, whose arrays may be gone by then.

    ``series`` has one entry for each DICOM series: method, description, n_images, score, verdict, sop_class.
    ``definition`` says in words what the score means, ``evidence_meanings`` what each piece of evidence does.
    """
    summary = {
        "version": version,
        "definition": definition,
        "evidence_meanings": dict(evidence_meanings or {}),
        "input": input,
        "settings": settings,
        "series": [_without_false_score(one) for one in series],
        "truth": mean_truth(images),
        "models": _unique({"method": e["method"], **e["model"]} for e in images if e["model"] is not None),
        "perturbations": _unique(record for entry in images for record in entry["perturbations"]),
        "noise_source": noise_source,
        "geometry_assumed": _unique(entry["geometry_assumed"] for entry in images if entry["geometry_assumed"]),
        "warnings": list(warnings),
        "timings_s": timings_s,
        "images": list(images),
    }
    strict: dict[str, Any] = to_strict(summary)
    return strict


def mean_truth(images: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for each method the mean true error over the images that have a reference; a mean over null is null."""
    means: dict[str, dict[str, Any]] = {}
    for method in _unique(entry["method"] for entry in images):
        truths = [entry["truth"] for entry in images if entry["method"] == method and entry["truth"] is not None]
        if truths:
            means[method] = {name: _mean([truth[name] for truth in truths]) for name in TruthReport.__slots__}
            means[method]["n_images"] = len(truths)
    return means


def to_strict(value: Any) -> Any:
    """Return ``value`` in JSON's own types; what is not finite becomes None.

    Raises:
        TypeError: something that JSON cannot say, which is a mistake of the caller.
    """
    if isinstance(value, Mapping):
        return {str(name): to_strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_strict(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return to_strict(value.tolist())
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"expected what JSON can say, got {type(value).__name__}")


def write(summary: dict[str, Any], path: Path) -> None:
    """Write the summary as indented UTF-8 JSON; odd bytes of a file name are written as escapes."""
    text = json.dumps(to_strict(summary), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _without_false_score(series: dict[str, Any]) -> dict[str, Any]:
    """An unscored or uncalibrated series has no score, whatever was handed in."""
    return {**series, "score": None} if series.get("verdict") in WITHOUT_SCORE else dict(series)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _unique(items: Iterable[Any]) -> list[Any]:
    """Each item once, in order of first appearance; the items need not be hashable."""
    seen: list[Any] = []
    for item in items:
        if item not in seen:
            seen.append(item)
    return seen
