"""Geometry is what the central line states; what it does not state is assumed, and said to be."""

from __future__ import annotations

from dataclasses import replace

import mrd
import pytest

from steadymr.assemble import assemble
from steadymr.types import Geometry, Readout, Vector, VolumeIndex

OBLIQUE: dict[str, Vector] = {"read_dir": (0.6, 0.8, 0.0), "phase_dir": (-0.8, 0.6, 0.0), "slice_dir": (0.0, 0.0, -1.0)}
NOTHING: dict[str, Vector] = {"read_dir": (0.0,) * 3, "phase_dir": (0.0,) * 3, "slice_dir": (0.0,) * 3}


def geometry(lines: list[Readout], **options: object) -> Geometry:
    (volume,) = assemble(lines, mrd.scan_header(**options))
    return volume.geometry


def test_stated_geometry_is_passed_on() -> None:
    found = geometry(mrd.readouts(mrd.kspace(), position_mm=(1.0, -2.0, 3.0), **OBLIQUE))
    assert found == Geometry((1.0, -2.0, 3.0), *OBLIQUE.values(), fov_mm_xyz=(256.0, 256.0, 5.0), assumed="")


def test_the_central_line_decides() -> None:
    lines = [replace(line, position_mm=(float(line.k1), 0.0, 0.0)) for line in mrd.readouts(mrd.kspace())]
    assert geometry(lines).centre_mm == (16.0, 0.0, 0.0)


def test_each_slice_has_its_own_position() -> None:
    lines = [
        line
        for s in range(3)
        for line in mrd.readouts(mrd.kspace(), index=VolumeIndex(slice=s), position_mm=(0.0, 0.0, 7.0 * s))
    ]
    volumes = assemble(lines, mrd.scan_header(counters={"slice": 3}))
    assert [volume.geometry.centre_mm[2] for volume in volumes] == [0.0, 7.0, 14.0]


@pytest.mark.parametrize(
    "directions",
    [
        NOTHING,
        OBLIQUE | {"read_dir": (0.6, 0.7, 0.0)},
        OBLIQUE | {"read_dir": (0.0, 0.0, 1.0)},
        OBLIQUE | {"read_dir": (float("nan"), 0.8, 0.0)},
    ],
    ids=["zero", "not of unit length", "not orthogonal", "not a number"],
)
def test_directions_that_are_no_triad_are_replaced_by_axial_ones(directions: dict[str, Vector]) -> None:
    found = geometry(mrd.readouts(mrd.kspace(), position_mm=(1.0, 2.0, 3.0), **directions))
    assert (found.read_dir, found.phase_dir, found.slice_dir) == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert found.centre_mm == (1.0, 2.0, 3.0)
    assert found.assumed == "directions (axial)"


def test_slices_that_state_nothing_are_stacked() -> None:
    lines = [line for s in range(3) for line in mrd.readouts(mrd.kspace(), index=VolumeIndex(slice=s), **NOTHING)]
    volumes = list(assemble(lines, mrd.scan_header(counters={"slice": 3})))
    assert [volume.geometry.centre_mm for volume in volumes] == [(0, 0, -5), (0, 0, 0), (0, 0, 5)]
    assert all("position" in volume.geometry.assumed for volume in volumes)


def test_a_position_at_the_isocentre_is_a_statement_if_directions_are() -> None:
    assert geometry(mrd.readouts(mrd.kspace())).assumed == ""


def test_the_time_stamp_is_that_of_the_first_line() -> None:
    lines = [replace(line, time_stamp=100 + line.k1) for line in mrd.readouts(mrd.kspace())]
    (volume,) = assemble(lines, mrd.scan_header())
    assert volume.time_stamp == 100
