"""Training is decided by its configuration and seed, and an interruption does not change it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from steadymr import train
from steadymr.errors import SettingsError
from steadymr.recon.weights import load_prior, load_unet
from steadymr.simulate.seeds import subject_rng
from steadymr.train.data import BankSettings, prepare_bank, random_crops
from steadymr.train.loop import Schedule
from steadymr.train.pairs import ScanSettings, make_pair

CONFIGS = Path(__file__).parents[1] / "configs" / "train"
BANK = {"n_slices": 4, "n_validation": 3, "matrix": 32, "pixel_mm_range": (6.0, 8.0)}
SCHEDULE = {"n_steps": 3, "n_decay": 1, "batch_size": 2, "sizes": ((32, 24),), "checkpoint_every": 2, "n_warmup": 1}
PRIOR = train.PriorTraining.model_validate({"channels": (8, 16), "n_blocks": 1, "schedule": SCHEDULE, "bank": BANK})
SCAN = {"n_pairs": 4, "n_coils": (4, 4), "acceleration": (2, 2), "n_calibration": (12, 12)}
SHIPPED = {"prior_small": train.PriorTraining, "unet": train.UnetTraining}
UNET = train.UnetTraining.model_validate({"n_channels": 4, "schedule": SCHEDULE, "bank": BANK, "scan": SCAN})


def steps(config: train.PriorTraining, n_steps: int) -> train.PriorTraining:
    return config.model_copy(update={"schedule": config.schedule.model_copy(update={"n_steps": n_steps})})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of an uninterrupted run, beside all else that it leaves."""
    return train.train_prior(PRIOR, tmp_path_factory.mktemp("prior"))


def test_a_run_leaves_weights_figures_curve_and_checkpoint(trained: Path) -> None:
    names = {path.name for path in trained.parent.iterdir()}
    assert {"prior.safetensors", "checkpoint.safetensors", "loss.csv", "loss.png", "figures.json"} <= names
    figures = json.loads((trained.parent / "figures.json").read_text())
    loaded, _ = load_prior("cpu", trained)
    assert loaded.rmse_by_sigma == tuple((s, pytest.approx(r, abs=1e-6)) for s, r in figures["rmse_by_sigma"])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained: Path, tmp_path: Path) -> None:
    again = train.train_prior(PRIOR, tmp_path / "again")
    reseeded = PRIOR.model_copy(update={"schedule": PRIOR.schedule.model_copy(update={"seed": 5})})
    assert again.read_bytes() == trained.read_bytes()
    assert train.train_prior(reseeded, tmp_path / "other").read_bytes() != trained.read_bytes()


def test_a_run_that_was_interrupted_ends_with_the_same_weights(trained: Path, tmp_path: Path) -> None:
    class Interruption(Exception):
        pass

    def stop_after_two(step: int, n_steps: int, loss: float) -> None:
        if step == 3:
            raise Interruption

    with pytest.raises(Interruption):
        train.train_prior(PRIOR, tmp_path, progress=stop_after_two)
    assert not (tmp_path / "prior.safetensors").exists()
    assert train.train_prior(PRIOR, tmp_path).read_bytes() == trained.read_bytes()
    assert (tmp_path / "loss.csv").read_text() == (trained.parent / "loss.csv").read_text()


def test_a_run_may_be_made_longer_before_its_rate_falls(tmp_path: Path) -> None:
    class Interruption(Exception):
        pass

    def stop(step: int, n_steps: int, loss: float) -> None:
        if step == 3:
            raise Interruption

    with pytest.raises(Interruption):
        train.train_prior(steps(PRIOR, 5), tmp_path / "a", progress=stop)
    longer = train.train_prior(steps(PRIOR, 4), tmp_path / "a")
    assert longer.read_bytes() == train.train_prior(steps(PRIOR, 4), tmp_path / "b").read_bytes()


def test_a_checkpoint_of_another_recipe_is_refused(trained: Path) -> None:
    other = PRIOR.model_copy(update={"log_sigma_mean": -1.0})
    with pytest.raises(SettingsError, match="made by another configuration"):
        train.train_prior(other, trained.parent)


