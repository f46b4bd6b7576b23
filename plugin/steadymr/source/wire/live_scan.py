"""One scan on one connection, from its first message to the last: what a server and a gadget have in common.

A reader thread keeps receiving while images are made; the two are joined by a backlog bounded in bytes. However the
scan ends, the input is read to its end before anything is said about it.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeAlias

from steadymr.errors import PeerLostError, SourceError, SteadymrError
from steadymr.source.header import parse_header
from steadymr.source.wire.backlog import Backlog
from steadymr.source.wire.connection import Connection
from steadymr.source.wire.dialects import Dialect
from steadymr.source.wire.messages import (
    Acquisitions,
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
    ReconData,
    Response,
    Text,
    Waveform,
)
from steadymr.source.wire.scan_config import ScanConfig, config_from_text, with_header_parameters, with_text
from steadymr.source.wire.stream import ReadoutStream, header_as_sorted
from steadymr.types import Readout, ScanHeader

log = logging.getLogger(__name__)

#: Sends one message to whoever sent the scan: an image, a DICOM file, or to a FIRE client a line of text
#: (which is logged here if the peer is another).
Emit: TypeAlias = Callable[[Event], None]
#: Makes images of a scan and emits them; returns when all are out, raises if they cannot be made.
HandleScan: TypeAlias = Callable[[ScanHeader, Iterator[Readout], ScanConfig, Emit], None]

BACKLOG_BYTES = 32 << 20
_SMALL_MESSAGE_BYTES = 1 << 12


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known before the first readout: the header, the configuration, and the message that ended them."""

    header: ScanHeader
    config: ScanConfig
    first: Event


class LiveScan:
    """Receives one scan, has it handled, and sees to it that failures arrive.

    ``handle_scan`` runs in the thread that calls ``run``. ``preface`` is what somebody else has already received;
    ``on_event`` sees each event with k-space just before its readouts are handed over.
    """

    def __init__(
        self,
        connection: Connection,
        handle_scan: HandleScan,
        name: str,
        backlog_bytes: int = BACKLOG_BYTES,
        preface: Iterable[Event] = (),
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """Prepare; nothing is received before ``run``. ``name`` stands in logs and error messages."""
        self._connection = connection
        self._handle_scan = handle_scan
        self._name = name
        self._preface = preface
        self._on_event = on_event
        self._backlog: Backlog[Event] = Backlog(backlog_bytes)
        self._reader = threading.Thread(target=self._read, name=f"reader of {name}", daemon=True)
        self._set_aside: Counter[str] = Counter()

    def run(self) -> bool:
        """Conduct the scan up to, but without, our CLOSE; False if the peer only asked or hung up without a scan.

        Any failure is reported to the peer, in the order that Gadgetron survives, and then raised.
        """
        self._reader.start()
        try:
            return self._conduct()
        except PeerLostError:
            self._backlog.discard()
            raise
        except SteadymrError as error:
            self._report(str(error))
            raise
        except Exception as error:
            self._report(f"internal error ({type(error).__name__}), see the log")
            raise

    def _conduct(self) -> bool:
        events = chain(self._preface, self._backlog)
        opening = self._open(events)
        if opening is None:
            return False
        stream = ReadoutStream(opening.header)
        readouts = stream.readouts(self._seen(chain((opening.first,), events)), self._pass_on)
        config = replace(opening.config, takes_dicom=self._connection.protocol.understands(MessageId.DICOM))
        self._handle_scan(opening.header, readouts, config, self._emit)
        self._backlog.discard()
        self._reader.join(self._connection.patience.drain_s)
        if self._backlog.error is not None:
            raise self._backlog.error
        if self._set_aside:
            log.info("set aside: %s", dict(self._set_aside), extra={"scan": self._name})
        return True

    def _open(self, events: Iterator[Event]) -> Opening | None:
        config, header = ScanConfig(), None
        for event in events:
            match event:
                case Query():
                    self._connection.send(Response(event.correlation, f"steadymr does not know '{event.text[:80]}'"))
                case ConfigFile():
                    config = ScanConfig(name=event.name)
                case ConfigText():
                    config = config_from_text(event.text)
                case Header():
                    header = parse_header(event.xml)
                    config = with_header_parameters(config, header.xml)
                case Text():
                    config = with_text(config, event.text)
                case Error():
                    raise PeerLostError(f"the peer failed: {event.text[:200]}")
                case _ if header is not None:
                    adapted = header_as_sorted(header, event) if isinstance(event, ReconData) else header
                    return Opening(adapted, config, event)
        return None

    def _seen(self, events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            if self._on_event is not None:
                self._on_event(event)
            yield event

    def _pass_on(self, event: Event) -> None:
        """What is not k-space: handed on down a Gadgetron chain, otherwise counted and set aside."""
        match event:
            case Close():
                return
            case Error():
                raise PeerLostError(f"the peer failed: {event.text[:200]}")
            case Text():
                log.warning("TEXT came after the data had begun and has no effect", extra={"scan": self._name})
            case _ if self._connection.protocol.dialect is Dialect.NODE:
                self._emit(event)
            case _:
                self._set_aside[type(event).__name__] += 1

    def _emit(self, event: Event) -> None:
        if isinstance(self._backlog.error, PeerLostError):
            raise self._backlog.error
        if isinstance(event, Text) and self._connection.protocol.dialect is not Dialect.FIRE:
            log.info("%s", event.text, extra={"scan": self._name})  # the others have no viewer, or abort on text
        else:
            self._connection.send(event)

    def _report(self, sentence: str) -> None:
        self._backlog.discard()
        self._reader.join(self._connection.patience.drain_s)
        if isinstance(self._backlog.error, PeerLostError):
            return
        try:
            self._connection.report(f"{sentence} [steadymr {self._name}]")
        except PeerLostError as error:
            log.warning("the failure could not be reported: %s", error, extra={"scan": self._name})

    def _read(self) -> None:
        end: SteadymrError | None = SourceError("reading ended for an unknown reason, see the log")
        try:
            for event in self._connection.events():
                self._backlog.put(event, _size(event))
            end = None
        except SteadymrError as error:
            end = error
        finally:
            self._backlog.finish(end)


def _size(event: Event) -> int:
    """Roughly how many bytes an event holds on to."""
    match event:
        case Acquisitions():
            return int(event.messages.nbytes)
        case Waveform() | ImageMessage():
            return _SMALL_MESSAGE_BYTES + int(event.data.nbytes)
        case ReconData():
            buffers = [buffer for bit in event.bits for buffer in (bit.buffer, bit.reference) if buffer is not None]
            return _SMALL_MESSAGE_BYTES + sum(int(buffer.data.nbytes + buffer.heads.nbytes) for buffer in buffers)
        case ImageArray():
            return len(event.message)
        case Dicom():
            return _SMALL_MESSAGE_BYTES + len(event.blob)
        case Text():
            return _SMALL_MESSAGE_BYTES + len(event.text)
    return _SMALL_MESSAGE_BYTES
