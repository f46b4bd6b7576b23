"""Figures of an audit: what each perturbation costs, what is amplified, and where worst cases do their damage."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from steadymr.audit.attacks import ATTACK_COLUMNS, described
from steadymr.audit.plan import EQUAL_NORM, GAUSSIAN, NONE, WORST_CASE
from steadymr.audit.table import groups

Entry = dict[str, Any]

N_COLUMNS = 3
DOTS_PER_INCH = 100


def all_figures(content: dict[str, Any]) -> dict[str, bytes]:
    """PNG files by name: ``strength`` and, where worst cases were crafted, ``equal_norm`` and ``lines``."""
    figures = {"strength": curves(content["summary"], "psnr_db", "PSNR, dB")}
    if any(entry["perturbation"] == WORST_CASE for entry in content["summary"]):
        figures["equal_norm"] = equal_norm(content["summary"])
    if content["advice"]:
        figures["lines"] = damage_by_line(content["advice"])
    return figures


def curves(summary: Sequence[Entry], measure: str, label: str) -> bytes:
    """One panel for each perturbation: a measure over strength, a line for each method, with intervals."""
    swept = [entry for entry in summary if entry["perturbation"] != NONE and not _scaled(entry["perturbation"])]
    clean = {entry["method"]: entry[measure]["mean"] for entry in summary if entry["perturbation"] == NONE}
    panels = groups(swept, ("perturbation", "parameter", "unit", *ATTACK_COLUMNS))
    figure, axes = _grid(len(panels))
    for axis, ((name, parameter, unit, *attack), entries) in zip(axes, panels, strict=False):
        _draw_curves(axis, entries, measure, clean)
        axis.set_title(f"{name}, crafted on\n{described(*attack)}" if attack[0] else name, fontsize=10)
        axis.set_xlabel(unit if attack[0] else f"{parameter}, {unit}" if unit else parameter, fontsize=9)
        axis.set_ylabel(label, fontsize=9)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    if panels:
        axes[0].legend(fontsize=8)
    return _png(figure)


def equal_norm(summary: Sequence[Entry]) -> bytes:
    """Amplification, in units of the thermal noise, of worst cases and of other changes of equal norm."""
    wanted = [entry for entry in summary if entry["perturbation"] == WORST_CASE or _scaled(entry["perturbation"])]
    strongest = {
        attack: max(entry["strength"] for entry in members) for attack, members in groups(wanted, ATTACK_COLUMNS)
    }
    panels = groups(
        [one for one in wanted if one["strength"] == strongest[tuple(one[key] for key in ATTACK_COLUMNS)]],
        (*ATTACK_COLUMNS, "strength", "unit"),
    )
    figure, axes = _grid(len(panels), wide=True)
    for axis, ((*attack, strength, unit), entries) in zip(axes, panels, strict=False):
        _draw_bars(axis, entries)
        axis.set_title(f"crafted on {described(*attack)}, {strength:g} {unit}", fontsize=10)
        axis.set_ylabel("amplification, thermal noise = 1", fontsize=9)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    axes[0].legend(fontsize=8)
    return _png(figure)


def damage_by_line(advice: Sequence[Entry]) -> bytes:
    """Where in k-space the changes lie that worst cases made, method by method, beside the lines acquired."""
    figure, axes = _grid(len(advice))
    for axis, entry in zip(axes, advice, strict=False):
        energy = 100 * np.asarray(entry["line_energy"])
        lines = np.arange(len(energy)) - len(energy) // 2
        axis.bar(lines, energy, width=1.0, color="#0a6c9b")
        sentinels = np.asarray(entry["sentinels"], dtype=int)
        axis.plot(sentinels - len(energy) // 2, energy[sentinels], "v", color="#b0241c", label="best sentinels")
        axis.set_title(entry["method"], fontsize=10)
        axis.set_xlabel("phase-encoding line", fontsize=9)
        axis.set_ylabel("energy of the change, %", fontsize=9)
    for axis in axes[len(advice) :]:
        axis.set_axis_off()
    axes[0].legend(fontsize=8)
    return _png(figure)


def _draw_curves(axis: Any, entries: Sequence[Entry], measure: str, clean: dict[str, float | None]) -> None:
    for (method,), points in groups(entries, ("method",)):
        known = [(0.0, clean.get(method), None, None)] if points[0]["parameter"] != "bits" else []
        known += [(one["strength"], *(one[measure][key] for key in ("mean", "low", "high"))) for one in points]
        drawn = sorted(point for point in known if point[1] is not None)
        if not drawn:
            continue
        strength, mean = [point[0] for point in drawn], [point[1] for point in drawn]
        (line,) = axis.plot(strength, mean, "o-", markersize=3, linewidth=1.2, label=method)
        bounded = [point for point in drawn if point[2] is not None]
        low, high = ([point[number] for point in bounded] for number in (2, 3))
        axis.fill_between([point[0] for point in bounded], low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def _draw_bars(axis: Any, entries: Sequence[Entry]) -> None:
    kinds = [kind for (kind,), _ in groups(entries, ("perturbation",))]
    methods = groups(entries, ("method",))
    for number, kind in enumerate(kinds):
        means = [_mean_of(members, kind) for _, members in methods]
        place = np.arange(len(methods)) + (number - (len(kinds) - 1) / 2) * 0.8 / len(kinds)
        axis.bar(place, means, width=0.8 / len(kinds), label=kind)
    axis.axhline(1.0, color="#59636e", linewidth=0.8, linestyle=":")
    axis.set_xticks(np.arange(len(methods)), [method for (method,), _ in methods], fontsize=8)


def _mean_of(entries: Sequence[Entry], kind: str) -> float:
    means = [entry["amplification"]["mean"] for entry in entries if entry["perturbation"] == kind]
    return float(means[0]) if means and means[0] is not None else 0.0


def _scaled(perturbation: str) -> bool:
    return perturbation == GAUSSIAN or perturbation.endswith(EQUAL_NORM)


def _grid(n_panels: int, *, wide: bool = False) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_columns = 1 if wide else min(N_COLUMNS, max(n_panels, 1))
    n_rows = max(-(-n_panels // n_columns), 1)
    figure = Figure(figsize=(11 if wide else 3.7 * n_columns, 2.9 * n_rows), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(n_rows, n_columns, squeeze=False).ravel())


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
