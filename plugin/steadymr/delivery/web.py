"""Images to a PACS by STOW-RS, and questions whether it has them by QIDO-RS (DICOM PS3.18, sections 10.5 and 10.6).

One request carries several instances; the answer names each that was stored or failed. An instance that the answer
does not name is unknown, whatever the HTTP status says.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import urllib3

from steadymr.delivery.destinations import WebDestination
from steadymr.delivery.outbox import Outcome, Row
from steadymr.delivery.statuses import judge
from steadymr.delivery.tls import tls_context
from steadymr.errors import PeerError, PeerRefusedError

logger = logging.getLogger(__name__)

_FAILED, _REASON, _STORED, _WARNING, _INSTANCE = "00081198", "00081197", "00081199", "00081196", "00081155"
_LASTING = {401: "does not accept our token or certificate", 403: "forbids us to store", 404: "has no such address"}
_NAMES_INSTANCES = (200, 202, 409)
_ABOUT_CONTENT = (400, 413, 415, 422)
_JSON = "application/dicom+json"


def store(
    destination: WebDestination, rows: Sequence[Row], path: Callable[[Row], Path]
) -> Generator[tuple[Row, Outcome], None, None]:
    """Send ``rows`` in requests of at most ``batch_bytes`` and say what became of each.

    Raises ``PeerError`` when the server cannot be reached, is out of order, or gave no answer; what was in flight then
    has been yielded as "no answer".
    """
    with opened(destination) as pool:
        for batch in _batches(rows, destination.batch_bytes):
            yield from _store_batch(pool, destination, batch, path)


def _store_batch(
    pool: urllib3.PoolManager, destination: WebDestination, batch: Sequence[Row], path: Callable[[Row], Path]
) -> Generator[tuple[Row, Outcome], None, None]:
    boundary = uuid.uuid4().hex
    headers = {
        **request_headers(destination),
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
    }
    body = _multipart([path(row).read_bytes() for row in batch], boundary)
    try:
        answer = pool.request("POST", f"{destination.url}/studies", body=body, headers=headers)
    except urllib3.exceptions.NewConnectionError as error:
        raise PeerError(f"{destination.url}: {error}") from error
    except urllib3.exceptions.HTTPError as error:
        yield from ((row, Outcome("no answer", f"no answer to STOW-RS: {error}")) for row in batch)
        raise PeerError(f"{destination.url}: {error}") from error
    if answer.status in _ABOUT_CONTENT and len(batch) > 1:  # one bad instance must not hold up the others
        for row in batch:
            yield from _store_batch(pool, destination, [row], path)
        return
    outcomes = judge_answer(answer.status, answer.data, [row.instance.sop_instance_uid for row in batch])
    _raise_for_server(destination, answer.status)
    for row in batch:
        yield row, outcomes[row.instance.sop_instance_uid]
    if any(outcome.verdict == "busy" for outcome in outcomes.values()):
        raise PeerError(f"{destination.url}: the PACS is out of resources")


def judge_answer(status: int, body: bytes, uids: Sequence[str]) -> dict[str, Outcome]:
    """What a STOW-RS answer says about each of the instances ``uids`` that were sent."""
    unknown = Outcome("no answer", f"HTTP {status}, and the answer does not name the instance")
    if status in _ABOUT_CONTENT:
        unknown = Outcome("refused", f"the PACS does not take the instance (HTTP {status})")
    outcomes = dict.fromkeys(uids, unknown)
    if status in _NAMES_INSTANCES:
        named = _named(body)
        outcomes.update((uid, outcome) for uid, outcome in named.items() if uid in outcomes)
    return outcomes


def _named(body: bytes) -> dict[str, Outcome]:
    """The instances that a Store Instances Response names, each with its outcome."""
    try:
        answer = json.loads(body)
        answer = answer[0] if isinstance(answer, list) else answer
        stored = {_value(item, _INSTANCE): judge(_value(item, _WARNING) or 0) for item in _items(answer, _STORED)}
        failed = {_value(item, _INSTANCE): _failure(_value(item, _REASON)) for item in _items(answer, _FAILED)}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        logger.warning("a STOW-RS answer of %d bytes is no DICOM JSON; its instances count as unknown", len(body))
        return {}
    return {**stored, **failed}


def _failure(reason: Any) -> Outcome:
    """A failed instance; one that claims status 0 has failed all the same."""
    return judge(int(reason)) if reason else Outcome("refused", "the PACS lists it as failed, without a reason")


def _items(answer: Mapping[str, Any], tag: str) -> list[Any]:
    return list(answer.get(tag, {}).get("Value", []))


def _value(item: Mapping[str, Any], tag: str) -> Any:
    values = item.get(tag, {}).get("Value", [])
    return values[0] if values else None


def _raise_for_server(destination: WebDestination, status: int) -> None:
    """Failures that are not about an instance."""
    if status in _LASTING:
        raise PeerRefusedError(f"{destination.url} {_LASTING[status]} (HTTP {status})")
    if status not in (*_NAMES_INSTANCES, *_ABOUT_CONTENT):
        raise PeerError(f"{destination.url} answers HTTP {status}")


def find(destination: WebDestination, rows: Sequence[Row]) -> Generator[tuple[Row, Outcome], None, None]:
    """Ask the PACS for each of ``rows`` by its UIDs. Raises ``PeerError`` when it cannot be asked."""
    with opened(destination) as pool:
        for row in rows:
            yield row, _find_one(pool, destination, row)


def _find_one(pool: urllib3.PoolManager, destination: WebDestination, row: Row) -> Outcome:
    instance = row.instance
    url = f"{destination.url}/studies/{instance.study_instance_uid}/series/{instance.series_instance_uid}/instances"
    fields = {"SOPInstanceUID": instance.sop_instance_uid}
    try:
        answer = pool.request("GET", url, fields=fields, headers=request_headers(destination))
        found = json.loads(answer.data) if answer.status == 200 and answer.data else []
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise PeerError(f"{destination.url}: no usable answer to QIDO-RS: {error}") from error
    if answer.status not in (200, 204, 404):
        raise PeerError(f"{destination.url} answers QIDO-RS with HTTP {answer.status}")
    if any(_value(item, "00080018") == instance.sop_instance_uid for item in found):
        return Outcome("confirmed", "found in the PACS by QIDO-RS")
    return Outcome("denied", "the PACS said stored, but QIDO-RS does not find it")


def opened(destination: WebDestination) -> urllib3.PoolManager:
    """Connections to a server, with its time-outs, our certificate and the check of its own."""
    timeout = urllib3.Timeout(connect=destination.connect_timeout_s, read=destination.answer_timeout_s)
    context = tls_context(destination) if destination.url.startswith("https") else None
    return urllib3.PoolManager(timeout=timeout, retries=False, ssl_context=context)


def request_headers(destination: WebDestination) -> dict[str, str]:
    """The headers of each request. Raises PeerRefusedError if the token cannot be read."""
    headers = {"Accept": _JSON, "User-Agent": "steadymr"}
    if destination.token_file is not None:
        headers["Authorization"] = f"Bearer {_token(destination.token_file)}"
    return headers


def _token(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError as error:
        raise PeerRefusedError(f"cannot read the bearer token in {file}: {error.strerror}") from error


def _batches(rows: Sequence[Row], limit_bytes: int) -> Iterator[list[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        if batch and size + row.instance.n_bytes > limit_bytes:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row.instance.n_bytes
    if batch:
        yield batch


def _multipart(parts: Sequence[bytes], boundary: str) -> bytes:
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
