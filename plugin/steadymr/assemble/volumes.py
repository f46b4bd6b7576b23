"""The assembler: fed readouts, it says when a volume is complete. It never reads or writes anything."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Complex64

from steadymr.assemble.calibration import SeparateCalibration, central_block
from steadymr.assemble.geometry import geometry_of
from steadymr.assemble.grid import Grid, Line, grid_of, place
from steadymr.assemble.lines import Lines
from steadymr.assemble.noise import MarginNoise, ScanNoise, volume_noise
from steadymr.assemble.support import check_centre, check_partitions, check_trajectory
from steadymr.errors import IncompleteScanError, ReadoutError
from steadymr.types import KSpace, Readout, ScanHeader, VolumeIndex

log = logging.getLogger(__name__)

Averages: TypeAlias = Literal["separate", "combine"]

ABORTED = 0.5  #: a volume with less than this share of the first volume's lines was not acquired to its end


def assemble(
    readouts: Iterable[Readout],
    header: ScanHeader,
    *,
    averages: Averages = "separate",
    n_calibration_min: int = 6,
    sentinel_steps: Collection[int] = (),
    sentinel_flags: int = 0,
) -> Iterator[KSpace]:
    """Sort readouts into volumes and yield each as soon as its last line has come.

    With ``averages="combine"`` the averages of a volume become one, the mean of their lines, with the noise covariance
    of a mean; it is complete after as many averages as the header announces, or at the end if it announces none.
    Readouts of one line within a volume are averaged likewise. ``n_calibration_min`` is the smallest number of
    adjacent central lines taken as calibration when none is flagged.

    Image lines whose encoding step k1 is one of ``sentinel_steps``, or that have one of the ``sentinel_flags`` (a mask
    of MRD flags), are withheld from the image as sentinels. They count neither as lines of the image nor as
    calibration. One that the image or its calibration has as well, or that some partitions lack, is logged and is no
    sentinel.

    Raises ``UnsupportedScanError``, at once if the trajectory tells, else when a volume's lines do;
    ``IncompleteScanError`` if a volume never ends, goes on after its end, or no image line comes at all;
    ``ReadoutError`` for a line outside the encoded matrix.

    Lines flagged as calibration alone enter the image only if the header calls the calibration embedded.
    """
    check_trajectory(header)
    return _Assembler(header, averages, n_calibration_min, frozenset(sentinel_steps), sentinel_flags).run(readouts)


@dataclass(slots=True)
class _OpenVolume:
    """A volume whose last line has not come."""

    index: VolumeIndex
    centre: Readout  #: the line nearest to zero frequency so far
    dwell_us: float
    time_stamp: int
    k0_range: tuple[int, int]
    image: Lines = field(default_factory=Lines)
    embedded: Lines = field(default_factory=Lines)
    sentinels: Lines = field(default_factory=Lines)
    margin: MarginNoise = field(default_factory=MarginNoise)
    averages: set[int] = field(default_factory=set)

    def add(self, readout: Readout, line: Line, grid: Grid) -> None:
        where = (line.k2, line.k1)
        self.image.add(where, line.samples)
        if readout.role == "image and calibration":
            self.embedded.add(where, line.samples)
        self.margin.add(line, grid)
        self.averages.add(readout.index.average)
        self.k0_range = (max(self.k0_range[0], line.k0_range[0]), min(self.k0_range[1], line.k0_range[1]))
        if _off_centre(readout, grid) < _off_centre(self.centre, grid):
            self.centre = readout

    def withhold(self, line: Line) -> None:
        """Keep a line apart; one that has fewer columns than the image's would cost the image some, and is dropped."""
        if line.k0_range[0] <= self.k0_range[0] and line.k0_range[1] >= self.k0_range[1]:
            self.sentinels.add((line.k2, line.k1), line.samples)

    def with_sentinels(
        self,
        data: Complex64[np.ndarray, "coil k2 k1 k0"],
        sampled: Bool[np.ndarray, "k2 k1"],
        calibrated: Bool[np.ndarray, "k2 k1"],
    ) -> tuple[Complex64[np.ndarray, "coil k2 k1 k0"], Bool[np.ndarray, "k2 k1"] | None]:
        """Add the withheld lines that can serve: nothing else knows them, and all acquired partitions have them."""
        if not self.sentinels.sums:
            return data, None
        mask = self.sentinels.mask(*sampled.shape) & ~(sampled | calibrated).any(axis=0)
        mask &= mask.sum(axis=0) == sampled.any(axis=1).sum()
        n_lost = len(self.sentinels.sums) - int(mask.sum())
        if n_lost:
            log.warning(
                "%s: %d withheld lines cannot serve as sentinels, because the image or its calibration has them as "
                "well or some partitions lack them", describe(self.index), n_lost,
            )  # fmt: skip
        withheld = self.sentinels.dense(*sampled.shape)
        withheld[..., : self.k0_range[0]] = 0
        withheld[..., self.k0_range[1] :] = 0
        return np.where(mask[..., np.newaxis], withheld, data), mask if mask.any() else None


