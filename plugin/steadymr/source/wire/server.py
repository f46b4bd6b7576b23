"""The resident server: weights stay warm, scans come in on one port, several at once.

It speaks to a Gadgetron that dials it with ``<connect>``, to ``gadgetron_ismrmrd_client`` and to FIRE and OpenRecon
clients, whichever calls. One thread conducts each scan and one more receives it.
"""

from __future__ import annotations

import ipaddress
import itertools
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from steadymr.errors import PeerLostError, SettingsError, SteadymrError
from steadymr.source.wire.connection import Connection
from steadymr.source.wire.encode import identifier_of
from steadymr.source.wire.limits import DEFAULT_LIMITS, DEFAULT_PATIENCE, Patience, WireLimits
from steadymr.source.wire.live_scan import BACKLOG_BYTES, Emit, HandleScan, LiveScan
from steadymr.source.wire.messages import Event
from steadymr.source.wire.monitor import HealthServer, Metrics
from steadymr.source.wire.protocol import Protocol
from steadymr.source.wire.scan_config import ScanConfig
from steadymr.types import Readout, ScanHeader

log = logging.getLogger(__name__)

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where to listen and whom to serve. The defaults serve this machine only."""

    host: str = "127.0.0.1"
    port: int = 9002  #: FIRE's; 0 takes any
    allowed_peers: tuple[str, ...] = ("127.0.0.0/8", "::1/128")  #: addresses or networks; all others are hung up on
    scans_at_once: int = 4  #: more have to wait, unanswered, in the listening queue
    waiting: int = 16  #: length of that queue
    backlog_bytes: int = BACKLOG_BYTES  #: received but not yet used, for each scan
    health_port: int | None = None  #: for /healthz, /readyz and /metrics; None for none, 0 takes any


class Server:
    """Listens from the moment it is made, serves in ``serve_forever`` until ``stop``."""

    def __init__(
        self,
        handle_scan: HandleScan,
        settings: ServerSettings,
        limits: WireLimits = DEFAULT_LIMITS,
        patience: Patience = DEFAULT_PATIENCE,
        metrics: Metrics | None = None,
        is_warm: Callable[[], bool] = lambda: True,
    ) -> None:
        """Bind the ports; raises SettingsError if one is taken or a peer is not an address or network.

        ``is_warm`` says whether models are loaded; /readyz is false until it does.
        """
        self.metrics = metrics or Metrics()
        self._handle_scan = handle_scan
        self._settings = settings
        self._limits, self._patience = limits, patience
        self._is_warm = is_warm
        self._allowed = [_network(peer) for peer in settings.allowed_peers]
        self._free_slots = threading.Semaphore(settings.scans_at_once)
        self._numbers = itertools.count(1)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = _listen(settings)
        self.port = int(self._listener.getsockname()[1])  #: the port that was bound
        self._health = self._health_server()

    @property
    def health_port(self) -> int | None:
        """The port for health and metrics that was bound."""
        return self._health.port if self._health else None

    def stop(self) -> None:
        """Take no new scans; those under way go on to their end. May be called from a signal handler."""
        self._stopping.set()

    def serve_forever(self) -> None:
        """Serve until ``stop``, then wait for the scans that are under way."""
        if self._health:
            self._health.start()
        log.info("listening on %s port %d", self._settings.host, self.port)
        with self._listener:
            while not self._stopping.is_set():
                self._accept_one()
        log.info("no longer listening; %d scans under way", sum(thread.is_alive() for thread in self._threads))
        for thread in self._threads:
            thread.join()
        if self._health:
            self._health.stop()

    def _accept_one(self) -> None:
        """Start the next scan, if there is a slot for it and somebody calls within the polling time."""
        if not self._free_slots.acquire(timeout=_POLL_S):
            return
        try:
            sock, address = self._listener.accept()
        except TimeoutError:
            self._free_slots.release()
            return
        if not self._is_allowed(address[0]):
            log.warning("refused a peer that is not on the list", extra={"peer": address[0]})
            sock.close()
            self._free_slots.release()
            return
        name = f"scan {next(self._numbers)}"
        thread = threading.Thread(target=self._serve, args=(sock, name), name=name, daemon=True)
        self._threads = [*(old for old in self._threads if old.is_alive()), thread]
        thread.start()

    def _serve(self, sock: socket.socket, name: str) -> None:
        """One connection, from accept to close. Nothing that happens to it may end the server."""
        started = time.monotonic()
        outcome = "failed"
        connection = Connection(sock, Protocol(self._limits), self._patience)
        self.metrics.scans_running.inc()
        try:
            scan = LiveScan(connection, self._counted(), name, self._settings.backlog_bytes)
            outcome = "done" if scan.run() else "no scan"
            connection.close()
        except PeerLostError as error:
            outcome = "peer lost" if connection.heard else "no scan"  # probes of a port connect and hang up
            connection.abandon()
            self._count(error, connection.heard)
            log.log(logging.WARNING if connection.heard else logging.DEBUG, "%s", error, extra={"scan": name})
        except SteadymrError as error:
            connection.close()
            self._count(error)
            log.error("%s", error, extra={"scan": name})
        except Exception as error:
            connection.close()
            self._count(error)
            log.exception("internal error", extra={"scan": name})
        finally:
            self._record(name, outcome, time.monotonic() - started)
            self._free_slots.release()

    def _count(self, error: Exception, is_scan: bool = True) -> None:
        if is_scan:
            self.metrics.errors.labels(type(error).__name__).inc()

    def _record(self, name: str, outcome: str, seconds: float) -> None:
        self.metrics.scans_running.dec()
        self.metrics.scans.labels(outcome).inc()
        self.metrics.scan_seconds.observe(seconds)
        log.info("ended", extra={"scan": name, "outcome": outcome, "seconds": round(seconds, 3)})

    def _counted(self) -> HandleScan:
        """The handler, with what it emits counted by kind."""

        def handle(header: ScanHeader, readouts: Iterator[Readout], config: ScanConfig, emit: Emit) -> None:
            def counted(event: Event) -> None:
                emit(event)
                self.metrics.messages_sent.labels(identifier_of(event).name).inc()

            self._handle_scan(header, readouts, config, counted)

        return handle

    def _is_allowed(self, address: str) -> bool:
        peer = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(peer, "ipv4_mapped", None)
        return any((mapped or peer) in network for network in self._allowed)

    def _health_server(self) -> HealthServer | None:
        if self._settings.health_port is None:
            return None
        try:
            return HealthServer(self._settings.host, self._settings.health_port, self.metrics, self._takes_scans)
        except OSError as error:
            self._listener.close()
            raise SettingsError(f"cannot listen on port {self._settings.health_port}: {error.strerror}") from error

    def _takes_scans(self) -> bool:
        return self._is_warm() and not self._stopping.is_set()


def stop_on_signals(server: Server) -> None:
    """Have SIGTERM and SIGINT finish what is under way and refuse what is new. For the main thread."""

    def stop(number: int, frame: FrameType | None) -> None:
        server.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=settings.waiting)
    except OSError as error:
        where = f"{settings.host} port {settings.port}"
        raise SettingsError(f"cannot listen on {where}: {error.strerror or error}") from error
    listener.settimeout(_POLL_S)
    return listener


def _network(peer: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(peer)
    except ValueError as error:
        raise SettingsError(f"'{peer}' is not an address or network such as 192.168.2.0/24") from error
