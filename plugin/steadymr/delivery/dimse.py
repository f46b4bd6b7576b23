"""Images to a PACS by C-STORE, and questions whether it has them by C-FIND.

No answer means unknown, neither stored nor refused: the association is never used again, and the same instance is sent
again later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from steadymr.delivery.association import NothingAcceptedError, associated
from steadymr.delivery.destinations import DimseDestination
from steadymr.delivery.outbox import Outcome, Row
from steadymr.delivery.statuses import judge
from steadymr.errors import PeerError

logger = logging.getLogger(__name__)

_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_MAX_CONTEXTS = 128  #: in one association (PS3.8 9.3.2.2)
_COMPRESSIBLE_BITS = (8, 16)


def store(
    destination: DimseDestination, rows: Sequence[Row], path: Callable[[Row], Path]
) -> Generator[tuple[Row, Outcome], None, None]:
    """Send ``rows`` over one association and say what became of each; rows never reached are not yielded.

    Raises ``PeerError`` when the association cannot be made, breaks, or the PACS is out of resources; what was in
    flight then has been yielded as "no answer". ``path`` says where a row's file lies.
    """
    rows = list(_few_enough(rows, destination))
    try:
        with associated(destination, _contexts(rows, destination)) as association:
            yield from _store_each(association, destination, rows, path)
    except NothingAcceptedError:
        yield from ((row, _not_accepted(row)) for row in rows)


def _store_each(
    association: Association, destination: DimseDestination, rows: Sequence[Row], path: Callable[[Row], Path]
) -> Generator[tuple[Row, Outcome], None, None]:
    for number, row in enumerate(rows):
        outcome = _store_one(association, row, path(row), number % 65535 + 1)
        yield row, outcome
        if outcome.verdict in ("no answer", "busy"):
            raise PeerError(f"{destination.url}: {outcome.reason}")


def _not_accepted(row: Row) -> Outcome:
    syntax = UID(row.instance.transfer_syntax_uid).name
    return Outcome("refused", f"the PACS does not accept {UID(row.instance.sop_class_uid).name} in {syntax}")


def _few_enough(rows: Sequence[Row], destination: DimseDestination) -> Iterator[Row]:
    """The first rows, up to as many kinds as fit into one association."""
    kinds: set[tuple[str, str]] = set()
    for row in rows:
        kinds.update(_kinds(row, destination))
        if len(kinds) > _MAX_CONTEXTS:
            return
        yield row


def _kinds(row: Row, destination: DimseDestination) -> list[tuple[str, str]]:
    """SOP class with each transfer syntax in which we could send it."""
    own = row.instance.transfer_syntax_uid
    syntaxes = [own]
    if own in _UNCOMPRESSED:
        syntaxes += [syntax for syntax in _UNCOMPRESSED if syntax != own]
        if destination.compression == "jpegls" and row.instance.pixels_sha256:
            syntaxes.append(JPEGLSLossless)
    return [(row.instance.sop_class_uid, syntax) for syntax in syntaxes]


def _contexts(rows: Sequence[Row], destination: DimseDestination) -> list[PresentationContext]:
    """One context for each pair, so that the PACS cannot pick a syntax we would have to convert to without need."""
    pairs = dict.fromkeys(kind for row in rows for kind in _kinds(row, destination))
    return [build_context(sop_class, syntax) for sop_class, syntax in pairs]


def _store_one(association: Association, row: Row, file: Path, message_id: int) -> Outcome:
    accepted = {
        str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.abstract_syntax == row.instance.sop_class_uid
    }
    what = _what_to_send(row, file, accepted)
    if what is None:
        return _not_accepted(row)
    try:
        status = association.send_c_store(what, msg_id=message_id)
    except (RuntimeError, OSError, ValueError) as error:
        return Outcome("no answer", f"the association broke during C-STORE: {error}")
    if "Status" not in status:
        return Outcome("no answer", "no answer to C-STORE")
    return judge(int(status.Status), str(status.get("ErrorComment", "")))


def _what_to_send(row: Row, file: Path, accepted: set[str]) -> Path | Dataset | None:
    """The file as it is where the PACS takes it so, else converted without loss; None if it takes neither."""
    own = row.instance.transfer_syntax_uid
    if JPEGLSLossless in accepted and own in _UNCOMPRESSED:
        compressed = _compressed(file)
        if compressed is not None:
            return compressed
    if own in accepted:
        return file
    if own in _UNCOMPRESSED and accepted & set(_UNCOMPRESSED):
        return pydicom.dcmread(file)
    return None


def _compressed(file: Path) -> Dataset | None:
    """The data set in lossless JPEG-LS under its own UID; None where its pixels are none that JPEG-LS holds."""
    dataset = pydicom.dcmread(file)
    if "PixelData" not in dataset or dataset.BitsAllocated not in _COMPRESSIBLE_BITS:
        return None
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    return dataset


def find(destination: DimseDestination, rows: Sequence[Row]) -> Generator[tuple[Row, Outcome], None, None]:
    """Ask the PACS for each of ``rows`` by its UIDs (C-FIND, study root, image level).

    Raises ``PeerError`` when it cannot be asked.
    """
    contexts = [build_context(StudyRootQueryRetrieveInformationModelFind)]
    try:
        with associated(destination, contexts) as association:
            for row in rows:
                yield row, _find_one(association, destination, row)
    except NothingAcceptedError:
        yield from ((row, Outcome("unconfirmed", "stored, but the PACS does not answer queries")) for row in rows)


def _find_one(association: Association, destination: DimseDestination, row: Row) -> Outcome:
    try:
        found = list(association.send_c_find(_query(row), StudyRootQueryRetrieveInformationModelFind))
    except (RuntimeError, OSError, ValueError) as error:
        raise PeerError(f"{destination.url}: the association broke during C-FIND: {error}") from error
    statuses: list[Any] = [status.get("Status") for status, _ in found]
    if not statuses or statuses[-1] is None:
        raise PeerError(f"{destination.url}: no answer to C-FIND")
    if statuses[-1] != 0x0000:
        return Outcome("unconfirmed", f"the PACS answered C-FIND with status 0x{statuses[-1]:04X}")
    matches = [answer for _, answer in found if answer is not None]
    if any(answer.get("SOPInstanceUID") == row.instance.sop_instance_uid for answer in matches):
        return Outcome("confirmed", "found in the PACS by C-FIND")
    return Outcome("denied", "the PACS said stored, but C-FIND does not find it")


def _query(row: Row) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = row.instance.study_instance_uid
    query.SeriesInstanceUID = row.instance.series_instance_uid
    query.SOPInstanceUID = row.instance.sop_instance_uid
    return query
