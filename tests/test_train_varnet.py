"""Scans for the unrolled network are what a scanner could have measured, and training on them can be repeated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from steadymr import train
from steadymr.errors import SettingsError
from steadymr.recon.operators import Sense, fft_centred
from steadymr.recon.varnet import SupervisedVarnet
from steadymr.recon.weights import load_varnet
from steadymr.simulate.masks import centre_lines, poisson_lines
from steadymr.train.scans import Scans, VarnetScanSettings, draw_lines, draw_scans
from steadymr.train.varnet import varnet_loss

BANK = {"n_slices": 3, "n_validation": 2, "matrix": 32, "pixel_mm_range": (6.0, 8.0)}
SCHEDULE = {"n_steps": 3, "n_decay": 1, "batch_size": 2, "sizes": ((32, 24),), "checkpoint_every": 2, "n_warmup": 1}
SCAN = {"n_coils": (4, 4), "acceleration": (2, 2), "n_calibration": (12, 12), "espirit_share": 0.2}
VARNET = train.VarnetTraining.model_validate(
    {"n_cascades": 1, "n_channels": 4, "schedule": SCHEDULE, "bank": BANK, "scan": SCAN}
)
QUIET = VarnetScanSettings(noise_sd=(1e-6, 1e-6), espirit_share=0.0, support_share=0.0, n_calibration=(12, 12))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of an uninterrupted run, beside all else that it leaves."""
    return train.train_varnet(VARNET, tmp_path_factory.mktemp("varnet"))


def simple_bank() -> np.ndarray:
    y, x = np.mgrid[-16:16, -16:16]
    return np.stack([(np.hypot(y, x) < r, (y > 0) * (np.hypot(y, x) < r)) for r in (9, 13)]).astype(np.float16)


def scans(settings: VarnetScanSettings, seed: int = 0) -> Scans:
    return draw_scans(simple_bank(), np.random.default_rng(seed), 2, (24, 28), settings)


def test_a_run_leaves_weights_card_figures_curve_and_pictures(trained: Path) -> None:
    names = {path.name for path in trained.parent.iterdir()}
    assert {"varnet.safetensors", "varnet.md", "loss.csv", "loss.png", "validation.png", "figures.json"} <= names
    assert json.loads((trained.parent / "figures.json").read_text())["psnr_cg_sense_db"] > 10
    assert load_varnet("cpu", trained)[0].n_cascades == 1


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained: Path, tmp_path: Path) -> None:
    again = train.train_varnet(VARNET, tmp_path / "again")
    reseeded = VARNET.model_copy(update={"schedule": VARNET.schedule.model_copy(update={"seed": 5})})
    assert again.read_bytes() == trained.read_bytes()
    assert train.train_varnet(reseeded, tmp_path / "other").read_bytes() != trained.read_bytes()


def test_training_can_begin_with_other_weights_of_the_same_shape(trained: Path, tmp_path: Path) -> None:
    further = VARNET.model_copy(update={"start_from": trained})
    assert train.train_varnet(further, tmp_path / "a").read_bytes() != trained.read_bytes()
    with pytest.raises(SettingsError, match="another shape"):
        train.train_varnet(further.model_copy(update={"n_cascades": 2}), tmp_path / "b")


def test_the_maps_explain_the_measured_samples() -> None:
    made = scans(QUIET)
    for kspace, maps, mask, truth in zip(made.kspace, made.maps, made.mask, made.truth, strict=True):
        torch.testing.assert_close(Sense(maps, mask).forward(truth), kspace, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "settings", [QUIET, VarnetScanSettings(espirit_share=1.0), VarnetScanSettings(support_share=1)]
)
def test_maps_have_unit_norm_or_are_zero(settings: VarnetScanSettings) -> None:
    norms = scans(settings).maps.abs().square().sum(1)
    torch.testing.assert_close(norms * (norms - 1), torch.zeros_like(norms), atol=1e-4, rtol=0)


def test_many_channels_become_few_and_hold_nearly_all_of_the_signal() -> None:
    settings = QUIET.model_copy(update={"n_coils": (24, 24), "n_virtual_coils": 6, "acceleration": (1, 1)})
    made = scans(settings)
    assert made.kspace.shape == (2, 6, 24, 28)
    explained = fft_centred(made.maps * made.truth[:, None])
    assert (explained - made.kspace).norm() < 0.05 * made.kspace.norm()


def test_noise_has_the_level_that_is_stated() -> None:
    settings = QUIET.model_copy(update={"noise_sd": (0.5, 0.5), "acceleration": (1, 1), "n_coils": (4, 4)})
    noisy, quiet = scans(settings), scans(settings.model_copy(update={"noise_sd": (1e-6, 1e-6)}))
    measured = torch.view_as_real(noisy.kspace - quiet.kspace).std()
    assert float(measured) == pytest.approx(float(noisy.noise_sd[0]), rel=0.05)


def test_the_loss_of_the_truth_is_zero() -> None:
    class Truth(SupervisedVarnet):
        def forward(self, kspace: torch.Tensor, maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return made.truth

    made = scans(VarnetScanSettings())
    assert float(varnet_loss(Truth(1, 4), made)) == 0.0


@pytest.mark.parametrize("acceleration", [2, 4, 8])
def test_a_poisson_disc_has_its_centre_and_about_the_number_of_lines_asked(acceleration: int) -> None:
    lines = poisson_lines(np.random.default_rng(0), 128, float(acceleration), 10)
    assert lines[centre_lines(128, 10)].all()
    assert lines.sum() == pytest.approx(128 / acceleration, abs=max(2, 12 / acceleration))


def test_lines_of_a_poisson_disc_are_farther_apart_at_the_edge() -> None:
    gaps = [np.diff(np.flatnonzero(poisson_lines(np.random.default_rng(n), 256, 5.0, 0))) for n in range(8)]
    edge = np.concatenate([np.concatenate([gap[:6], gap[-6:]]) for gap in gaps])
    middle = np.concatenate([gap[len(gap) // 2 - 6 : len(gap) // 2 + 6] for gap in gaps])
    assert edge.mean() > 1.8 * middle.mean()
    assert edge.min() > 1


def test_every_kind_of_mask_is_drawn() -> None:
    rng = np.random.default_rng(0)
    settings = VarnetScanSettings(acceleration=(4, 4))
    masks = [draw_lines(rng, 96, 8, settings) for _ in range(40)]
    regular = [len(set(np.diff(np.flatnonzero(mask[:40])))) == 1 for mask in masks]
    assert 15 <= sum(regular) <= 33


def test_untrained_settings_are_refused_with_their_name(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("scan: {coils: 3}")
    with pytest.raises(SettingsError, match=r"scan\.coils"):
        train.run("varnet", tmp_path / "c.yaml", tmp_path / "out")
