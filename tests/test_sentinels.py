"""Sentinel lines: measured, withheld from the image, and treated by imperfections like any other line."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import ismrmrd
import mrd
import numpy as np
import pytest
from perturb_scans import scan, strong

from steadymr.assemble import assemble
from steadymr.config import load_settings
from steadymr.errors import SettingsError
from steadymr.perturb import PERTURBATIONS
from steadymr.sentinels import draw_for, hold_out, keep_as_sentinels, lines_of_steps, place, withhold
from steadymr.series.caveats import Caveats
from steadymr.source.heads import user_flag
from steadymr.source.replay import open_scan
from steadymr.types import KSpace
from steadymr.undersample import undersample
from steadymr.volume.arriving import accelerated, assembled, check_sentinels

N = 32


@cache
def kspace(**options) -> KSpace:
    return scan(N, acceleration=2, n_calibration=8, **options)


def mask(*lines: int) -> np.ndarray:
    found = np.zeros(N, bool)
    found[list(lines)] = True
    return found


@pytest.mark.parametrize("name", sorted(set(PERTURBATIONS) - {"sampling_error"}))
@pytest.mark.parametrize("options", [{}, {"n_slices": 2, "k0_first": 3, "calibration": "separate"}], ids=["2D", "3D"])
def test_perturbing_and_withholding_commute(name: str, options: dict) -> None:
    """An imperfection meets a sentinel as it meets any line; only the bookkeeping of lines knows what they are for."""
    perturbation, before = strong(name), kspace(**options)
    one = withhold(perturbation(before, np.random.default_rng(0)), [4, 24])
    other = perturbation(withhold(before, [4, 24]), np.random.default_rng(0))
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(one.sampled, other.sampled)
    np.testing.assert_array_equal(one.sentinel, other.sentinel)
    np.testing.assert_array_equal(one.calibration, other.calibration)


def test_misfiled_lines_never_land_on_a_sentinel() -> None:
    """A sentinel stays where it is, with its own samples, and is not among the lines of the image."""
    withheld = withhold(kspace(), [4, 24])
    changed = PERTURBATIONS["sampling_error"](mask_offset_lines=1)(withheld, np.random.default_rng(0))
    assert not (changed.sampled & changed.sentinel).any()
    np.testing.assert_array_equal(changed.data[:, changed.sentinel], withheld.data[:, withheld.sentinel])


def test_a_withheld_line_keeps_its_samples_and_leaves_the_image() -> None:
    """Nothing is lost: acquired lines are what they were."""
    withheld = withhold(kspace(), [4])
    assert withheld.sentinel is not None
    assert np.flatnonzero(withheld.sentinel.any(0)).tolist() == [4]
    assert not withheld.sampled[0, 4]
    np.testing.assert_array_equal(withheld.acquired, kspace().acquired)
    np.testing.assert_array_equal(withheld.data, kspace().data)


def test_a_line_that_was_not_acquired_is_no_sentinel() -> None:
    """There is nothing to compare with."""
    assert withhold(kspace(), [5]).sentinel is None


def test_calibration_lines_are_refused() -> None:
    """The coil maps know them."""
    with pytest.raises(SettingsError, match=r"line 16 cannot be a sentinel.*lines 12 to 19"):
        withhold(kspace(), [16])


def test_withholding_everything_is_refused() -> None:
    """Something has to be left to reconstruct from."""
    with pytest.raises(SettingsError, match="nothing but the calibration"):
        withhold(kspace(), [k for k in range(0, N, 2) if not 12 <= k < 20])


def test_lines_held_out_differ_from_draw_to_draw_and_prefer_what_tells_most() -> None:
    """Random per scan, outside the calibration, and near the centre more often than at the edge."""
    drawn = [np.flatnonzero(hold_out(kspace(), 2, np.random.default_rng(i)).sentinel[0]) for i in range(60)]
    distances = np.abs(np.concatenate(drawn) - N // 2)
    assert all(len(lines) == 2 for lines in drawn)
    assert len({tuple(lines) for lines in drawn}) > 5
    assert distances.min() > 3
    assert (distances <= 8).mean() > 0.5


def test_too_many_lines_to_hold_out_are_refused() -> None:
    """At least as many are needed for the image."""
    with pytest.raises(SettingsError, match="held_out asks for 9 lines, but the scan has only 12"):
        hold_out(kspace(), 9, np.random.default_rng(0))


def test_the_draw_belongs_to_the_data() -> None:
    """The same data and seed give the same lines; other data cannot tell which."""
    changed = replace(kspace(), data=kspace().data * np.float32(1.001))
    assert draw_for(kspace(), 0).random() == draw_for(kspace(), 0).random()
    assert len({draw_for(one, seed).random() for one in (kspace(), changed) for seed in (0, 1)}) == 4


@pytest.mark.parametrize(("n", "fixed"), [(1, {21}), (2, {11, 21}), (4, {11, 21}), (6, {11, 21, 22})])
def test_lines_are_placed_in_the_first_gaps_on_both_sides_and_some_at_random(n: int, fixed: set[int]) -> None:
    """The first gap above, then below, then the next; from four on some are drawn."""
    sampled = np.array([(k - 16) % 4 == 0 for k in range(N)]) | mask(*range(12, 20))
    for seed in range(5):
        lines = place(sampled, mask(*range(12, 20)), n, np.random.default_rng(seed))
        assert len(set(lines)) == n
        assert fixed <= set(lines)
        assert not sampled[lines].any()


def test_more_sentinels_than_free_lines_are_refused() -> None:
    """One sentence says how many there are."""
    with pytest.raises(SettingsError, match="only 3 lines"):
        place(~mask(1, 2, 3), mask(15, 16), 4, np.random.default_rng(0))


def test_a_retrospective_scan_takes_its_sentinels_from_the_full_one() -> None:
    """They hold the full scan's samples, and the image's lines are those of the plain accelerated scan."""
    full = scan(N)
    plain = undersample(full, 4, 8)
    settings = load_settings(None, {"undersample": {"acceleration": 4, "calibration_lines": 8, "sentinels": 3}})
    with_sentinels = accelerated(full, settings)
    assert with_sentinels.sentinel is not None
    assert with_sentinels.sentinel.sum() == 3
    np.testing.assert_array_equal(with_sentinels.sampled, plain.sampled)
    np.testing.assert_array_equal(
        with_sentinels.data[:, with_sentinels.sentinel], full.data[:, with_sentinels.sentinel]
    )


def test_a_line_that_the_full_scan_lacks_cannot_be_a_sentinel() -> None:
    """Partial Fourier leaves lines out even of a full scan."""
    full = scan(N)
    partial = replace(full, sampled=full.sampled & ~mask(1)[None])
    with pytest.raises(SettingsError, match="line 1 cannot"):
        keep_as_sentinels(undersample(full, 4, 8), partial, [1])


def test_sentinels_of_a_full_scan_need_acceleration() -> None:
    """--sentinels takes lines that acceleration leaves out."""
    with pytest.raises(SettingsError, match="needs --undersample"):
        check_sentinels(load_settings(None, {"undersample": {"sentinels": 2}}))


def test_encoding_steps_count_from_the_header_s_centre() -> None:
    """A partial Fourier protocol counts its steps from the first line acquired."""
    header = mrd.scan_header(k1_limits=(0, 23, 8))
    shifted = replace(kspace(), header=header)
    assert lines_of_steps(shifted, [8, 0]) == [16, 8]
    with pytest.raises(SettingsError, match="encoding step 30"):
        lines_of_steps(shifted, [30])


SAMPLED = [k for k in range(N) if k % 4 == 0 or 12 <= k < 20]


def _readouts(extra: list[int], flags: int = 0):
    lines = mrd.readouts(mrd.kspace(), sorted([*SAMPLED, *extra]), role="image")
    return [replace(line, flags=flags) if line.k1 in extra else line for line in lines]


@pytest.mark.parametrize("by", ["steps", "flag"])
def test_sentinels_of_the_protocol_change_nothing_about_the_image(by: str) -> None:
    """Extra lines, adjacent to the calibration or at the very end of the scan, leave all else as it was."""
    extra, header = [20, 21, 31], mrd.scan_header()
    extra = [21, 22, 31]
    wanted = {"lines": extra} if by == "steps" else {"user_flag": 3}
    flags = user_flag(3) if by == "flag" else 0
    (plain,) = assemble(_readouts([]), header)
    (kspace,) = assembled(_readouts(extra, flags), header, load_settings(None, {"sentinels": wanted}))
    assert kspace.sentinel is not None
    assert np.flatnonzero(kspace.sentinel[0]).tolist() == extra
    np.testing.assert_array_equal(kspace.sampled, plain.sampled)
    np.testing.assert_array_equal(kspace.calibrated, plain.calibrated)
    np.testing.assert_array_equal(kspace.data[:, kspace.sampled], plain.data[:, plain.sampled])
    truth = mrd.without_oversampling(mrd.kspace())
    np.testing.assert_allclose(kspace.data[:, 0, extra], truth[:, 0, extra], atol=1e-5)


def test_a_sentinel_that_the_image_has_as_well_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """A line that was measured twice, once for the image, is known to it; the image's own samples stay."""
    lines = _readouts([])
    again = replace(lines[0], k1=4, flags=user_flag(1), data=lines[0].data * 0 + 1)
    (kspace,) = assemble([again, *lines], mrd.scan_header(), sentinel_flags=user_flag(1))
    (plain,) = assemble(lines, mrd.scan_header())
    assert kspace.sentinel is None
    assert "cannot serve as sentinels" in caplog.text
    np.testing.assert_array_equal(kspace.data, plain.data)


