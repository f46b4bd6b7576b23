"""Every perturbation by name, how one is written on a command line, and how several are applied."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from steadymr.errors import PerturbationError
from steadymr.perturb.base import Parameter, Perturbation, check_value, parameters_of
from steadymr.perturb.encode import EchoPhase, GradientDelay, NyquistGhost, OffResonance, SamplingError
from steadymr.perturb.motion import RigidMotion
from steadymr.perturb.receive import (
    CoilFault,
    CoilSensitivityError,
    Converter,
    GainDrift,
    PhaseDrift,
    Spikes,
    ThermalNoise,
    Zipper,
)
from steadymr.types import KSpace, PerturbationRecord

logger = logging.getLogger(__name__)

PERTURBATIONS: Mapping[str, type[Perturbation]] = MappingProxyType(
    {
        "thermal_noise": ThermalNoise,
        "gain_drift": GainDrift,
        "phase_drift": PhaseDrift,
        "coil_fault": CoilFault,
        "coil_sensitivity_error": CoilSensitivityError,
        "spikes": Spikes,
        "zipper": Zipper,
        "adc": Converter,
        "gradient_delay": GradientDelay,
        "off_resonance": OffResonance,
        "nyquist_ghost": NyquistGhost,
        "rigid_motion": RigidMotion,
        "sampling_error": SamplingError,
        "echo_phase": EchoPhase,
    }
)


def build(name: str, parameters: Mapping[str, float]) -> Perturbation:
    """Return the perturbation ``name`` with the given fields; the others keep their defaults.

    An implausible value is built all the same, with a warning in the log, and marked in the record. Raises
    :class:`PerturbationError` for an unknown name or field, saying which exist, and for values without meaning.
    """
    kind = _kind(name)
    facts = parameters_of(kind)
    unknown = sorted(set(parameters) - set(facts))
    if unknown:
        raise PerturbationError(f"{name} has no parameter {unknown[0]!r}; it has {', '.join(facts)}")
    perturbation = kind(**{key: _typed(f"{name}.{key}", value, facts[key]) for key, value in parameters.items()})
    for key in perturbation.outside_range():
        logger.warning(
            "%s.%s = %g %s is outside its plausible range, %g to %g",
            name, key, getattr(perturbation, key), facts[key].unit, facts[key].low, facts[key].high,
        )  # fmt: skip
    return perturbation


def parse(text: str) -> Perturbation:
    """Return the perturbation written as ``NAME.PARAMETER=VALUE`` or, for its principal strength, ``NAME=VALUE``."""
    name, parameter, value = _split(text)
    return build(name, {parameter: value})


def parse_all(texts: Sequence[str]) -> tuple[Perturbation, ...]:
    """Return the perturbations of several such texts; those of one name become one perturbation, at its first place."""
    wanted: dict[str, dict[str, float]] = {}
    for text in texts:
        name, parameter, value = _split(text)
        if parameter in wanted.setdefault(name, {}):
            raise PerturbationError(f"{name}.{parameter} is given twice, the second time as {text!r}; give it once")
        wanted[name][parameter] = value
    return tuple(build(name, parameters) for name, parameters in wanted.items())


def apply(kspace: KSpace, perturbations: Sequence[Perturbation], seed: int) -> KSpace:
    """Return the k-space after all perturbations in turn, each with chance of its own, and one record for each.

    The record's seed alone repeats its perturbation: ``perturbation(kspace, np.random.default_rng(record.seed))``.
    It follows from ``seed`` and the perturbation's place among all that the volume has met. Equal seeds therefore
    give equal noise: give each volume a seed of its own.
    """
    for perturbation in perturbations:
        own_seed = _spawned_seed(seed, place=len(kspace.perturbations))
        changed = perturbation(kspace, np.random.default_rng(own_seed))
        kspace = replace(changed, perturbations=(*kspace.perturbations, perturbation.record(own_seed)))
    return kspace


def repeated(kspace: KSpace, record: PerturbationRecord) -> KSpace:
    """Return the k-space after a perturbation as it was applied to another, with the chance that it had there."""
    kind = _kind(record.name)
    facts = parameters_of(kind)
    values = {key: _typed(key, value, facts[key]) for key, value in record.parameters.items() if key in facts}
    return kind(**values)(kspace, np.random.default_rng(record.seed))


def list_perturbations() -> list[dict[str, object]]:
    """Return every perturbation with its parameters, units, ranges and sources, fit for JSON."""
    return [
        {
            "name": name,
            "summary": summary(kind),
            "principal": kind.principal,
            "moves_object": kind.moves_object,
            "parameters": [
                {
                    "name": key,
                    "meaning": facts.meaning,
                    "unit": facts.unit,
                    "role": facts.role,
                    "default": getattr(kind(), key),
                    "range": [facts.low, facts.high],
                    "signed": facts.signed,
                    "whole": facts.whole,
                    "source": facts.source,
                    "assumption": facts.assumption,
                }
                for key, facts in parameters_of(kind).items()
            ],
        }
        for name, kind in PERTURBATIONS.items()
    ]


def markdown_table() -> str:
    """Return the table of docs/perturbations.md."""
    header = "| name | parameter | unit | plausible range | meaning | source |\n|---|---|---|---|---|---|\n"
    return header + "".join(
        f"| `{name}` | `{key}`{' (principal)' if key == kind.principal else ''} | {facts.unit or '-'} "
        f"| {'±' if facts.signed else ''}{facts.low:g} to {facts.high:g} | {facts.meaning} "
        f"| {facts.source}{' *(working assumption)*' if facts.assumption else ''} |\n"
        for name, kind in PERTURBATIONS.items()
        for key, facts in parameters_of(kind).items()
    )


def summary(kind: type[Perturbation]) -> str:
    """Return the first sentence of a perturbation's documentation."""
    return (kind.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")


def _kind(name: str) -> type[Perturbation]:
    if name not in PERTURBATIONS:
        raise PerturbationError(f"no perturbation is called {name!r}; there are {', '.join(PERTURBATIONS)}")
    return PERTURBATIONS[name]


def _split(text: str) -> tuple[str, str, float]:
    """Return name, parameter and value of ``NAME[.PARAMETER]=VALUE``."""
    target, _, value = (part.strip() for part in text.partition("="))
    name, _, parameter = target.partition(".")
    kind = _kind(name)
    try:
        return name, parameter or kind.principal, float(value)
    except ValueError as error:
        raise PerturbationError(
            f"a perturbation is written NAME=NUMBER or NAME.PARAMETER=NUMBER, for example "
            f"{name}.{kind.principal}=1, got {text!r}"
        ) from error


def _typed(label: str, value: float, facts: Parameter) -> int | float:
    """Return a value fit for its field, 3.0 as 3 where a count is meant."""
    check_value(label, value, facts)
    return int(value) if facts.whole else float(value)


def _spawned_seed(seed: int, place: int) -> int:
    """Return a 31-bit seed, which JSON readers and DICOM integer strings hold exactly."""
    return int(np.random.SeedSequence(seed, spawn_key=(place,)).generate_state(1)[0] >> 1)
