"""What docs/gadgetron.md tells an administrator to write is accepted, and what it names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from steadymr.config import load_settings
from steadymr.live.scan import stream_settings
from steadymr.source.wire.scan_config import config_from_text

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "gadgetron.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_servers_yaml_is_accepted(tmp_path: Path) -> None:
    (snippet,) = snippets("yaml")
    path = tmp_path / "serve.yaml"
    path.write_text(snippet)
    assert load_settings(path).serve.health_port == 9013


@pytest.mark.parametrize("snippet", snippets("xml"))
def test_the_settings_of_a_chain_are_accepted(snippet: str) -> None:
    properties = config_from_text(snippet).properties
    assert properties
    assert stream_settings(properties)


def test_the_check_of_the_installation_prints_nothing(tmp_path: Path) -> None:
    (line,) = [line for line in "".join(snippets("console")).splitlines() if "python -c" in line]
    code = line.partition('"')[2].rstrip('"')
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (ran.stdout, ran.stderr) == ("", "")


def test_every_chain_and_setting_that_is_named_exists() -> None:
    chains = {path.name for path in (ROOT / "configs" / "gadgetron").glob("*.xml")}
    assert set(re.findall(r"configs/gadgetron/(\w+\.xml)\)", TEXT)) == chains
    known = yaml.safe_load((ROOT / "configs" / "replay.yaml").read_text())
    for section, key in re.findall(r"`(live|serve|sentinels)\.(\w+)`", TEXT):
        assert key in known[section]
