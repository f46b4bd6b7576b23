"""One sender for each outbox: a lock that the kernel drops when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from steadymr.errors import OutputError

_RETRY_S = 0.05


@contextmanager
def sender_lock(outbox_dir: Path, patience_s: float = 0.0) -> Iterator[bool]:
    """Hold the sender's lock; gives False if somebody else keeps it for longer than ``patience_s``.

    Raises ``OutputError`` if there is no place for it.
    """
    try:
        outbox_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        stream = open(outbox_dir / "sender.lock", "a")  # noqa: SIM115 - closed below, for the error must be told apart
    except OSError as error:
        raise OutputError(f"cannot use the outbox {outbox_dir}: {error.strerror}") from error
    with stream:
        until_s = time.monotonic() + patience_s
        locked = _try(stream)
        while not locked and time.monotonic() < until_s:
            time.sleep(_RETRY_S)
            locked = _try(stream)
        yield locked


def _try(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_sender_running(outbox_dir: Path) -> bool:
    """Whether a sender works on this outbox right now."""
    with sender_lock(outbox_dir) as locked:
        return not locked
