"""From bytes to events: the layout of every message, one function each.

A function reads from a cursor that stops at what has arrived (`Incomplete`) and at what is allowed (`ProtocolError`),
whichever comes first, so nothing is allocated because a peer said that much would follow. Layouts are those of the
ISMRMRD library and of Gadgetron's core readers; everything is little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from ismrmrd.hdf5 import acquisition_header_dtype, image_header_dtype, waveform_header_dtype

from steadymr.errors import ProtocolError
from steadymr.source.wire.limits import WireLimits
from steadymr.source.wire.messages import (
    Acquisitions,
    Array,
    Close,
    ConfigFile,
    ConfigText,
    Dicom,
    Error,
    Event,
    Header,
    ImageArray,
    ImageMessage,
    MessageId,
    Query,
    ReconBit,
    ReconBuffer,
    ReconData,
    Response,
    Structured,
    Text,
    Waveform,
    name_of,
)

ACQUISITION_HEAD: np.dtype[Any] = np.dtype(acquisition_header_dtype)
IMAGE_HEAD: np.dtype[Any] = np.dtype(image_header_dtype)
WAVEFORM_HEAD: np.dtype[Any] = np.dtype(waveform_header_dtype)
SAMPLING: np.dtype[Any] = np.dtype(
    [
        ("encoded_fov_mm", "<f4", (3,)),
        ("recon_fov_mm", "<f4", (3,)),
        ("encoded_matrix", "<u2", (3,)),
        ("recon_matrix", "<u2", (3,)),
        ("limits", [("minimum", "<u2"), ("centre", "<u2"), ("maximum", "<u2")], (3,)),
    ],
    align=True,  # a C struct: two bytes of padding at its end
)
#: Pixel types by the standard's data_type code.
PIXELS: dict[int, np.dtype[Any]] = {
    code: np.dtype(name) for code, name in enumerate(("<u2", "<i2", "<u4", "<i4", "<f4", "<f8", "<c8", "<c16"), start=1)
}
CONFIG_FILE_BYTES = 1024
IDENTIFIER = struct.Struct("<H")
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
_PRESENT = struct.Struct("<?")
_COMPLEX: np.dtype[np.complex64] = np.dtype("<c8")
_FLOAT: np.dtype[np.float32] = np.dtype("<f4")
_LONGEST_RUN = 256  # acquisitions decoded at once; past this the cost of each no longer falls
_NEWEST_MRD_VERSION = 1


class Incomplete(Exception):
    """The message that has begun is at least ``total_bytes`` long and that much has not arrived."""

    def __init__(self, total_bytes: int) -> None:
        """Ask for ``total_bytes``, counted from the message's identifier."""
        super().__init__(total_bytes)
        self.total_bytes = total_bytes


class Cursor:
    """Reads one message from the front of a view."""

    __slots__ = ("limits", "position", "view")

    def __init__(self, view: memoryview, limits: WireLimits) -> None:
        """Start at the front of ``view``."""
        self.view = view
        self.limits = limits
        self.position = 0

    def take(self, n_bytes: int) -> memoryview:
        """The next ``n_bytes``; raises ProtocolError past the limit and Incomplete past what has arrived."""
        start, end = self.position, self.position + n_bytes
        if end > self.limits.message_bytes:
            raise ProtocolError(f"a message of at least {end} bytes came; the limit is {self.limits.message_bytes}")
        if end > len(self.view):
            raise Incomplete(end)
        self.position = end
        return self.view[start:end]

    def number(self, codec: struct.Struct) -> int:
        """One integer."""
        return int(codec.unpack(self.take(codec.size))[0])

    def count(self, what: str, limit: int) -> int:
        """How many items follow."""
        n_items = self.number(U64)
        if n_items > limit:
            raise ProtocolError(f"a message with {n_items} {what} came; the limit is {limit}")
        return n_items

    def flag(self) -> bool:
        """One byte, zero or one."""
        return bool(_PRESENT.unpack(self.take(1))[0])

    def array(self, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any = "C") -> Array:
        """An array that views the next bytes."""
        n_values = math.prod(shape)
        return np.frombuffer(self.take(n_values * dtype.itemsize), dtype, n_values).reshape(shape, order=order)

    def blob(self, length_codec: struct.Struct) -> bytes:
        """A length, then that many bytes of text."""
        length = self.number(length_codec)
        if length > self.limits.text_bytes:
            raise ProtocolError(f"a text of {length} bytes came; the limit is {self.limits.text_bytes}")
        return bytes(self.take(length))

    def text(self, length_codec: struct.Struct) -> tuple[str, bool]:
        """A length, then UTF-8; the second value says whether NULs ended it (they are taken off)."""
        raw = self.blob(length_codec)
        return _utf8(raw.rstrip(b"\0")), raw.endswith(b"\0")


