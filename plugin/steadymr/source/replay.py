"""An MRD file (HDF5) as a scan: header first, then readouts, streamed in blocks so that no file is ever held whole.

A file knows its own future: which readout ends its volume is read off the heads before the first one is yielded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import ismrmrd.hdf5
import numpy as np
from jaxtyping import Complex64

from steadymr.errors import HeaderError, NotMRDError, ReadoutError
from steadymr.source.header import parse_header
from steadymr.source.heads import Head, Heads, check_heads, last_of_volume, roles, to_readout
from steadymr.source.heap import check_heaps
from steadymr.types import Readout, ScanHeader

HEADS_PER_BLOCK = 16384
BYTES_PER_BLOCK = 8 * 2**20
HASH_BLOCK = 2**20
MIN_BYTES_PER_READOUT = 8  #: in a file; two references of 16 bytes, however well they were compressed


def open_scan(path: Path, group: str = "dataset") -> Scan:
    """Open the MRD data set ``group`` of a file and judge its header and all heads, before any data is read.

    Raises ``NotMRDError`` if there is no such file or group, ``HeaderError``, ``ReadoutError`` or
    ``UnsupportedScanError`` if what is in it cannot be used.
    """
    file = _open_file(path)
    try:
        with _translated(path, "its content"):
            check_heaps(path)
        return Scan(path, file, group)
    except BaseException:
        file.close()
        raise


class Scan:
    """An open MRD file; a context manager that closes it."""

    header: ScanHeader
    n_readouts: int

    def __init__(self, path: Path, file: h5py.File, group: str) -> None:
        """Read header and heads of an open file; use ``open_scan``."""
        self._path, self._file = path, file
        with _translated(path, "its header"):
            self._readouts = _find_readouts(path, file, group)
            self.header = parse_header(_read_xml(path, file[group]))
        self.n_readouts = len(self._readouts)
        self._heads = self._read_heads()
        _check_trajectory(self._heads, self.header)
        check_heads(self._heads, self.header)

    def __enter__(self) -> Scan:
        """The scan itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()

    @cached_property
    def n_volumes(self) -> int:
        """How many volumes the readouts make, averages counted apart."""
        return int(last_of_volume(self._heads).sum())

    @cached_property
    def sha256(self) -> str:
        """Checksum of the file's content, in hexadecimal; the first use reads the file through once."""
        digest = hashlib.sha256()
        try:
            with self._path.open("rb") as stream:
                while block := stream.read(HASH_BLOCK):
                    digest.update(block)
        except OSError as error:
            raise ReadoutError(f"cannot read {self._path} through for its checksum: {error}") from error
        return digest.hexdigest()

    def readouts(self) -> Iterator[Readout]:
        """All readouts in the order of the file.

        Raises ``ReadoutError`` when it comes to one that is truncated, or has samples that are not finite.
        """
        last, role = last_of_volume(self._heads), roles(self._heads)
        for number, data in enumerate(self._samples()):
            head = self._heads[number]
            shaped = _shape(head, data, number) if role[number] != "set aside" else _shape_any(data)
            yield to_readout(head, role[number], bool(last[number]), shaped, number)

    def _read_heads(self) -> Heads:
        heads = np.empty(self.n_readouts, ismrmrd.hdf5.acquisition_header_dtype)
        for start in range(0, self.n_readouts, HEADS_PER_BLOCK):
            with _translated(self._path, f"the heads of readouts {start} and following"):
                heads[start : start + HEADS_PER_BLOCK] = self._readouts.fields("head")[start : start + HEADS_PER_BLOCK]
        return heads

    def _samples(self) -> Iterator[Any]:
        start = 0
        while start < self.n_readouts:
            stop = start + _block_length(self._heads[start])
            with _translated(self._path, f"the data of readouts {start} to {min(stop, self.n_readouts) - 1}"):
                block = self._readouts.fields("data")[start:stop]
            yield from block
            start = stop