def test_a_checkpoint_whose_rate_has_fallen_cannot_be_made_longer(trained: Path) -> None:
    with pytest.raises(SettingsError, match="made by another configuration"):
        train.train_prior(steps(PRIOR, 9), trained.parent)


def test_the_supervised_network_trains_from_end_to_end(tmp_path: Path) -> None:
    seen: list[int] = []
    path = train.train_unet(UNET, tmp_path, progress=lambda step, n_steps, loss: seen.append(step))
    assert seen == [1, 2, 3]
    load_unet("cpu", path)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["psnr_cg_sense_db"] > 10


def test_the_rate_rises_stays_and_falls() -> None:
    schedule = Schedule(n_steps=100, n_warmup=10, n_decay=20, learning_rate=1.0)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:81] == [1.0] * 71
    assert rates[99] == pytest.approx(0.01 + 0.99 / 20)


@pytest.mark.parametrize("size", [(32, 32), (20, 24), (40, 16)])
def test_crops_have_their_size_whatever_the_slice(size: tuple[int, int]) -> None:
    bank = np.ones((2, 2, 32, 30), np.float16)
    crops = random_crops(bank, np.random.default_rng(0), 3, size)
    assert crops.shape == (3, 2, *size)


def test_classical_image_and_truth_are_cropped_and_turned_alike() -> None:
    half = np.random.default_rng(0).standard_normal((3, 2, 32, 32)).astype(np.float16)
    crops = random_crops(np.concatenate([half, half], axis=1), np.random.default_rng(1), 4, (24, 20), transpose=False)
    np.testing.assert_array_equal(crops[:, :2], crops[:, 2:])


def test_banks_are_drawn_once_and_again_when_settings_change(tmp_path: Path) -> None:
    first = prepare_bank(BankSettings(**BANK), "train", tmp_path)
    written = (tmp_path / "bank_train.npy").stat().st_mtime_ns
    assert np.array_equal(prepare_bank(BankSettings(**BANK), "train", tmp_path), first)
    assert (tmp_path / "bank_train.npy").stat().st_mtime_ns == written
    assert len(prepare_bank(BankSettings(**{**BANK, "n_slices": 2}), "train", tmp_path)) == 2


def test_a_pair_of_a_quiet_full_scan_holds_the_same_image_twice() -> None:
    settings = ScanSettings(acceleration=(1, 1), noise_sd=(1e-4, 1e-4), espirit_share=0.0, random_share=0.0)
    slice_ = subject_rng("test", 0).standard_normal((2, 32, 32)).astype(np.float16)
    pair = make_pair(slice_, np.random.default_rng(0), settings).astype(np.float32)
    np.testing.assert_allclose(pair[:2], pair[2:], atol=0.01)


@pytest.mark.parametrize(("name", "kind"), SHIPPED.items())
def test_shipped_configurations_are_valid(name: str, kind: type[train.PriorTraining]) -> None:
    assert train.load_config(kind, CONFIGS / f"{name}.yaml").schedule.n_steps > 100


def test_shipped_weights_have_the_shipped_architecture() -> None:
    prior, unet = (train.load_config(kind, CONFIGS / f"{name}.yaml") for name, kind in SHIPPED.items())
    denoiser = load_prior("cpu")[0].unet
    assert (denoiser.channels, denoiser.n_blocks) == (prior.channels, prior.n_blocks)
    assert load_unet("cpu")[0].n_channels == unet.n_channels


@pytest.mark.parametrize("text", ["channel: [8]", "[", "schedule: {n_steps: 0}"])
def test_a_wrong_configuration_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"c\.yaml is no configuration"):
        train.run("prior", tmp_path / "c.yaml", tmp_path / "out")


def test_run_trains_what_is_asked(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(json.loads(PRIOR.model_dump_json())))
    assert train.run("prior", tmp_path / "c.yaml", tmp_path / "out").name == "prior.safetensors"
