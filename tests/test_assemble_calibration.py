"""Calibration lines: embedded, separate, combined, or found in the middle of the image's own lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mrd
import numpy as np

from steadymr.assemble import assemble
from steadymr.types import KSpace, Readout, VolumeIndex

HEADER = mrd.scan_header()
EVERY_FOURTH = range(0, 32, 4)
CENTRE = range(12, 20)
IMAGE, REFERENCE = mrd.kspace(0), mrd.kspace(1)


def assembled(lines: Sequence[Readout], **options: int) -> list[KSpace]:
    return list(assemble(lines, HEADER, **options))


def lines_of(mask: np.ndarray) -> list[int]:
    return [int(k1) for k1 in np.flatnonzero(mask[0])]


def close_to(found: np.ndarray, oversampled: np.ndarray, k1: Sequence[int]) -> bool:
    truth = mrd.without_oversampling(oversampled)[:, :, list(k1)]
    return bool(np.allclose(found[:, :, list(k1)], truth, atol=1e-5 * np.abs(truth).max()))


def separate(data: np.ndarray, **changes: object) -> list[Readout]:
    return mrd.readouts(data, CENTRE, role="calibration", last=False, **changes)


def test_embedded_lines_are_both_image_and_calibration() -> None:
    embedded = mrd.readouts(IMAGE, CENTRE, role="image and calibration", last=False)
    (volume,) = assembled([*embedded, *mrd.readouts(IMAGE, [k1 for k1 in EVERY_FOURTH if k1 not in CENTRE])])
    assert lines_of(volume.calibrated) == list(CENTRE)
    assert lines_of(volume.sampled) == sorted({*CENTRE, *EVERY_FOURTH})
    assert close_to(volume.calibration, IMAGE, CENTRE)
    assert not volume.calibration[:, :, ~volume.calibrated[0]].any()


def test_lines_flagged_as_calibration_alone_enter_the_image_where_the_header_says_embedded() -> None:
    header = mrd.scan_header(calibration_mode="embedded")
    gaps = [k1 for k1 in CENTRE if k1 not in EVERY_FOURTH]
    calibration = mrd.readouts(IMAGE, gaps, role="calibration", last=False)
    shared = mrd.readouts(IMAGE, [k1 for k1 in CENTRE if k1 in EVERY_FOURTH], role="image and calibration", last=False)
    rest = mrd.readouts(IMAGE, [k1 for k1 in EVERY_FOURTH if k1 not in CENTRE])
    (volume,) = assemble([*calibration, *shared, *rest], header)
    assert lines_of(volume.calibrated) == list(CENTRE)
    assert lines_of(volume.sampled) == sorted({*CENTRE, *EVERY_FOURTH})
    assert close_to(volume.data, IMAGE, sorted({*CENTRE, *EVERY_FOURTH}))


def test_separate_lines_never_enter_the_image() -> None:
    (volume,) = assembled([*separate(REFERENCE), *mrd.readouts(IMAGE, EVERY_FOURTH)])
    assert lines_of(volume.sampled) == list(EVERY_FOURTH)
    assert lines_of(volume.calibrated) == list(CENTRE)
    assert close_to(volume.data, IMAGE, EVERY_FOURTH)
    assert close_to(volume.calibration, REFERENCE, CENTRE)


def test_separate_lines_may_be_shorter_than_the_image_lines() -> None:
    short = separate(REFERENCE[..., 16:48])
    (volume,) = assembled([*short, *mrd.readouts(IMAGE, EVERY_FOURTH)])
    assert volume.k0_range == (0, 32)
    lines = volume.calibration[:, :, list(CENTRE)]
    assert lines[..., 8:24].all()
    assert not lines[..., :8].any()
    assert not lines[..., 24:].any()


def test_combined_lines_are_joined() -> None:
    embedded = mrd.readouts(IMAGE, range(20, 24), role="image and calibration")
    (volume,) = assembled([*separate(REFERENCE), *mrd.readouts(IMAGE, EVERY_FOURTH, last=False), *embedded])
    assert lines_of(volume.calibrated) == list(range(12, 24))
    assert close_to(volume.calibration, REFERENCE, CENTRE)
    assert close_to(volume.calibration, IMAGE, range(20, 24))


def test_each_slice_uses_its_own_separate_lines() -> None:
    references = [separate(mrd.kspace(2 + s), index=VolumeIndex(slice=s)) for s in range(2)]
    images = [mrd.readouts(IMAGE, EVERY_FOURTH, index=VolumeIndex(slice=s)) for s in range(2)]
    volumes = assembled([*references[0], *references[1], *images[1], *images[0]])
    for volume in volumes:
        assert close_to(volume.calibration, mrd.kspace(2 + volume.index.slice), CENTRE)


def test_separate_lines_acquired_once_serve_later_volumes_of_their_slice() -> None:
    references = [separate(mrd.kspace(2 + s), index=VolumeIndex(slice=s)) for s in range(2)]
    images = [
        mrd.readouts(IMAGE, EVERY_FOURTH, index=VolumeIndex(repetition=r, contrast=c, slice=s))
        for r in range(2)
        for c in range(2)
        for s in range(2)
    ]
    volumes = assembled([line for part in (*references, *images) for line in part])
    assert len(volumes) == 8
    for volume in volumes:
        assert close_to(volume.calibration, mrd.kspace(2 + volume.index.slice), CENTRE)


def test_of_several_separate_scans_the_one_of_the_same_contrast_is_borrowed() -> None:
    references = [separate(mrd.kspace(2 + c), index=VolumeIndex(contrast=c)) for c in range(2)]
    images = [
        mrd.readouts(IMAGE, EVERY_FOURTH, index=VolumeIndex(repetition=r, contrast=c))
        for r in range(2)
        for c in range(2)
    ]
    for volume in assembled([line for part in (*references, *images) for line in part]):
        assert close_to(volume.calibration, mrd.kspace(2 + volume.index.contrast), CENTRE)


def test_without_flags_the_gapless_centre_is_the_calibration() -> None:
    (volume,) = assembled(mrd.readouts(IMAGE, sorted({*EVERY_FOURTH, *CENTRE})))
    assert lines_of(volume.calibrated) == [*CENTRE, 20]
    assert close_to(volume.calibration, IMAGE, CENTRE)
    assert not volume.calibration[:, :, :12].any()


def test_without_flags_a_full_scan_is_its_own_calibration() -> None:
    (volume,) = assembled(mrd.readouts(IMAGE))
    assert volume.calibrated.all()
    assert np.array_equal(volume.calibration, volume.data)


def test_a_centre_that_is_too_narrow_is_no_calibration() -> None:
    lines = mrd.readouts(IMAGE, sorted({*EVERY_FOURTH, 15, 17}))
    (volume,) = assembled(lines)
    assert not volume.calibrated.any()
    assert not volume.calibration.any()
    (lenient,) = assembled(lines, n_calibration_min=3)
    assert lines_of(lenient.calibrated) == [15, 16, 17]


def test_a_centre_without_its_middle_line_is_no_calibration() -> None:
    (volume,) = assembled(mrd.readouts(IMAGE, [k1 for k1 in range(32) if k1 != 16]))
    assert not volume.calibrated.any()


def test_separate_lines_of_a_closed_volume_are_dropped_once_replaced() -> None:
    """Dynamic scans with their own calibration in every repetition must not pile it up."""
    from steadymr.assemble.calibration import SeparateCalibration

    calibration = SeparateCalibration()
    for repetition in range(20):
        calibration.add(VolumeIndex(repetition=repetition), (0, 16), np.zeros((1, 4), np.complex64))
        calibration.forget(VolumeIndex(repetition=repetition))
    assert len(calibration.lines) == 1


def test_averaged_calibration_is_averaged_with_the_image() -> None:
    lines = [
        replace(line, last_of_volume=line.last_of_volume and average == 1)
        for average in range(2)
        for line in mrd.readouts(mrd.kspace(average), role="image and calibration")
    ]
    (volume,) = assembled(lines)
    assert close_to(volume.calibration, (mrd.kspace(0) + mrd.kspace(1)) / 2, range(32))
