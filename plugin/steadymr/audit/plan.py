"""Which cells the table has: one for each slice, perturbation and strength, each with a key and a seed of its own."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from steadymr import perturb
from steadymr.audit.attacks import ATTACK_COLUMNS, Attack
from steadymr.audit.norms import Norm
from steadymr.audit.settings import AuditSettings, WorstCaseSettings
from steadymr.errors import PerturbationError

logger = logging.getLogger(__name__)

NONE = "none"  #: the unperturbed scan
WORST_CASE = "worst_case"
GAUSSIAN = "gaussian_equal_norm"
EQUAL_NORM = "_equal_norm"  #: after a perturbation's name: scaled to the norm of the worst case in the same cell
WORST_CASE_RANGE_PERCENT = (0.1, 8.0)
WORST_CASE_STRENGTHS: Final[dict[Norm, tuple[str, str]]] = {  # name and unit, by norm
    "scan": ("relative_norm_percent", "% of the data's norm"),
    "coil": ("relative_norm_percent", "% of each coil's norm"),
    "maximum": ("relative_maximum_percent", "% of the samples' root mean square"),
}


@dataclass(frozen=True, slots=True)
class Strain:
    """A perturbation at one strength: the first parameter is the one that the table's ``strength`` is the value of."""

    perturbation: str
    parameters: tuple[tuple[str, float], ...] = ()
    attack: Attack | None = None  #: of a worst case

    @property
    def attack_columns(self) -> dict[str, str]:
        """What the table says of a worst case, empty of all others."""
        attack = self.attack
        if attack is None:
            return dict.fromkeys(ATTACK_COLUMNS, "")
        structure = "" if attack.target is None else str(attack.target)
        return dict(zip(ATTACK_COLUMNS, (attack.surrogate, attack.loss, attack.norm, structure), strict=True))

    @property
    def strength(self) -> float:
        """The value of the swept parameter; 0 without perturbation."""
        return self.parameters[0][1] if self.parameters else 0.0

    @property
    def parameter(self) -> str:
        """The name of the swept parameter; empty without perturbation."""
        return self.parameters[0][0] if self.parameters else ""

    @property
    def unit(self) -> str:
        """Of the strength."""
        if self.perturbation == NONE:
            return ""
        if self.attack is not None:
            return WORST_CASE_STRENGTHS[self.attack.norm][1]
        return perturb.parameters_of(perturb.PERTURBATIONS[self.perturbation])[self.parameter].unit

    @property
    def outside_range(self) -> bool:
        """Whether no real scanner is expected to show this."""
        if self.perturbation == WORST_CASE:
            low, high = WORST_CASE_RANGE_PERCENT
            return not low <= self.strength <= high
        return self.perturbation != NONE and bool(self.build().outside_range())

    def build(self) -> perturb.Perturbation:
        """The perturbation itself; not of the worst case, which has to be crafted."""
        return perturb.PERTURBATIONS[self.perturbation](**_typed(self.perturbation, dict(self.parameters)))


@dataclass(frozen=True, slots=True)
class Cell:
    """One strain of one slice."""

    scan: str
    slice: int
    strain: Strain
    seed: int

    @property
    def key(self) -> str:
        """What the cell is known by, the same in every run of the same audit."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:20]


def strains(settings: AuditSettings) -> tuple[Strain, ...]:
    """Every perturbation of the settings at every strength, in their order.

    ``NAME`` sweeps the principal strength over its plausible range, ``NAME.PARAMETER`` that one, ``...=VALUE`` takes
    one strength. ``NAME.PARAMETER=VALUE`` of what is no strength, such as a number of shots, holds for all strengths of
    that name. A strength outside its range is kept, with a warning in the log.

    Raises:
        PerturbationError: an unknown perturbation or parameter, or a value without meaning; says which exist.
    """
    fixed, swept = _parted(settings.perturb)
    found = [strain for text in swept for strain in _strains_of(text, settings, fixed)]
    if len(set(found)) != len(found):
        twice = next(strain for strain in found if found.count(strain) > 1)
        raise PerturbationError(
            f"{twice.perturbation}.{twice.parameter} = {twice.strength:g} is asked for twice; name it once"
        )
    for name in settings.worst_case.equal_norm:
        _principal(name)
    for strain in found:
        _warn(strain)
    return tuple(found)


def _parted(texts: Sequence[str]) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Settings by name of the perturbation, and the strengths that are to be swept; a name with settings alone too."""
    fixed: dict[str, dict[str, float]] = {}
    swept = []
    for text in texts:
        name, _, rest = text.partition(".")
        parameter, equals, value = (part.strip() for part in rest.partition("="))
        facts = perturb.parameters_of(perturb.PERTURBATIONS[name]) if name in perturb.PERTURBATIONS else {}
        if equals and parameter in facts and facts[parameter].role == "setting":
            perturb.parse(text)  # for its refusals
            fixed.setdefault(name, {})[parameter] = float(value)
        else:
            swept.append(text)
    named = {text.partition("=")[0].partition(".")[0].strip() for text in swept}
    return fixed, [*swept, *(name for name in fixed if name not in named)]


