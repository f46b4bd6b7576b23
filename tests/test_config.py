"""Settings: defaults, files, command line on top, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from steadymr.config import load_settings, overrides_from_text
from steadymr.errors import SettingsError


def test_the_shipped_example_holds_the_defaults() -> None:
    """configs/replay.yaml documents every key with the value it has anyway."""
    example = Path(__file__).parents[1] / "configs" / "replay.yaml"
    assert load_settings(example) == load_settings()


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    """A section is merged key by key."""
    path = tmp_path / "site.yaml"
    path.write_text("samples: 6\nundersample: {acceleration: 2, calibration_lines: 30}\n")
    settings = load_settings(path, {"undersample": {"acceleration": 4}})
    assert settings.samples == 6
    assert (settings.undersample.acceleration, settings.undersample.calibration_lines) == (4, 30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smaples: 8", "no setting 'smaples'"),
        ("diffusion: {level: 8}", "no setting 'diffusion.level'"),
        ("samples: 3", "at least 4"),
        ("methods: [magic]", "methods.0"),
        ("methods: []", "at least one"),
        ("methods: [classical, classical]", "each method once"),
        ("samples: 0", "leave diffusion out"),
        ("stability: {stable: 0.5, review: 0.7}", "must not be above"),
        ("undersample: {acceleration: 0}", "greater than or equal to 1"),
        ("- a list", "keys and values"),
        ("a: [", "not YAML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, expected: str) -> None:
    """One sentence says which key, and what was expected."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_settings_may_come_as_text() -> None:
    """As properties of a Gadgetron chain: dotted names, numbers as words, lists with commas."""
    wanted = {"samples": "6", "methods": "classical, diffusion", "diffusion.levels": "12"}
    settings = load_settings(None, overrides_from_text(wanted))
    assert (settings.samples, settings.methods, settings.diffusion.levels) == (6, ("classical", "diffusion"), 12)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The sentence holds the path."""
    with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
        load_settings(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(("samples", "n_noise_draws"), [(4, 1), (8, 2), (16, 4), (0, 0)])
def test_a_quarter_of_the_samples_sees_redrawn_noise(samples: int, n_noise_draws: int) -> None:
    """The share is a setting; its default is a quarter."""
    methods = ["classical"] if samples == 0 else ["diffusion"]
    assert load_settings(None, {"samples": samples, "methods": methods}).n_noise_draws == n_noise_draws


def test_a_preset_gives_way_to_what_stands_beside_it_and_wins_over_what_lies_below(tmp_path: Path) -> None:
    """--fast must change something although a site's file names every key."""
    path = tmp_path / "site.yaml"
    path.write_text("samples: 32\ndiffusion: {levels: 50, network: base}\n")
    fast = load_settings(path, {"preset": "fast", "samples": 6})
    assert (fast.samples, fast.diffusion.levels, fast.diffusion.network) == (6, 10, "base")
    path.write_text("preset: quality\ndiffusion: {levels: 50}\n")
    assert (load_settings(path).samples, load_settings(path).diffusion.levels) == (16, 50)


def test_a_preset_that_does_not_exist_is_named() -> None:
    """With those that do."""
    with pytest.raises(SettingsError, match=r"preset.*'fast' or 'quality'"):
        load_settings(None, {"preset": "turbo"})


def test_a_preset_makes_the_same_pixels_as_its_values() -> None:
    """So both have the same fingerprint, and the same UIDs."""
    values = {"samples": 16, "diffusion": {"levels": 30}, "stability": {"max_samples": 32}}
    assert load_settings(None, {"preset": "quality"}).fingerprint == load_settings(None, values).fingerprint
