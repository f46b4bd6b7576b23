"""audit.html: one file that loads nothing, with pictures to flick through and nothing that a file name can break."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from steadymr.audit import report, table
from steadymr.audit.attacks import Attack
from steadymr.audit.figures import all_figures
from steadymr.audit.plan import Cell, Strain
from steadymr.audit.rows import MEASURED

NAME = "<script>alert(1)</script>.h5"
NONE, WORST = Strain("none"), Strain("worst_case", (("relative_norm_percent", 9.0),), Attack("unet"))


def row(cell: Cell, perturbation: str, method: str) -> dict[str, Any]:
    return {
        "scan": cell.scan, "slice": cell.slice, "volume": "slice 0", "method": method, "perturbation": perturbation,
        "parameter": cell.strain.parameter, "strength": cell.strain.strength, "unit": cell.strain.unit,
        **cell.strain.attack_columns, "seed": 0, "outside_range": cell.strain.outside_range,
        "reference": "truth", **dict.fromkeys(MEASURED, 30.0), "error": "",
    }  # fmt: skip


def pictured(n_slices: int) -> list[tuple[Cell, dict[str, np.ndarray]]]:
    image = np.linspace(0, 1, 256, dtype=np.float16).reshape(16, 16)
    cells = [Cell(NAME, number, strain, 0) for number in range(n_slices) for strain in (NONE, WORST)]
    kinds = {"diffusion|image": image, "diffusion|spread": image * 5, "unet|image": image}
    return [(cell, {f"{cell.strain.perturbation}|{name}": one for name, one in kinds.items()}) for cell in cells]


def content(pictures: list[tuple[Cell, dict[str, np.ndarray]]]) -> dict[str, Any]:
    rows = [row(cell, cell.strain.perturbation, method) for cell, _ in pictures for method in ("unet", "diffusion")]
    damage = [
        {"method": "unet", "sampled": [1, 0] * 8, "line_energy": [1 / 16] * 16, "region_energy": [1 / 16] * 16}
    ]  # fmt: skip
    return {
        "rows": rows, "summary": table.summarise(rows), "tests": table.tests(rows), "damage": damage,
        "advice": table.advice(damage), "warnings": table.warnings(rows),
        "settings": {"audit": {}, "reconstruction": {}},
        "scans": [{"name": NAME, "sha256": "0" * 64}], "models": [], "version": "1",
    }  # fmt: skip


def page_of(n_slices: int) -> str:
    pictures = pictured(n_slices)
    facts = content(pictures)
    return report.render(facts, all_figures(facts), pictures)


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(2)


def viewer(page: str) -> list[dict[str, Any]]:
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    frames: list[dict[str, Any]] = json.loads(data)["frames"]
    return frames


def test_the_page_loads_nothing(page: str) -> None:
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_a_file_name_cannot_break_the_page(page: str) -> None:
    assert "<script>alert" not in page
    assert viewer(page)[0]["slice"] == f"{NAME}, slice 0"


def test_every_reconstruction_can_be_flicked_through(page: str) -> None:
    frames = viewer(page)
    assert [(frame["perturbation"], frame["strength"]) for frame in frames] == [
        ("none", 0.0), ("worst_case, crafted on unet", 9.0)
    ] * 2  # fmt: skip
    for frame in frames:
        assert {name: set(panel) & {"image", "difference", "spread"} for name, panel in frame["methods"].items()} == {
            "diffusion": {"image", "difference", "spread"}, "unet": {"image", "difference"}
        }  # fmt: skip


def test_what_lies_outside_its_range_says_so(page: str) -> None:
    assert "outside its range" in page
    assert [panel["outside_range"] for frame in viewer(page)[:2] for panel in frame["methods"].values()] == [
        False, False, True, True
    ]  # fmt: skip


def test_slices_beyond_what_a_page_can_carry_are_left_out_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_PICTURES", 25)
    small = page_of(4)
    assert len(viewer(small)) == 4
    assert "2 more slices are left out" in small


def test_a_page_without_pictures_says_so() -> None:
    facts = content(pictured(1))
    assert "No pictures were kept" in report.render(facts, {}, [])


def test_means_have_intervals_and_methods_are_compared_in_pairs() -> None:
    facts = content(pictured(6))
    worst = next(entry for entry in facts["summary"] if entry["perturbation"] == "worst_case")
    assert (worst["n_slices"], worst["psnr_db"]["n"], worst["psnr_db"]["low"]) == (6, 6, 30.0)
    (test,) = facts["tests"]
    assert (test["first"], test["second"], test["measure"], test["p_value"]) == (
        "unet",
        "diffusion",
        "psnr_loss_db",
        1.0,
    )
