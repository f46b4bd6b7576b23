"""What a perturbation is: a frozen set of physical quantities that maps k-space to k-space.

Each field carries a :class:`Parameter`: its meaning, unit, plausible range and where that range comes from, so that
lists, documentation and range checks all read the same facts. A field is a *strength*, whose zero means that this part
of the imperfection is absent, or a *setting*, which says how it comes about (a dwell time, a number of shots).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

import numpy as np

from steadymr.errors import PerturbationError
from steadymr.types import KSpace, PerturbationRecord

Role: TypeAlias = Literal["strength", "setting"]
AnyPerturbation = TypeVar("AnyPerturbation", bound="Perturbation")
OUTSIDE_RANGE = "outside_range"  #: key of a record's parameters, 1.0 where a value lies outside its plausible range


@dataclass(frozen=True, slots=True)
class Parameter:
    """The facts about one field of a perturbation."""

    meaning: str
    unit: str  #: empty for a plain number
    low: float  #: plausible range; of a signed parameter, of its magnitude
    high: float
    source: str  #: where the range comes from
    assumption: bool  #: no measurement or publication stands behind the range
    role: Role
    signed: bool
    whole: bool  #: an integer

    def plausible(self, value: int | float) -> bool:
        """Whether a value lies in the plausible range; the zero of a strength always does."""
        if self.role == "strength" and value == 0:
            return True
        return self.low <= (abs(value) if self.signed else value) <= self.high


def strength(
    meaning: str,
    unit: str,
    plausible: tuple[float, float],
    source: str,
    *,
    assumption: bool = False,
    signed: bool = False,
    whole: bool = False,
) -> Any:
    """Return a dataclass field that measures how strong an imperfection is; its default, zero, is none at all."""
    facts = Parameter(meaning, unit, *plausible, source, assumption, "strength", signed, whole)
    return field(default=0 if whole else 0.0, metadata={"parameter": facts})


def setting(
    default: int | float,
    meaning: str,
    unit: str,
    plausible: tuple[float, float],
    source: str,
    *,
    assumption: bool = False,
    signed: bool = False,
    whole: bool = False,
) -> Any:
    """Return a dataclass field that says how an imperfection comes about."""
    facts = Parameter(meaning, unit, *plausible, source, assumption, "setting", signed, whole)
    return field(default=default, metadata={"parameter": facts})


@dataclass(frozen=True, slots=True)
class Perturbation(ABC):
    """One physical imperfection.

    Calling it leaves its input alone and returns new k-space with the same header. Only acquired samples change, the
    calibration lines among them, which pass through the same receiver. Zero strength returns the data bit for bit.
    A field that is not finite, negative where only a magnitude makes sense, or fractional where a count is meant
    raises :class:`PerturbationError`.
    """

    name: ClassVar[str]  #: as the command line and records spell it
    principal: ClassVar[str]  #: the field that ``NAME=VALUE`` sets
    moves_object: ClassVar[bool] = False  #: compare with a reference only after registering the images
    #: the same in every line, so that full sampling would show it too: what it moves is elsewhere, and not wrong
    distorts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse values that have no physical meaning."""
        for key, facts in parameters_of(type(self)).items():
            check_value(f"{self.name}.{key}", getattr(self, key), facts)

    def __call__(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Return the k-space with this imperfection; all chance comes from ``rng``."""
        return kspace if self.is_zero() else self.perturb(kspace, rng)

    @abstractmethod
    def perturb(self, kspace: KSpace, rng: np.random.Generator) -> KSpace:
        """Do the work of calling, given that some strength differs from zero."""

    def is_zero(self) -> bool:
        """Whether every strength is zero."""
        return all(getattr(self, key) == 0 for key in strengths_of(type(self)))

    def outside_range(self) -> tuple[str, ...]:
        """Return the names of the fields whose values no real scanner is expected to show."""
        facts = parameters_of(type(self))
        return tuple(key for key in facts if not facts[key].plausible(getattr(self, key)))

    def record(self, seed: int) -> PerturbationRecord:
        """Return what travels with the images; ``OUTSIDE_RANGE`` is added where a value is implausible."""
        values = {item.name: float(getattr(self, item.name)) for item in fields(self)}
        mark = {OUTSIDE_RANGE: 1.0} if self.outside_range() else {}
        return PerturbationRecord(name=self.name, parameters=values | mark, seed=seed)


def parameters_of(kind: type[Perturbation]) -> dict[str, Parameter]:
    """Return the facts about each field of a kind of perturbation, in the order of its definition."""
    return {item.name: item.metadata["parameter"] for item in fields(kind)}


def strengths_of(kind: type[Perturbation]) -> tuple[str, ...]:
    """Return the names of the fields whose zeros make the identity."""
    return tuple(key for key, facts in parameters_of(kind).items() if facts.role == "strength")


def at_zero(perturbation: AnyPerturbation) -> AnyPerturbation:
    """Return the same perturbation with every strength zero."""
    kind = type(perturbation)
    zeros = {item.name: item.default for item in fields(kind) if item.name in strengths_of(kind)}
    return replace(perturbation, **zeros)


def check_value(label: str, value: int | float, facts: Parameter) -> None:
    """Raise :class:`PerturbationError` for a value without physical meaning; ``label`` names the field."""
    if not math.isfinite(value):
        raise PerturbationError(f"{label} must be a finite number, got {value}")
    if facts.whole and value != int(value):
        raise PerturbationError(f"{label} is a count and must be a whole number, got {value}")
    if not facts.signed and value < 0:
        raise PerturbationError(f"{label} is a magnitude and must not be negative, got {value}")