class _Assembler:
    def __init__(
        self,
        header: ScanHeader,
        averages: Averages,
        n_calibration_min: int,
        sentinel_steps: frozenset[int],
        sentinel_flags: int,
    ) -> None:
        self._header, self._averages, self._n_calibration_min = header, averages, n_calibration_min
        self._sentinel_steps, self._sentinel_flags = sentinel_steps, sentinel_flags
        self._grid = grid_of(header)
        self._open: dict[VolumeIndex, _OpenVolume] = {}
        self._closed: set[VolumeIndex] = set()
        self._calibration = SeparateCalibration()
        self._noise = ScanNoise()
        self._ends: Counter[VolumeIndex] = Counter()
        self._seen: Counter[str] = Counter()
        self._n_coils = 0
        self._n_lines_first = 0

    def run(self, readouts: Iterable[Readout]) -> Iterator[KSpace]:
        for readout in readouts:
            self._seen["other encoding space" if readout.encoding_space else readout.role] += 1
            if readout.role == "set aside":
                continue
            self._check_coils(readout)
            if readout.role == "noise":
                self._noise.add(readout)
            elif (index := self._take(readout)) is not None:
                yield self._close(index)
        for index in self._complete_at_end():
            yield self._close(index)
        self._finish()

    def _check_coils(self, readout: Readout) -> None:
        n_coils = len(readout.data)
        if self._n_coils not in (0, n_coils):
            raise ReadoutError(f"a readout has {n_coils} channels but those before it have {self._n_coils}")
        self._n_coils = n_coils

    def _take(self, readout: Readout) -> VolumeIndex | None:
        """Put an image or calibration line in its volume; the volume's index if that completes it."""
        index = replace(readout.index, average=0) if self._averages == "combine" else readout.index
        if index in self._closed:
            raise IncompleteScanError(f"readout {readout.scan_counter} belongs to {describe(index)}, which had ended")
        line = place(readout, self._grid)
        if readout.role == "calibration" and self._header.calibration_mode == "embedded":
            readout = replace(readout, role="image and calibration")  # same contrast: lines like any other
        if readout.role == "calibration":
            self._calibration.add(index, (line.k2, line.k1), line.samples)
        elif self._is_sentinel(readout):
            self._volume(index, readout, line).withhold(line)
        else:
            self._volume(index, readout, line).add(readout, line, self._grid)
        if readout.last_of_volume:
            self._ends[index] += 1
        return index if index in self._open and self._is_complete(index) else None

    def _is_sentinel(self, readout: Readout) -> bool:
        marked = readout.k1 in self._sentinel_steps or bool(readout.flags & self._sentinel_flags)
        if marked and readout.role != "image":
            log.warning("line k1=%d is marked as a sentinel but serves as calibration: it stays one", readout.k1)
        return marked and readout.role == "image"

    def _volume(self, index: VolumeIndex, readout: Readout, line: Line) -> _OpenVolume:
        if index not in self._open:
            self._open[index] = _OpenVolume(index, readout, readout.sample_time_us, readout.time_stamp, line.k0_range)
        return self._open[index]

    def _is_complete(self, index: VolumeIndex) -> bool:
        if self._averages == "separate":
            return self._ends[index] > 0
        return self._ends[index] == self._header.counters.get("average", -1)

    def _complete_at_end(self) -> list[VolumeIndex]:
        """Volumes of combined averages of which the header does not say how many there are."""
        if self._averages == "separate" or "average" in self._header.counters:
            return []
        return [index for index, volume in self._open.items() if self._ends[index] == len(volume.averages)]

    def _close(self, index: VolumeIndex) -> KSpace:
        volume = self._open.pop(index)
        self._closed.add(index)
        grid, lines = self._grid, volume.image
        sampled = lines.mask(grid.n_k2, grid.n_k1)
        self._judge(sampled, volume)
        calibration, calibrated = self._calibrate(volume)
        data = lines.dense(grid.n_k2, grid.n_k1)
        data[..., : volume.k0_range[0]] = 0
        data[..., volume.k0_range[1] :] = 0
        if calibration is None:
            calibrated = central_block(sampled, self._n_calibration_min)
            calibration = data if (calibrated == sampled).all() else data * calibrated[..., np.newaxis]
        data, sentinel = volume.with_sentinels(data, sampled, calibrated)
        scan_noise = self._noise.at(volume.dwell_us, self._header.system.noise_bandwidth_ratio)
        covariance, source = volume_noise(scan_noise, volume.margin, lines, grid, volume.k0_range)
        return KSpace(
            data=data,
            sampled=sampled,
            k0_range=volume.k0_range,
            calibration=calibration,
            calibrated=calibrated,
            noise_covariance=covariance,
            noise_source=source,
            index=index,
            geometry=geometry_of(volume.centre, self._header),
            encoded=grid.space,
            header=self._header,
            time_stamp=volume.time_stamp,
            sentinel=sentinel,
        )

    def _judge(self, sampled: Bool[np.ndarray, "k2 k1"], volume: _OpenVolume) -> None:
        """Refuse a volume that cannot be reconstructed truthfully, and log what is unusual about it."""
        name, n_lines = describe(volume.index), len(volume.image.sums)
        if volume.k0_range[0] >= volume.k0_range[1]:
            raise IncompleteScanError(f"{name} has lines that share no column of k-space")
        check_centre(sampled, name)
        check_partitions(sampled, name)
        self._n_lines_first = self._n_lines_first or n_lines
        if n_lines < ABORTED * self._n_lines_first:
            raise IncompleteScanError(
                f"{name} has {n_lines} lines but the first volume has {self._n_lines_first}; was the scan aborted?"
            )
        if n_lines != self._n_lines_first:
            log.warning("%s has %d lines, the first volume has %d", name, n_lines, self._n_lines_first)
        if volume.image.n_duplicates:
            log.info("%s: %d readouts repeat a line and were averaged", name, volume.image.n_duplicates)

    def _calibrate(
        self, volume: _OpenVolume
    ) -> tuple[Complex64[np.ndarray, "coil k2 k1 k0"] | None, Bool[np.ndarray, "k2 k1"]]:
        """The flagged calibration lines of a volume and where they lie; None if none serve it."""
        grid, own = self._grid, self._calibration.of(volume.index)
        lines = volume.embedded.merged(own) if own else volume.embedded
        if not lines.sums:
            lines = self._calibration.borrowed(volume.index) or lines
        self._calibration.forget(volume.index)
        mask = lines.mask(grid.n_k2, grid.n_k1)
        return (lines.dense(grid.n_k2, grid.n_k1) if lines.sums else None), mask

    def _finish(self) -> None:
        """Log what was set aside; raise ``IncompleteScanError`` if anything is left over or nothing came."""
        if self._seen["set aside"]:
            log.info("%d navigator, dummy or correction readouts were set aside", self._seen["set aside"])
        if self._seen["other encoding space"]:
            log.warning(
                "%d readouts of further encoding spaces were set aside; only the first is reconstructed",
                self._seen["other encoding space"],
            )
        for index, volume in self._open.items():
            raise IncompleteScanError(
                f"the scan ended before {describe(index)} was complete: {len(volume.image.sums)} lines had come"
            )
        if not self._closed:
            seen = ", ".join(f"{number} {role}" for role, number in self._seen.items()) or "none"
            raise IncompleteScanError(f"the scan has no image lines to reconstruct; readouts: {seen}")


def describe(index: VolumeIndex) -> str:
    """The volume by those counters that are not 0, for messages."""
    names = ("repetition", "set", "phase", "contrast", "average")
    parts = [f"{name} {getattr(index, name)}" for name in names if getattr(index, name)]
    return f"the volume of {', '.join([*parts, f'slice {index.slice}'])}"


def _off_centre(readout: Readout, grid: Grid) -> int:
    return abs(readout.k1 - grid.k1_centre) + abs(readout.k2 - grid.k2_centre)
