"""The model card that goes with weights: what they are, what they saw, and what was measured."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel
from torch import nn

from steadymr.errors import OutputError
from steadymr.train.data import BankSettings
from steadymr.train.sources import DataSettings

NOTICE: Final = """**Notice.** Tissue maps: ICBM 152 Nonlinear Symmetric 2009a, Copyright (C) 1993-2009 Louis Collins,
McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University. Permission to use, copy, modify,
and distribute them for any purpose and without fee is granted by their licence, provided that this notice appears in
all copies; they come without warranty. V. S. Fonov et al., NeuroImage 47 (2009) S102. The maps themselves are not in
this file."""

DRAWN_FAILURES: Final = (
    "It has seen drawn heads, with or without a few measured ones: no abdomen, spine, heart or joint but a crude knee; "
    "no fat-water shift, flow or susceptibility void; no metal.",
    "Lesions were ellipses of 1.5 to 12 mm. Whether small or faint lesions of other kinds survive was not measured.",
)
OWN_FAILURES: Final = ("It knows the protocols and patients of the files it was trained on, and no others.",)


def write_card(
    weights: Path,
    network: nn.Module,
    config: BaseModel,
    data: DataSettings,
    bank: BankSettings,
    figures: Mapping[str, Any],
    failures: Sequence[str],
) -> Path:
    """Write ``<weights>.md`` beside the weights and return its path.

    Args:
        weights: the file that was written.
        network: what is in it.
        config: all that decided it; printed whole.
        data: where its images came from.
        bank: how many of them, how fine.
        figures: what was measured; numbers, or tables of pairs.
        failures: what is known to go wrong with this kind of network, sentence by sentence.

    Raises:
        OutputError: the card could not be written.
    """
    drawn = data.source == "simulation"
    facts = _facts(weights, network, free=drawn and not data.heads)
    lines = [f"# {weights.stem}", "", *facts, "", "**Data.** " + _data(data, bank), ""]
    lines += ["**Recipe.**", "", "```yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False) + "```", ""]
    lines += ["**Figures.**", "", *_figures(figures), "", "**Known failures.**", ""]
    lines += [f"- {failure}" for failure in (*failures, *(DRAWN_FAILURES if drawn else OWN_FAILURES))]
    lines += ["", NOTICE] if drawn else []
    path = weights.with_suffix(".md")
    try:
        path.write_text("\n".join(lines) + "\n")
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error}") from error
    return path


def _facts(weights: Path, network: nn.Module, free: bool) -> list[str]:
    content = weights.read_bytes()
    n_weights = sum(parameter.numel() for parameter in network.parameters())
    kind = type(network)
    return [
        "| | |",
        "|---|---|",
        f"| file | `{weights.name}`, half precision, {len(content) / 1e6:.1f} MB, {n_weights:,} weights |",
        f"| SHA-256 | `{hashlib.sha256(content).hexdigest()}` |",
        f"| network | `{kind.__module__}.{kind.__name__}` |",
        "| use | research only, not for diagnosis |",
        f"| licence | {'Apache-2.0' if free else 'for the owner of the data to say'} |",
    ]


def _data(data: DataSettings, bank: BankSettings) -> str:
    pixels = f"of {bank.matrix} x {bank.matrix} pixels of {bank.pixel_mm_range[0]} to {bank.pixel_mm_range[1]} mm"
    if data.source == "simulation":
        persons = (
            f"{data.heads_share:.0%} of the slices are bent ones, their contrast changed, through the volumes "
            f"{', '.join(path.name for path in data.heads)}; the others show no person. "
            if data.heads
            else "No image of a person. "
        )
        return (
            f"{persons}{bank.n_slices:,} slices {pixels}, drawn by `steadymr.simulate.anatomy`: subjects "
            f"0 to {bank.n_slices - 1:,} of the purpose `train`; figures on subjects 0 to {bank.n_validation - 1:,} of "
            "the purpose `validation`, all drawn."
        )
    return f"Fully sampled {data.source} scans of a site's own, at most {bank.n_slices:,} slices {pixels}."


def _figures(figures: Mapping[str, Any]) -> list[str]:
    lines = ["| figure | value |", "|---|---|"]
    for name, value in figures.items():
        if isinstance(value, list):
            lines += [f"| {name}, {first} | {second:.4g} |" for first, second in value]
        else:
            lines.append(f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |")
    return lines