Parser: TypeAlias = Callable[[Cursor], Event]


def decode(view: memoryview, limits: WireLimits) -> tuple[Event, int]:
    """The first event in ``view`` and the number of bytes it took.

    Raises Incomplete if the rest has not arrived, ProtocolError if it is unknown, malformed or too long.
    """
    cursor = Cursor(view, limits)
    identifier = cursor.number(IDENTIFIER)
    event = parser_of(identifier)(cursor)
    return event, cursor.position


def parser_of(identifier: int) -> Parser:
    """The function that reads this message after its identifier."""
    parser = PARSERS.get(identifier)
    if parser is None:
        raise ProtocolError(f"{name_of(identifier)} cannot be read here{_HINTS.get(identifier, '')}")
    return parser


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"text that is not UTF-8 came (byte {error.start})") from error


def _config_file(cursor: Cursor) -> Event:
    name, _, _ = bytes(cursor.take(CONFIG_FILE_BYTES)).partition(b"\0")
    return ConfigFile(_utf8(name))


def _config_text(cursor: Cursor) -> Event:
    return ConfigText(*cursor.text(U32))


def _header(cursor: Cursor) -> Event:
    return Header(*cursor.text(U32))


def _text(cursor: Cursor) -> Event:
    return Text(*cursor.text(U32))


def _query(cursor: Cursor) -> Event:
    cursor.take(8)  # reserved
    return Query(cursor.number(U64), cursor.text(U64)[0])


def _response(cursor: Cursor) -> Event:
    return Response(cursor.number(U64), cursor.text(U64)[0])


def _error(cursor: Cursor) -> Event:
    return Error(cursor.text(U64)[0])


def _close(cursor: Cursor) -> Event:
    return Close()


_WORD: np.dtype[np.uint16] = np.dtype("<u2")


def _word(name: str) -> int:
    """Where a 16-bit field of the header stands in an acquisition message, counted in such words."""
    offset: int = ACQUISITION_HEAD.fields[name][1]  # type: ignore[index]  # numpy types fields as optional
    return (IDENTIFIER.size + offset) // _WORD.itemsize


_LAYOUT_FIELDS = ("version", "number_of_samples", "active_channels", "trajectory_dimensions")
#: Where a message says that it is an acquisition, and all that fixes its layout.
_LAYOUT_WORDS = np.array([0, *map(_word, _LAYOUT_FIELDS)])


@lru_cache(maxsize=64)
def acquisition_message(channels: int, samples: int, dimensions: int) -> np.dtype[Any]:
    """The layout of a whole acquisition message, identifier included."""
    trajectory = [("trajectory", "<f4", (samples, dimensions))] if dimensions else []
    data = ("data", "<c8", (channels, samples))
    return np.dtype([("id", "<u2"), ("head", ACQUISITION_HEAD), *trajectory, data])


