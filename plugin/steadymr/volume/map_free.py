"""Scans without calibration lines: an image that needs no coil maps, marked as what it is, and never scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from steadymr.errors import CalibrationError
from steadymr.recon import methods
from steadymr.stability.score import unscored_report
from steadymr.types import Image, KSpace, SliceResult
from steadymr.volume.planes import Run, plane_geometry, wanted_partitions

DERIVATION = "Root sum of squares of zero-filled channels: no coil maps, aliased where lines are missing"


def map_free_images(kspace: KSpace, why: CalibrationError, run: Run) -> Iterator[SliceResult]:
    """The planes of a volume whose coil maps cannot be had, with the reason, as its only series.

    What was left out folds over the image: it serves to see that something was scanned, and no more.
    """
    reason = f"no coil maps, so nothing was unfolded and nothing can be scored: {why}"
    run.note(reason)
    for z in wanted_partitions(kspace):
        with run.watch("map-free"):
            grid = methods.root_sum_of_squares(kspace, z)
        image = Image(
            data=np.asarray(grid.numpy()[None], np.float32),
            method="classical",
            index=replace(kspace.index, partition=z),
            geometry=plane_geometry(kspace, z),
            header=kspace.header,
            derivation=DERIVATION,
            time_stamp=kspace.time_stamp,
            perturbations=kspace.perturbations,
        )
        run.step("map-free")
        yield SliceResult(image, unscored_report(image, None, reason))
