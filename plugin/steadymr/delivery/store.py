"""The outbox on disk: an SQLite database (WAL, synchronous FULL) and a folder of copied instances.

What is committed here survives a power cut. Several processes may use one outbox at the same time; a row read before
another process changed it is never written over the change (``Row.version``).
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path

from steadymr.delivery.destinations import Destination, dump_destination, load_destination
from steadymr.delivery.intake import sync, take_in
from steadymr.delivery.outbox import Instance, Peer, Row, again
from steadymr.errors import DeliveryError, OutputError

logger = logging.getLogger(__name__)

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE instances (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    version INTEGER NOT NULL DEFAULT 0,
    sop_instance_uid TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    file TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    pixels_sha256 TEXT NOT NULL,
    n_bytes INTEGER NOT NULL,
    destination TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'stored', 'committed', 'failed')),
    next_try_s REAL,
    queued_s REAL NOT NULL,
    changed_s REAL NOT NULL,
    refusals INTEGER NOT NULL DEFAULT 0,
    silences INTEGER NOT NULL DEFAULT 0,
    denials INTEGER NOT NULL DEFAULT 0,
    questions INTEGER NOT NULL DEFAULT 0,
    busy INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    UNIQUE (sop_instance_uid, destination)
);
CREATE INDEX open_instances ON instances (destination) WHERE next_try_s IS NOT NULL;
CREATE TABLE destinations (
    name TEXT PRIMARY KEY,
    settings TEXT NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    refusals INTEGER NOT NULL DEFAULT 0,
    next_try_s REAL NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT ''
);
CREATE TABLE transactions (
    uid TEXT PRIMARY KEY,
    destination TEXT NOT NULL,
    asked_s REAL NOT NULL
);
"""
_INSTANCE_COLUMNS = tuple(field.name for field in fields(Instance))
_CHANGING = ("state", "next_try_s", "changed_s", "refusals", "silences", "denials", "questions", "busy", "reason")
_ROW_COLUMNS = ("id", "version", *_INSTANCE_COLUMNS, "destination", "queued_s", *_CHANGING)
_ORPHAN_AGE_S = 3600.0
_VARIABLES_AT_ONCE = 500  #: SQLite before 3.32 takes 999 in one statement


