"""A guard in front of the HDF5 library, which loops for ever on a global heap with a hole of zeros in it.

MRD keeps every readout's samples and its XML header in global heaps. An interrupted copy can leave zeros there; an
object of index 0 (free space) and length 0 then never ends (seen with the library that h5py 3.16 ships). Layout: HDF5
File Format Specification 3.0, section III.E.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from steadymr.errors import ReadoutError

SIGNATURE = b"GCOL\x01\x00\x00\x00"
COLLECTION = struct.Struct("<8sQ")  # signature and version, length
OBJECT = struct.Struct("<HHIQ")  # index, reference count, reserved, length


def check_heaps(path: Path) -> None:
    """Walk all global heaps of a file; raise ``ReadoutError`` at one that the HDF5 library would never leave."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(SIGNATURE)
        while start >= 0:
            _check_heap(path, content, start)
            start = content.find(SIGNATURE, start + COLLECTION.size)


def _check_heap(path: Path, content: mmap.mmap, start: int) -> None:
    if start + COLLECTION.size > len(content):
        return
    length = COLLECTION.unpack_from(content, start)[1]
    end = min(start + length, len(content))
    place = start + COLLECTION.size
    while place + OBJECT.size <= end:
        index, _, _, size = OBJECT.unpack_from(content, place)
        if index == 0 and size == 0:
            raise ReadoutError(f"{path} is damaged: bytes from {place} on were lost; copy it from the scanner again")
        place += size if index == 0 else OBJECT.size + -(-size // 8) * 8
