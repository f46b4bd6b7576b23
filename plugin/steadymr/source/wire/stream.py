"""From wire events to readouts.

A file knows its own future, a stream does not: that a volume has ended is believed when the scanner's flags say so,
and only then, for without them nobody can tell a whole scan from one that was aborted. The promise is made too rarely
rather than too often, because a line that comes after its volume was closed would be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from typing import Any, TypeAlias

import ismrmrd
import numpy as np
from jaxtyping import Bool, Complex64

from steadymr.errors import ReadoutError
from steadymr.source.heads import (
    ROLES,
    SET_ASIDE,
    VOLUME_COUNTERS,
    Heads,
    RoleNumbers,
    check_heads,
    has_flag,
    last_of_volume,
    mask,
    role_numbers,
)
from steadymr.source.wire.decode import ACQUISITION_HEAD
from steadymr.source.wire.messages import Acquisitions, Event, ReconBuffer, ReconData
from steadymr.types import Readout, ScanHeader, Space, VolumeIndex

Ended: TypeAlias = Bool[np.ndarray, " readout"]
Samples: TypeAlias = Complex64[np.ndarray, "readout coil sample"]


_ENDS_OF_VOLUMES = mask(ismrmrd.ACQ_LAST_IN_SLICE, ismrmrd.ACQ_LAST_IN_REPETITION, ismrmrd.ACQ_LAST_IN_MEASUREMENT)
_TELLING = mask(ismrmrd.ACQ_IS_PHASECORR_DATA, ismrmrd.ACQ_IS_REVERSE)
_CALIBRATION = mask(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
_IMAGE_ROLES = [ROLES.index("image"), ROLES.index("image and calibration")]


class ReadoutStream:
    """Turns the events of one scan into readouts, remembering what later ones have to agree with."""

    def __init__(self, header: ScanHeader) -> None:
        """Readouts will be judged against ``header``."""
        self.header = header
        self.n_readouts = 0
        self._exemplars: Heads = np.empty(0, ACQUISITION_HEAD)

    def readouts(self, events: Iterator[Event], pass_on: Callable[[Event], None]) -> Iterator[Readout]:
        """All readouts in order of arrival; other events go to ``pass_on``.

        Raises ReadoutError for a readout that is empty, too long, not finite, or outside the encoding limits, and
        UnsupportedScanError for what is not reconstructed here.
        """
        for event in events:
            if isinstance(event, Acquisitions):
                yield from self._from_acquisitions(event)
            elif isinstance(event, ReconData):
                yield from self._from_recon_data(event)
            else:
                pass_on(event)

    def _from_acquisitions(self, run: Acquisitions) -> Iterator[Readout]:
        heads = run.head
        role = self._judge(heads)
        ended = _flagged_ends(heads, role, self.header)
        yield from self._decoded(heads, role, ended, run.data.copy())  # owned and aligned, unlike the event's

    def _from_recon_data(self, message: ReconData) -> Iterator[Readout]:
        for bit in message.bits:
            parts = [_acquired(bit.buffer, calibrates=False)]
            if bit.reference is not None:
                parts.insert(0, _acquired(bit.reference, calibrates=True))
            heads = np.concatenate([heads for heads, _ in parts])
            role, ended = self._judge(heads), last_of_volume(heads)
            start = 0
            for part_heads, data in parts:
                part = slice(start, start + len(part_heads))
                yield from self._decoded(heads[part], role[part], ended[part], data)
                start = part.stop

    def _judge(self, heads: Heads) -> RoleNumbers:
        """Check heads together with one earlier head of each kind that a later one could contradict."""
        n_known = len(self._exemplars)
        known = np.empty(n_known + len(heads), ACQUISITION_HEAD)  # np.concatenate is slow with records
        known[:n_known], known[n_known:] = self._exemplars, heads
        role = role_numbers(known)
        check_heads(known, self.header, first=self.n_readouts - n_known, role=role)
        if n_known == 0 or (heads["flags"] & _TELLING).any():
            self._exemplars = known[_exemplary(known, role)]
        return role[n_known:]

    def _decoded(self, heads: Heads, role: RoleNumbers, ended: Ended, data: Samples) -> Iterator[Readout]:
        self._check_finite(data, role)
        self.n_readouts += len(heads)
        names = [ROLES[number] for number in role.tolist()]
        columns = {"data": data, "role": names, "last_of_volume": ended.tolist(), **_columns(heads)}
        yield from map(Readout, *(columns[field.name] for field in fields(Readout)))

    def _check_finite(self, data: Samples, role: RoleNumbers) -> None:
        if np.isfinite(data.view(np.float32)).all():
            return
        for number, (samples, what) in enumerate(zip(data, role, strict=True), start=self.n_readouts):
            n_bad = int((~np.isfinite(samples)).sum())
            if n_bad and what != SET_ASIDE:
                raise ReadoutError(
                    f"readout {number} has {n_bad} samples that are NaN or infinite; the raw data is damaged"
                )


def header_as_sorted(header: ScanHeader, message: ReconData) -> ScanHeader:
    """The header for a chain that sorts: along the readout it then has what oversampling removal left.

    Gadgetron's RemoveROOversampling shortens the readouts but leaves the XML header as it was.
    """
    n_read = message.bits[0].buffer.data.shape[0] if message.bits else 0
    n_x, n_y, n_z = header.encoded.matrix_xyz
    if not 0 < n_read < n_x:
        return header
    fov_x, fov_y, fov_z = header.encoded.fov_mm_xyz
    return replace(header, encoded=Space((n_read, n_y, n_z), (fov_x * n_read / n_x, fov_y, fov_z)))


def _columns(heads: Heads) -> dict[str, Iterable[Any]]:
    """What heads say, a column for each field of a readout, because single records are slow to read."""
    idx = heads["idx"]
    return {
        "index": map(VolumeIndex, *(idx[name].tolist() for name in VOLUME_COUNTERS)),
        "k1": idx["kspace_encode_step_1"].tolist(),
        "k2": idx["kspace_encode_step_2"].tolist(),
        "centre_sample": heads["center_sample"].tolist(),
        "discard_pre": heads["discard_pre"].tolist(),
        "discard_post": heads["discard_post"].tolist(),
        "reversed": has_flag(heads["flags"], ismrmrd.ACQ_IS_REVERSE).tolist(),
        "sample_time_us": heads["sample_time_us"].tolist(),
        "position_mm": map(tuple, heads["position"].tolist()),
        "read_dir": map(tuple, heads["read_dir"].tolist()),
        "phase_dir": map(tuple, heads["phase_dir"].tolist()),
        "slice_dir": map(tuple, heads["slice_dir"].tolist()),
        "time_stamp": heads["acquisition_time_stamp"].tolist(),
        "scan_counter": heads["scan_counter"].tolist(),
        "encoding_space": heads["encoding_space_ref"].tolist(),
        "flags": heads["flags"].tolist(),
    }


def _flagged_ends(heads: Heads, role: RoleNumbers, header: ScanHeader) -> Ended:
    """Where the scanner says that a volume has ended.

    Calibration lines end nothing, since image lines may follow; nor does a line of a 3-D scan that is not in the last
    partition, since some scanners flag the end of every partition.
    """
    ended: Ended = (heads["flags"] & _ENDS_OF_VOLUMES) != 0
    ended &= np.isin(role, _IMAGE_ROLES)
    if header.k2_limits is not None:
        ended &= heads["idx"]["kspace_encode_step_2"] >= header.k2_limits.maximum
    return ended


def _exemplary(heads: Heads, role: RoleNumbers) -> list[int]:
    """Indices of the heads to remember: the first one used, the first phase correction, the first reversed line."""
    flags = heads["flags"]
    used, imaging = role != SET_ASIDE, role > SET_ASIDE
    kinds = (
        used,
        has_flag(flags, ismrmrd.ACQ_IS_PHASECORR_DATA),
        has_flag(flags, ismrmrd.ACQ_IS_REVERSE) & imaging,
    )
    return sorted({int(np.argmax(kind)) for kind in kinds if kind.any()})


def _acquired(buffer: ReconBuffer, calibrates: bool) -> tuple[Heads, Samples]:
    """Heads and samples of the lines in sorted k-space that were acquired, as if they had just been received.

    A reference buffer gives only what the image buffer does not have as well. BucketToBuffer puts the centre of every
    line where the sampling limits say, also that of an asymmetric echo (gadgetron, BucketToBufferGadget.cpp).
    """
    acquired = buffer.heads["number_of_samples"] > 0
    flags = buffer.heads["flags"]
    if calibrates:
        acquired &= ~has_flag(flags, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
    if buffer.data.shape[1:3] + buffer.data.shape[4:] != buffer.heads.shape:
        raise ReadoutError(f"sorted k-space of shape {buffer.data.shape} came with {buffer.heads.shape} heads")
    heads = buffer.heads[acquired]
    data = np.moveaxis(buffer.data, (3, 0), (-2, -1))[acquired]
    heads["number_of_samples"], heads["active_channels"] = data.shape[2], data.shape[1]
    first, centre, last = (int(n) for n in buffer.sampling["limits"][0].tolist())
    known = first < last < data.shape[2]  # otherwise the sorter shortened the lines and its limits mean nothing here
    heads["discard_pre"] = first if known else 0
    heads["discard_post"] = data.shape[2] - 1 - last if known else 0
    heads["center_sample"] = centre
    if calibrates:
        heads["flags"] |= _CALIBRATION
    return heads, np.ascontiguousarray(data)
