"""What an audit does: the section ``audit`` of its config file, whose other keys are settings of a replay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from steadymr.audit.attacks import Attack
from steadymr.config import Settings, load_settings
from steadymr.errors import SettingsError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WorstCaseSettings(_Section):
    """How worst cases are crafted, see `steadymr.audit.attack`."""

    attacks: tuple[Attack, ...] = (Attack("varnet"), Attack("unet"))
    strengths_percent: tuple[float, ...] = (1.0, 2.0, 4.0)  #: norm of the perturbation, in per cent of the data's
    n_steps: Annotated[int, Field(ge=1, le=2000)] = 50
    n_restarts: Annotated[int, Field(ge=1, le=20)] = 2
    equal_norm: tuple[str, ...] = ("phase_drift", "rigid_motion", "spikes")  #: imperfections scaled to the same norm

    @field_validator("attacks")
    @classmethod
    def _some(cls, attacks: tuple[Attack, ...]) -> tuple[Attack, ...]:
        if not attacks:
            raise ValueError("name at least one attack, such as {surrogate: unet}, or take worst_case out of perturb")
        return attacks

    @field_validator("strengths_percent")
    @classmethod
    def _positive(cls, strengths: tuple[float, ...]) -> tuple[float, ...]:
        if not strengths or not all(0 < strength <= 100 for strength in strengths):
            raise ValueError("strengths are per cent of the data's norm, above 0 and at most 100")
        return strengths


class AuditSettings(_Section):
    """Which cells the table has."""

    methods: tuple[str, ...] = ("classical", "l1_wavelet", "unet", "varnet", "diffusion", "predictor_corrector")
    perturb: tuple[str, ...] = (
        "thermal_noise", "gain_drift", "phase_drift", "coil_fault", "coil_sensitivity_error", "spikes", "zipper",
        "adc", "gradient_delay", "off_resonance", "nyquist_ghost", "rigid_motion", "sampling_error", "echo_phase",
        "worst_case",
    )  # fmt: skip
    n_strengths: Annotated[int, Field(ge=1, le=20)] = 3  #: of each perturbation that is named without a value
    slices: Annotated[int, Field(ge=0)] = 8  #: of each scan, evenly spread; 0 takes all
    pictured_slices: Annotated[int, Field(ge=0)] = 4  #: slices, over all scans, whose images are kept for the page
    unet_weights: Path | None = None  #: None: those that come with steadymr
    varnet_weights: Path | None = None
    worst_case: WorstCaseSettings = WorstCaseSettings()


QUICK: dict[str, Any] = {
    "methods": ["classical", "unet", "varnet", "diffusion"],
    "perturb": ["thermal_noise", "phase_drift", "spikes", "rigid_motion", "gradient_delay", "worst_case"],
    "slices": 2,
    "pictured_slices": 2,
    "worst_case": {
        "attacks": [{"surrogate": "varnet"}],
        "n_steps": 20,
        "n_restarts": 1,
        "equal_norm": ["rigid_motion"],
    },
}
QUICK_SAMPLES = 4
SIMULATED_ACCELERATION = 4  #: of simulated scans, which are made fully sampled, if nothing else is asked for


def load_audit_settings(
    path: Path | None,
    overrides: dict[str, Any],
    replay_overrides: dict[str, Any],
    *,
    quick: bool,
    simulated: bool = False,
) -> tuple[AuditSettings, Settings]:
    """Settings of the audit and of the reconstructions: quick ones, under the file's, under the command line's.

    ``simulated`` says that there are simulated scans, which are to be accelerated.

    Raises :class:`SettingsError` for what does not exist or is out of range.
    """
    from_file = {} if path is None else _read(path)
    of_audit = from_file.pop("audit", None) or {}
    if not isinstance(of_audit, dict):
        raise SettingsError(f"the section audit of {path} should hold keys and values, but holds {of_audit!r}")
    under: dict[str, Any] = {"samples": QUICK_SAMPLES} if quick else {}
    if simulated:
        under["undersample"] = {"acceleration": SIMULATED_ACCELERATION}
    where = "command line" if path is None else f"{path} or command line"
    try:
        settings = load_settings(None, _laid_over(from_file, replay_overrides), under=under)
        values = _laid_over(_laid_over(QUICK if quick else {}, of_audit), overrides)
        return AuditSettings.model_validate(values), settings
    except SettingsError as error:
        raise SettingsError(str(error).replace("command line", where, 1)) from error
    except ValidationError as error:
        raise SettingsError(f"{where}: {'; '.join(_sentence(detail) for detail in error.errors())}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"cannot read the config file {path}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict | None):
        raise SettingsError(f"the config file {path} should hold keys and values, but holds a {type(values).__name__}")
    return values or {}


def _laid_over(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _laid_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _sentence(detail: Any) -> str:
    key = ".".join(["audit", *(str(part) for part in detail["loc"])])
    if detail["type"] == "extra_forbidden":
        return f"there is no setting {key!r}"
    return f"{key}: {str(detail['msg']).removeprefix('Value error, ')} (got {detail['input']!r})"