class Store:
    """An open outbox. Use from one thread; a context manager."""

    def __init__(self, outbox_dir: Path) -> None:
        """Open, or make, the outbox in ``outbox_dir``. Raises ``OutputError`` or ``DeliveryError``."""
        self.outbox_dir = Path(outbox_dir)
        self.files_dir = self.outbox_dir / "files"
        try:
            self.outbox_dir.mkdir(parents=True, exist_ok=True, mode=0o700)  # patients' images lie in it
            self.files_dir.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise OutputError(f"cannot make the outbox {self.outbox_dir}: {error.strerror}") from error
        with _translated(self.outbox_dir):
            self._database = _connect(self.outbox_dir / "outbox.sqlite")
        self._needless: list[str] = []

    def __enter__(self) -> Store:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # -- what is there -------------------------------------------------------------------------------------------

    def open_rows(self) -> list[Row]:
        """All rows that are not settled, oldest first."""
        return self._select("next_try_s IS NOT NULL")

    def rows(self, destination: str | None = None) -> list[Row]:
        """All rows, or those of one destination, oldest first."""
        return self._select("destination = ?", destination) if destination else self._select("1")

    def rows_by_id(self, ids: Sequence[int]) -> list[Row]:
        """The rows with these ids, as far as they are there."""
        found: list[Row] = []
        for start in range(0, len(ids), _VARIABLES_AT_ONCE):
            some = ids[start : start + _VARIABLES_AT_ONCE]
            found += self._select(f"id IN ({', '.join('?' * len(some))})", *some)
        return found

    def _select(self, where: str, *values: object) -> list[Row]:
        query = f"SELECT {', '.join(_ROW_COLUMNS)} FROM instances WHERE {where} ORDER BY id"
        with _translated(self.outbox_dir):
            return [_row(found) for found in self._database.execute(query, values)]

    def peers(self) -> list[Peer]:
        """How each destination behaved lately."""
        query = "SELECT name, settings, failures, refusals, next_try_s, reason FROM destinations ORDER BY name"
        with _translated(self.outbox_dir):
            found = self._database.execute(query).fetchall()
        return [_peer(*columns) for columns in found]

    def destination(self, name: str) -> Destination:
        """The settings of a destination by name. Raises ``DeliveryError`` if it never was in this outbox."""
        with _translated(self.outbox_dir):
            found = self._database.execute("SELECT settings FROM destinations WHERE name = ?", (name,)).fetchone()
        if found is None:
            raise DeliveryError(f"no destination {name} in the outbox {self.outbox_dir}")
        return load_destination(found[0])

    def data_version(self) -> int:
        """A number that changes when another process or thread changes the outbox."""
        with _translated(self.outbox_dir):
            return int(self._database.execute("PRAGMA data_version").fetchone()[0])

    def path(self, row: Row) -> Path:
        """Where the copy of a row's instance lies."""
        return self.files_dir / row.instance.file

    # -- changes -------------------------------------------------------------------------------------------------

    def add(self, files: Sequence[Path], destination: Destination, now_s: float) -> list[int]:
        """Copy ``files`` aside and queue them, all or none; the row id of each, once that survives a power cut.

        An instance that is on its way is tried at once; one that was settled is queued again. Raises
        ``DeliveryError`` if its pixels differ from those queued before under the same UID, for a PACS may keep either,
        and ``OutputError`` if the outbox cannot be written.
        """
        taken: list[Instance] = []
        try:
            taken.extend(take_in(files, self.files_dir))
            sync([*(self.files_dir / instance.file for instance in taken), self.files_dir])
            with self._transaction():
                self._save_destination(destination)
                added = [self._queue(instance, destination.name, now_s) for instance in taken]
        except (DeliveryError, OutputError):  # an interrupt may come after the commit: then nothing must be deleted
            self._unlink(instance.file for instance in taken)
            raise
        self._unlink(old_file for _, old_file in added if old_file)
        return [row_id for row_id, _ in added]

    def _queue(self, instance: Instance, destination: str, now_s: float) -> tuple[int, str]:
        """The row id, and the copy that is no longer needed."""
        known = self._select("sop_instance_uid = ? AND destination = ?", instance.sop_instance_uid, destination)
        if not known:
            columns = (*_INSTANCE_COLUMNS, "destination", "state", "next_try_s", "queued_s", "changed_s")
            values = (*astuple(instance), destination, "queued", now_s, now_s, now_s)
            return self._insert(columns, values), ""
        before = known[0]
        if before.instance.pixels_sha256 != instance.pixels_sha256:
            raise DeliveryError(
                f"instance {instance.sop_instance_uid} was queued before with other pixels; one UID must not name two"
                " images, so nothing was queued"
            )
        changes = ", ".join(f"{column} = ?" for column in _INSTANCE_COLUMNS)
        self._database.execute(f"UPDATE instances SET {changes} WHERE id = ?", (*astuple(instance), before.id))
        self._update(again(before, now_s))
        return before.id, before.instance.file

    def _insert(self, columns: Sequence[str], values: Sequence[object]) -> int:
        marks = ", ".join("?" * len(columns))
        cursor = self._database.execute(f"INSERT INTO instances ({', '.join(columns)}) VALUES ({marks})", values)
        return int(cursor.lastrowid or 0)

    def _save_destination(self, destination: Destination) -> None:
        """Write its settings; whoever queues something wants it tried now, so earlier failures are forgotten."""
        query = """INSERT INTO destinations (name, settings) VALUES (?, ?) ON CONFLICT (name) DO UPDATE
                   SET settings = excluded.settings, failures = 0, refusals = 0, next_try_s = 0"""
        self._database.execute(query, (destination.name, dump_destination(destination)))

    def save(self, rows: Iterable[Row]) -> None:
        """Write rows back, except where the stored row has changed since it was read."""
        with self._transaction():
            saved = [row for row in rows if self._update(row)]
        self._needless += [row.instance.file for row in saved if row.is_safe]

    def tidy(self) -> None:
        """Delete the copies of what has become safe since the last call."""
        self._unlink(self._needless)
        self._needless = []

    def _update(self, row: Row) -> bool:
        changes = ", ".join(f"{column} = ?" for column in _CHANGING)
        values = [getattr(row, column) for column in _CHANGING]
        query = f"UPDATE instances SET version = version + 1, {changes} WHERE id = ? AND version = ?"
        return self._database.execute(query, (*values, row.id, row.version)).rowcount == 1

    def save_peer(self, peer: Peer) -> None:
        """Write back how a destination behaved."""
        query = "UPDATE destinations SET failures = ?, refusals = ?, next_try_s = ?, reason = ? WHERE name = ?"
        with self._transaction():
            self._database.execute(query, (peer.failures, peer.refusals, peer.next_try_s, peer.reason, peer.name))

    def remove(self, rows: Iterable[Row]) -> int:
        """Forget rows and their copies, unless they have changed meanwhile; how many went."""
        gone: list[str] = []
        with self._transaction():
            for row in rows:
                query = "DELETE FROM instances WHERE id = ? AND version = ?"
                if self._database.execute(query, (row.id, row.version)).rowcount == 1:
                    gone.append(row.instance.file)
        self._unlink(gone)
        return len(gone)

    def add_transaction(self, uid: str, destination: str, now_s: float) -> None:
        """Remember a storage commitment request before it is made, so that its report is known after a restart."""
        with self._transaction():
            self._database.execute("INSERT INTO transactions VALUES (?, ?, ?)", (uid, destination, now_s))

    def transaction_destination(self, uid: str) -> str | None:
        """To whom a storage commitment request was made; None if it was not ours."""
        with _translated(self.outbox_dir):
            found = self._database.execute("SELECT destination FROM transactions WHERE uid = ?", (uid,)).fetchone()
        return None if found is None else str(found[0])

    def sweep(self) -> int:
        """Delete copies that no row needs (left by a crash); how many went."""
        named = {row.instance.file for row in self.rows() if not row.is_safe}
        age_limit = time.time() - _ORPHAN_AGE_S  # another process may be about to name a younger one
        orphans = [f for f in self.files_dir.iterdir() if f.name not in named and f.stat().st_mtime < age_limit]
        self._unlink(file.name for file in orphans)
        return len(orphans)

    def _unlink(self, names: Iterable[str]) -> None:
        for name in names:
            (self.files_dir / name).unlink(missing_ok=True)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _translated(self.outbox_dir):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=30.0, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("BEGIN IMMEDIATE")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        for statement in _SCHEMA.split(";"):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    database.execute("COMMIT")
    if version not in (0, _SCHEMA_VERSION):
        database.close()
        raise DeliveryError(f"{path} was written by another version of steadymr (schema {version})")
    path.chmod(0o600)
    return database


@contextmanager
def _translated(outbox_dir: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        hint = "; is its disk full?" if "I/O" in str(error) else ""
        raise OutputError(f"the outbox {outbox_dir} cannot be used: {error}{hint}") from error


def _row(found: Sequence[object]) -> Row:
    values = dict(zip(_ROW_COLUMNS, found, strict=True))
    instance = Instance(**{name: values.pop(name) for name in _INSTANCE_COLUMNS})  # type: ignore[arg-type]
    return Row(instance=instance, **values)  # type: ignore[arg-type]


def _peer(name: str, settings: str, failures: int, refusals: int, next_try_s: float, reason: str) -> Peer:
    destination = load_destination(settings)
    return Peer(name, destination.confirm, destination.policy, failures, refusals, next_try_s, reason)
