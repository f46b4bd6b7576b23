"""The worst miss as a picture: the clean image that lies furthest below its score, with its map and its true error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scans import Case, results

from steadymr.config import Settings
from steadymr.models import load_models
from steadymr.report.figures import overview_png
from steadymr.stability.calibration import Calibration


def write_worst_miss(worst: dict[str, Any], settings: Settings, calibration: Calibration, path: Path) -> None:
    """Reconstruct that scan once more, with all its methods, and draw them with their verdicts."""
    case = Case(**worst["case"])
    path.write_bytes(overview_png(results(case, settings, load_models(settings), calibration)))