def test_a_calibration_line_marked_as_a_sentinel_stays_calibration(caplog: pytest.LogCaptureFixture) -> None:
    """The coil maps need it, and it would not be unknown to them."""
    lines = [replace(line, role="image and calibration") if 12 <= line.k1 < 20 else line for line in _readouts([])]
    (kspace,) = assemble(lines, mrd.scan_header(), sentinel_steps=[14])
    assert kspace.sentinel is None
    assert kspace.calibrated[0, 14]
    assert "serves as calibration" in caplog.text


def test_a_sentinel_is_acquired_in_every_partition() -> None:
    """Else the transform along k2 would mix it with what was not measured."""
    data = mrd.kspace(n_z=4)
    lines = mrd.readouts(data, sorted([*SAMPLED, 21, 23]))
    lines = [line for line in lines if not (line.k1 == 23 and line.k2 == 1)]
    (kspace,) = assemble(lines, mrd.scan_header(n_z=4), sentinel_steps=[21, 23])
    assert kspace.sentinel is not None
    assert np.flatnonzero(kspace.sentinel.any(0)).tolist() == [21]
    assert kspace.sentinel[:, 21].all()
    assert not kspace.data[:, :, 23].any()


def test_a_user_flag_in_a_file_marks_a_sentinel(tmp_path: Path) -> None:
    """As the scanner wrote it, by the flag that the settings name and by no other."""
    lines = [mrd.acquisition(line, flags=(ismrmrd.ACQ_USER3,) if line.k1 == 21 else ()) for line in _readouts([21])]
    path = mrd.write(tmp_path / "scan.h5", mrd.header_xml(), lines)
    for number, expected in ((3, [21]), (4, [])):
        with open_scan(path) as scan:
            settings = load_settings(None, {"sentinels": {"user_flag": number}})
            (kspace,) = assembled(scan.readouts(), scan.header, settings)
        found = [] if kspace.sentinel is None else np.flatnonzero(kspace.sentinel[0]).tolist()
        assert found == expected


def test_sentinels_that_were_asked_for_and_are_not_there_are_a_caveat() -> None:
    """A reader has to know that the test was not made."""
    settings = load_settings(None, {"sentinels": {"user_flag": 3}})
    caveats = Caveats(settings, ())
    caveats.look_at(kspace())
    assert any("sentinel lines were expected" in sentence for sentence in caveats.sentences())
