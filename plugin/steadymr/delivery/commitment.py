"""Storage commitment: asking a PACS to take responsibility (N-ACTION), and hearing its reports (N-EVENT-REPORT).

DICOM PS3.4 annex J. A PACS reports on the association of the request while that lasts, or on one of its own, minutes
later perhaps. So we stay for a moment, and listen on a port besides.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

from steadymr.delivery.association import NothingAcceptedError, answering, associated
from steadymr.delivery.destinations import DimseDestination
from steadymr.delivery.outbox import Outcome, Row
from steadymr.errors import DeliveryError, OutputError, PeerError

logger = logging.getLogger(__name__)

_REQUEST = 1  #: action type of a storage commitment request
_PROCESSING_FAILURE = 0x0110
_SUCCESS = 0x0000
_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0213: "resource limitation",
    0x0122: "SOP class not supported",
    0x0119: "class and instance disagree",
    0x0131: "duplicate transaction UID",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What a PACS says about the instances of one request."""

    transaction_uid: str
    outcomes: dict[str, Outcome]  #: by SOP Instance UID


HearReport = Callable[[Report], None]


def request(
    destination: DimseDestination, rows: Sequence[Row], transaction_uid: str, hear: HearReport
) -> dict[int, Outcome]:
    """Ask for storage commitment of ``rows``; the outcome by row id is "asked", or "unconfirmed" if not supported.

    A report that comes within ``destination.report_wait_s``, on the same association, goes to ``hear``; later ones come
    to ``listen``. Raises ``PeerError`` if the PACS cannot be asked.
    """
    heard = threading.Event()

    def take(event: Any) -> tuple[int, None]:
        status = _handle(event, hear)
        heard.set()
        return status, None

    try:
        with associated(destination, [build_context(StorageCommitmentPushModel)]) as association:
            association.bind(evt.EVT_N_EVENT_REPORT, take)
            status, _ = association.send_n_action(
                _action(rows, transaction_uid),
                _REQUEST,
                StorageCommitmentPushModel,
                StorageCommitmentPushModelInstance,
            )
            if status.get("Status") == _SUCCESS:
                with answering(association):
                    heard.wait(destination.seconds_for_report)
    except NothingAcceptedError:
        return _same(rows, Outcome("unconfirmed", "stored, but the PACS offers no storage commitment"))
    except (RuntimeError, ValueError) as error:
        raise PeerError(f"{destination.url}: the association broke during N-ACTION: {error}") from error
    if "Status" not in status:
        raise PeerError(f"{destination.url}: no answer to the storage commitment request")
    if status.Status != _SUCCESS:
        reason = f"stored, but the PACS refuses the storage commitment request (0x{status.Status:04X})"
        return _same(rows, Outcome("unconfirmed", reason))
    return _same(rows, Outcome("asked", "waiting for the PACS to report on storage commitment"))


def _same(rows: Sequence[Row], outcome: Outcome) -> dict[int, Outcome]:
    return {row.id: outcome for row in rows}


def _action(rows: Sequence[Row], transaction_uid: str) -> Dataset:
    action = Dataset()
    action.TransactionUID = transaction_uid
    action.ReferencedSOPSequence = [_reference(row) for row in rows]
    return action


def _reference(row: Row) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = row.instance.sop_class_uid
    item.ReferencedSOPInstanceUID = row.instance.sop_instance_uid
    return item


def listen(host: str, port: int, ae_title: str, hear: HearReport) -> ThreadedAssociationServer:
    """Start hearing reports on a port, in threads of their own; ``shutdown()`` ends it. Answers C-ECHO too.

    Raises ``DeliveryError`` if the port cannot be had.
    """
    entity = AE(ae_title=ae_title)
    entity.require_called_aet = False  # a report for a transaction that is not ours is refused by its UID
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    entity.add_supported_context(Verification)
    handlers = [(evt.EVT_N_EVENT_REPORT, lambda event: (_handle(event, hear), None))]
    try:
        server = entity.start_server((host, port), block=False, evt_handlers=handlers)
    except OSError as error:
        raise DeliveryError(
            f"cannot listen on {host}:{port} for storage commitment reports: {error.strerror}"
        ) from error
    assert server is not None  # only a blocking start returns nothing
    return server


def _handle(event: Any, hear: HearReport) -> int:
    """The status of our answer: success only once the report is kept."""
    try:
        hear(parse_report(event.event_information))
    except (DeliveryError, OutputError, AttributeError, ValueError) as error:
        logger.warning("a storage commitment report was not taken: %s", error)
        return _PROCESSING_FAILURE
    return _SUCCESS


def parse_report(information: Dataset) -> Report:
    """A report from its event information (PS3.4 table J.3-2). Raises ``AttributeError`` without Transaction UID."""
    outcomes = {
        str(item.ReferencedSOPInstanceUID): Outcome("confirmed", "storage commitment")
        for item in information.get("ReferencedSOPSequence", None) or []
    }
    for item in information.get("FailedSOPSequence", None) or []:
        code = int(item.get("FailureReason", 0))
        reason = f"the PACS denies storage commitment: {_REASONS.get(code, 'failure')} (0x{code:04X})"
        outcomes[str(item.ReferencedSOPInstanceUID)] = Outcome("denied", reason)
    return Report(str(information.TransactionUID), outcomes)
