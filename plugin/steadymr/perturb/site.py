"""A site model: the imperfections one kind of scanner is expected to show, with ranges to draw from.

Shipped models live in ``configs/site``; a wheel carries them in ``steadymr/perturb/sites``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from steadymr.errors import PerturbationError, SettingsError
from steadymr.perturb.base import Perturbation, parameters_of
from steadymr.perturb.catalogue import PERTURBATIONS, build

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Range(BaseModel):
    """Where a value is drawn from: evenly, or evenly in its logarithm."""

    model_config = _STRICT
    low: float
    high: float
    scale: Literal["uniform", "log-uniform"] = "uniform"

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"low must not exceed high, and both must be finite, got {self.low} and {self.high}")
        if self.scale == "log-uniform" and self.low <= 0:
            raise ValueError(f"a log-uniform range needs low > 0, got {self.low}")
        return self

    def draw(self, rng: np.random.Generator) -> float:
        """Return one value."""
        if self.scale == "uniform":
            return float(rng.uniform(self.low, self.high))
        return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))


class Imperfection(BaseModel):
    """One perturbation of a site: how often a scan shows it, and its parameters, fixed or drawn."""

    model_config = _STRICT
    probability: float = Field(default=1.0, ge=0.0, le=1.0)
    parameters: dict[str, float | Range] = {}


class SiteModel(BaseModel):
    """A named set of perturbations with ranges; the keys are the names of the catalogue, applied in this order."""

    model_config = _STRICT
    name: str
    description: str
    perturbations: dict[str, Imperfection]


def load(path_or_name: str | Path) -> SiteModel:
    """Return a site model from a YAML file, or a shipped one by name.

    Raises :class:`SettingsError` when there is no such model, when the file is not a site model, or when it names a
    perturbation, a parameter or a value that does not exist.
    """
    path = shipped().get(str(path_or_name), Path(path_or_name))
    try:
        site = SiteModel.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(
            f"no site model {str(path_or_name)!r}: it is no readable file, and shipped are {', '.join(shipped())}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        raise SettingsError(f"{path} is not a site model: {_first_line(error)}") from error
    try:
        _check(site)
    except PerturbationError as error:
        raise SettingsError(f"{path} is not a site model: {error}") from error
    return site


def shipped() -> dict[str, Path]:
    """Return the site models that come with steadymr, by name."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "sites", here.parents[3] / "configs" / "site"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def draw(site: SiteModel, rng: np.random.Generator) -> tuple[Perturbation, ...]:
    """Return the imperfections of one scan, drawn from the site's ranges.

    Every range is drawn from whether or not its imperfection shows, so that a change of one probability leaves the
    other draws as they were.
    """
    drawn = [(item, rng.random(), name, _values(name, item, rng)) for name, item in site.perturbations.items()]
    return tuple(build(name, values) for item, chance, name, values in drawn if chance < item.probability)


def _values(name: str, imperfection: Imperfection, rng: np.random.Generator) -> dict[str, float]:
    values = {
        key: value.draw(rng) if isinstance(value, Range) else value for key, value in imperfection.parameters.items()
    }
    whole = {key for key, facts in parameters_of(PERTURBATIONS[name]).items() if facts.whole}
    return {key: float(round(value)) if key in whole else value for key, value in values.items()}


def _check(site: SiteModel) -> None:
    """Build both ends of every range once, for the refusals and warnings that this brings."""
    for name, imperfection in site.perturbations.items():
        for end in ("low", "high"):
            build(name, {key: _end(value, end) for key, value in imperfection.parameters.items()})


def _end(value: float | Range, end: Literal["low", "high"]) -> float:
    return float(getattr(value, end)) if isinstance(value, Range) else value


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = min(
            error.errors(), key=lambda item: item["type"] != "value_error"
        )  # our own words, where there are any
        return f"{'.'.join(str(step) for step in first['loc']) or 'top level'}: {first['msg']}"
    return " ".join(str(error).split())
