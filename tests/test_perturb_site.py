"""Site models: named ranges that imperfections are drawn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from perturb_scans import scan

from steadymr.errors import SettingsError
from steadymr.perturb import PERTURBATIONS, apply
from steadymr.perturb.site import Imperfection, Range, SiteModel, draw, load, shipped


def site_of(**imperfections: Imperfection) -> SiteModel:
    return SiteModel(name="test", description="for a test", perturbations=imperfections)


def written(folder: Path, text: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_promised_site_models_are_shipped() -> None:
    assert set(shipped()) == {"quiet_3t", "typical_3t", "ageing_1p5t"}


@pytest.mark.parametrize("name", ["quiet_3t", "typical_3t", "ageing_1p5t"])
def test_a_shipped_model_loads_by_name_and_by_path(name: str) -> None:
    site = load(name)
    assert site == load(shipped()[name])
    assert site.name == name
    assert set(site.perturbations) <= set(PERTURBATIONS)


@pytest.mark.parametrize("name", ["quiet_3t", "typical_3t", "ageing_1p5t"])
def test_draws_of_a_shipped_model_stay_plausible_and_can_be_applied(name: str) -> None:
    site = load(name)
    for seed in range(20):
        drawn = draw(site, np.random.default_rng(seed))
        assert all(perturbation.outside_range() == () for perturbation in drawn)
    assert len(apply(scan(), drawn, seed=0).perturbations) == len(drawn) > 0


def test_the_same_seed_draws_the_same_site() -> None:
    site = load("ageing_1p5t")
    assert draw(site, np.random.default_rng(5)) == draw(site, np.random.default_rng(5))
    assert draw(site, np.random.default_rng(5)) != draw(site, np.random.default_rng(6))


def test_an_ageing_scanner_is_noisier_than_a_quiet_one() -> None:
    noise = {
        name: np.mean([draw_sigma(load(name), seed) for seed in range(15)]) for name in ("quiet_3t", "ageing_1p5t")
    }
    assert noise["ageing_1p5t"] > 2 * noise["quiet_3t"]


def draw_sigma(site: SiteModel, seed: int) -> float:
    return next(item.sigma for item in draw(site, np.random.default_rng(seed)) if item.name == "thermal_noise")


@pytest.mark.parametrize(("scale", "median"), [("uniform", 2.005), ("log-uniform", 0.2)])
def test_values_are_spread_as_the_scale_says(scale: str, median: float) -> None:
    rng = np.random.default_rng(0)
    drawn = [Range(low=0.01, high=4.0, scale=scale).draw(rng) for _ in range(2000)]
    assert np.median(drawn) == pytest.approx(median, rel=0.15)
    assert 0.01 <= min(drawn) <= max(drawn) <= 4.0


def test_an_imperfection_shows_as_often_as_it_should() -> None:
    site = site_of(gain_drift=Imperfection(probability=0.3, parameters={"drift_percent": 1.0}))
    rng = np.random.default_rng(0)
    assert np.mean([len(draw(site, rng)) for _ in range(1000)]) == pytest.approx(0.3, abs=0.05)


def test_counts_are_drawn_as_whole_numbers() -> None:
    site = site_of(spikes=Imperfection(parameters={"amplitude": 0.5, "count": Range(low=1.0, high=5.0)}))
    drawn = {draw(site, np.random.default_rng(seed))[0].count for seed in range(60)}
    assert drawn == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\ndescription: y\nperturbations: {motion: {}}", "no perturbation is called 'motion'"),
        ("name: x\ndescription: y\nperturbations: {zipper: {parameters: {colour: 1}}}", "no parameter 'colour'"),
        ("name: x\ndescription: y\nperturbations: {zipper: {parameters: {amplitude: -1}}}", "must not be negative"),
        (
            "name: x\ndescription: y\nperturbations: {zipper: {chance: 1}}",
            "is not a site model: perturbations.zipper.chance",
        ),
        ("name: x\nperturbations: {}", "is not a site model: description"),
        (
            "name: x\ndescription: y\nperturbations: {zipper: {parameters: {amplitude: {low: 2, high: 1}}}}",
            "low must not",
        ),
        (
            "name: x\ndescription: y\nperturbations: "
            "{zipper: {parameters: {amplitude: {low: 0, high: 1, scale: log-uniform}}}}",
            "log-uniform range needs low > 0",
        ),
        ("name: [", "is not a site model"),
        ("", "is not a site model"),
    ],
)
def test_a_file_that_is_no_site_model_is_refused_with_a_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        load(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_refused_with_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no site model 'noisy_7t'.*ageing_1p5t, quiet_3t, typical_3t"):
        load("noisy_7t")
    with pytest.raises(SettingsError, match="no site model"):
        load(tmp_path)
