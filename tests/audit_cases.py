"""Small audits for tests: scans of 40 by 40, few cells, no network unless it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scans import write_scan

from steadymr.audit import run
from steadymr.audit.baseline import Job
from steadymr.audit.scans import check_files
from steadymr.audit.settings import load_audit_settings
from steadymr.executors import Executor, Inline

N = 40


def job(acceleration: int = 2, **audit: Any) -> Job:
    """Classical reconstructions of two perturbations, unless ``audit`` says otherwise."""
    wanted = {"methods": ["classical"], "perturb": ["thermal_noise=2", "rigid_motion"], "n_strengths": 2, **audit}
    of_scans = {
        "undersample": {"acceleration": acceleration, "calibration_lines": 16}, "diffusion": {"levels": 2},
        "samples": 4,
    }  # fmt: skip
    return Job(*load_audit_settings(None, wanted, of_scans, quick=False))


def scan(folder: Path, **changes: Any) -> Path:
    """A fully sampled scan, if not said otherwise of two slices."""
    return write_scan(folder / "scan.h5", **{"n_slices": 2, "n": N, **changes})


def audited(paths: list[Path], out: Path, wanted: Job, executor: Executor | None = None) -> dict[str, Any]:
    """Run an audit in this process."""
    return run.audit(check_files(tuple(paths)), out, wanted, executor or Inline())


def of(rows: list[dict[str, Any]], perturbation: str) -> list[dict[str, Any]]:
    """The rows of one perturbation."""
    return [row for row in rows if row["perturbation"] == perturbation]
