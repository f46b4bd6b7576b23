"""The sender: a process of its own that carries out what the outbox decides (``python -m steadymr.delivery.sender``).

It may be killed at any moment and started twice: a lock lets one work, what it did not get to write down is done
again, and the same instance under the same UID does no harm. In another process, because associations break when the
threads around them are busy.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import select
import signal
import sys
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TypeAlias

from steadymr.delivery import commitment, dimse, web
from steadymr.delivery.destinations import Destination, DimseDestination
from steadymr.delivery.lock import sender_lock
from steadymr.delivery.outbox import (
    Ask,
    GiveUp,
    Outcome,
    Peer,
    Row,
    Send,
    after,
    after_contact,
    decide,
    give_up,
    wait_s,
)
from steadymr.delivery.store import Store
from steadymr.errors import DeliveryError, OutputError, PeerError, PeerRefusedError, SteadymrError

logger = logging.getLogger(__name__)

Results: TypeAlias = Generator[tuple[Row, Outcome], None, None]

_POLL_S = 0.03
_LOCK_PATIENCE_S = 0.5  #: somebody may just be looking whether the lock is taken
_WRITE_EVERY_S = 0.25  #: outcomes are written in batches: a lost one only means that an instance is sent twice
_TROUBLE_WAIT_S = 5.0  #: after the outbox could not be written
_HANG_S = 120.0  #: beyond all time-outs of one contact; then the process dies and is started again


class Sender:
    """Carries out decisions on one outbox. ``clock`` gives seconds since the epoch, ``rng`` the jitter."""

    def __init__(self, store: Store, rng: random.Random, clock: Callable[[], float], stop: Callable[[], bool]) -> None:
        """Nothing is opened yet."""
        self._store = store
        self._rng = rng
        self._clock = clock
        self._stop = stop
        self._listening: set[tuple[str, int, str]] = set()
        self._deaf: dict[str, str] = {}  #: destinations whose reports we cannot hear, and why
        self._servers = ExitStack()

    def __enter__(self) -> Sender:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self._servers.close()

    def step(self) -> float:
        """Do what is due; the seconds until something may be due again. Raises ``OutputError`` if it cannot be kept."""
        rows, peers = self._store.open_rows(), self._store.peers()
        self._listen_where_needed(peers, {row.destination for row in rows})
        actions = decide(rows, peers, self._clock())
        for action in actions:
            if self._stop():
                return 0.0
            self._carry_out(action)
        if actions:
            return 0.0
        self._store.tidy()
        return wait_s(rows, peers, self._clock())

    def _carry_out(self, action: Send | Ask | GiveUp) -> None:
        match action:
            case GiveUp(peer, rows, reason):
                self._store.save(give_up(row, reason, self._clock()) for row in rows)
                self._store.save_peer(after_contact(peer, self._clock(), 0.0))
            case Send(peer, rows):
                self._contact(peer, rows, self._send)
            case Ask(peer, rows):
                self._contact(peer, rows, self._ask)

    def _contact(self, peer: Peer, rows: Sequence[Row], talk: Callable[[Destination, Sequence[Row]], Results]) -> None:
        """Talk to a destination, write down what became of each row, and how the destination behaved."""
        destination = self._store.destination(peer.name)
        reason, refused = "", False
        try:
            with closing(talk(destination, rows)) as results:
                self._record(peer, destination, results)
        except PeerError as error:
            reason, refused = str(error), isinstance(error, PeerRefusedError)
            logger.warning("%s", error)
        contacted = after_contact(peer, self._clock(), self._rng.random(), reason=reason, refused=refused)
        self._store.save_peer(contacted)

    def _record(self, peer: Peer, destination: Destination, results: Results) -> None:
        """Write outcomes in batches, and those that came before a failure before it goes on."""
        done: list[Row] = []
        waiting_since_s = 0.0
        _arm(destination)
        try:
            for row, outcome in results:
                _arm(destination)
                logger.info("%s: %s %s", row.instance.sop_instance_uid, outcome.verdict, outcome.reason)
                if not done:
                    waiting_since_s = time.monotonic()
                done.append(after(row, outcome, peer, self._clock(), self._rng.random()))
                if time.monotonic() - waiting_since_s > _WRITE_EVERY_S:
                    self._store.save(done)
                    done = []
                if self._stop():
                    break
        finally:
            signal.alarm(0)
            self._store.save(done)

    def _send(self, destination: Destination, rows: Sequence[Row]) -> Results:
        intact: list[Row] = []
        for row in rows:
            if self._is_intact(row):
                intact.append(row)
            else:
                yield row, Outcome("damaged", "the outbox's copy is gone or changed")
        if not intact:
            return
        if isinstance(destination, DimseDestination):
            yield from dimse.store(destination, intact, self._store.path)
        else:
            yield from web.store(destination, intact, self._store.path)

    def _is_intact(self, row: Row) -> bool:
        try:
            return hashlib.sha256(self._store.path(row).read_bytes()).hexdigest() == row.instance.sha256
        except OSError:
            return False

    def _ask(self, destination: Destination, rows: Sequence[Row]) -> Results:
        if isinstance(destination, DimseDestination):
            if destination.confirm == "commitment":
                yield from self._ask_for_commitment(destination, rows)
            else:
                yield from dimse.find(destination, rows)
        else:
            yield from web.find(destination, rows)

    def _ask_for_commitment(self, destination: DimseDestination, rows: Sequence[Row]) -> Results:
        if destination.name in self._deaf:
            raise PeerError(self._deaf[destination.name])
        transaction_uid = f"2.25.{uuid.uuid4().int}"
        self._store.add_transaction(transaction_uid, destination.name, self._clock())
        outcomes = commitment.request(destination, rows, transaction_uid, self._hear)
        yield from ((row, outcomes[row.id]) for row in rows)

    def _hear(self, report: commitment.Report) -> None:
        """Write a commitment report down; called from threads of the network library."""
        with Store(self._store.outbox_dir) as store:
            name = store.transaction_destination(report.transaction_uid)
            if name is None:
                raise DeliveryError(f"transaction {report.transaction_uid} is not ours")
            peer = next(peer for peer in store.peers() if peer.name == name)
            rows = [row for row in store.rows(name) if row.state == "stored"]
            now_s, draw = self._clock(), self._rng.random()
            told = [(row, report.outcomes.get(row.instance.sop_instance_uid)) for row in rows]
            store.save(after(row, outcome, peer, now_s, draw) for row, outcome in told if outcome is not None)

    def _listen_where_needed(self, peers: Sequence[Peer], awaited: set[str]) -> None:
        """Be there for reports, also on what was asked before a restart."""
        for peer in peers:
            if peer.confirm == "commitment" and peer.name in awaited:
                destination = self._store.destination(peer.name)
                if isinstance(destination, DimseDestination) and destination.listen_port is not None:
                    self._listen(peer.name, destination.listen_host, destination.listen_port, destination.calling_ae)

    def _listen(self, name: str, host: str, port: int, ae_title: str) -> None:
        if (host, port, ae_title) in self._listening:
            return
        try:
            server = commitment.listen(host, port, ae_title, self._hear)
        except DeliveryError as error:
            self._deaf[name] = str(error)
            return
        self._deaf.pop(name, None)
        self._listening.add((host, port, ae_title))
        self._servers.callback(server.shutdown)


def _arm(destination: Destination) -> None:
    """Let a hang kill the process. A death is safe here and is noticed; a hang is neither."""
    signal.alarm(int(destination.connect_timeout_s + 3 * destination.answer_timeout_s + _HANG_S))


def run_sender(
    outbox_dir: Path,
    *,
    until_idle: bool = False,
    stop: Callable[[], bool] = lambda: False,
    seed: int | None = None,
    clock: Callable[[], float] = time.time,
) -> bool:
    """Deliver what is in the outbox until ``stop()``, or with ``until_idle`` until all rows are settled.

    Returns False, at once, if another process is already at it. Raises ``OutputError`` if the outbox cannot be opened
    and ``DeliveryError`` if a port for commitment reports cannot be had. ``seed`` fixes the jitter.
    """
    with sender_lock(Path(outbox_dir), _LOCK_PATIENCE_S) as locked:
        if not locked:
            return False
        with Store(outbox_dir) as store, Sender(store, random.Random(seed), clock, stop) as sender:
            store.sweep()
            while not stop():
                wait = _step_or_wait(sender)
                if until_idle and not store.open_rows():
                    break
                _sleep(store, wait, stop)
            store.tidy()
    return True


def _step_or_wait(sender: Sender) -> float:
    try:
        return sender.step()
    except OutputError as error:
        logger.error("%s; trying again in %g s", error, _TROUBLE_WAIT_S)
        return _TROUBLE_WAIT_S


def _sleep(store: Store, seconds: float, stop: Callable[[], bool]) -> None:
    """Until the time has passed, the outbox was changed by another process, or ``stop()``."""
    until_s = time.monotonic() + seconds
    version = store.data_version()
    while time.monotonic() < until_s and not stop() and store.data_version() == version:
        time.sleep(min(_POLL_S, max(0.0, until_s - time.monotonic())))


def main(arguments: Sequence[str] | None = None) -> int:
    """The process. Ends on SIGTERM, or with ``--with-parent`` when its standard input is closed."""
    parser = argparse.ArgumentParser(prog="python -m steadymr.delivery.sender", description=run_sender.__doc__)
    parser.add_argument("outbox_dir", type=Path)
    parser.add_argument("--until-idle", action="store_true")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input is closed")
    options = parser.parse_args(arguments)
    stop = _Stop(options.with_parent)
    signal.signal(signal.SIGTERM, stop.ask)
    signal.signal(signal.SIGINT, stop.ask)
    try:
        _log_to(options.outbox_dir)
        run_sender(options.outbox_dir, until_idle=options.until_idle, stop=stop)
    except SteadymrError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


class _Stop:
    """Whether to end: asked by a signal, or left alone by the parent."""

    def __init__(self, with_parent: bool) -> None:
        self._asked = False
        self._with_parent = with_parent

    def ask(self, *_: object) -> None:
        self._asked = True

    def __call__(self) -> bool:
        if not self._asked and self._with_parent and select.select([0], [], [], 0)[0]:
            self._asked = os.read(0, 1) == b""
        return self._asked


def _log_to(outbox_dir: Path) -> None:
    outbox_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = RotatingFileHandler(outbox_dir / "sender.log", maxBytes=2**20, backupCount=2)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main())
