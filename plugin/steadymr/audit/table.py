"""What the rows say together: means with intervals, tests across methods, and what they advise for the protocol."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from steadymr.audit.attacks import ATTACK_COLUMNS
from steadymr.audit.damage import advise
from steadymr.audit.intervals import bootstrap_mean, paired_tests
from steadymr.audit.plan import NONE, WORST_CASE

Row = dict[str, Any]

SUMMARISED = (
    "psnr_db",
    "ssim",
    "nmse",
    "hfen",
    "amplification",
    "nmse_to_clean",
    "n_appeared_since_clean",
    "agreement",
    "structure_shown",
)
GROUP = ("perturbation", "parameter", "unit", *ATTACK_COLUMNS, "strength")  #: what rows of one point of a curve share
BOOTSTRAP_SEED = 0
FEWEST_FOR_A_TEST = 2


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One entry for each perturbation, strength and method: mean and 95 % bootstrap interval over slices."""
    found = []
    for point, members in groups(rows, (*GROUP, "method")):
        entry: Row = dict(zip((*GROUP, "method"), point, strict=True))
        entry["n_slices"] = len(members)
        entry["n_failed"] = sum(bool(row["error"]) for row in members)
        entry["outside_range"] = any(row["outside_range"] for row in members)
        for name in SUMMARISED:
            entry[name] = _interval([row[name] for row in members])
        found.append(entry)
    return found


def tests(rows: Sequence[Row]) -> list[Row]:
    """Paired tests between all methods at each perturbation and strength, of the change that it made.

    The change is the loss of PSNR where the truth is known, else the NMSE to the clean reconstruction.
    """
    clean = {(row["scan"], row["slice"], row["method"]): row["psnr_db"] for row in rows if row["perturbation"] == NONE}
    found: list[Row] = []
    for point, members in groups([row for row in rows if row["perturbation"] != NONE], GROUP):
        with_truth = all(row["reference"] == "truth" for row in members)
        by_method: dict[str, list[float]] = {}
        for row in members:
            before = clean.get((row["scan"], row["slice"], row["method"]))
            value = _loss_db(before, row["psnr_db"]) if with_truth else row["nmse_to_clean"]
            by_method.setdefault(row["method"], []).append(float("nan") if value is None else value)
        if min(len(values) for values in by_method.values()) < FEWEST_FOR_A_TEST:
            continue
        measure = "psnr_loss_db" if with_truth else "nmse_to_clean"
        facts = dict(zip(GROUP, point, strict=True)) | {"measure": measure}
        found.extend(facts | _plain(asdict(test)) for test in paired_tests(by_method))
    return found


def advice(damage: Sequence[Row]) -> list[Row]:
    """For each method and sampling pattern, what worst cases say about the protocol; see `audit.damage.advise`."""
    found = []
    hashable = [entry | {"pattern": tuple(entry["sampled"])} for entry in damage]
    for (method, sampled), members in groups(hashable, ("method", "pattern")):
        energies = [np.asarray(entry["line_energy"]) for entry in members]
        wanted = advise(energies, np.asarray(sampled, dtype=bool))
        regions = np.mean([entry["region_energy"] for entry in members], axis=0)
        found.append(
            {
                "method": method,
                "n_worst_cases": len(members),
                "n_lines": len(sampled),
                "n_sampled": int(sum(sampled)),
                "n_calibration": wanted.n_calibration,
                "sentinels": list(wanted.sentinels),
                "pattern": np.flatnonzero(wanted.sampled).tolist(),
                "line_energy": wanted.line_energy.tolist(),
                "region_energy": regions.tolist(),
            }
        )
    return found


def groups(rows: Iterable[Row], keys: Sequence[str]) -> list[tuple[tuple[Any, ...], list[Row]]]:
    """Rows that share the values of ``keys``, in the order in which these values first appear."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(found.items())


def as_csv(rows: Sequence[Row]) -> str:
    """The table as comma-separated text with a line of names; empty where nothing was measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def warnings(rows: Sequence[Row]) -> list[str]:
    """Sentences that a reader of the table must know."""
    said = []
    if any(row["reference"] != "truth" for row in rows):
        said.append(
            "no reference is known for some scans: their errors are measured against each method's own clean "
            "reconstruction, so they say how far an image moved, not how wrong it was"
        )
    outside = sorted({row["perturbation"] for row in rows if row["outside_range"]})
    if outside:
        said.append(f"some strengths lie outside the plausible range: of {', '.join(outside)}; they are marked")
    for point, members in groups([row for row in rows if row["error"]], ("scan", "perturbation", "error")):
        said.append(f"{point[1]} could not be applied to {point[0]} in {len(members)} rows: {point[2]}")
    if not any(row["perturbation"] == WORST_CASE for row in rows):
        said.append("no worst cases were crafted: nothing here says how bad it can get")
    return said


def _interval(values: Sequence[int | float | None]) -> dict[str, float | int | None]:
    finite = [float("nan") if value is None else float(value) for value in values]
    return _plain(asdict(bootstrap_mean(finite, np.random.default_rng(BOOTSTRAP_SEED))))


def _loss_db(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN."""
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in values.items()
    }
