"""What README and pages tell people to type: commands exist with these options, and links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer.main
import yaml

from steadymr.audit.settings import load_audit_settings
from steadymr.cli import main as cli
from steadymr.config import load_settings

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "docker/README.md",
    ROOT / "docker/openrecon/README.md",
    *(ROOT / "docs").glob("*.md"),
]
LINES = [
    (page, line.lstrip("$ ").split("  #")[0].strip())
    for page in PAGES
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("$ ")
]
COMMANDS = [(page, line) for page, line in LINES if re.match(r"(\S*/)?steadymr\s", line)]


def parse(command: click.Command, arguments: list[str], parent: click.Context | None = None) -> None:
    """Take the arguments apart as the command line would, down to the last subcommand, and run nothing."""
    if isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name, inner, rest = command.resolve_command(click.Context(command, parent=parent), arguments)
        assert inner is not None, name
        parse(inner, rest, click.Context(command, info_name=name, parent=parent))
    elif "--help" not in arguments:
        command.make_context(command.name, list(arguments), parent=parent)


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page.stem}: {line[-50:]}" for page, line in COMMANDS])
def test_the_command_exists_with_these_options(page: Path, line: str) -> None:
    words = shlex.split(line.partition(" | ")[0].replace("…", ""))
    parse(typer.main.get_command(cli.app), words[1:])


def test_the_pages_show_enough_commands_to_be_worth_testing() -> None:
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    inside = [link for link in links if not link.startswith(("http", "mailto"))]
    assert [link for link in inside if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_that_a_page_shows_as_yaml_are_settings(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)):
        if page.stem == "perturbations":  # shows a site model, which tests/test_perturb_site.py reads
            continue
        path, values = tmp_path / f"{number}.yaml", yaml.safe_load(block)
        pacs = {"destinations": {"pacs": {"url": "dimse://PACS@10.0.0.5:104"}}}  # snippets may name one shown before
        path.write_text(yaml.safe_dump(pacs | values))
        if "audit" in values:
            path.write_text(yaml.safe_dump(values))
            assert load_audit_settings(path, {}, {}, quick=False)
            continue
        assert load_settings(path)


def test_the_example_runs_and_says_what_each_series_claims(tmp_path: Path) -> None:
    script = ROOT / "examples" / "replay_and_judge.py"
    assert len(script.read_text().splitlines()) < 40
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^diffusion +(stable|review|unstable|uncalibrated) ", done.stdout, re.MULTILINE), done.stdout
