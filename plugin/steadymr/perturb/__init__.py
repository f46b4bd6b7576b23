"""Modelled imperfections of a scanner, each a function from k-space to k-space, chosen by name and applied in turn."""

from __future__ import annotations

from steadymr.perturb.base import OUTSIDE_RANGE, Parameter, Perturbation, at_zero, parameters_of, strengths_of
from steadymr.perturb.catalogue import (
    PERTURBATIONS,
    apply,
    build,
    list_perturbations,
    markdown_table,
    parse,
    parse_all,
    summary,
)

__all__ = [
    "OUTSIDE_RANGE",
    "PERTURBATIONS",
    "Parameter",
    "Perturbation",
    "apply",
    "at_zero",
    "build",
    "list_perturbations",
    "markdown_table",
    "parameters_of",
    "parse",
    "parse_all",
    "strengths_of",
    "summary",
]
