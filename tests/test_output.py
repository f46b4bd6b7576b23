"""Results appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from steadymr.errors import OutputError
from steadymr.output import written_aside


def test_results_appear_under_their_names(tmp_path: Path) -> None:
    """After success the folder holds the new entries and nothing else."""
    with written_aside(tmp_path / "out") as aside:
        (aside / "dicom").mkdir()
        (aside / "dicom" / "1.dcm").write_text("new")
        assert not (tmp_path / "out" / "dicom").exists()
    assert (tmp_path / "out" / "dicom" / "1.dcm").read_text() == "new"
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["dicom"]


def test_a_failure_leaves_the_old_results(tmp_path: Path) -> None:
    """What was there before is there after, to the byte."""
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "old.dcm").write_text("old")
    with pytest.raises(ZeroDivisionError), written_aside(tmp_path) as aside:  # noqa: PT012 - the failure is in the body
        (aside / "dicom").mkdir()
        _ = 1 / 0
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["dicom", "dicom/old.dcm"]


def test_new_results_replace_old_ones_whole(tmp_path: Path) -> None:
    """No file of an earlier run stays among the new ones."""
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "old.dcm").write_text("old")
    with written_aside(tmp_path) as aside:
        (aside / "dicom").mkdir()
        (aside / "dicom" / "new.dcm").write_text("new")
    assert [path.name for path in (tmp_path / "dicom").iterdir()] == ["new.dcm"]


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    """Files of other names are left alone."""
    (tmp_path / "notes.txt").write_text("mine")
    with written_aside(tmp_path) as aside:
        (aside / "summary.json").write_text("{}")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    """The path and the system's reason are in it."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file/out"), written_aside(tmp_path / "file" / "out"):
        pass
