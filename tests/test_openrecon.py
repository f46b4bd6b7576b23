from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from steadymr.config import Settings
from steadymr.live.openrecon import SHOWN, known, parameter_id, settings_from, specification
from steadymr.live.scan import stream_settings

PARAMETERS = specification()["parameters"]


def load_package_script() -> ModuleType:
    path = Path(__file__).parents[1] / "docker" / "openrecon" / "package.py"
    spec = importlib.util.spec_from_file_location("openrecon_package", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_dialogue_keeps_the_published_limits() -> None:
    assert len(PARAMETERS) <= 14
    assert all(re.fullmatch("[A-Za-z0-9]+", one["id"]) for one in PARAMETERS)
    assert all(len(one.get("unit", "")) <= 3 for one in PARAMETERS)
    numbers = [one[key] for one in PARAMETERS if one["type"] == "double" for key in ("minimum", "maximum", "default")]
    assert all(abs(10 * number - round(10 * number)) < 1e-9 for number in numbers)


def test_the_defaults_in_the_dialogue_are_those_of_the_settings() -> None:
    sent = {one["id"]: str(one["default"]) for one in PARAMETERS}
    assert stream_settings(settings_from(sent)) == Settings()


@pytest.mark.parametrize("end", ["minimum", "maximum"])
@pytest.mark.parametrize("one", [p for p in PARAMETERS if p["type"] in ("int", "double")], ids=lambda p: p["id"])
def test_both_ends_of_every_range_are_settings_that_exist(one: dict[str, object], end: str) -> None:
    assert stream_settings(settings_from({str(one["id"]): str(one[end])})).as_dict()


def test_every_choice_is_a_setting_that_exists() -> None:
    for one in (p for p in PARAMETERS if p["type"] == "choice"):
        for value in one["values"]:
            assert stream_settings(settings_from({one["id"]: value["id"]}))


def test_of_a_header_only_the_dialogues_own_parameters_are_taken() -> None:
    assert known({"samples": "4", "EchoSpacing": "1.2"}) == {"samples": "4"}
    assert len({parameter_id(setting) for setting in SHOWN}) == len(SHOWN)


def test_both_packages_hold_the_image_and_what_their_scanners_read(tmp_path: Path) -> None:
    config = b'{"architecture": "amd64"}'
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        for name, content in (("abc.json", config), ("manifest.json", b'[{"Config": "abc.json"}]')):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    baseline, alpaca = load_package_script().pack(tmp_path / "image.tar", tmp_path / "dist")
    with zipfile.ZipFile(baseline) as package:
        assert sorted(Path(name).suffix for name in package.namelist()) == [".pdf", ".tar"]
        assert package.read(baseline.with_suffix(".pdf").name).startswith(b"%PDF-")
    with zipfile.ZipFile(alpaca) as package:
        assert sorted(package.namelist()) == ["ApplSpec.json", "Container.tar", "Manual.pdf", "Properties.json"]
        assert json.loads(package.read("ApplSpec.json")) == specification()
        digest = json.loads(package.read("Properties.json"))["image_digest"]
    assert digest == "sha256:" + hashlib.sha256(config).hexdigest()


def test_the_label_is_the_specification_in_base64() -> None:
    assert json.loads(base64.b64decode(load_package_script().label_value())) == specification()
