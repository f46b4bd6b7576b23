"""What clean scans say of one more: only those that are like it, and of several witnesses together."""

from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import Float64

from steadymr.stability.usual import ANY_COUNT, INVENTED, CleanScans, chance, in_deviations, level, strangeness

NOISE = (0.006, 0.05)
N = 200


def drawn(scales: tuple[float, float], seed: int = 0) -> tuple[CleanScans, list[float]]:
    """Scans of two noise levels, whose evidence scatters by these standard deviations."""
    noise = np.repeat(np.log(NOISE), N)
    values = np.repeat(scales, N) * np.random.default_rng(seed).standard_normal(2 * N)
    return CleanScans(tuple(noise), (np.log(4.0),) * (2 * N)), [float(value) for value in values]


def features(noise_sd: float, acceleration: float = 4.0) -> dict[str, float]:
    return {"log noise": float(np.log(noise_sd)), "log acceleration": float(np.log(acceleration))}


def test_a_scan_counts_the_more_the_nearer_its_noise_and_acceleration() -> None:
    """One just like it counts for one, one far away next to nothing."""
    scans = CleanScans(tuple(np.log([0.01, 0.02, 0.2, 0.01, 0.01])), tuple(np.log([4.0, 4.0, 4.0, 6.0, 8.0])))
    weights = scans.alike(features(0.01)) - ANY_COUNT / 5
    assert weights == pytest.approx([1, 0.383, 0, 0.598, 0.223], abs=0.002)


def test_what_scatters_in_quiet_scans_is_strange_in_noisy_ones() -> None:
    """The same excess is usual where clean scans differ as much, and rare where they do not."""
    scans, values = drawn((5.0, 1.0))
    quiet, noisy = (in_deviations(4.0, values, scans.alike(features(one))) for one in NOISE)
    assert quiet == pytest.approx(0.8, abs=0.2)
    assert noisy == pytest.approx(4.0, abs=0.5)


def test_one_more_clean_scan_passes_the_level_with_the_chance_that_was_given() -> None:
    """It holds at each noise by itself, which one level for all would not."""
    rates = {one: [] for one in NOISE}
    for seed in range(40):
        scans, values = drawn((5.0, 1.0), seed)
        for one, scale in zip(NOISE, (5.0, 1.0), strict=True):
            limit = level(values, scans.alike(features(one)), 0.05)
            rates[one].append(np.mean(scale * np.random.default_rng(900 + seed).standard_normal(1000) > limit))
    assert all(0.03 <= np.mean(rates[one]) <= 0.055 for one in NOISE)


def test_a_level_and_the_chance_to_pass_it_agree() -> None:
    """What lies on the level is as rare as was asked for."""
    scans, values = drawn((1.0, 1.0))
    alike = scans.alike(features(0.006))
    assert chance(level(values, alike, 0.1), values, alike) == pytest.approx(0.1, abs=0.01)
    assert chance(max(values) + 1, values, alike) == pytest.approx(1 / (1 + alike.sum()))


def test_what_is_the_same_on_all_scans_is_not_rare() -> None:
    """Though computed once more it differs by a rounding error: a coil that hears as well as ever is no reason."""
    scans, _ = drawn((1.0, 1.0))
    assert chance(1e-9, [0.0] * (2 * N), scans.alike(features(0.006))) == 1.0


def test_where_no_scan_is_alike_all_of_them_together_count_as_a_few() -> None:
    """A scan far from all others is judged by all, and the strangest of them is the level."""
    scans, values = drawn((5.0, 1.0))
    far = scans.alike(features(100.0))
    assert far.sum() == pytest.approx(ANY_COUNT)
    assert level(values, far, 0.05) == max(values)
    assert in_deviations(np.std(values), values, far) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("deviations", "expected"),
    [
        ({"misfit": 3.0, "deaf_coil": 4.0}, 5.0),
        ({"misfit": 3.0, "deaf_coil": -4.0}, 3.0),
        ({"residual_mode": 2.0}, 2.0),
        ({"residual_mode": 2.0, "sentinel_pattern": 2.0}, 4.0),
        ({"residual_mode": 2.0, "sentinel_pattern": -2.0}, 2.0),
        ({"residual_mode": -3.0, "sentinel_pattern": -2.0}, 0.0),
        ({}, 0.0),
    ],
)
def test_witnesses_count_together(deviations: dict[str, float], expected: float) -> None:
    """Those that deviate the other way do not count, and the two that see inventions count once more together."""
    assert strangeness(_arrays(deviations)) == pytest.approx(expected)


def test_witnesses_that_agree_are_stranger_than_one_that_shouts() -> None:
    """Chance makes one of them large, an invention both."""
    agreeing = strangeness(_arrays(dict.fromkeys(INVENTED, 2.0)))
    shouting = strangeness(_arrays(dict(zip(INVENTED, (8**0.5, 0.0), strict=True))))
    assert agreeing > 1.1 * shouting


def _arrays(deviations: dict[str, float]) -> dict[str, Float64[np.ndarray, ""]]:
    return {name: np.array(value) for name, value in deviations.items()}
