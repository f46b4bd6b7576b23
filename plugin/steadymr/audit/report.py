"""audit.html: one page with the table, the figures and the reconstructions to flick through.

The page loads nothing: pictures are inside it. All text passes through the template's escaping, because file names are
written by strangers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np

from steadymr.audit.attacks import ATTACK_COLUMNS, described
from steadymr.audit.plan import NONE, Cell
from steadymr.audit.table import groups
from steadymr.report import figures

LONGEST_PX = 192
MOST_PICTURES = 1600  #: about 20 MB; slices beyond are left out, and the page says so
DIFFERENCE_MAXIMUM_PERCENT = 20.0  #: of white, where the colours end
SPREAD_MAXIMUM_PERCENT = 20.0  #: of the local tissue signal
MAPS = {"difference": figures.ERROR_COLOURS, "spread": figures.SPREAD_COLOURS}

CAPTIONS = {
    "strength": "PSNR over strength, for each perturbation: mean over slices with its 95 % interval. Strength 0 is the "
    "unperturbed scan. Where no reference is known, PSNR is against the method's own clean image.",
    "equal_norm": "How much the image changes for a change of the data of one and the same norm: crafted, random, or a "
    "real imperfection scaled to it. 1 is what thermal noise of the scan does to that method.",
    "lines": "Where in k-space the images' changes lie that worst cases made, in per cent of their energy; triangles "
    "are the lines that would show them best if they were measured and withheld.",
}


def render(
    content: dict[str, Any], drawn: dict[str, bytes], pictures: Sequence[tuple[Cell, dict[str, np.ndarray]]]
) -> str:
    """Return the page from the content of ``audit.json``, the figures and the pictures of cells.

    The pictures of a cell are named ``perturbation|method|kind``, see `steadymr.audit.rows.Outcome`.
    """
    shown, n_left_out = _within_budget(pictures)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("steadymr", "audit"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figure=_figure, interval=_interval)
    return environment.get_template("audit.html.j2").render(
        content=content,
        methods=[method for (method,), _ in groups(content["summary"], ("method",))],
        points=_points(content["summary"]),
        figures=[(figures.data_uri(png), CAPTIONS[name]) for name, png in drawn.items()],
        viewer=json.dumps(_viewer(shown, content)).replace("<", "\\u003c"),
        has_pictures=bool(shown),
        n_left_out=n_left_out,
        has_truth=any(row["reference"] == "truth" for row in content["rows"]),
        difference_gradient=_gradient(figures.ERROR_COLOURS),
        spread_gradient=_gradient(figures.SPREAD_COLOURS),
        difference_maximum=DIFFERENCE_MAXIMUM_PERCENT,
        spread_maximum=SPREAD_MAXIMUM_PERCENT,
    )


def _within_budget(
    pictures: Sequence[tuple[Cell, dict[str, np.ndarray]]],
) -> tuple[list[tuple[Cell, dict[str, np.ndarray]]], int]:
    """Whole slices, as many as the page can carry, the first one in any case; and how many slices were left out."""
    shown: list[tuple[Cell, dict[str, np.ndarray]]] = []
    n_pictures = n_left_out = 0
    for _, members in groups(
        [{"key": (cell.scan, cell.slice), "one": (cell, held)} for cell, held in pictures], ("key",)
    ):
        cells = [member["one"] for member in members]
        n_here = sum(2 * len(held) for _, held in cells)
        if shown and n_pictures + n_here > MOST_PICTURES:
            n_left_out += 1
            continue
        n_pictures += n_here
        shown.extend(cells)
    return shown, n_left_out


def _viewer(pictures: Sequence[tuple[Cell, dict[str, np.ndarray]]], content: dict[str, Any]) -> dict[str, Any]:
    """What the script of the page chooses from: slices, perturbations, strengths, and pictures by method."""
    palettes = {kind: figures.map_palette(name) for kind, name in MAPS.items()}
    rows = {_address(row): row for row in content["rows"]}
    clean = {(cell.scan, cell.slice): held for cell, held in pictures if cell.strain.perturbation == NONE}
    frames = []
    for cell, held in pictures:
        before = clean.get((cell.scan, cell.slice), {})
        for (perturbation,), members in groups([_named(name) for name in held], ("perturbation",)):
            panels: dict[str, dict[str, Any]] = {}
            for member in members:
                method, image = member["method"], held[member["name"]].astype(np.float32)
                panel = panels.setdefault(method, _figures_of(rows, cell, perturbation, method))
                if member["kind"] == "image":
                    panel |= _image_panels(image, before.get(f"{NONE}|{method}|image"), palettes)
                else:
                    panel["spread"] = _map(image, SPREAD_MAXIMUM_PERCENT, palettes["spread"])
            frames.append(_frame(cell, perturbation) | {"methods": panels})
    return {"frames": frames}


def _frame(cell: Cell, perturbation: str) -> dict[str, Any]:
    strain = cell.strain
    return {
        "slice": f"{cell.scan}, slice {cell.slice}",
        "perturbation": f"{perturbation}, crafted on {strain.attack.title}" if strain.attack else perturbation,
        "strength": strain.strength,
        "unit": strain.unit,
        "parameter": strain.parameter,
    }


def _image_panels(image: np.ndarray, clean: np.ndarray | None, palettes: dict[str, np.ndarray]) -> dict[str, str]:
    panels = {"image": figures.data_uri(figures.grey_png(image, 1.0, _size(image)))}
    if clean is not None:
        percent = 100 * np.abs(image - clean.astype(np.float32))
        panels["difference"] = _map(percent, DIFFERENCE_MAXIMUM_PERCENT, palettes["difference"])
    return panels


def _map(values: np.ndarray, maximum: float, palette: np.ndarray) -> str:
    return figures.data_uri(figures.map_png(values, maximum, palette, _size(values)))


def _size(image: np.ndarray) -> tuple[int, int]:
    return figures.shown_size(image.shape, (float(image.shape[1]), float(image.shape[0])), LONGEST_PX)


def _figures_of(rows: dict[Any, dict[str, Any]], cell: Cell, perturbation: str, method: str) -> dict[str, Any]:
    strain = cell.strain
    attack = strain.attack_columns.values()
    row = rows[(cell.scan, cell.slice, method, perturbation, strain.parameter, strain.strength, *attack)]
    keys = (
        "psnr_db", "ssim", "amplification", "agreement", "n_appeared_since_clean", "n_vanished_since_clean",
        "structure_shown",
    )  # fmt: skip
    return {"figures": {key: row[key] for key in keys}, "outside_range": row["outside_range"]}


def _address(row: dict[str, Any]) -> tuple[Any, ...]:
    keys = ("scan", "slice", "method", "perturbation", "parameter", "strength", *ATTACK_COLUMNS)
    return tuple(row[key] for key in keys)


def _named(name: str) -> dict[str, str]:
    perturbation, method, kind = name.split("|")
    return {"name": name, "perturbation": perturbation, "method": method, "kind": kind}


def _points(summary: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line of the page's table for each perturbation and strength, its methods side by side."""
    keys = ("perturbation", *ATTACK_COLUMNS, "parameter", "unit", "strength")
    return [
        dict(zip(keys, point, strict=True))
        | {
            "attack": described(*(members[0][key] for key in ATTACK_COLUMNS)),
            "outside_range": any(entry["outside_range"] for entry in members),
            "by_method": {entry["method"]: entry for entry in members},
        }
        for point, members in groups(summary, keys)
    ]


def _interval(entry: dict[str, Any] | None, digits: int = 1) -> str:
    """A mean with its interval in brackets; with one slice there is none."""
    if entry is None or entry["mean"] is None:
        return "-"
    mean = f"{entry['mean']:.{digits}f}"
    return mean if entry["n"] < 2 else f"{mean} ({entry['low']:.{digits}f} to {entry['high']:.{digits}f})"


def _figure(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _gradient(palette: str) -> str:
    colours = figures.map_palette(palette)
    stops = [f"rgb({r},{g},{b})" for r, g, b in colours[np.linspace(1, 255, 12).astype(int)]]
    return f"linear-gradient(to right, {', '.join(stops)})"
