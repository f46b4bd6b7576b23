"""Which calibration a run's scores rest on: the one that its settings name, or the one that comes with steadymr."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from steadymr.config import Settings
from steadymr.errors import SettingsError
from steadymr.stability.calibration import Calibration, load
from steadymr.stability.score import DEFINITION_VERSION


def shipped_calibration() -> Path:
    """The file that comes with steadymr, made from simulated heads."""
    return Path(str(resources.files("steadymr") / "calibrations" / "simulated.json"))


def calibration_for(settings: Settings) -> Calibration | None:
    """The calibration of a run; None where no samples are drawn.

    Raises SettingsError if it cannot be read, was changed, or was made for another definition of the score.
    """
    if not settings.samples:
        return None
    path = settings.stability.calibration or shipped_calibration()
    calibration = load(path)
    if calibration.definition != DEFINITION_VERSION:
        raise SettingsError(
            f"the calibration {path} is for definition {calibration.definition} of the score, and this steadymr has "
            f"{DEFINITION_VERSION}: make it again with 'steadymr calibrate'"
        )
    return calibration
