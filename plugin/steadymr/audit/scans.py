"""The slices that an audit looks at: from files, accelerated on the way if asked, or simulated with known truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from steadymr.assemble import assemble
from steadymr.config import Settings
from steadymr.errors import IncompleteScanError, SettingsError, UnsupportedScanError
from steadymr.simulate.scan import simulate_scan
from steadymr.simulate.seeds import Purpose
from steadymr.source.replay import Scan, open_scan
from steadymr.types import KSpace, VolumeIndex
from steadymr.volume.arriving import accelerated, assembled, whole

Reference: TypeAlias = Literal["truth", "clean reconstruction"]

SIMULATED_SIGNAL_TO_NOISE = 40.0
NOISELESS = 1e6  #: signal to noise of the scan that tells the truth about a simulated one
N_SIMULATED_SLICES = 2


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One slice to be audited: what is reconstructed, and the same with all lines if that is known."""

    scan: str  #: name of the file; folders are often called after patients
    number: int  #: among the slices of the scan, from 0, in the order of their counters
    title: str
    kspace: KSpace
    full: KSpace | None

    @property
    def reference(self) -> Reference:
        """What errors are measured against."""
        return "clean reconstruction" if self.full is None else "truth"


@dataclass(frozen=True, slots=True)
class Source:
    """One scan: its file, and for a simulated one the file without noise."""

    path: Path
    noiseless: Path | None = None

    @property
    def name(self) -> str:
        """How tables call it."""
        return self.path.name


def simulate(n_scans: int, purpose: Purpose, folder: Path, matrix: int = 128) -> tuple[Source, ...]:
    """Write full scans of ``n_scans`` simulated heads, each with noise and without, unless they are there already."""
    return tuple(_simulated(number, purpose, folder, matrix) for number in range(n_scans))


def _simulated(seed: int, purpose: Purpose, folder: Path, matrix: int) -> Source:
    scan = folder / f"{purpose}_{seed:03d}.h5"
    source = Source(scan, scan.with_name(f"{purpose}_{seed:03d}_noiseless.h5"))
    for path, signal_to_noise in ((source.path, SIMULATED_SIGNAL_TO_NOISE), (source.noiseless, NOISELESS)):
        if path is not None and not path.exists():
            simulate_scan(
                path, seed=seed, purpose=purpose, n_slices=N_SIMULATED_SLICES, acceleration=1,
                matrix=(matrix, matrix), pixel_mm=230 / matrix, signal_to_noise=signal_to_noise,
            )  # fmt: skip
    return source


def checksum(source: Source) -> str:
    """SHA-256 of a file; raises SourceError if it is no scan."""
    with open_scan(source.path) as scan:
        return scan.sha256


def slices(source: Source, settings: Settings, n_slices: int) -> tuple[Slice, ...]:
    """The slices of a scan, ``n_slices`` of them evenly spread, or all if that is 0.

    Raises:
        SteadymrError: whatever a replay would refuse.
        UnsupportedScanError: for a scan with a second phase encoding.
    """
    with open_scan(source.path) as scan:
        pairs = sorted(_pairs(source, scan, settings), key=lambda pair: pair[0].index)
    if not pairs:
        raise IncompleteScanError(f"{source.name} holds no complete slice, so there is nothing to audit")
    found = tuple(
        Slice(source.name, number, title(kspace.index), kspace, full) for number, (kspace, full) in enumerate(pairs)
    )
    return tuple(found[number] for number in spread(len(found), n_slices))


def spread(n_available: int, n_wanted: int) -> list[int]:
    """Evenly spread numbers from the middle part of ``range(n_available)``; all of them if 0 or too many are wanted."""
    if n_wanted == 0 or n_wanted >= n_available:
        return list(range(n_available))
    return [int((2 * number + 1) * n_available / (2 * n_wanted)) for number in range(n_wanted)]


def title(index: VolumeIndex) -> str:
    """Return "slice 3", followed by those other counters that are not 0."""
    others = [
        f"{name} {value}" for name in VolumeIndex.__slots__ if name != "slice" and (value := getattr(index, name))
    ]
    return ", ".join([f"slice {index.slice}", *others])


def _pairs(source: Source, scan: Scan, settings: Settings) -> Iterator[tuple[KSpace, KSpace | None]]:
    _refuse_3d(source, scan)
    if settings.undersample.acceleration == 1 and source.noiseless is None:
        for kspace in assembled(scan.readouts(), scan.header, settings):
            yield kspace, None
        return
    truths = None if source.noiseless is None else _noiseless(source.noiseless)
    for full in whole(scan.readouts(), scan.header, settings):
        fewer = accelerated(full, settings) if settings.undersample.acceleration > 1 else full
        yield fewer, full if truths is None else _as_truth(truths[full.index], full)


def _noiseless(path: Path) -> dict[VolumeIndex, KSpace]:
    with open_scan(path) as scan:
        return {kspace.index: kspace for kspace in assemble(scan.readouts(), scan.header)}


def _as_truth(noiseless: KSpace, noisy: KSpace) -> KSpace:
    """Noiseless data that are whitened as the noisy ones are, so that both have one unit."""
    return replace(noiseless, noise_covariance=noisy.noise_covariance)


def _refuse_3d(source: Source, scan: Scan) -> None:
    n_partitions = scan.header.encoded.matrix_xyz[2]
    if n_partitions > 1:
        raise UnsupportedScanError(
            f"an audit takes 2-D scans, but {source.name} has {n_partitions} partitions; audit a 2-D scan of the same "
            "protocol and coil"
        )


def check_files(paths: tuple[Path, ...], *, n_simulated: int = 0) -> tuple[Source, ...]:
    """The sources of files; raises SettingsError if two have one name, or there is nothing to audit at all."""
    names = [path.name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(
            f"two scans are called {twice[0]}; the table tells scans apart by their names, so rename one"
        )
    if not names and n_simulated < 1:
        raise SettingsError("name at least one scan, SCAN.h5, or simulate some with --simulate N")
    return tuple(Source(path) for path in paths)
