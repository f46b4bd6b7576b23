"""What the pages for the PACS administrator say is what there is: settings, commands, messages, objects."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pydicom.uid
import pytest
import typer
import yaml

from steadymr.cli.main import app
from steadymr.config import DerivedObject, load_settings
from steadymr.delivery import parse_destination
from steadymr.dicom.deidentify import METHODS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "pacs.md").read_text()
CONFORMANCE = (ROOT / "docs" / "dicom-conformance.md").read_text()
SOURCES = "\n".join(path.read_text() for path in (ROOT / "plugin" / "steadymr" / "delivery").glob("*.py"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[str]:
    lines = [line[2:].partition("#")[0].strip() for block in blocks("console") for line in block.splitlines()]
    return [line for line in lines if line] + re.findall(r"`(steadymr replay [^`]*)`", PAGE)


@pytest.mark.parametrize("command", commands())
def test_every_command_on_the_page_exists_with_its_options(command: str) -> None:
    here: Any = typer.main.get_command(app)
    name, *words = shlex.split(command)
    assert name == "steadymr"
    while hasattr(here, "commands"):
        here = here.commands[words.pop(0)]
    here.make_context(here.name, words)


def test_every_setting_on_the_page_is_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {}
    for block in blocks("yaml"):
        settings |= yaml.safe_load(block)
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(settings))
    read = load_settings(tmp_path / "site.yaml")
    urls = {name: parse_destination(options, name).url for name, options in read.destinations.items()}
    assert urls["pacs"] == "dimse://PACS@10.0.0.5:104"
    assert read.identity.source == "worklist"


def test_every_reason_on_the_page_is_one_that_steadymr_gives() -> None:
    rows = PAGE.partition("| reason in the list |")[2].partition("\n\n")[0].splitlines()[2:]
    reasons = [row.split("|")[1].strip() for row in rows]
    assert len(reasons) > 5
    for reason in reasons:
        if reason != "certificate verify failed":  # the words of the TLS library
            pieces = re.split(r"\.\.\.|STEADYMR|Segmentation Storage|\(.*\)|: ", reason)
            assert all(piece.strip() in SOURCES for piece in pieces[:1]), reason


def test_every_derived_object_is_on_both_pages() -> None:
    for kind in get_args(DerivedObject):
        assert f"| `{kind}` |" in PAGE
    listed = dict(re.findall(r"\| (\w[\w ]* Storage)(?: \([^|]*\))? \| ([\d.]+) \|", CONFORMANCE))
    assert len(listed) == 1 + len(get_args(DerivedObject))
    for name, uid in listed.items():
        assert pydicom.uid.UID(uid).name.startswith(name)


def test_the_methods_of_deidentification_are_listed() -> None:
    assert ", ".join(code for code, _ in METHODS) in CONFORMANCE
