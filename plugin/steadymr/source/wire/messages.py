"""The nouns of MRD streaming: message identifiers, and one frozen event per kind of message.

Every message begins with a little-endian u16 identifier; nothing on the wire says how long a message is, so one whose
layout is unknown cannot be skipped. Arrays in events are read-only views of the bytes that came, not copies; they
need not be aligned in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Structured: TypeAlias = npt.NDArray[Any]  #: records
Array: TypeAlias = npt.NDArray[Any]  #: pixels of any type


class MessageId(IntEnum):
    """Identifiers used by ISMRMRD, Gadgetron and FIRE.

    They are written out here because their owners are slow to import or know only some; a test compares them.
    """

    CONFIG_FILE = 1
    CONFIG_TEXT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    QUERY = 6
    RESPONSE = 7
    ERROR = 8
    ACQUISITION = 1008
    IMAGE_COMPLEX_FLOAT = 1009
    IMAGE_REAL_FLOAT = 1010
    IMAGE_REAL_USHORT = 1011
    DICOM_WITHOUT_NAME = 1012
    DICOM = 1018
    IMAGE = 1022
    RECON_DATA = 1023
    IMAGE_ARRAY = 1024
    WAVEFORM = 1026
    NDARRAY = 1030
    BUCKET = 1050
    BUNDLE = 1051


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The peer names its configuration. A name, never a path."""

    name: str


@dataclass(frozen=True, slots=True)
class ConfigText:
    """The peer sends its configuration itself."""

    text: str
    terminated: bool = False  #: a NUL ended the text, as FIRE sends it


@dataclass(frozen=True, slots=True)
class Header:
    """The MRD header of the scan, as XML not yet looked at."""

    xml: str
    terminated: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """Free text; from a FIRE client JSON parameters, towards it a line for the scanner's log viewer."""

    text: str
    terminated: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A question such as ``gadgetron::info``, answered by a Response of the same correlation."""

    correlation: int
    text: str


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a Query."""

    correlation: int
    text: str


@dataclass(frozen=True, slots=True)
class Error:
    """The peer, or we, failed; a sentence says why."""

    text: str


@dataclass(frozen=True, slots=True)
class Close:
    """Nothing will follow."""


@dataclass(frozen=True, slots=True, eq=False)
class Acquisitions:
    """A run of at least one acquisition of equal shape, in order of arrival, decoded as one array.

    ``messages`` has the fields ``id``, ``head`` (ismrmrd's acquisition header), ``trajectory`` (only where the scan
    has one) and ``data``; its bytes are the messages as they came.
    """

    messages: Structured

    @property
    def head(self) -> Structured:
        """Headers, one for each acquisition."""
        return self.messages["head"]

    @property
    def data(self) -> npt.NDArray[np.complex64]:
        """Samples, axes (acquisition, channel, sample)."""
        return self.messages["data"]


@dataclass(frozen=True, slots=True, eq=False)
class Waveform:
    """A physiological or gradient waveform."""

    head: Structured  #: one header, shape ()
    data: npt.NDArray[np.uint32]  #: axes (channel, sample)


@dataclass(frozen=True, slots=True, eq=False)
class ImageMessage:
    """One image with its meta attributes."""

    head: Structured  #: one header, shape ()
    meta: bytes  #: UTF-8 XML, or empty
    data: Array  #: axes (channel, z, y, x)


@dataclass(frozen=True, slots=True, eq=False)
class ReconBuffer:
    """Sorted k-space as BucketToBuffer makes it."""

    data: npt.NDArray[np.complex64]  #: axes (E0, E1, E2, CHA, N, S, LOC)
    heads: Structured  #: acquisition headers, axes (E1, E2, N, S, LOC); zero where nothing was acquired
    sampling: Structured  #: matrices, fields of view and limits, shape ()
    trajectory: npt.NDArray[np.float32] | None = None
    density: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ReconBit:
    """The buffer of one encoding space, and its calibration lines if they are separate."""

    buffer: ReconBuffer
    reference: ReconBuffer | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ReconData:
    """Buffers, one for each encoding space."""

    bits: tuple[ReconBit, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ImageArray:
    """Images that another gadget has reconstructed; kept as bytes, because here they are only handed on."""

    message: bytes  #: the whole message, identifier included
    shape: tuple[int, ...]  #: (RO, E1, E2, CHA, N, S, SLC)


@dataclass(frozen=True, slots=True)
class Dicom:
    """A finished DICOM file; ``name`` without folder or suffix."""

    blob: bytes
    name: str
    meta: bytes = b""


DataEvent: TypeAlias = Acquisitions | Waveform | ImageMessage | ReconData | ImageArray | Dicom
Event: TypeAlias = ConfigFile | ConfigText | Header | Text | Query | Response | Error | Close | DataEvent


def name_of(identifier: int) -> str:
    """What a person calls this message, such as ``ACQUISITION (1008)``."""
    known = {int(member): member.name for member in MessageId}
    return f"{known.get(identifier, 'unknown message')} ({identifier})"
