"""Delivery to a PACS: an outbox on disk, a sender process, DIMSE and DICOMweb, and no false success.

``send`` queues files and waits; ``enqueue`` with ``sender_running`` is for programs that go on, and
``follow`` waits for what they have queued. Importing this package loads no network library: the sender's process does.
"""

from __future__ import annotations

from steadymr.delivery.destinations import Destination, DimseDestination, WebDestination, parse_destination
from steadymr.delivery.dispatch import SendResult, enqueue, follow, outbox_counts, outbox_list, purge, retry, send
from steadymr.delivery.outbox import Row
from steadymr.delivery.watch import SenderWatch, sender_running

__all__ = [
    "Destination",
    "DimseDestination",
    "Row",
    "SendResult",
    "SenderWatch",
    "WebDestination",
    "enqueue",
    "follow",
    "outbox_counts",
    "outbox_list",
    "parse_destination",
    "purge",
    "retry",
    "send",
    "sender_running",
]
