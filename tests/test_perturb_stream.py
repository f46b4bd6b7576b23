"""Readouts that pass a perturbing node: the same lines in the same order, changed as the assembled scan would be."""

from __future__ import annotations

from dataclasses import replace

import mrd
import numpy as np
import pytest

from steadymr import perturb
from steadymr.assemble import assemble
from steadymr.errors import PerturbationError
from steadymr.perturb_stream import perturb_stream
from steadymr.reconstruct import seed_for
from steadymr.types import Readout

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
