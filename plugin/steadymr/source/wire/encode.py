"""From events to bytes: each function gives the parts of one message, ready for ``sendmsg`` without joining them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from steadymr.errors import OutputError
from steadymr.source.wire.decode import CONFIG_FILE_BYTES, IDENTIFIER, IMAGE_HEAD, PIXELS, U32, U64
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
    ReconBuffer,
    ReconData,
    Response,
    Structured,
    Text,
    Waveform,
)

Part: TypeAlias = bytes | memoryview
Parts: TypeAlias = list[Part]

_ID = {member: IDENTIFIER.pack(member) for member in MessageId}
#: Codes of the pixels that Gadgetron 4.7 takes; it aborts on the others.
_SENDABLE = {
    dtype: code for code, dtype in PIXELS.items() if dtype.name in ("uint16", "uint32", "float32", "complex64")
}
_DATA_TYPE, _META_BYTES = (
    IMAGE_HEAD.fields[name][1]  # type: ignore[index]  # numpy types fields as optional
    for name in ("data_type", "attribute_string_len")
)


def encode(event: Event) -> Parts:
    """The message for any event. Raises OutputError for what cannot be put on the wire."""
    return _ENCODERS[type(event)](event)


def identifier_of(event: Event) -> MessageId:
    """The identifier that the message of this event begins with."""
    return _IDENTIFIERS[type(event)]


def image_head(data: Array, **fields: Any) -> Structured:
    """An image header that fits ``data``, axes (channel, z, y, x), with other fields by their MRD names."""
    head = np.zeros((), IMAGE_HEAD)
    channels, z, y, x = data.shape
    for name, value in {"version": 1, "channels": channels, "matrix_size": (x, y, z), **fields}.items():
        head[name] = value
    return head


def _bytes_of(array: Array) -> memoryview:
    """Memory of an array in C order; copies only if it is not in that order."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return memoryview(flat.view(np.uint8).data) if flat.size else memoryview(b"")


def _sized(text: bytes, length_codec: Any) -> Parts:
    return [length_codec.pack(len(text)), text]


def _text_bytes(event: Text | ConfigText) -> bytes:
    return event.text.encode() + (b"\0" if event.terminated else b"")


def _config_file(event: ConfigFile) -> Parts:
    name = event.name.encode()
    if len(name) >= CONFIG_FILE_BYTES:
        raise OutputError(f"the configuration's name has {len(name)} bytes; at most {CONFIG_FILE_BYTES - 1} fit")
    return [_ID[MessageId.CONFIG_FILE], name.ljust(CONFIG_FILE_BYTES, b"\0")]


def _config_text(event: ConfigText) -> Parts:
    return [_ID[MessageId.CONFIG_TEXT], *_sized(_text_bytes(event), U32)]


def _header(event: Header) -> Parts:
    return [_ID[MessageId.HEADER], *_sized(event.xml.encode() + (b"\0" if event.terminated else b""), U32)]


def _text(event: Text) -> Parts:
    return [_ID[MessageId.TEXT], *_sized(_text_bytes(event), U32)]


def _query(event: Query) -> Parts:
    return [_ID[MessageId.QUERY], U64.pack(0), U64.pack(event.correlation), *_sized(event.text.encode(), U64)]


def _response(event: Response) -> Parts:
    return [_ID[MessageId.RESPONSE], U64.pack(event.correlation), *_sized(event.text.encode(), U64)]


def _error(event: Error) -> Parts:
    return [_ID[MessageId.ERROR], *_sized(event.text.encode(), U64)]


def _close(event: Close) -> Parts:
    return [_ID[MessageId.CLOSE]]


def _acquisitions(event: Acquisitions) -> Parts:
    return [_bytes_of(event.messages)]


def _waveform(event: Waveform) -> Parts:
    return [_ID[MessageId.WAVEFORM], event.head.tobytes(), _bytes_of(event.data)]


def _image(event: ImageMessage) -> Parts:
    code = _SENDABLE.get(event.data.dtype)
    if code is None:
        raise OutputError(f"pixels are {event.data.dtype}; expected uint16, uint32, float32 or complex64")
    head = bytearray(event.head.tobytes())  # a copy that is much faster to change than a record
    IDENTIFIER.pack_into(head, _DATA_TYPE, code)
    U32.pack_into(head, _META_BYTES, len(event.meta))
    length = U64.pack(len(event.meta))
    return [b"".join((_ID[MessageId.IMAGE], head, length, event.meta)), _bytes_of(event.data)]


def _dicom(event: Dicom) -> Parts:
    sized = (*_sized(event.name.encode(), U64), *_sized(event.meta, U64))
    return [_ID[MessageId.DICOM], *_sized(event.blob, U32), *sized]


def _image_array(event: ImageArray) -> Parts:
    return [event.message]


def _fortran_array(array: Array) -> Parts:
    shape = b"".join(U64.pack(n) for n in (array.ndim, *array.shape))
    return [shape, _bytes_of(array.T)] if math.prod(array.shape) else [shape]


def _optional(array: Array | None) -> Parts:
    return [b"\0"] if array is None else [b"\1", *_fortran_array(array)]


def _recon_buffer(buffer: ReconBuffer) -> Parts:
    return [
        *_fortran_array(buffer.data),
        *_optional(buffer.trajectory),
        *_optional(buffer.density),
        *_fortran_array(buffer.heads),
        buffer.sampling.tobytes(),
    ]


def _recon_data(event: ReconData) -> Parts:
    parts: Parts = [_ID[MessageId.RECON_DATA], U64.pack(len(event.bits))]
    for bit in event.bits:
        parts += _recon_buffer(bit.buffer)
        parts += [b"\0"] if bit.reference is None else [b"\1", *_recon_buffer(bit.reference)]
    return parts


_ENCODERS: dict[type, Callable[[Any], Parts]] = {
    ConfigFile: _config_file,
    ConfigText: _config_text,
    Header: _header,
    Text: _text,
    Query: _query,
    Response: _response,
    Error: _error,
    Close: _close,
    Acquisitions: _acquisitions,
    Waveform: _waveform,
    ImageMessage: _image,
    ReconData: _recon_data,
    ImageArray: _image_array,
    Dicom: _dicom,
}

_IDENTIFIERS: dict[type, MessageId] = {
    ConfigFile: MessageId.CONFIG_FILE,
    ConfigText: MessageId.CONFIG_TEXT,
    Header: MessageId.HEADER,
    Text: MessageId.TEXT,
    Query: MessageId.QUERY,
    Response: MessageId.RESPONSE,
    Error: MessageId.ERROR,
    Close: MessageId.CLOSE,
    Acquisitions: MessageId.ACQUISITION,
    Waveform: MessageId.WAVEFORM,
    ImageMessage: MessageId.IMAGE,
    ReconData: MessageId.RECON_DATA,
    ImageArray: MessageId.IMAGE_ARRAY,
    Dicom: MessageId.DICOM,
}