def cells(scan: str, slice_number: int, wanted: Sequence[Strain], seed: int) -> tuple[Cell, ...]:
    """The cells of one slice.

    All strengths of one perturbation share a seed, so that they differ in strength and not in chance; so do all worst
    cases crafted on one surrogate. Slices do not.
    """
    return tuple(Cell(scan, slice_number, strain, _seed(scan, slice_number, strain, seed)) for strain in wanted)


def _seed(scan: str, slice_number: int, strain: Strain, seed: int) -> int:
    chance = (strain.perturbation, strain.parameter, strain.parameters[1:], strain.attack_columns["surrogate"])
    text = json.dumps([seed, scan, slice_number, *chance])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def _strains_of(text: str, settings: AuditSettings, fixed: dict[str, dict[str, float]]) -> list[Strain]:
    target, equals, value = (part.strip() for part in text.partition("="))
    if target == WORST_CASE:
        return _worst_cases(text, value if equals else None, settings.worst_case)
    name, _, parameter = target.partition(".")
    parameter = parameter or _principal(name)
    if equals:
        perturb.parse(text)  # for its refusals
    else:
        _principal(name)
    strengths = [float(value)] if equals else _sweep(name, parameter, settings.n_strengths)
    return [Strain(name, ((parameter, strength), *fixed.get(name, {}).items())) for strength in strengths]


def _sweep(name: str, parameter: str, n_strengths: int) -> list[float]:
    """Strengths that halve from the top of the range: 5, 2.5 and 1.25 mm; fewer where they are counted."""
    facts = perturb.parameters_of(perturb.PERTURBATIONS[name])
    if parameter not in facts or facts[parameter].role != "strength":
        strengths = [key for key, one in facts.items() if one.role == "strength"]
        raise PerturbationError(f"{name} has no strength {parameter!r} to sweep; it has {', '.join(strengths)}")
    one = facts[parameter]
    if one.whole:
        low = max(int(one.low), 1)
        step = (one.high - low) / max(n_strengths - 1, 1)
        return sorted(
            {float(round(low + number * step)) for number in range(n_strengths)} if one.high > low else {one.high}
        )
    return [one.high / 2**power for power in reversed(range(n_strengths))]


def _worst_cases(text: str, value: str | None, settings: WorstCaseSettings) -> list[Strain]:
    try:
        percents = settings.strengths_percent if value is None else (float(value),)
    except ValueError as error:
        raise PerturbationError(f"a worst case is written {WORST_CASE}=PERCENT, got {text!r}") from error
    if not all(0 < percent < 100 for percent in percents):
        raise PerturbationError(f"a worst case's norm is above 0 and below 100 per cent of the data's, got {text!r}")
    return [
        Strain(WORST_CASE, ((WORST_CASE_STRENGTHS[attack.norm][0], percent),), attack)
        for attack in settings.attacks
        for percent in percents
    ]


def _principal(name: str) -> str:
    if name not in perturb.PERTURBATIONS:
        known = ", ".join((*perturb.PERTURBATIONS, WORST_CASE))
        raise PerturbationError(f"no perturbation is called {name!r}; there are {known}")
    return perturb.PERTURBATIONS[name].principal


def _typed(name: str, values: dict[str, float]) -> dict[str, int | float]:
    facts = perturb.parameters_of(perturb.PERTURBATIONS[name])
    return {key: int(value) if facts[key].whole else value for key, value in values.items()}


def _warn(strain: Strain) -> None:
    if strain.outside_range:
        logger.warning(
            "%s.%s = %g %s lies outside its plausible range: its rows are marked",
            strain.perturbation, strain.parameter, strain.strength, strain.unit,
        )  # fmt: skip
