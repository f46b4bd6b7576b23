"""The commands around an audit: what they print, what they refuse, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from audit_cases import scan
from commands import run_steadymr
from typer.testing import CliRunner

from steadymr.audit.methods import METHODS
from steadymr.audit.settings import AuditSettings, load_audit_settings
from steadymr.cli.main import _one_value_each, app
from steadymr.config import load_settings
from steadymr.errors import SettingsError, SteadymrError

SHIPPED = Path(__file__).parents[1] / "configs" / "audit.yaml"


def refused(*arguments: object) -> SteadymrError:
    """The error that the command line would print as one sentence."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(done.exception, SteadymrError), done.output
    assert done.exception.exit_code > 0
    return done.exception


def listed(*arguments: str) -> Any:
    done = CliRunner().invoke(app, ["list", *arguments, "--json"])
    assert done.exit_code == 0
    return json.loads(done.stdout)


def test_an_audit_ends_with_a_table_a_page_and_its_warnings(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_steadymr(
        "audit", scan(tmp_path, n_slices=1), "--out", out, "--undersample", 2, "--methods", "classical", "l1_wavelet",
        "--perturb", "thermal_noise=9", "--processes", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "audit.json").read_text())["rows"]
    assert [(row["method"], row["perturbation"]) for row in rows] == [
        (method, name) for name in ("none", "thermal_noise") for method in ("classical", "l1_wavelet")
    ]
    assert "note: some strengths lie outside the plausible range: of thermal_noise" in done.stdout
    assert "outside its plausible range" in done.stderr
    assert (out / "audit.html").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name at least one scan"),
        (["missing.h5"], "missing.h5"),
        (["SCAN", "--methods", "magic"], "no method is called 'magic'; an audit has classical, l1_wavelet"),
        (["SCAN", "--perturb", "shaking"], "no perturbation is called 'shaking'; there are thermal_noise"),
        (["SCAN", "--perturb", "spikes.colour=1"], "spikes has no parameter 'colour'; it has amplitude, count"),
        (["SCAN", "SCAN"], "two scans are called scan.h5"),
        (["SCAN", "--undersample", "99"], "undersample.acceleration"),
        (["SCAN", "--processes", "0"], "--processes must be at least 1"),
    ],
)
def test_what_an_audit_cannot_do_is_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    path = scan(tmp_path, n_slices=1, n=24)
    with_path = [str(path) if argument == "SCAN" else argument for argument in arguments]
    light = [] if "--methods" in arguments else ["--methods", "classical"]
    light += [] if "--perturb" in arguments else ["--perturb", "thermal_noise"]
    error = refused("audit", *with_path, *light, "--out", tmp_path / "out")
    assert sentence in str(error)
    assert "\n" not in str(error).strip()


def test_methods_of_replay_and_audit_are_listed_for_programs() -> None:
    rows = {row["name"]: row for row in listed("methods")}
    assert set(METHODS) | {"supervised"} == set(rows)
    assert rows["diffusion"]["used_by"] == ["replay", "audit"]
    assert rows["supervised"]["used_by"] == ["replay"]
    assert rows["dds"]["used_by"] == ["audit"]


def test_site_models_are_listed_for_programs() -> None:
    assert {"quiet_3t", "typical_3t", "ageing_1p5t"} <= {row["name"] for row in listed("site-models")}


def test_the_shipped_config_shows_every_setting_with_its_default() -> None:
    shown = yaml.safe_load(SHIPPED.read_text())["audit"]
    assert shown == AuditSettings().model_dump(mode="json")


def test_quick_settings_lie_under_the_file_and_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text("samples: 6\naudit: {slices: 3, worst_case: {n_steps: 7}}\n")
    audit, settings = load_audit_settings(path, {"slices": 1}, {"seed": 5}, quick=True)
    assert (audit.slices, audit.worst_case.n_steps, audit.worst_case.n_restarts) == (1, 7, 1)
    assert (settings.samples, settings.seed) == (6, 5)
    assert (len(audit.methods), settings.undersample.acceleration) == (4, 1)
    of_simulated = load_audit_settings(None, {}, {}, quick=True, simulated=True)[1]
    assert of_simulated.undersample.acceleration == 4
    assert load_audit_settings(None, {}, {}, quick=False) == (AuditSettings(), load_settings())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("audit: {speed: 1}", "there is no setting 'audit.speed'"),
        ("speed: 1", "there is no setting 'speed'"),
        ("audit: {worst_case: {strengths_percent: [0]}}", "above 0 and at most 100"),
        ("audit: {worst_case: {attacks: []}}", "name at least one attack"),
        ("audit: {worst_case: {attacks: [{surrogate: unet, loss: hide}]}}", "'clean', 'truth', 'draw' or 'erase'"),
        ("audit: {worst_case: {attacks: [{surrogate: unet, structure: {}}]}}", "belongs to the losses draw and erase"),
        (
            "audit: {worst_case: {attacks: [{surrogate: unet, loss: erase, structure: {contrast: 1}}]}}",
            "a contrast belongs to the loss draw",
        ),
        ("audit: 3", "the section audit of"),
        ("- 3", "should hold keys and values, but holds a list"),
        ("a: [", "cannot read the config file"),
    ],
)
def test_a_config_that_makes_no_audit_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=sentence) as caught:
        load_audit_settings(path, {}, {}, quick=False)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("--methods classical unet scan.h5 --quick", "--methods classical --methods unet scan.h5 --quick"),
        ("--perturb spikes worst_case=2 a.h5", "--perturb spikes --perturb worst_case=2 a.h5"),
    ],
)
def test_several_names_may_follow_one_option(given: str, read: str) -> None:
    assert _one_value_each(["audit", *given.split()]) == ["audit", *read.split()]


def test_a_folder_is_replayed_file_by_file_and_says_which_failed(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    scan(folder, n_slices=1, n=24).rename(folder / "b.h5")
    (folder / "a.h5").write_bytes(b"not a scan")
    (folder / "notes.txt").write_text("not meant")
    done = CliRunner().invoke(
        app, ["replay", str(folder), "--out", str(tmp_path / "out"), "--method", "classical", "--samples", "0"]
    )
    assert "1 of 2 files failed, a.h5 first" in str(done.exception)
    assert "b.h5: replayed, classical unscored" in done.output
    assert list((tmp_path / "out" / "b" / "dicom").rglob("*.dcm"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["FILE", "--ray", "auto"], "is no folder"),
        (["EMPTY"], "holds no file that ends with .h5"),
        (["EMPTY", "--reference", "FILE"], "--reference belongs to one scan"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    places = {"FILE": str(tmp_path / "scan.h5"), "EMPTY": str(tmp_path / "empty")}
    words = [places.get(argument, argument) for argument in arguments]
    assert sentence in str(refused("replay", *words, "--out", tmp_path / "out"))
