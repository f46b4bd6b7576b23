"""What others call: queue files, send them and wait, and look after the outbox."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from steadymr.delivery.destinations import DimseDestination, WebDestination, parse_destination
from steadymr.delivery.intake import dicom_files
from steadymr.delivery.outbox import Row, State, again, ask_again
from steadymr.delivery.store import Store
from steadymr.delivery.watch import SenderWatch
from steadymr.errors import SettingsError

Wait: TypeAlias = Literal["stored", "committed"]
Progress: TypeAlias = Callable[[int, int], None]  #: instances done, instances in all
Where: TypeAlias = str | Mapping[str, Any] | DimseDestination | WebDestination

_POLL_S = 0.03


@dataclass(frozen=True, slots=True)
class SendResult:
    """What became of each instance that was to be sent; ``ok`` only if all are where they should be."""

    destination: str
    wait: Wait
    rows: tuple[Row, ...]
    n_queued: int  #: instances at the start; rows may have been purged since

    @property
    def ok(self) -> bool:
        """Whether every instance is stored, or committed, as was waited for."""
        return len(self.rows) == self.n_queued and all(_reached(row, self.wait) for row in self.rows)

    @property
    def failed(self) -> tuple[Row, ...]:
        """Those in quarantine, each with its ``reason``."""
        return tuple(row for row in self.rows if row.state == "failed")

    @property
    def missing(self) -> tuple[Row, ...]:
        """All that are not where they should be: in quarantine, waiting, or stored but not committed."""
        return tuple(row for row in self.rows if not _reached(row, self.wait))

    def sentence(self) -> str:
        """For people: how many, where, and what keeps the others."""
        n_reached = sum(_reached(row, self.wait) for row in self.rows)
        text = f"{n_reached} of {self.n_queued} instances {self.wait} at {self.destination}"
        if self.ok:
            return text
        reasons = Counter(f"{row.state}: {row.reason or 'not tried yet'}" for row in self.missing)
        return text + "".join(f"; {count} {reason}" for reason, count in reasons.most_common(3))


def enqueue(paths: Iterable[Path | str], destination: Where, outbox_dir: Path) -> list[int]:
    """Put DICOM files, or the ``.dcm`` files of folders, into the outbox, all or none; returns their row ids.

    They are copied: the originals may go. Raises ``DeliveryError`` for what is no DICOM file or belongs to nobody,
    ``SettingsError`` for a bad destination, ``OutputError`` for a full disk.
    """
    with Store(Path(outbox_dir)) as store:
        return store.add(dicom_files(paths), as_destination(destination), time.time())


def send(
    paths: Iterable[Path | str],
    destination: Where,
    outbox_dir: Path,
    wait: Wait = "stored",
    progress: Progress = lambda done, total: None,
    timeout_s: float | None = None,
) -> SendResult:
    """Queue files and wait until each is stored (or committed) at ``destination``, or in quarantine.

    Starts a sender for as long as it waits, unless one runs. After ``timeout_s`` (None: no limit) the rest stays queued
    for the next sender. Raises what ``enqueue`` raises, and ``DeliveryError`` if no sender can be kept running.
    """
    destination = as_destination(destination)
    if wait == "committed" and destination.confirm == "none":
        raise SettingsError(f"destination {destination.name}: to wait for committed, confirm by commitment or query")
    files = dicom_files(paths)
    with Store(Path(outbox_dir)) as store, closing(SenderWatch(store.outbox_dir)) as watch:
        watch.check()  # it needs a second to start; meanwhile the files are copied
        wanted = sorted(set(store.add(files, destination, time.time())))
        rows = _wait_for(store, watch, wanted, wait, progress, timeout_s)
    return SendResult(destination.name, wait, tuple(rows), len(wanted))


def follow(
    ids: Sequence[int], destination: Where, outbox_dir: Path, wait: Wait = "stored", timeout_s: float | None = None
) -> SendResult:
    """Wait for what ``enqueue`` has queued, as ``send`` does.

    Raises ``DeliveryError`` if no sender can be kept running.
    """
    wanted = sorted(set(ids))
    with Store(Path(outbox_dir)) as store, closing(SenderWatch(store.outbox_dir)) as watch:
        rows = _wait_for(store, watch, wanted, wait, lambda done, total: None, timeout_s)
    return SendResult(as_destination(destination).name, wait, tuple(rows), len(wanted))


def _wait_for(
    store: Store, watch: SenderWatch, wanted: Sequence[int], wait: Wait, progress: Progress, timeout_s: float | None
) -> list[Row]:
    until_s = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        rows = store.rows_by_id(wanted)
        n_waiting = sum(not _over(row, wait) for row in rows)
        progress(len(wanted) - n_waiting, len(wanted))
        if not n_waiting or (until_s is not None and time.monotonic() > until_s):
            return _with_peer_reasons(store, rows)
        watch.check()
        time.sleep(_POLL_S)


def _with_peer_reasons(store: Store, rows: list[Row]) -> list[Row]:
    """A row that was never tried says what keeps its destination."""
    reasons = {peer.name: peer.reason for peer in store.peers()}
    return [row if row.reason or row.settled else replace(row, reason=reasons[row.destination]) for row in rows]


def _over(row: Row, wait: Wait) -> bool:
    """Whether waiting for this row makes no sense any more."""
    return row.settled or _reached(row, wait)


def _reached(row: Row, wait: Wait) -> bool:
    return row.state == "committed" or (row.state == "stored" and wait == "stored")


def outbox_list(outbox_dir: Path, destination: str | None = None, states: Sequence[State] | None = None) -> list[Row]:
    """What is in the outbox: where to, in which state, why, since when; narrowed down if asked."""
    with Store(Path(outbox_dir)) as store:
        rows = _with_peer_reasons(store, store.rows(destination))
    return [row for row in rows if states is None or row.state in states]


def outbox_counts(outbox_dir: Path) -> dict[tuple[str, State], int]:
    """How many instances are in which state for each destination, for metrics."""
    return dict(Counter((row.destination, row.state) for row in outbox_list(outbox_dir)))


def retry(outbox_dir: Path, destination: str | None = None, ids: Sequence[int] | None = None) -> int:
    """Queue again what is in quarantine, try at once what waits, ask again where no answer came; how many.

    A running sender takes them up. ``ids`` and ``destination`` narrow it down.
    """
    now_s = time.time()
    with Store(Path(outbox_dir)) as store:
        rows = [row for row in store.rows(destination) if _is_among(row, ids) and not row.is_safe]
        store.save(ask_again(row, now_s) if row.state == "stored" else again(row, now_s) for row in rows)
        for peer in store.peers():
            if destination in (None, peer.name):
                store.save_peer(replace(peer, failures=0, refusals=0, next_try_s=now_s, reason=""))
    return len(rows)


def purge(
    outbox_dir: Path,
    states: Sequence[State] = ("committed", "stored"),
    destination: str | None = None,
    ids: Sequence[int] | None = None,
) -> int:
    """Forget settled instances in the given states, and delete their copies; how many.

    What is still on its way is kept: to give up on it, see that it fails first.
    """
    with Store(Path(outbox_dir)) as store:
        rows = [row for row in store.rows(destination) if _is_among(row, ids)]
        return store.remove(row for row in rows if row.settled and row.state in states)


def _is_among(row: Row, ids: Sequence[int] | None) -> bool:
    return ids is None or row.id in ids


def as_destination(where: Where) -> DimseDestination | WebDestination:
    """A destination as it is, or from its URL or mapping. Raises ``SettingsError``."""
    if isinstance(where, (DimseDestination, WebDestination)):
        return where
    return parse_destination(where)
