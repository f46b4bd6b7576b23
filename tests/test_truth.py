"""An image is compared with what full sampling shows, in the place where the image shows it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dicom_cases import slice_result
from perturb_scans import energy, scan, strong
from scipy import ndimage

from steadymr.perturb import apply
from steadymr.types import Image, PerturbationRecord
from steadymr.volume.truth import compare, distorted_like, in_its_place


def blob() -> np.ndarray:
    y, x = (np.indices((64, 64)) - 32.0) / 32
    head = 100.0 * (y**2 / 0.5 + x**2 / 0.3 < 1) + 40.0 * ((y - 0.2) ** 2 + (x + 0.15) ** 2 < 0.03)
    return np.asarray(ndimage.gaussian_filter(head, 1.0), np.float32)


def image(data: np.ndarray, *records: PerturbationRecord) -> Image:
    return replace(slice_result().image, data=data[None].astype(np.float32), perturbations=records)


def record(name: str, **parameters: float) -> PerturbationRecord:
    return PerturbationRecord(name, parameters, seed=1)


MOVED = np.roll(blob(), (3, -2), axis=(0, 1))
TURNED = ndimage.rotate(blob(), 6.0, reshape=False, order=3)
CASES = {
    "shifted": (image(MOVED, record("rigid_motion", rotation_deg=0.0)), 35.0),
    "turned": (image(TURNED, record("rigid_motion", rotation_deg=8.0)), 33.0),
    "two imperfections": (image(MOVED, record("spikes"), record("rigid_motion", rotation_deg=0.0)), 35.0),
}


@pytest.mark.parametrize("name", CASES)
def test_an_object_that_was_moved_is_compared_where_it_is(name: str) -> None:
    moved, least_db = CASES[name]
    there = compare(moved, in_its_place(blob()[None], moved))
    assert there is not None
    assert there.psnr_db > least_db
    here = compare(moved, blob()[None])
    assert here is not None
    assert here.psnr_db < there.psnr_db - 8


@pytest.mark.parametrize(
    "records",
    [(), (record("phase_drift"),), (record("worst_case"),), (record("off_resonance", frequency_hz=60.0),)],
    ids=["clean", "phase drift", "worst case", "off-resonance, which the full scan has met"],
)
def test_nothing_is_moved_for_imperfections_that_move_nothing(records: tuple[PerturbationRecord, ...]) -> None:
    reference = blob()[None]
    assert in_its_place(reference, image(MOVED, *records)) is reference


def test_the_full_scan_meets_the_field_that_the_scan_met() -> None:
    """The same map, though it was drawn by chance and followed another imperfection; nothing else is repeated."""
    field = strong("off_resonance")
    full = scan()
    perturbed = apply(full, (strong("thermal_noise"), field), seed=5)
    truth = distorted_like(full, perturbed)
    assert truth is not None
    np.testing.assert_array_equal(truth.data, field(full, np.random.default_rng(perturbed.perturbations[1].seed)).data)
    assert energy(truth.data - full.data) > 0.01 * energy(full.data)


def test_the_full_scan_stays_as_it_is_for_what_distorts_nothing() -> None:
    """Motion between lines would ruin a full scan as well, and is no property of the object."""
    full = scan()
    for name in ("rigid_motion", "spikes"):
        assert distorted_like(full, apply(full, (strong(name),), seed=5)) is full
    assert distorted_like(None, apply(full, (strong("off_resonance"),), seed=5)) is None


def test_without_tissue_there_is_nothing_to_compare() -> None:
    empty = np.zeros((1, 64, 64), np.float32)
    assert compare(image(MOVED), empty) is None
