"""A gadget's scan handed on to a resident server, whose weights are warm: what Gadgetron sends goes there and back.

The server is asked for at the start only. If nobody is there the gadget does the work itself; if the server is lost
later, the scan fails in words, because what has been handed on is not kept.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from xml.sax.saxutils import quoteattr

from steadymr.errors import PeerLostError, ReconError, SteadymrError
from steadymr.source.wire.connection import Connection
from steadymr.source.wire.dialects import Dialect, State
from steadymr.source.wire.limits import Patience, WireLimits
from steadymr.source.wire.live_scan import LiveScan
from steadymr.source.wire.messages import Close, ConfigText, Error, Event
from steadymr.source.wire.protocol import Protocol
from steadymr.source.wire.scan_config import ScanConfig

log = logging.getLogger(__name__)

RESIDENT = "live.resident"  #: the property that names the server as HOST:PORT
_CONNECT_S = 2.0
_DAY_S = 86400.0  # while a scan is measured the server may have nothing to say; the kernel notices if it dies


def resident_connection(where: str, limits: WireLimits, patience: Patience) -> Connection | None:
    """A connection to the server at ``HOST:PORT``; None, and a line in the log, if there is none."""
    host, _, port = where.rpartition(":")
    try:
        sock = socket.create_connection((host, int(port)), timeout=_CONNECT_S)
    except (OSError, ValueError, OverflowError) as error:
        log.warning("no resident server at %s (%s): this process reconstructs the scan itself", where, error)
        return None
    return Connection(sock, Protocol(limits, Dialect.SERVER, State.DATA), replace(patience, idle_s=_DAY_S))


def config_for_resident(config: ScanConfig) -> ConfigText:
    """The gadget's settings as the server is told them: all but its own address."""
    properties = "".join(
        f"<property name={quoteattr(name)} value={quoteattr(value)}/>"
        for name, value in config.settings.items()
        if name != RESIDENT
    )
    return ConfigText(f"<configuration>{properties}</configuration>")


class RelayedScan(LiveScan):
    """A scan that somebody else reconstructs; failures there are reported as if they were ours."""

    def __init__(self, connection: Connection, resident: Connection, preface: Iterable[Event]) -> None:
        """``preface`` is the configuration and header that ``resident`` is to begin with."""
        super().__init__(connection, handle_scan=_nobody, name="node", preface=preface)
        self._resident = resident

    def _conduct(self) -> bool:
        sender = threading.Thread(target=self._forward, name="to the resident server", daemon=True)
        sender.start()
        try:
            for event in self._replies():
                self._emit(event)
        finally:
            self._backlog.discard()
            self._resident.abandon()
        sender.join(self._connection.patience.drain_s)
        self._reader.join(self._connection.patience.drain_s)
        if self._backlog.error is not None:
            raise self._backlog.error
        return True

    def _replies(self) -> Iterator[Event]:
        try:
            for event in self._resident.events():
                if isinstance(event, Error):
                    raise ReconError(event.text)
                if not isinstance(event, Close):  # ours says so when all is well
                    yield event
        except PeerLostError as error:
            if self._backlog.error is not None:  # then it was we who hung up
                raise self._backlog.error from error
            raise ReconError(f"the resident server was lost in the middle of the scan: {error}") from error

    def _forward(self) -> None:
        try:
            for event in chain(self._preface, self._backlog):
                self._resident.send(event)
        except SteadymrError as error:
            log.warning("handing the scan on ended early: %s", error, extra={"scan": self._name})
            self._resident.abandon()


def _nobody(*_: object) -> None:
    """In place of a reconstruction of our own."""
