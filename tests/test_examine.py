"""Evidence on its way through a run: from the scan's sentinels to the summary, the reasons and the report."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scans import write_scan

from steadymr.config import load_settings
from steadymr.pipeline import replay
from steadymr.stability.evidence import EVIDENCE


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("run")
    settings = load_settings(
        None,
        {
            "methods": ["diffusion", "classical"],
            "samples": 4,
            "device": "cpu",
            "diffusion": {"levels": 2},
            "undersample": {"acceleration": 2, "calibration_lines": 12, "sentinels": 2},
            "sentinels": {"use_after_test": True},
            "stability": {
                "max_samples": 4, "tempered": True, "cyclic": True, "vulnerability": {"budget_percent": 1, "draws": 1},
            },
        },
    )  # fmt: skip
    torch.set_num_threads(1)
    summary = replay(write_scan(folder / "full.h5"), folder / "out", settings)
    return summary, (folder / "out" / "report.html").read_text()


def entry(summary: dict[str, Any], method: str) -> dict[str, Any]:
    return next(one for one in summary["images"] if one["method"] == method)


def test_the_summary_lists_all_evidence_of_each_image(run: tuple[dict[str, Any], str]) -> None:
    """Everything that the settings asked for, under the names that have a meaning."""
    there = set(entry(run[0], "classical")["evidence"])
    assert there == set(EVIDENCE) - {"differs_classical", "differs_supervised"}
    assert set(entry(run[0], "diffusion")["evidence"]) == set(EVIDENCE) - {"differs_diffusion", "differs_supervised"}


def test_what_belongs_to_the_plane_is_the_same_for_all_methods(run: tuple[dict[str, Any], str]) -> None:
    """What belongs to an image is its own."""
    one, other = (entry(run[0], method)["evidence"] for method in ("classical", "diffusion"))
    assert one["sentinel"] == other["sentinel"]
    assert one["misfit"] == other["misfit"]
    assert one["residual"] != other["residual"]


def test_the_report_explains_each_number(run: tuple[dict[str, Any], str]) -> None:
    """In a table with meanings."""
    assert "larger is worse" in run[1]
    assert EVIDENCE["misfit"].meaning.split(",")[0] in run[1]


def test_an_image_that_uses_the_sentinels_after_the_test_says_so(run: tuple[dict[str, Any], str]) -> None:
    """Its score is that of the image made without them."""
    for method in ("classical", "diffusion"):
        assert any("uses the sentinel lines too" in reason for reason in entry(run[0], method)["reasons"])
