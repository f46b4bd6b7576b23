"""An audit: which cells it has, what its rows hold, and that it goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from audit_cases import audited, job, of, scan
from scans import accelerated_lines

from steadymr.audit.plan import cells, strains
from steadymr.audit.scans import spread
from steadymr.errors import PerturbationError, SettingsError, SteadymrError, UnsupportedScanError
from steadymr.executors import Inline, local_processes

COLUMNS = {"method", "perturbation", "strength", "slice", "psnr_db", "ssim", "nmse"}


class StopsAfter:
    """Gives up after some cells, as a process that is killed does."""

    def __init__(self, n: int) -> None:
        self._left = n

    def run(self, function: Callable[[Any, Any], Any], tasks: Iterable[tuple[Any, Any]]) -> Iterator[tuple[int, Any]]:
        for result in Inline().run(function, tasks):
            if self._left == 0:
                raise InterruptedError
            self._left -= 1
            yield result


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A scan, the folder of its audit, and the audit."""
    folder = tmp_path_factory.mktemp("whole")
    path = scan(folder)
    return path, folder / "out", audited([path], folder / "out", job())


@pytest.fixture(scope="module")
def worst(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An audit with a worst case, against the U-Net and by it."""
    folder = tmp_path_factory.mktemp("worst")
    crafted = {
        "attacks": [{"surrogate": "unet"}], "n_steps": 2, "n_restarts": 1, "strengths_percent": [3],
        "equal_norm": ["spikes"],
    }  # fmt: skip
    wanted = job(methods=["classical", "unet"], perturb=["worst_case"], slices=1, worst_case=crafted)
    return audited([scan(folder)], folder / "out", wanted)


def test_every_row_says_what_was_done_and_what_came_of_it(whole: tuple[Path, Path, dict[str, Any]]) -> None:
    rows = whole[2]["rows"]
    assert [(row["slice"], row["perturbation"], row["strength"]) for row in rows] == [
        (number, *point)
        for number in (0, 1)
        for point in [("none", 0.0), ("thermal_noise", 2.0), ("rigid_motion", 2.5), ("rigid_motion", 5.0)]
    ]
    assert all(set(row) >= COLUMNS and row["reference"] == "truth" and not row["error"] for row in rows)
    assert all(
        row["psnr_db"] < before["psnr_db"]
        for before, row in zip(of(rows, "none"), of(rows, "thermal_noise"), strict=True)
    )


def test_the_files_hold_the_same_table(whole: tuple[Path, Path, dict[str, Any]]) -> None:
    _, out, content = whole
    assert json.loads((out / "audit.json").read_text()) == content
    lines = (out / "audit.csv").read_text().splitlines()
    assert len(lines) == len(content["rows"]) + 1
    assert lines[0].split(",") == list(content["rows"][0])
    assert (out / "figures" / "strength.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("n_cells", [1, 4])
def test_an_audit_that_was_killed_goes_on_and_gives_the_same_files(
    whole: tuple[Path, Path, dict[str, Any]], tmp_path: Path, n_cells: int
) -> None:
    path, out, _ = whole
    with pytest.raises(InterruptedError):
        audited([path], tmp_path, job(), StopsAfter(n_cells))
    with (tmp_path / "cells" / "rows.jsonl").open("a") as file:
        file.write('{"key": "torn')
    audited([path], tmp_path, job())
    for name in ("audit.json", "audit.csv", "audit.html"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_finished_cells_are_not_measured_again(whole: tuple[Path, Path, dict[str, Any]]) -> None:
    path, out, content = whole
    assert audited([path], out, job(), StopsAfter(0)) == content


def test_two_processes_give_the_table_of_one(whole: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    path, out, _ = whole
    with local_processes(2) as executor:
        audited([path], tmp_path, job(), executor)
    assert (tmp_path / "audit.json").read_bytes() == (out / "audit.json").read_bytes()


def test_another_audit_is_not_mixed_into_the_folder(whole: tuple[Path, Path, dict[str, Any]]) -> None:
    path, out, _ = whole
    with pytest.raises(SettingsError, match="another reconstruction"):
        audited([path], out, job(acceleration=3))


def test_worst_cases_stand_beside_changes_of_equal_norm(worst: dict[str, Any]) -> None:
    norms = {row["perturbation"]: row["relative_norm_percent"] for row in worst["rows"] if row["strength"]}
    assert norms == pytest.approx(
        dict.fromkeys(["worst_case", "gaussian_equal_norm", "spikes_equal_norm"], 3.0), rel=1e-3
    )
    assert {row["surrogate"] for row in of(worst["rows"], "worst_case")} == {"unet"}


def test_a_worst_case_is_worse_for_its_surrogate_than_noise_of_its_norm(worst: dict[str, Any]) -> None:
    (crafted,), (noise,) = (
        [row["nmse_to_clean"] for row in of(worst["rows"], name) if row["method"] == "unet"]
        for name in ("worst_case", "gaussian_equal_norm")
    )
    assert crafted > 2 * noise


def test_the_damage_says_which_lines_to_acquire(worst: dict[str, Any]) -> None:
    (advice, _) = worst["advice"]
    sampled = [k for k, taken in enumerate(worst["damage"][0]["sampled"]) if taken]
    assert not set(advice["sentinels"]) & set(sampled)
    assert len(advice["pattern"]) == len(sampled)
    assert sum(advice["line_energy"]) == pytest.approx(1)


def test_without_a_reference_errors_are_told_from_the_clean_image(tmp_path: Path) -> None:
    path = scan(tmp_path, n_slices=1, lines=accelerated_lines(40, 2, 16))
    content = audited([path], tmp_path / "out", job(acceleration=1, perturb=["thermal_noise=2"]))
    clean, noisy = content["rows"]
    assert {row["reference"] for row in content["rows"]} == {"clean reconstruction"}
    assert (clean["psnr_db"], clean["nmse"]) == (None, 0.0)
    assert noisy["nmse"] == noisy["nmse_to_clean"] > 0
    assert any("no reference is known" in warning for warning in content["warnings"])


def test_what_cannot_be_applied_is_said_in_its_rows(tmp_path: Path) -> None:
    wanted = job(perturb=["rigid_motion=2", "rigid_motion.shots=1"])
    content = audited([scan(tmp_path, n_slices=1)], tmp_path / "out", wanted)
    (row,) = of(content["rows"], "rigid_motion")
    assert ("at least 2" in row["error"], row["psnr_db"]) == (True, None)
    assert any("rigid_motion could not be applied to scan.h5" in warning for warning in content["warnings"])


def test_strengths_outside_their_range_are_marked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = audited([scan(tmp_path, n_slices=1)], tmp_path / "out", job(perturb=["thermal_noise=9"]))
    assert [row["outside_range"] for row in content["rows"]] == [False, True]
    assert "thermal_noise.sigma = 9 x measured noise s.d. lies outside" in caplog.text
    assert any("outside the plausible range" in warning for warning in content["warnings"])


@pytest.mark.parametrize(
    ("perturb", "sentence"),
    [
        ("shaking", "no perturbation is called 'shaking'; there are thermal_noise"),
        ("shaking=1", "no perturbation is called 'shaking'"),
        ("rigid_motion.speed", "rigid_motion has no strength 'speed' to sweep; it has translation_mm, rotation_deg"),
        ("rigid_motion.speed=1", "rigid_motion has no parameter 'speed'; it has"),
        ("rigid_motion=far", "NAME=NUMBER"),
        ("worst_case=far", "worst_case=PERCENT, got 'worst_case=far'"),
        ("worst_case=0", "above 0 and below 100"),
    ],
)
def test_what_cannot_be_perturbed_is_refused_with_what_can(perturb: str, sentence: str) -> None:
    with pytest.raises(PerturbationError, match=sentence):
        strains(job(perturb=[perturb]).audit)


def test_the_same_cell_twice_is_refused() -> None:
    with pytest.raises(PerturbationError, match="asked for twice"):
        strains(job(perturb=["thermal_noise=2", "thermal_noise.sigma=2"]).audit)


def test_strengths_of_a_perturbation_share_their_chance_and_slices_do_not() -> None:
    wanted = strains(job().audit)
    here, there = cells("a.h5", 0, wanted, seed=0), cells("a.h5", 1, wanted, seed=0)
    assert here[1].seed == here[2].seed
    assert len({cell.seed for cell in (*here, *there)}) == 4
    assert len({cell.key for cell in (*here, *there)}) == 6
    assert cells("a.h5", 0, wanted, seed=1)[0].seed != here[0].seed


def test_counted_strengths_are_whole_and_within_their_range() -> None:
    found = strains(job(perturb=["adc", "sampling_error", "coil_fault.dead_coils"], n_strengths=3).audit)
    assert [(one.perturbation, one.strength) for one in found] == [
        ("adc", 10.0), ("adc", 13.0), ("adc", 16.0), ("sampling_error", 1.0), ("coil_fault", 1.0)
    ]  # fmt: skip


def test_settings_of_a_perturbation_hold_for_all_its_strengths() -> None:
    found = strains(job(perturb=["rigid_motion.shots=2", "rigid_motion"]).audit)
    assert [one.parameters for one in found] == [
        (("translation_mm", mm), ("shots", 2.0)) for mm in (2.5, 5.0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("n_available", "n_wanted", "numbers"), [(3, 0, [0, 1, 2]), (3, 5, [0, 1, 2]), (10, 1, [5]), (10, 2, [2, 7])]
)
def test_slices_are_spread_evenly(n_available: int, n_wanted: int, numbers: list[int]) -> None:
    assert spread(n_available, n_wanted) == numbers


@pytest.fixture(scope="module")
def attacks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An audit of three kinds of worst case on the U-Net, one of them drawing a structure, another erasing one."""
    folder = tmp_path_factory.mktemp("attacks")
    crafted = {
        "attacks": [
            {"surrogate": "unet", "loss": "truth", "norm": "coil"},
            {"surrogate": "unet", "loss": "draw", "structure": {"diameter_mm": 12, "centre_mm_xy": [8, -4]}},
            {"surrogate": "unet", "loss": "erase", "norm": "maximum", "structure": {"diameter_mm": 12}},
        ],
        "n_steps": 4, "n_restarts": 1, "strengths_percent": [8], "equal_norm": [],
    }  # fmt: skip
    wanted = job(methods=["unet"], perturb=["worst_case"], slices=1, worst_case=crafted)
    return audited([scan(folder)], folder / "out", wanted)


def test_each_attack_has_rows_that_say_what_it_was(attacks: dict[str, Any]) -> None:
    rows = of(attacks["rows"], "worst_case")
    assert [(row["loss"], row["norm"], row["structure"], row["unit"]) for row in rows] == [
        ("truth", "coil", "", "% of each coil's norm"),
        ("draw", "scan", "12 mm at x 8, y -4 mm", "% of the data's norm"),
        ("erase", "maximum", "12 mm", "% of the samples' root mean square"),
    ]
    assert len([entry for entry in attacks["summary"] if entry["perturbation"] == "worst_case"]) == 3


def test_a_drawn_structure_shows_more_than_noise_of_its_norm_draws(attacks: dict[str, Any]) -> None:
    (drawn,), (noise,) = (
        [row["structure_shown"] for row in of(attacks["rows"], name) if row["loss"] == "draw"]
        for name in ("worst_case", "gaussian_equal_norm")
    )
    assert drawn > 0.1 > 2 * abs(noise)


def test_only_attacks_with_a_target_are_judged_by_it(attacks: dict[str, Any]) -> None:
    judged = {row["loss"] for row in attacks["rows"] if row["structure_shown"] is not None}
    assert judged == {"draw", "erase"}


def test_a_structure_that_holds_no_pixel_is_said_in_the_rows(tmp_path: Path) -> None:
    outside = {"diameter_mm": 5, "centre_mm_xy": [900, 0]}
    wanted = job(
        perturb=["worst_case=2"], worst_case={"attacks": [{"surrogate": "unet", "loss": "draw", "structure": outside}]}
    )
    content = audited([scan(tmp_path, n_slices=1)], tmp_path / "out", wanted)
    (row,) = of(content["rows"], "worst_case")
    assert "holds no pixel of the slice" in row["error"]


def test_worst_cases_against_an_unknown_truth_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    path = scan(tmp_path, n_slices=1, lines=accelerated_lines(40, 2, 16))
    attack = {"surrogate": "unet", "loss": "truth"}
    wanted = job(acceleration=1, perturb=["worst_case=2"], worst_case={"attacks": [attack]})
    with pytest.raises(SettingsError, match="need a reference"):
        audited([path], tmp_path / "out", wanted, StopsAfter(0))


def test_a_scan_too_small_for_the_surrogate_is_refused(tmp_path: Path) -> None:
    wanted = job(perturb=["worst_case"], worst_case={"attacks": [{"surrogate": "unet"}], "n_steps": 2})
    with pytest.raises(SteadymrError, match="needs 32 pixels"):
        audited([scan(tmp_path, n=24, n_slices=1)], tmp_path / "out", wanted)


def test_a_3d_scan_is_refused(tmp_path: Path) -> None:
    import mrd

    readouts = list(mrd.readouts(mrd.kspace(n_x=16, n_y=16)))
    path = mrd.write(tmp_path / "volume.h5", mrd.header_xml(16, 16, 4), readouts)
    with pytest.raises(UnsupportedScanError, match="has 4 partitions"):
        audited([path], tmp_path / "out", job())