def _open_file(path: Path) -> h5py.File:
    if not path.is_file():
        raise NotMRDError(f"there is no file {path}; expected an MRD file (HDF5)")
    try:
        if not h5py.is_hdf5(path):
            raise NotMRDError(f"{path} is not an HDF5 file; expected an MRD file such as siemens_to_ismrmrd writes")
        return h5py.File(path, "r")
    except OSError as error:
        if "truncated" in str(error):
            raise ReadoutError(f"{path} is truncated ({_reason(error)}); copy it from the scanner again") from error
        raise NotMRDError(f"{path} cannot be opened as an HDF5 file ({_reason(error)})") from error


def _find_readouts(path: Path, file: h5py.File, group: str) -> h5py.Dataset:
    """The table of acquisitions in ``group``, of the layout that ismrmrd writes."""
    if not isinstance(file.get(group), h5py.Group):
        raise NotMRDError(f"{path} has no group '{group}'; it has {_names(file)}")
    table = file[group].get("data")
    if not isinstance(table, h5py.Dataset):
        raise NotMRDError(f"group '{group}' of {path} holds no acquisitions ('data'); it has {_names(file[group])}")
    fields = table.dtype["head"].names if "head" in (table.dtype.names or ()) else None
    missing = set(ismrmrd.hdf5.acquisition_header_dtype.names) - set(fields or ())
    if missing or table.ndim != 1 or h5py.check_vlen_dtype(table.dtype["data"]) != np.float32:
        raise NotMRDError(f"'{group}/data' of {path} is not a table of MRD acquisitions; which software wrote it?")
    if len(table) > path.stat().st_size // MIN_BYTES_PER_READOUT:
        raise ReadoutError(f"{path} is damaged: it announces {len(table)} readouts, more than would fit in its size")
    return table


def _names(group: h5py.Group) -> str:
    return ", ".join(sorted(group)[:20]) or "nothing in it"


def _read_xml(path: Path, group: h5py.Group) -> str | bytes:
    xml = group.get("xml")
    if not isinstance(xml, h5py.Dataset) or xml.size == 0:
        raise HeaderError(f"{path} has no XML header beside its acquisitions; was the conversion interrupted?")
    text = xml[()] if xml.ndim == 0 else xml[0]
    if not isinstance(text, str | bytes):
        raise HeaderError(f"the XML header of {path} is stored as {type(text).__name__}; expected text")
    return text


def _check_trajectory(heads: Heads, header: ScanHeader) -> None:
    if "<trajectory>" not in header.xml and heads["trajectory_dimensions"].any():
        raise HeaderError("the MRD header names no trajectory but readouts carry one; is the scan Cartesian?")


def _block_length(head: Head) -> int:
    """Readouts like this one that fit in a block; noise readouts and the like may differ, which does no harm."""
    return max(1, BYTES_PER_BLOCK // (8 * max(1, int(head["number_of_samples"]) * int(head["active_channels"]))))


def _shape(head: Head, data: Any, number: int) -> Complex64[np.ndarray, "coil sample"]:
    coils, samples = int(head["active_channels"]), int(head["number_of_samples"])
    if len(data) != 2 * coils * samples:
        raise ReadoutError(
            f"readout {number} holds {len(data) / 2:g} complex numbers; its head says {coils} channels of {samples}"
        )
    return np.ascontiguousarray(data, np.float32).view(np.complex64).reshape(coils, samples)


def _shape_any(data: Any) -> Complex64[np.ndarray, "coil sample"]:
    """Data that nobody will use, as one row; a broken length is then no reason to refuse the scan."""
    return np.ascontiguousarray(data[: len(data) // 2 * 2], np.float32).view(np.complex64).reshape(1, -1)


@contextmanager
def _translated(path: Path, what: str) -> Iterator[None]:
    """HDF5's complaints about a damaged file, whichever exception they come as, in our words."""
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        raise ReadoutError(f"{path} is damaged: {what} cannot be read ({_reason(error)}); copy it again") from error


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
