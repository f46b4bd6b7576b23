"""Retrospective acceleration: throw lines of a fully sampled scan away, so that the true error can be known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from steadymr.errors import SettingsError
from steadymr.types import KSpace


def equispaced_lines(n_lines: int, acceleration: int, n_calibration: int) -> Bool[np.ndarray, "k1"]:
    """Every ``acceleration``-th of ``n_lines`` lines, counted from the centre, and ``n_calibration`` central ones."""
    distance = np.arange(n_lines) - n_lines // 2
    every_nth = distance % acceleration == 0
    central = (distance >= -(n_calibration // 2)) & (distance < n_calibration - n_calibration // 2)
    return np.asarray(every_nth | central)


def undersample(kspace: KSpace, acceleration: int, n_calibration: int) -> KSpace:
    """Keep the lines that an accelerated protocol would have acquired, with the same lines in every partition.

    Parameters
    ----------
    kspace
        A volume whose lines are all there, but for those a partial Fourier protocol leaves out.
    acceleration
        Keep every n-th line; 1 keeps them all.
    n_calibration
        Lines kept at the centre, from which the coil maps are made.

    Raises
    ------
    SettingsError
        If the scan is accelerated already: there would be no truth to compare with.
    """
    _refuse_accelerated(kspace)
    lines = equispaced_lines(kspace.sampled.shape[1], acceleration, n_calibration)
    sampled = kspace.sampled & lines
    calibrated = kspace.calibrated & lines
    return replace(
        kspace,
        data=np.where(sampled[None, :, :, None], kspace.data, 0).astype(np.complex64),
        sampled=sampled,
        calibration=np.where(calibrated[None, :, :, None], kspace.calibration, 0).astype(np.complex64),
        calibrated=calibrated,
    )


def _refuse_accelerated(kspace: KSpace) -> None:
    acquired = np.flatnonzero(kspace.sampled.any(axis=0))
    if acquired.size == 0:
        raise SettingsError("--undersample needs a fully sampled scan, but this volume has no image line")
    n_missing = acquired[-1] - acquired[0] + 1 - acquired.size
    if n_missing:
        raise SettingsError(
            f"--undersample needs a fully sampled scan, but {n_missing} lines between the first and the last are "
            "missing: replay it without --undersample"
        )
