"""Settings: one YAML file and the command line's options become one frozen object; nothing else reads the environment.

Every key has a default, an unknown key is an error. ``configs/replay.yaml`` shows them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from steadymr.errors import SettingsError

Method: TypeAlias = Literal["diffusion", "supervised", "classical"]
DerivedObject: TypeAlias = Literal["overlay", "segmentation", "parametric_map", "structured_report", "key_objects"]
METHODS: tuple[Method, ...] = ("diffusion", "supervised", "classical")
LISTS = ("methods", "perturb", "dicom.objects")  #: settings that hold several values


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AssembleSettings(_Section):
    """How readouts become volumes."""

    averages: Literal["separate", "combine"] = "separate"  #: one image per average, or their mean


class UndersampleSettings(_Section):
    """Retrospective acceleration of a fully sampled scan."""

    acceleration: Annotated[int, Field(ge=1, le=32)] = 1  #: keep every n-th line; 1 keeps all
    calibration_lines: Annotated[int, Field(ge=8)] = 24  #: central lines kept besides


class ClassicalSettings(_Section):
    """CG-SENSE."""

    regularisation: Annotated[float, Field(gt=0)] = 6.0  #: in units of the noise variance over the mean signal power
    iterations: Annotated[int, Field(ge=1, le=500)] = 30


class SupervisedSettings(_Section):
    """U-Net on top of CG-SENSE."""

    weights: Path | None = None  #: None: the ones that come with steadymr


class DiffusionSettings(_Section):
    """Posterior sampling with a diffusion prior."""

    levels: Annotated[int, Field(ge=2, le=1000)] = 20  #: noise levels, one network evaluation each
    sigma_max: Annotated[float, Field(gt=0)] = 0.5  #: first noise level; the image's 99th percentile is 1
    weights: Path | None = None  #: None: the ones that come with steadymr


class StabilitySettings(_Section):
    """When an image is stable. Working assumptions until a calibration replaces them."""

    stable: Annotated[float, Field(ge=0, le=1)] = 0.90  #: scores from here on are "stable"
    review: Annotated[float, Field(ge=0, le=1)] = 0.75  #: scores from here on are for "review", below "unstable"
    noise_draw_share: Annotated[float, Field(ge=0, le=1)] = 0.25  #: share of samples under redrawn noise

    @model_validator(mode="after")
    def _ordered(self) -> StabilitySettings:
        if self.review > self.stable:
            raise ValueError(f"review ({self.review}) must not be above stable ({self.stable})")
        return self


class DicomSettings(_Section):
    """The series that are written."""

    series_number: Annotated[int, Field(ge=1, le=9000)] = 7001  #: of the first series; the others follow
    objects: tuple[DerivedObject, ...] = ()  #: what is made beside each MR series
    region_percent: Annotated[float, Field(gt=0)] = 20.0  #: a region is unstable where samples differ by more


class Settings(_Section):
    """Everything that can be set, with the defaults that ``steadymr replay`` uses."""

    methods: tuple[Method, ...] = METHODS
    samples: int = 8  #: posterior samples per image; 0 draws none and leaves every image unscored
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    perturb: tuple[str, ...] = ()  #: NAME=VALUE or NAME.PARAMETER=VALUE, see ``steadymr list perturbations``
    assemble: AssembleSettings = AssembleSettings()
    undersample: UndersampleSettings = UndersampleSettings()
    classical: ClassicalSettings = ClassicalSettings()
    supervised: SupervisedSettings = SupervisedSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    stability: StabilitySettings = StabilitySettings()
    dicom: DicomSettings = DicomSettings()
    destinations: dict[str, dict[str, Any]] = {}  #: name -> url and options, for ``steadymr send --to NAME``

    @field_validator("samples")
    @classmethod
    def _enough_samples(cls, samples: int) -> int:
        if samples != 0 and not 4 <= samples <= 256:
            raise ValueError("a score needs at least 4 and at most 256 samples, or 0 for none at all")
        return samples

    @field_validator("methods")
    @classmethod
    def _some_methods(cls, methods: tuple[Method, ...]) -> tuple[Method, ...]:
        if not methods or len(set(methods)) != len(methods):
            raise ValueError(f"name each method once, and at least one of {', '.join(METHODS)}")
        return methods

    @model_validator(mode="after")
    def _diffusion_needs_samples(self) -> Settings:
        if self.samples == 0 and "diffusion" in self.methods:
            raise ValueError("the diffusion image is the mean of samples: with samples 0, leave diffusion out")
        return self

    @property
    def n_noise_draws(self) -> int:
        """How many of the samples are drawn under redrawn noise; at least one sample is not."""
        return min(round(self.samples * self.stability.noise_draw_share), max(self.samples - 1, 0))

    def as_dict(self) -> dict[str, Any]:
        """All settings as plain JSON values."""
        return self.model_dump(mode="json")


def load_settings(
    path: Path | None = None, overrides: dict[str, Any] | None = None, *, under: dict[str, Any] | None = None
) -> Settings:
    """Settings from a YAML file, with ``overrides`` (nested as in the file) laid over it, and ``under`` below it.

    Raises
    ------
    SettingsError
        If the file cannot be read, has an unknown key, or a value out of range; the sentence names each of them.
    """
    values = _merged(under or {}, {} if path is None else _read_yaml(path))
    try:
        return Settings.model_validate(_merged(values, overrides or {}))
    except ValidationError as error:
        where = "command line" if path is None else f"{path} or command line"
        raise SettingsError(f"{where}: {_sentences(error)}") from error


def overrides_from_text(wanted: Mapping[str, str]) -> dict[str, Any]:
    """Settings as a Gadgetron chain or a scanner's dialogue gives them: dotted names and text, lists with commas.

    ``{"diffusion.levels": "12", "methods": "classical,diffusion"}`` becomes what a YAML file would hold.
    """
    overrides: dict[str, Any] = {}
    for name, text in wanted.items():
        *sections, key = name.split(".")
        place = overrides
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise SettingsError(f"the setting {name!r} is inside {section!r}, which was given a value of its own")
        place[key] = [part.strip() for part in text.split(",") if part.strip()] if name in LISTS else text
    return overrides


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the config file {path}: {error}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"the config file {path} is not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"the config file {path} should hold keys and values, but holds a {type(values).__name__}")
    return values


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _sentences(error: ValidationError) -> str:
    return "; ".join(_sentence(detail) for detail in error.errors())


def _sentence(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "settings"
    if detail["type"] == "extra_forbidden":
        return f"there is no setting {key!r}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{key}: {message} (got {detail['input']!r})" if detail["loc"] else message
