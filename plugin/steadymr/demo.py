"""The scans of ``steadymr demo``: one simulated head, fully sampled and accelerated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from steadymr.errors import OutputError
from steadymr.simulate.scan import simulate_scan

ACCELERATION = 4


@dataclass(frozen=True, slots=True)
class DemoScans:
    """The same lines, noise included, in both files; the full one tells the true error of the other."""

    accelerated: Path
    full: Path


def simulate_demo_scans(folder: Path, *, seed: int) -> DemoScans:
    """Write two ISMRMRD files of a T1-weighted head seen by 8 coils, two oblique slices of 128 x 128."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"could not make the folder {folder} for the demo's scan: {error.strerror}") from error
    scans = DemoScans(folder / f"brain_r{ACCELERATION}.h5", folder / "brain_full.h5")
    for path, acceleration in ((scans.accelerated, ACCELERATION), (scans.full, 1)):
        simulate_scan(
            path,
            seed=seed,
            purpose="demo",
            n_slices=2,
            acceleration=acceleration,
            tilt_deg=12,
            turn_deg=4,
            signal_to_noise=80,
        )
    return scans
