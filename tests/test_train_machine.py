"""How the work is done changes nothing that is learned, and what the machine is told reaches torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from steadymr import train
from steadymr.recon.networks import Denoiser
from steadymr.train import data
from steadymr.train.card import write_card
from steadymr.train.data import BankSettings, prepare_bank
from steadymr.train.loop import MachineSettings, batches, compile_parts
from steadymr.train.pictures import write_pictures
from steadymr.train.sources import DataSettings

CONFIGS = Path(__file__).parents[1] / "configs" / "train"
KINDS = {"prior": train.PriorTraining, "unet": train.UnetTraining, "varnet": train.VarnetTraining}
BANK = {"n_slices": 2, "n_validation": 2, "matrix": 32, "pixel_mm_range": (6.0, 8.0)}
SCHEDULE = {"n_steps": 3, "n_decay": 1, "batch_size": 2, "sizes": ((32, 24),), "checkpoint_every": 2, "n_warmup": 1}
PRIOR = train.PriorTraining.model_validate({"channels": (8, 16), "n_blocks": 1, "schedule": SCHEDULE, "bank": BANK})


def test_several_workers_give_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = train.train_prior(PRIOR, tmp_path / "a")
    busy = PRIOR.model_copy(update={"machine": MachineSettings(n_workers=3)})
    monkeypatch.setattr(data, "_map", lambda function, n_workers, *arguments: list(map(function, *arguments)))
    assert train.train_prior(busy, tmp_path / "b").read_bytes() == alone.read_bytes()


@pytest.mark.parametrize("n_workers", [1, 4])
def test_batches_come_in_the_order_of_their_steps(n_workers: int) -> None:
    assert list(batches(lambda step: step, 5, 40, n_workers)) == list(range(5, 40))


def test_a_batch_that_cannot_be_drawn_ends_the_run() -> None:
    def draw(step: int) -> float:
        return 1 / (step - 3)

    with pytest.raises(ZeroDivisionError):
        list(batches(draw, 0, 9, 2))


def test_banks_are_drawn_by_as_many_processes_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Pool:
        def __init__(self, n_workers: int, mp_context: object) -> None:
            asked.append(n_workers)

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        map = staticmethod(map)

    monkeypatch.setattr(data, "ProcessPoolExecutor", Pool)
    several = prepare_bank(BankSettings(**BANK), "train", tmp_path / "a", 3)
    assert asked == [3]
    np.testing.assert_array_equal(several, prepare_bank(BankSettings(**BANK), "train", tmp_path / "b", 1))


@pytest.mark.parametrize("wanted", [True, False])
def test_compiling_reaches_torch_and_leaves_the_names_of_weights(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda part: compiled.append(part))
    denoiser = Denoiser((8, 16), 1)
    names = set(denoiser.state_dict())
    compile_parts([denoiser.unet], MachineSettings(compile=wanted))
    assert compiled == [denoiser.unet] * wanted
    assert set(denoiser.state_dict()) == names


def test_bfloat16_reaches_the_convolutions_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    autocast = torch.autocast

    def note(device: str, dtype: torch.dtype | None = None, enabled: bool = True) -> torch.autocast:
        asked.append((dtype, enabled))
        return autocast(device, dtype, enabled=False)

    monkeypatch.setattr(torch, "autocast", note)
    Denoiser((8, 16), 1, precision="bfloat16")(torch.zeros(1, 2, 8, 8), torch.ones(1))
    assert (torch.bfloat16, True) in asked


def test_a_run_may_go_on_with_another_number_of_workers(tmp_path: Path) -> None:
    first = train.train_prior(PRIOR, tmp_path)
    again = train.train_prior(PRIOR.model_copy(update={"machine": MachineSettings(n_workers=2)}), tmp_path)
    assert again.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_in_the_folder_is_valid_and_says_how_it_is_run(path: Path) -> None:
    kind = path.stem.split("_")[0]
    assert train.load_config(KINDS[kind], path).schedule.n_steps > 100
    assert f"steadymr train {kind} --config configs/train/{path.name}" in path.read_text()


def test_the_card_holds_checksum_recipe_and_figures(tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(b"weights")
    figures = {"psnr_db": 31.25, "rmse_by_sigma": [(0.1, 0.05)]}
    text = write_card(weights, nn.Linear(2, 3), PRIOR, PRIOR.data, PRIOR.bank, figures, ("It fails.",)).read_text()
    assert hashlib.sha256(b"weights").hexdigest() in text
    assert yaml.safe_load(text.split("```yaml")[1].split("```")[0])["channels"] == [8, 16]
    for line in ("| psnr_db | 31.25 |", "| rmse_by_sigma, 0.1 | 0.05 |", "- It fails.", "9 weights"):
        assert line in text


def test_the_card_of_a_sites_own_data_claims_no_licence(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").touch()
    own = DataSettings(source="fastmri", folder=tmp_path)
    text = write_card(tmp_path / "mine.safetensors", nn.Linear(1, 1), PRIOR, own, PRIOR.bank, {}, ()).read_text()
    assert "for the owner of the data to say" in text
    assert "Apache" not in text
    assert "No image of a person" not in text


def test_pictures_have_a_row_for_each_slice(tmp_path: Path) -> None:
    from matplotlib.image import imread

    rows = [[np.ones((8, 8)), np.zeros((8, 8))]] * 2
    heights = [imread(write_pictures(rows[:n], ("a", "b"), tmp_path / f"{n}.png")).shape[0] for n in (1, 2)]
    assert heights[1] > 1.6 * heights[0]
