"""Readouts that pass a perturbing node: the same lines in the same order, changed as the assembled scan would be."""

from __future__ import annotations

from dataclasses import replace

import mrd
import numpy as np
import pytest

from steadymr import perturb
from steadymr.assemble import assemble
from steadymr.errors import PerturbationError, SettingsError
from steadymr.live.perturb_stream import perturb_stream
from steadymr.types import Readout
from steadymr.volume.reconstruct import seed_for

HEADER = mrd.scan_header()


def scan(**changes: object) -> list[Readout]:
    noise = mrd.noise_readout(mrd.covariance())
    return [noise, *mrd.readouts(mrd.kspace(noise=0.01), **changes)]


def through(lines: list[Readout], *perturbations: str) -> list[Readout]:
    return list(perturb_stream(HEADER, iter(lines), {"perturb": ",".join(perturbations)}))


@pytest.mark.parametrize(
    "wish", ["gain_drift=2", "rigid_motion=2", "spikes=0.5", "sampling_error=1", "thermal_noise=1"]
)
def test_what_is_assembled_afterwards_is_what_was_asked_for(wish: str) -> None:
    """Perturbing the stream and then assembling it is assembling it and then perturbing."""
    (before,) = assemble(scan(), HEADER)
    wanted = perturb.apply(before, perturb.parse_all([wish]), seed_for(0, before, "perturb"))
    (after,) = assemble(through(scan(), wish), HEADER)
    assert np.abs(wanted.data - before.data).max() > 1e-4
    np.testing.assert_allclose(after.data, wanted.data, atol=1e-5 * np.abs(before.data).max())


@pytest.mark.parametrize("changes", [{}, {"reversed": True}, {"discard_pre": 3, "discard_post": 2}])
def test_zero_strength_passes_every_sample(changes: dict[str, object]) -> None:
    """Nothing is touched, whatever shape the readouts have."""
    lines = scan(**changes)
    for old, new in zip(lines, through(lines, "gain_drift=0"), strict=True):
        np.testing.assert_array_equal(new.data, old.data)


def test_lines_leave_in_the_order_they_came() -> None:
    """Two slices that take turns and a navigator between them come out as they went in."""
    slices = [scan()[1:], [replace(line, index=replace(line.index, slice=1)) for line in scan()[1:]]]
    mixed = [line for pair in zip(*slices, strict=True) for line in pair]
    mixed.insert(5, mrd.readout(mrd.kspace()[:, 0, 0], role="set aside"))
    out = through([scan()[0], *mixed], "gain_drift=2")
    assert [(line.role, line.index.slice, line.k1) for line in out[1:]] == [
        (line.role, line.index.slice, line.k1) for line in mixed
    ]


def test_an_unknown_imperfection_is_named() -> None:
    """Before any line is let through."""
    with pytest.raises(PerturbationError, match="gremlins"):
        through(scan(), "gremlins=1")


def test_a_volume_whose_end_nobody_marked_is_perturbed_when_the_stream_ends() -> None:
    """It must not pass as it is without a word."""
    lines = [scan()[0], *(replace(line, last_of_volume=False) for line in scan()[1:])]
    for marked, unmarked in zip(through(scan(), "gain_drift=2"), through(lines, "gain_drift=2"), strict=True):
        np.testing.assert_array_equal(unmarked.data, marked.data)


def withheld(lines: list[Readout], **wanted: str) -> list[Readout | None]:
    return list(perturb_stream(HEADER, iter(lines), {name.replace("_", ".", 1): text for name, text in wanted.items()}))


def test_sentinel_lines_are_withheld_by_list_or_by_flag() -> None:
    """None stands in their place; calibration lines of the same step stay."""
    lines = [replace(line, flags=1 << 58) if line.k1 in (3, 7) else line for line in scan()]
    lines[6] = replace(lines[6], role="calibration")
    for wanted in ({"sentinels_lines": "3,7,5"}, {"sentinels_user_flag": "3"}):
        out = withheld(lines, **wanted)
        assert [lines[i].k1 for i, line in enumerate(out) if line is None] == [3, 7]
        assert [line for line in out if line is not None] == [line for line in lines if line.k1 not in (3, 7)]


def test_the_mark_of_the_end_moves_from_a_withheld_line_to_the_last_that_passes() -> None:
    """Or the chain behind would wait for ever."""
    last_in_slice = 1 << 7
    lines = [*scan()[:-1], replace(scan()[-1], flags=last_in_slice)]
    out = withheld(lines, sentinels_lines=f"{lines[-1].k1},{lines[-2].k1}")
    assert out[-2:] == [None, None]
    assert out[-3] is not None
    assert (out[-3].flags, out[-3].last_of_volume) == (last_in_slice, True)


def test_a_volume_of_sentinels_alone_is_refused() -> None:
    """Nothing would be passed on, and nobody would know."""
    steps = ",".join(str(line.k1) for line in scan()[1:])
    with pytest.raises(SettingsError, match="all lines of a volume are sentinels"):
        withheld([*scan()[:-1], replace(scan()[-1], flags=1 << 7)], sentinels_lines=steps)