def _acquisitions(cursor: Cursor) -> Event:
    """As many acquisitions of one shape as have arrived without another message between them."""
    cursor.take(ACQUISITION_HEAD.itemsize)
    words = np.frombuffer(cursor.view, _WORD, cursor.position // _WORD.itemsize)
    _, version, samples, channels, dimensions = words[_LAYOUT_WORDS].tolist()
    _check_acquisition(version, samples, channels, dimensions, cursor.limits)
    layout = acquisition_message(channels, samples, dimensions)
    cursor.take(layout.itemsize - cursor.position)
    n_arrived = min(len(cursor.view) // layout.itemsize, _LONGEST_RUN)
    messages = np.frombuffer(cursor.view, layout, n_arrived)
    if n_arrived > 1:
        messages = messages[: _run_length(messages)]
    cursor.position = len(messages) * layout.itemsize
    return Acquisitions(messages)


def _run_length(messages: Structured) -> int:
    """How many of the candidates are acquisitions shaped like the first; past another message all is meaningless."""
    words = messages.view(_WORD).reshape(len(messages), -1)  # because fields of records are slow to read
    layouts = words[:, _LAYOUT_WORDS]
    alike = layouts == layouts[0]
    return len(messages) if alike.all() else int(alike.all(axis=1).argmin())


def _check_acquisition(version: int, samples: int, channels: int, dimensions: int, limits: WireLimits) -> None:
    if version > _NEWEST_MRD_VERSION:
        raise ProtocolError(f"an acquisition of MRD version {version} came; version {_NEWEST_MRD_VERSION} is read here")
    allowed = (("samples", limits.samples), ("channels", limits.channels), ("dims", limits.trajectory_dimensions))
    for (what, limit), value in zip(allowed, (samples, channels, dimensions), strict=True):
        if value > limit:
            raise ProtocolError(f"an acquisition with {value} {what} came; the limit is {limit}")


def _waveform(cursor: Cursor) -> Event:
    head = cursor.array(WAVEFORM_HEAD, ())
    channels, samples = int(head["channels"]), int(head["number_of_samples"])
    return Waveform(head, cursor.array(np.dtype("<u4"), (channels, samples)))


def _image(cursor: Cursor) -> Event:
    head = cursor.array(IMAGE_HEAD, ())
    pixel = PIXELS.get(int(head["data_type"]))
    if pixel is None:
        raise ProtocolError(f"an image of data type {head['data_type']} came; MRD knows 1 to {len(PIXELS)}")
    x, y, z = (int(n) for n in head["matrix_size"])
    if max(x, y, z) > cursor.limits.matrix or int(head["channels"]) > cursor.limits.channels:
        raise ProtocolError(f"an image of {x} x {y} x {z} came; the limit is {cursor.limits.matrix} along any axis")
    meta = cursor.blob(U64)
    return ImageMessage(head, meta, cursor.array(pixel, (int(head["channels"]), z, y, x)))


def _shape(cursor: Cursor) -> tuple[int, ...]:
    n_dimensions = cursor.count("array dimensions", cursor.limits.array_dimensions)
    return tuple(cursor.number(U64) for _ in range(n_dimensions))


def _fortran_array(cursor: Cursor, dtype: np.dtype[Any]) -> Array:
    shape = _shape(cursor)
    n_bytes = math.prod(max(n, 1) for n in shape) * dtype.itemsize
    if n_bytes > cursor.limits.message_bytes:  # also keeps an empty array from having an absurd other axis
        raise ProtocolError(f"an array of {n_bytes} bytes came; the limit is {cursor.limits.message_bytes}")
    return cursor.array(dtype, shape, order="F")


def _optional_array(cursor: Cursor, dtype: np.dtype[Any]) -> Array | None:
    return _fortran_array(cursor, dtype) if cursor.flag() else None


def _recon_buffer(cursor: Cursor) -> ReconBuffer:
    data = _fortran_array(cursor, _COMPLEX)
    trajectory = _optional_array(cursor, _FLOAT)
    density = _optional_array(cursor, _FLOAT)
    heads = _fortran_array(cursor, ACQUISITION_HEAD)
    if data.ndim != 7 or heads.ndim != 5:
        raise ProtocolError(f"sorted k-space with {data.ndim} axes and {heads.ndim} of headers came; 7 and 5 expected")
    return ReconBuffer(data, heads, cursor.array(SAMPLING, ()), trajectory, density)


def _recon_bit(cursor: Cursor) -> ReconBit:
    buffer = _recon_buffer(cursor)
    return ReconBit(buffer, _recon_buffer(cursor) if cursor.flag() else None)


def _recon_data(cursor: Cursor) -> Event:
    n_bits = cursor.count("encoding spaces", cursor.limits.encoding_spaces)
    return ReconData(tuple(_recon_bit(cursor) for _ in range(n_bits)))


def _image_array(cursor: Cursor) -> Event:
    data: Array = _fortran_array(cursor, _COMPLEX)
    _fortran_array(cursor, IMAGE_HEAD)
    for _ in range(cursor.count("images", cursor.limits.images)):
        cursor.blob(U64)
    if cursor.flag():
        for _ in range(cursor.count("waveforms", cursor.limits.images)):
            _waveform(cursor)
    _optional_array(cursor, ACQUISITION_HEAD)
    return ImageArray(bytes(cursor.view[: cursor.position]), data.shape)


def _dicom(cursor: Cursor) -> Event:
    blob = bytes(cursor.take(cursor.number(U32)))
    return Dicom(blob, cursor.text(U64)[0], cursor.blob(U64))


PARSERS: dict[int, Parser] = {
    MessageId.CONFIG_FILE: _config_file,
    MessageId.CONFIG_TEXT: _config_text,
    MessageId.HEADER: _header,
    MessageId.CLOSE: _close,
    MessageId.TEXT: _text,
    MessageId.QUERY: _query,
    MessageId.RESPONSE: _response,
    MessageId.ERROR: _error,
    MessageId.ACQUISITION: _acquisitions,
    MessageId.DICOM: _dicom,
    MessageId.IMAGE: _image,
    MessageId.RECON_DATA: _recon_data,
    MessageId.IMAGE_ARRAY: _image_array,
    MessageId.WAVEFORM: _waveform,
}

#: What to do about messages that are known but not read here.
_HINTS: dict[int, str] = {
    MessageId.BUCKET: "; put Gadgetron's BucketToBuffer before this node",
    MessageId.BUNDLE: "; put Gadgetron's BucketToBuffer before this node",
    0x6179: "; this is an MRD version 2 stream, and version 1 is read here",  # "ya" of yardl's magic bytes
    0x4547: "; this is HTTP, and health and metrics are on another port",  # "GE" of GET
}
