"""Readouts become volumes: each line in its place, each volume whole, and nothing lost in silence."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import mrd
import numpy as np
import pytest

from steadymr.assemble import assemble
from steadymr.errors import IncompleteScanError, ReadoutError, UnsupportedScanError
from steadymr.types import KSpace, Readout, VolumeIndex

HEADER = mrd.scan_header()


def only(volumes: Iterator[KSpace]) -> KSpace:
    (volume,) = volumes
    return volume


def close_to(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.allclose(found, expected, atol=1e-5 * np.abs(expected).max()))


def test_a_fully_sampled_slice_arrives_whole_with_its_oversampling_removed() -> None:
    oversampled = mrd.kspace()
    volume = only(assemble(mrd.readouts(oversampled), HEADER))
    assert volume.encoded.matrix_xyz == (32, 32, 1)
    assert volume.encoded.fov_mm_xyz == (256.0, 256.0, 5.0)
    assert volume.sampled.all()
    assert volume.k0_range == (0, 32)
    assert close_to(volume.data, mrd.without_oversampling(oversampled))
    assert close_to(mrd.ifft(volume.data, (2, 3)), mrd.image())


def test_without_oversampling_the_data_is_passed_on_bit_by_bit() -> None:
    plain = mrd.kspace(oversampling=1)
    volume = only(assemble(mrd.readouts(plain), mrd.scan_header(oversampling=1)))
    assert np.array_equal(volume.data, plain)


def test_odd_matrices_keep_zero_frequency_at_n_half() -> None:
    flat = np.zeros((2, 1, 31, 66), np.complex64)
    flat[:, :, 15, 33] = 1
    volume = only(assemble(mrd.readouts(flat), mrd.scan_header(33, 31)))
    assert np.unravel_index(np.abs(volume.data[0, 0]).argmax(), (31, 33)) == (15, 16)


def test_lines_may_come_in_any_order() -> None:
    lines = mrd.readouts(mrd.kspace(), last=False)
    shuffled = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))]
    shuffled[-1] = replace(shuffled[-1], last_of_volume=True)
    ordered = only(assemble(mrd.readouts(mrd.kspace()), HEADER))
    assert np.array_equal(only(assemble(shuffled, HEADER)).data, ordered.data)


def test_undersampling_leaves_zeros_and_says_so() -> None:
    volume = only(assemble(mrd.readouts(mrd.kspace(), range(0, 32, 4)), HEADER))
    assert np.array_equal(np.flatnonzero(volume.sampled[0]), np.arange(0, 32, 4))
    assert not volume.data[:, :, 1::4].any()


def test_partial_fourier_along_k1_is_placed_by_the_centre_of_the_limits() -> None:
    """Lines 10 to 31 of the full scan, counted from 0 by the scanner, whose zero frequency then is line 6."""
    full = mrd.kspace()
    lines = [replace(line, k1=line.k1 - 10) for line in mrd.readouts(full, range(10, 32))]
    volume = only(assemble(lines, mrd.scan_header(k1_limits=(0, 21, 6))))
    assert np.array_equal(np.flatnonzero(volume.sampled[0]), np.arange(10, 32))
    assert close_to(volume.data[:, :, 10:], mrd.without_oversampling(full)[:, :, 10:])


def test_an_asymmetric_echo_is_placed_by_its_centre_sample() -> None:
    """Of 64 samples the first 20 are missing: 12 remain before zero frequency, 6 columns without oversampling."""
    full = mrd.kspace()
    lines = mrd.readouts(full[..., 20:], centre_sample=12)
    volume = only(assemble(lines, HEADER))
    assert volume.k0_range == (10, 32)
    assert not volume.data[..., :10].any()
    truth = mrd.without_oversampling(full)
    assert np.abs(volume.data - truth)[..., 16:].max() < 0.02 * np.abs(truth).max()


def test_an_echo_that_ends_early_lacks_columns_at_the_end() -> None:
    volume = only(assemble(mrd.readouts(mrd.kspace()[..., :50], centre_sample=32), HEADER))
    assert volume.k0_range == (0, 25)
    assert not volume.data[..., 25:].any()


def test_lines_of_different_length_share_the_columns_that_all_have() -> None:
    full, n = mrd.kspace(), 20
    short = [mrd.readout(full[:, 0, k1, n:], k1, centre_sample=32 - n) for k1 in range(0, 32, 2)]
    volume = only(assemble([*short, *mrd.readouts(full, range(1, 32, 2))], HEADER))
    assert volume.k0_range == (10, 32)
    assert not volume.data[..., :10].any()


def test_discarded_samples_are_not_used() -> None:
    full = mrd.kspace()
    spoilt = np.concatenate([np.full((4, 1, 32, 3), 9), full[..., 8:60], np.full((4, 1, 32, 5), 9)], axis=-1)
    lines = mrd.readouts(spoilt, discard_pre=3, discard_post=5, centre_sample=32 - 8 + 3)
    volume = only(assemble(lines, HEADER))
    expected = only(assemble(mrd.readouts(full[..., 8:60], centre_sample=24), HEADER))
    assert volume.k0_range == expected.k0_range == (4, 30)
    assert np.array_equal(volume.data, expected.data)


def test_reversed_readouts_are_turned_round() -> None:
    full = mrd.kspace()
    lines = [
        replace(line, data=line.data[:, ::-1], reversed=True) if line.k1 % 2 else line for line in mrd.readouts(full)
    ]
    assert close_to(only(assemble(lines, HEADER)).data, mrd.without_oversampling(full))


def test_discarding_follows_time_also_in_reversed_readouts() -> None:
    full = mrd.kspace()
    spoilt = np.concatenate([full[..., :-6], np.full((4, 1, 32, 6), 9)], axis=-1)[..., ::-1]
    volume = only(assemble(mrd.readouts(spoilt, discard_pre=6, reversed=True), HEADER))
    expected = only(assemble(mrd.readouts(full[..., :-6], centre_sample=32), HEADER))
    assert np.array_equal(volume.data, expected.data)


def test_one_sample_too_far_is_tolerated_and_two_are_not() -> None:
    lines = mrd.readouts(mrd.kspace(), centre_sample=33)
    assert only(assemble(lines, HEADER)).k0_range == (0, 32)
    with pytest.raises(ReadoutError, match="do not fit in 64 encoded columns"):
        only(assemble([replace(line, centre_sample=30) for line in lines], HEADER))


def test_a_line_outside_the_encoded_matrix_is_refused() -> None:
    with pytest.raises(ReadoutError, match="k1=26, k2=0 falls outside"):
        only(assemble(mrd.readouts(mrd.kspace()), mrd.scan_header(k1_limits=(0, 31, 10))))


def test_a_channel_that_vanishes_is_refused() -> None:
    lines = mrd.readouts(mrd.kspace())
    lines[3] = replace(lines[3], data=lines[3].data[:2])
    with pytest.raises(ReadoutError, match="2 channels"):
        only(assemble(lines, HEADER))


@pytest.mark.parametrize("counter", ["repetition", "set", "phase", "contrast", "average", "slice"])
def test_volumes_are_told_apart_by_every_counter(counter: str) -> None:
    scans = [mrd.kspace(seed) for seed in range(2)]
    indices = [VolumeIndex(**{counter: i}) for i in range(2)]
    interleaved = zip(*(mrd.readouts(s, index=i) for s, i in zip(scans, indices, strict=True)), strict=True)
    volumes = list(assemble((line for pair in interleaved for line in pair), HEADER))
    assert [volume.index for volume in volumes] == indices
    for volume, scan in zip(volumes, scans, strict=True):
        assert close_to(volume.data, mrd.without_oversampling(scan))


def test_a_volume_is_yielded_with_its_last_line_and_not_later() -> None:
    consumed = []

    def readouts() -> Iterator[Readout]:
        for number in range(2):
            for line in mrd.readouts(mrd.kspace(number), index=VolumeIndex(slice=number)):
                consumed.append(number)
                yield line

    volumes = assemble(readouts(), HEADER)
    assert next(volumes).index.slice == 0
    assert consumed == [0] * 32


def test_repeated_lines_are_averaged_and_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    one, other = mrd.kspace(0), mrd.kspace(1)
    volume = only(assemble([*mrd.readouts(one, last=False), *mrd.readouts(other)], HEADER))
    assert close_to(volume.data, mrd.without_oversampling((one + other) / 2))
    assert "32 readouts repeat a line" in caplog.text


def averaged_scan() -> list[Readout]:
    return [
        line for average in range(3) for line in mrd.readouts(mrd.kspace(average), index=VolumeIndex(average=average))
    ]


@pytest.mark.parametrize("counters", [{"average": 3}, {}])
def test_averages_are_combined_when_asked(counters: dict[str, int]) -> None:
    volume = only(assemble(averaged_scan(), mrd.scan_header(counters=counters), averages="combine"))
    mean = np.mean([mrd.kspace(average) for average in range(3)], axis=0)
    assert volume.index == VolumeIndex()
    assert close_to(volume.data, mrd.without_oversampling(mean))


def test_an_announced_average_that_never_comes_is_an_incomplete_scan() -> None:
    with pytest.raises(IncompleteScanError, match="ended before"):
        list(assemble(averaged_scan(), mrd.scan_header(counters={"average": 4}), averages="combine"))


def test_a_scan_that_stops_before_its_last_line_is_incomplete() -> None:
    with pytest.raises(IncompleteScanError, match="before the volume of slice 0 was complete: 20 lines"):
        list(assemble(mrd.readouts(mrd.kspace())[:20], HEADER))


@pytest.mark.parametrize("role", ["image", "calibration"])
def test_a_line_after_the_end_of_its_volume_is_refused(role: str) -> None:
    late = mrd.readout(mrd.kspace()[:, 0, 3], 3, role=role, scan_counter=99)
    with pytest.raises(IncompleteScanError, match="readout 99 belongs to the volume of slice 0, which had ended"):
        list(assemble([*mrd.readouts(mrd.kspace()), late], HEADER))


@pytest.mark.parametrize("roles", [[], ["noise", "set aside"], ["calibration"]])
def test_a_scan_without_image_lines_is_refused(roles: list[str]) -> None:
    lines = [mrd.readout(mrd.kspace()[:, 0, 16], 16, role=role, last_of_volume=True) for role in roles]
    with pytest.raises(IncompleteScanError, match="no image lines"):
        list(assemble(lines, HEADER))


def test_a_volume_whose_centre_was_never_acquired_is_incomplete() -> None:
    with pytest.raises(IncompleteScanError, match="centre of k-space"):
        list(assemble(mrd.readouts(mrd.kspace(), range(7)), HEADER))


def test_a_volume_with_less_than_half_the_lines_of_the_first_is_incomplete() -> None:
    second = mrd.readouts(mrd.kspace(), range(10, 25), index=VolumeIndex(slice=1))
    with pytest.raises(IncompleteScanError, match="slice 1 has 15 lines but the first volume has 32"):
        list(assemble([*mrd.readouts(mrd.kspace()), *second], HEADER))


def test_set_aside_readouts_change_nothing_and_are_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    lines = mrd.readouts(mrd.kspace())
    aside = mrd.readout(np.full((1, 7), np.nan), role="set aside")
    other = replace(aside, encoding_space=1)
    volume = only(assemble([aside, *lines[:9], aside, other, *lines[9:]], HEADER))
    assert close_to(volume.data, mrd.without_oversampling(mrd.kspace()))
    assert [record.message.split(" were")[0] for record in caplog.records] == [
        "2 navigator, dummy or correction readouts",
        "1 readouts of further encoding spaces",
    ]


@pytest.mark.parametrize("trajectory", ["radial", "spiral", "goldenangle", "other", "epi"])
def test_other_trajectories_are_refused_before_any_readout_is_taken(trajectory: str) -> None:
    with pytest.raises(UnsupportedScanError, match=trajectory):
        assemble(iter(()), mrd.scan_header(trajectory=trajectory))


def test_slices_that_come_one_after_the_other_stream_through() -> None:
    """Peak memory does not grow with the number of slices."""

    def peak_bytes(n_slices: int) -> int:
        lines = (line for s in range(n_slices) for line in mrd.readouts(mrd.kspace(), index=VolumeIndex(slice=s)))
        tracemalloc.start()
        for _ in assemble(lines, HEADER):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(12) < 1.3 * peak_bytes(3)
