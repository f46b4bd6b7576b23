"""Associations with a PACS: opened with every time-out set, tuned for latency, and used by one caller at a time."""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket

from steadymr.delivery.destinations import DimseDestination
from steadymr.delivery.tls import tls_context
from steadymr.errors import PeerError, PeerRefusedError

logger = logging.getLogger(__name__)

_config.STORE_SEND_CHUNKED_DATASET = True  # files travel as they are: never decoded, never whole in memory

_REJECT_PERMANENT = 1
_MAX_PDU_BYTES = 131072
_PARKING_S = 5.0
_TICK_S = 0.25


def _hang_up(self: AssociationSocket) -> None:
    """In place of pynetdicom 3.0.4's, which leaves open what cannot be shut down: what the PACS refused or reset."""
    connection = self.socket
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


AssociationSocket._shutdown_socket = _hang_up


class NothingAcceptedError(PeerError):
    """The PACS accepts none of the presentation contexts proposed."""


@contextmanager
def associated(
    destination: DimseDestination,
    contexts: Sequence[PresentationContext],
) -> Iterator[Association]:
    """An association with ``destination``, released at the end, aborted if anything was raised.

    Raises ``PeerError`` if it cannot be made, ``PeerRefusedError`` if the PACS rejects us for good, and
    ``NothingAcceptedError`` if it accepts none of ``contexts``.
    """
    association = _associate(destination, contexts)
    brake = Brake(association)
    try:
        yield association
    except GeneratorExit:  # the caller wants no more; nothing is wrong
        _release(association)
        raise
    except BaseException:
        association.abort()
        raise
    else:
        _release(association)
    finally:
        brake.loosen()


def _release(association: Association) -> None:
    if association.is_established:
        association.release()


class Brake:
    """Keeps an association's own thread from taking the answers that we wait for.

    pynetdicom parks that thread around each request, but looks at a flag that is still up while the thread leaves its
    parking place; on a busy machine the thread then swallows the answer, and we would wait for it until the time-out.
    Here it is parked until ``loosen``, and again by ``tighten``. This takes the place of the event it waits on.
    """

    def __init__(self, association: Association) -> None:
        """Park the thread; returns once it stands still."""
        self._parked = threading.Event()
        self._loose = threading.Event()
        self._original = association._reactor_checkpoint
        association._reactor_checkpoint = self
        self._original.set()  # should it be waiting there already
        self._parked.wait(_PARKING_S)

    def wait(self) -> None:
        """Where the association's thread stands."""
        while not self._loose.is_set():
            self._parked.set()
            self._loose.wait(_TICK_S)

    def set(self) -> None:
        """What the association does after a request: nothing, the thread stays parked."""

    def clear(self) -> None:
        """What the association does before a request: nothing, the thread is parked."""

    def loosen(self) -> None:
        """Let the thread run."""
        self._loose.set()

    def tighten(self) -> None:
        """Park the thread again; returns once it stands still."""
        self._loose.clear()
        self._parked.clear()  # it is set again with the next tick, should the thread stand already
        self._parked.wait(_PARKING_S)


@contextmanager
def answering(association: Association) -> Iterator[None]:
    """While the body runs, the association's own thread answers what the peer asks; ask nothing meanwhile."""
    brake = association._reactor_checkpoint
    brake.loosen()
    try:
        yield
    finally:
        brake.tighten()


def _associate(
    destination: DimseDestination,
    contexts: Sequence[PresentationContext],
) -> Association:
    entity = AE(ae_title=destination.calling_ae)
    entity.connection_timeout = destination.connect_timeout_s
    entity.acse_timeout = destination.connect_timeout_s
    entity.dimse_timeout = destination.answer_timeout_s
    entity.network_timeout = destination.answer_timeout_s
    connected = threading.Event()
    tuned = [
        (evt.EVT_CONN_OPEN, lambda event: connected.set()),
        (evt.EVT_CONN_OPEN, lambda event: _tune(event, destination.answer_timeout_s)),
        (evt.EVT_DATA_SENT, _acknowledge_quickly),
    ]
    tls_args = (tls_context(destination), destination.tls_server_name or destination.host) if destination.tls else None
    try:
        association = entity.associate(
            _address(destination),
            destination.port,
            contexts=list(contexts),
            ae_title=destination.called_ae,
            max_pdu=_MAX_PDU_BYTES,
            tls_args=tls_args,
            evt_handlers=tuned,
        )
    except (OSError, RuntimeError) as error:
        raise PeerError(f"{destination.url}: {error}") from error
    if not association.is_established:
        raise _why_not(association, destination, connected.is_set())
    return association


def _address(destination: DimseDestination) -> str:
    """The host as a number: pynetdicom takes a name without a dot for IPv6."""
    try:
        found = socket.getaddrinfo(destination.host, destination.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise PeerError(f"{destination.url}: no address for {destination.host} ({error})") from error
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])


def _why_not(association: Association, destination: DimseDestination, connected: bool) -> PeerError:
    url = destination.url
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = f"{url} rejects the association as {destination.calling_ae}: {answer.result_str}, {answer.reason_str}"
        return PeerRefusedError(reason) if answer.result == _REJECT_PERMANENT else PeerError(reason)
    if association.acceptor.primitive is not None and not association.accepted_contexts:
        return NothingAcceptedError(f"{url} accepts none of the presentation contexts proposed")
    if not connected:
        secured = " with TLS" if destination.tls else ""
        return PeerError(f"{url}: cannot connect{secured}; is the PACS running there?")
    return PeerError(f"{url} is connected but made no association within {destination.connect_timeout_s:g} s")


def _tune(event: Any, timeout_s: float) -> None:
    """Send small segments at once, and let no read or write of a frozen peer block for ever.

    Without TCP_NODELAY each image waits 40 ms: the peer acknowledges late, and Nagle waits for it.
    """
    connection = event.assoc.dul.socket.socket
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout_s * 1000))


def _acknowledge_quickly(event: Any) -> None:
    """Ask the kernel not to delay acknowledgements; it forgets, so we ask after each send."""
    connection = event.assoc.dul.socket.socket
    if connection is not None and hasattr(socket, "TCP_QUICKACK"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
