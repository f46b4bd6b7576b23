"""Weights are what they say they are, or are refused in one sentence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from steadymr.errors import DeviceError, WeightsError
from steadymr.recon import weights
from steadymr.recon.networks import Denoiser, SupervisedUnet
from steadymr.recon.varnet import SupervisedVarnet

SIZE_LIMIT = 16_000_000
CONFIGS = Path(__file__).parents[1] / "configs" / "train"


def small_prior(path: Path) -> Denoiser:
    torch.manual_seed(0)
    denoiser = Denoiser((8, 16), n_blocks=1)
    weights.save_prior(denoiser, [(0.1, 0.05)], path)
    return denoiser


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with a small prior of its own and no U-Net."""
    small_prior(tmp_path / "prior_small.safetensors")
    sha256 = hashlib.sha256((tmp_path / "prior_small.safetensors").read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps({"prior_small": sha256}))
    monkeypatch.setattr(weights, "weights_folder", lambda: tmp_path)
    return tmp_path


def test_a_saved_prior_comes_back_to_half_precision_with_its_error_table(tmp_path: Path) -> None:
    original = small_prior(tmp_path / "mine.safetensors")
    loaded, identity = weights.load_prior("cpu", tmp_path / "mine.safetensors")
    images, sigma = torch.randn(1, 2, 20, 20, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2])
    torch.testing.assert_close(loaded(images, sigma), original(images, sigma), atol=1e-3, rtol=1e-2)
    assert loaded.rmse_by_sigma == ((0.1, 0.05),)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert identity.name == "mine"


def test_a_saved_unet_comes_back(tmp_path: Path) -> None:
    unet = SupervisedUnet(4)
    loaded, _ = weights.load_unet("cpu", weights.save_unet(unet, tmp_path / "unet.safetensors"))
    assert loaded.n_channels == 4
    assert all(torch.equal(a, b.half().float()) for a, b in zip(loaded.parameters(), unet.parameters(), strict=True))


def test_a_saved_varnet_comes_back(tmp_path: Path) -> None:
    varnet = SupervisedVarnet(2, 4)
    loaded, _ = weights.load_varnet("cpu", weights.save_varnet(varnet, tmp_path / "varnet.safetensors"))
    assert (loaded.n_cascades, loaded.n_channels) == (2, 4)
    assert all(torch.equal(a, b.half().float()) for a, b in zip(loaded.parameters(), varnet.parameters(), strict=True))


def test_a_prior_of_any_size_loads_and_the_base_one_stays_below_16_mb(tmp_path: Path) -> None:
    recipe = yaml.safe_load((CONFIGS / "prior_base.yaml").read_text())
    base = Denoiser(tuple(recipe["channels"]), recipe["n_blocks"])
    path = weights.save_prior(base, [], tmp_path / "mine.safetensors")
    assert weights.load_prior("cpu", path)[0].unet.channels == base.unet.channels
    assert path.stat().st_size < 16e6
    assert sum(p.numel() for p in base.parameters()) > 7e6


def test_the_base_prior_is_the_small_one_s_elder_and_errs_less_on_the_same_slices() -> None:
    (small, _), (base, _) = (weights.load_prior("cpu", name=name) for name in ("prior_small", "prior_base"))
    assert sum(p.numel() for p in base.parameters()) > 3 * sum(p.numel() for p in small.parameters())
    for (sigma, error), (same_sigma, less) in zip(small.rmse_by_sigma, base.rmse_by_sigma, strict=True):
        assert sigma == same_sigma
        assert less < error


def test_a_file_says_itself_what_it_is_for(tmp_path: Path) -> None:
    small_prior(tmp_path / "a.safetensors")
    weights.save_varnet(SupervisedVarnet(1, 4), tmp_path / "b.safetensors")
    assert [weights.kind_of(tmp_path / name) for name in ("a.safetensors", "b.safetensors")] == ["prior", "varnet"]
    assert weights.kind_of(weights.weights_folder() / "prior_small.safetensors") == "prior"


def test_weights_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", {weights.METADATA_KEY: json.dumps({"kind": "gan"})})
    with pytest.raises(WeightsError, match="kind 'gan', expected 'prior', 'unet' or 'varnet'"):
        weights.kind_of(tmp_path / "x.safetensors")


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in paths:
        small_prior(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_changed_byte_is_refused_with_both_checksums(folder: Path) -> None:
    path = folder / "prior_small.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(WeightsError, match=hashlib.sha256(content).hexdigest()) as caught:
        weights.load_prior("cpu")
    assert json.loads((folder / "manifest.json").read_text())["prior_small"] in str(caught.value)


def test_missing_weights_are_named(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"unet\.safetensors cannot be read: No such file"):
        weights.load_unet("cpu")


def test_the_description_tells_sound_from_missing(folder: Path) -> None:
    prior, _, unet, _ = weights.describe_weights()
    assert (prior.name, prior.ok, prior.problem) == ("prior_small", True, "")
    assert prior.n_bytes == (folder / "prior_small.safetensors").stat().st_size
    assert (unet.name, unet.ok, unet.sha256) == ("unet", False, "")


def test_weights_of_the_other_network_are_refused(tmp_path: Path) -> None:
    small_prior(tmp_path / "prior.safetensors")
    with pytest.raises(WeightsError, match="kind 'prior', expected 'unet'"):
        weights.load_unet("cpu", tmp_path / "prior.safetensors")


@pytest.mark.parametrize(
    "content",
    [b"", b"not weights at all", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 64],
    ids=["empty", "text", "bare", "noise"],
)
def test_files_that_are_no_weights_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"x\.safetensors is not a safetensors file that steadymr wrote"):
        weights.load_prior("cpu", tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"kind": "prior"}, "description makes no prior"),
        ({"kind": "prior", "channels": [8, 24], "n_blocks": 1, "sigma_data": 0.3}, "do not fit"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, recipe: dict[str, object], message: str) -> None:
    tensors = dict(Denoiser((8, 16), n_blocks=1).state_dict())
    save_file(tensors, tmp_path / "x.safetensors", {weights.METADATA_KEY: json.dumps(recipe)})
    with pytest.raises(WeightsError, match=message):
        weights.load_prior("cpu", tmp_path / "x.safetensors")


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    small_prior(tmp_path / "x.safetensors")
    with pytest.raises(DeviceError, match="'cuda:99'"):
        weights.load_prior("cuda:99", tmp_path / "x.safetensors")


def test_shipped_weights_are_sound_small_and_have_model_cards() -> None:
    for report in weights.describe_weights():
        assert report.ok, report.problem
        assert report.n_bytes < SIZE_LIMIT
        card = (weights.weights_folder() / f"{report.name}.md").read_text()
        assert report.sha256 in card


def test_the_shipped_prior_removes_most_of_the_noise() -> None:
    denoiser, _ = weights.load_prior("cpu")
    disc = (torch.hypot(*torch.meshgrid(*[torch.arange(48.0) - 24] * 2, indexing="ij")) < 15).float()
    clean = torch.stack([disc, torch.zeros(48, 48)])[None]
    noisy = clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    assert (denoiser(noisy, torch.tensor([0.2])) - clean).square().mean().sqrt() < 0.07


def test_the_shipped_unet_changes_a_clean_image_little() -> None:
    unet, _ = weights.load_unet("cpu")
    disc = (torch.hypot(*torch.meshgrid(*[torch.arange(64.0) - 32] * 2, indexing="ij")) < 20).float()
    clean = torch.stack([disc, torch.zeros(64, 64)])[None]
    assert (unet(clean) - clean).square().mean().sqrt() < 0.08
