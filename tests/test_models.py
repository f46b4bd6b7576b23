"""The networks of a run are those that the settings name, and they say which they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from steadymr.cli import main as cli
from steadymr.config import Settings, load_settings
from steadymr.errors import DeviceError, SettingsError
from steadymr.models import load_models, settings_for
from steadymr.recon.networks import Denoiser
from steadymr.recon.problem import problem_from
from steadymr.recon.varnet import SupervisedVarnet
from steadymr.recon.weights import save_prior, save_varnet


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Path]:
    """Small weights of a site's own."""
    return {
        "prior": save_prior(Denoiser((8, 16), 1), [], tmp_path / "my_prior.safetensors"),
        "varnet": save_varnet(SupervisedVarnet(1, 4), tmp_path / "my_varnet.safetensors"),
    }


def settings(**values: Any) -> Settings:
    return load_settings(None, {"device": "cpu"} | values)


def test_each_file_of_weights_goes_where_it_belongs(own: dict[str, Path]) -> None:
    assert settings_for([own["varnet"], own["prior"]]) == {
        "supervised": {"weights": str(own["varnet"]), "network": "varnet"},
        "diffusion": {"weights": str(own["prior"])},
    }


def test_two_files_for_one_method_are_refused(own: dict[str, Path]) -> None:
    with pytest.raises(SettingsError, match="two files for diffusion"):
        settings_for([own["prior"], own["prior"]])


def test_the_supervised_method_is_the_network_that_is_asked_for(own: dict[str, Path]) -> None:
    models = load_models(settings(samples=0, methods=["supervised"], **settings_for([own["varnet"]])))
    assert models.prior is None
    assert models.supervised is not None
    assert models.supervised.identity.name == "my_varnet"
    assert "variational" in models.supervised.description


def test_the_supervised_method_reconstructs_a_problem(own: dict[str, Path]) -> None:
    supervised = load_models(settings(samples=0, methods=["supervised"], **settings_for([own["varnet"]]))).supervised
    kspace = 100 * torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.complex64)
    problem = problem_from(kspace, torch.ones(1, 16, 16, dtype=torch.complex64), torch.ones(16, 1, dtype=torch.bool))
    assert supervised is not None
    assert supervised.reconstruct(problem).shape == (16, 16)


def test_nothing_is_loaded_that_nobody_asked_for() -> None:
    models = load_models(settings(samples=0, methods=["classical"]))
    assert (models.prior, models.supervised) == (None, None)


def test_the_larger_prior_is_loaded_by_its_name() -> None:
    models = load_models(settings(methods=["diffusion"], diffusion={"network": "base"}))
    assert models.prior_identity is not None
    assert models.prior_identity.name == "prior_base"


def test_weights_on_the_command_line_reach_the_settings(
    own: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Settings] = []
    monkeypatch.setattr(cli, "_replay", lambda scan, out, settings, reference: given.append(settings))
    options = [word for path in own.values() for word in ("--weights", str(path))]
    result = CliRunner().invoke(cli.app, ["replay", "scan.h5", "--out", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    assert given[0].supervised.network == "varnet"
    assert (given[0].diffusion.weights, given[0].supervised.weights) == (own["prior"], own["varnet"])


@pytest.mark.parametrize("kind", ["prior", "unet", "varnet"])
def test_training_runs_on_the_device_that_is_asked_for(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr("steadymr.train.run", lambda kind, config, out, progress, device: asked.append((kind, device)))
    words = ["train", kind, "--config", "c.yaml", "--out", str(tmp_path), "--device"]
    assert CliRunner().invoke(cli.app, [*words, "cpu"]).exit_code == 0
    assert asked == [(kind, "cpu")]


def test_a_gpu_that_is_not_there_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="torch sees no CUDA device"):
        load_models(settings(device="cuda", samples=0, methods=["classical"]))
