"""Small scans on disk for tests of the whole way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mrd
import numpy as np

LEVEL = 0.01


def write_scan(
    path: Path, *, n_slices: int = 1, n: int = 48, n_coils: int = 4, lines: list[int] | None = None, **changes: Any
) -> Path:
    """A noise readout and ``n_slices`` slices of ``n`` by ``n``, each line of them or only ``lines``."""
    covariance = mrd.covariance(n_coils, LEVEL)
    readouts = [mrd.noise_readout(covariance)]
    for number in range(n_slices):
        data = mrd.kspace(seed=number, n_coils=n_coils, n_x=n, n_y=n, noise=LEVEL)
        for line in mrd.readouts(data, lines, position_mm=(0.0, 0.0, 6.0 * number), **changes):
            readouts.append(replace(line, index=replace(line.index, slice=number)))
    xml = mrd.header_xml(n, n, counters={"slice": n_slices}, acceleration=1 if lines is None else 2)
    return mrd.write(path, xml, readouts)


def accelerated_lines(n: int, acceleration: int, n_calibration: int) -> list[int]:
    """Every n-th line and the centre."""
    return [k for k in range(n) if (k - n // 2) % acceleration == 0 or abs(k - n // 2 + 0.5) < n_calibration / 2]


def pixels(folder: Path) -> dict[str, np.ndarray]:
    """Pixel arrays of all instances below a folder, by SOP Instance UID."""
    import pydicom

    datasets = [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
    return {str(dataset.SOPInstanceUID): dataset.pixel_array for dataset in datasets}
