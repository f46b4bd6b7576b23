"""The commands that are not a replay: what they say, and the exit codes that scripts rely on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import dciodvfy_errors, run_steadymr

from steadymr.cli.main import _one_value_each

COMMANDS = ("replay", "demo", "check", "list", "train")


def test_help_names_every_command() -> None:
    """A newcomer finds all that can be done."""
    done = run_steadymr("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    """--help works and says something."""
    done = run_steadymr(command, "--help")
    assert (done.returncode, "Usage" in done.stdout) == (0, True)


def test_check_finds_a_sound_installation() -> None:
    """All libraries are there and the shipped weights have their checksums."""
    done = run_steadymr("check", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert set(facts) == {"system", "devices", "libraries", "weights", "optional tools"}
    assert all(line.startswith("ok") for line in facts["weights"].values())


def test_perturbations_are_listed_for_programs() -> None:
    """Name, parameters, unit and range of each."""
    rows = json.loads(run_steadymr("list", "perturbations", "--json").stdout)
    assert len(rows) >= 14
    for row in rows:
        assert row["parameters"]
        assert all({"name", "unit", "range"} <= set(parameter) for parameter in row["parameters"])


@pytest.mark.parametrize(("what", "name"), [("methods", "diffusion"), ("site-models", "typical_3t")])
def test_what_can_be_named_is_listed(what: str, name: str) -> None:
    """Each name stands at the beginning of a line."""
    assert name in [line.split()[0] for line in run_steadymr("list", what).stdout.splitlines()]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("replay s.h5 --method a", "replay s.h5 --method a"),
        ("replay --method classical s.h5", "replay --method classical s.h5"),
        ("replay --method classical diffusion s.h5", "replay --method classical --method diffusion s.h5"),
        ("replay --method classical --method diffusion", "replay --method classical --method diffusion"),
        ("replay --perturb a=1 b.c=2 s.h5 --out d", "replay --perturb a=1 --perturb b.c=2 s.h5 --out d"),
        ("replay --out classical --seed 3", "replay --out classical --seed 3"),
    ],
)
def test_several_values_may_follow_one_option(given: str, read: str) -> None:
    """What stands behind them is not taken for another value."""
    assert _one_value_each(given.split()) == read.split()


def test_an_unknown_option_is_a_usage_error() -> None:
    """Exit code 2, and the option is named."""
    done = run_steadymr("replay", "--smaples", "8")
    assert done.returncode == 2
    assert "smaples" in done.stderr


def test_the_demo_runs_as_the_readme_says(tmp_path: Path) -> None:
    """Three flagged series with known errors, the diffusion image the best of them, a report and the scan itself."""
    done = run_steadymr("demo", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [one["verdict"] in {"stable", "review", "unstable"} for one in summary["series"]] == [True] * 3
    psnr_db = {method: truth["psnr_db"] for method, truth in summary["truth"].items()}
    assert psnr_db["diffusion"] > psnr_db["classical"] + 1
    assert all(dciodvfy_errors(path) == [] for path in tmp_path.rglob("*.dcm"))
    assert (tmp_path / "report.html").exists()
    assert sorted(path.suffix for path in (tmp_path / "scan").iterdir()) == [".h5", ".h5"]
