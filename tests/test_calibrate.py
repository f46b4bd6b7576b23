"""Making a calibration: from a site's own scans, never over one in use, and the one that is shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from calibrations import CONDITIONS, calibration_of, small_prior
from commands import run_steadymr
from scans import accelerated_lines, write_scan

from steadymr import calibrate as calibrating
from steadymr.calibrate import calibrate_scans, refuse_in_use, subjects
from steadymr.config import Settings, load_settings
from steadymr.errors import SettingsError
from steadymr.pipeline import replay
from steadymr.recon.weights import weights_folder
from steadymr.stability.calibration import Calibration, write
from steadymr.stability.notebook import write_notebook
from steadymr.volume.judging import calibration_for, shipped_calibration


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("site")


def settings(folder: Path, **stability: Any) -> Settings:
    prior = folder / "tiny.safetensors"
    wanted = {
        "methods": ["classical"],
        "samples": 4,
        "diffusion": {"levels": 2, "weights": str(prior if prior.exists() else small_prior(prior))},
        "undersample": {"calibration_lines": 12},
        "stability": {"anatomy": "head", "max_samples": 4, **stability},
    }
    return load_settings(None, wanted)


def test_a_calibration_of_own_scans_scores_the_next_one(folder: Path) -> None:
    """Sixteen slices with their truth make a file; a scan of the same kind then has a score."""
    full = write_scan(folder / "full.h5", n_slices=16, n=32)
    calibrate_scans([full], settings(folder), folder / "site.json", accelerations=(2,))
    fast = write_scan(folder / "fast.h5", n=32, lines=accelerated_lines(32, 2, 12))
    content = replay(fast, folder / "out", settings(folder, calibration=str(folder / "site.json")))
    (series,) = content["series"]
    assert 0 <= series["score"] <= 1
    assert series["verdict"] in {"stable", "review", "unstable"}


def test_a_run_that_was_broken_off_goes_on_from_its_notebook(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on disk is not reconstructed again, a line that was cut off is; the calibration is the same."""
    scans = [write_scan(folder / f"half{n}.h5", n_slices=8, n=32) for n in (1, 2)]
    book, made = folder / "book.jsonl", []

    def observe(path: Path, *rest: Any) -> Any:
        made.append(path.name)
        return real(path, *rest)

    def run(name: str) -> Calibration:
        monkeypatch.setattr(calibrating, "_observe_file", observe)
        return calibrate_scans(scans, settings(folder), folder / name, accelerations=(2,), notebook=book)

    real = calibrating._observe_file
    whole = run("whole.json")
    kept = book.read_text().split("\n")
    book.write_text("\n".join(kept[:-2]) + "\n" + kept[-2][:1000])
    again = run("again.json")
    assert made == ["half1.h5", "half2.h5", "half2.h5"]
    assert (whole.sha256, book.read_text()) == (again.sha256, "\n".join(kept))


def test_a_notebook_of_other_scans_is_refused(folder: Path) -> None:
    """Observations of another recipe would be taken for ours."""
    write_notebook(folder / "other.jsonl", {"scans": ["other.h5"]}, {})
    (folder / "text.jsonl").write_text("notes of mine")
    for name, words in (("other.jsonl", "with other scans or settings"), ("text.jsonl", "should hold observations")):
        with pytest.raises(SettingsError, match=words):
            calibrate_scans(
                [folder / "any.h5"], settings(folder), folder / "x.json", accelerations=(2,), notebook=folder / name
            )
    assert not (folder / "x.json").exists()


def test_too_few_scans_make_no_calibration(folder: Path) -> None:
    """The command says how many there are and how many it needs; nothing is written."""
    full = write_scan(folder / "one.h5", n=32)
    with pytest.raises(SettingsError, match="needs 15 images of each acceleration, but of classical images at R = 2"):
        calibrate_scans([full], settings(folder), folder / "few.json", accelerations=(2,))
    assert not (folder / "few.json").exists()


def test_a_calibration_in_use_is_not_overwritten(folder: Path) -> None:
    """Neither the one that the config names nor the shipped one."""
    for path in (folder / "mine.json", shipped_calibration()):
        with pytest.raises(SettingsError, match="is in use"):
            refuse_in_use(path, settings(folder, calibration=str(folder / "mine.json")))
    refuse_in_use(folder / "new.json", settings(folder, calibration=str(folder / "mine.json")))


def test_a_calibration_of_another_definition_is_refused(folder: Path) -> None:
    """A score that was defined otherwise has another meaning."""
    old = Calibration(calibration_of(60).methods, "drawn numbers", "1", "0.0.0")
    write(old, folder / "old.json")
    with pytest.raises(SettingsError, match="is for definition 1 of the score"):
        calibration_for(settings(folder, calibration=str(folder / "old.json")))


@pytest.mark.parametrize("arguments", [[], ["--simulate", "--scans", "a.h5"]])
def test_the_command_needs_scans_or_the_simulator(arguments: list[str], tmp_path: Path) -> None:
    """One of both."""
    done = run_steadymr("calibrate", *arguments, "--out", tmp_path / "x.json")
    assert done.returncode == 2
    assert "either --scans" in done.stderr


def test_subjects_go_through_coils_and_noise_levels() -> None:
    """Sixteen of them meet every pair of both."""
    pairs = {(one.n_coils, one.signal_to_noise) for one in subjects(16)}
    assert len(pairs) == 16
    assert {one.purpose for one in subjects(4)} == {"calibration"}


def test_the_shipped_calibration_is_for_the_shipped_weights() -> None:
    """Whoever replaces weights makes the calibration again: docs/calibration.md has the command."""
    calibration = calibration_for(load_settings(None))
    assert calibration is not None
    manifest = json.loads((weights_folder() / "manifest.json").read_text())
    reaches = {method.method: method.reach for method in calibration.methods}
    assert set(reaches) == {"diffusion", "supervised", "classical"}
    assert {reach.prior for reach in reaches.values()} == {manifest["prior_small"]}
    assert reaches["supervised"].model == manifest[load_settings(None).supervised.network]


def test_conditions_of_tests_are_conditions() -> None:
    """A scan at the edge of the reach is within it, one beyond is not."""
    reach = calibration_of(60).methods[0].reach
    assert reach.missing(CONDITIONS) == ""
    assert reach.acceleration_near(4.4) == 4.0
    assert reach.acceleration_near(4.6) is None
