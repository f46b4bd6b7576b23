"""Whoever wants something delivered keeps a sender running, and starts it again when it dies."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steadymr.delivery.lock import is_sender_running
from steadymr.errors import DeliveryError

logger = logging.getLogger(__name__)

_CHECK_EVERY_S = 1.0
_TERMINATE_S = 5.0
_DEATHS_IN_A_ROW = 5
_LIVED_LONG_S = 10.0


class SenderWatch:
    """Keeps one sender process running for an outbox, unless another program already does.

    The process ends with this one, at the latest after the instance in flight; what is left stays queued.
    """

    def __init__(self, outbox_dir: Path) -> None:
        """Nothing is started before the first ``check``."""
        self._outbox_dir = Path(outbox_dir)
        self._process: subprocess.Popen[str] | None = None
        self._started_s = 0.0
        self._deaths = 0

    def check(self) -> None:
        """Start the sender if none runs. Raises ``DeliveryError`` once it has died several times in a row."""
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None:
            self._bury(self._process)
        if not is_sender_running(self._outbox_dir):
            self._start()

    @property
    def pid(self) -> int | None:
        """Of the sender, if it is ours."""
        return None if self._process is None else self._process.pid

    def _start(self) -> None:
        command = [sys.executable, "-m", "steadymr.delivery.sender", str(self._outbox_dir), "--with-parent"]
        self._started_s = time.monotonic()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def _bury(self, process: subprocess.Popen[str]) -> None:
        """Take note of why a sender ended; a quick end with 0 means that another one works already."""
        _, said = process.communicate()
        self._process = None
        if process.returncode == 0:
            return
        logger.warning("the sender ended with %d: %s", process.returncode, said.strip()[-500:])
        self._deaths = 1 if time.monotonic() - self._started_s > _LIVED_LONG_S else self._deaths + 1
        if self._deaths >= _DEATHS_IN_A_ROW:
            last = said.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            raise DeliveryError(f"the sender for {self._outbox_dir} died {self._deaths} times in a row: {last[0]}")

    def close(self) -> None:
        """End our sender after the instance in flight; what it had not written down is sent again next time."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.communicate(timeout=_TERMINATE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._process = None


@contextmanager
def sender_running(outbox_dir: Path) -> Iterator[None]:
    """Keep a sender running while the body runs, for programs that queue and go on with other things."""
    done = threading.Event()
    thread = threading.Thread(target=_keep, args=(SenderWatch(outbox_dir), done), name="sender-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _keep(watch: SenderWatch, done: threading.Event) -> None:
    try:
        while not done.is_set():
            try:
                watch.check()
            except DeliveryError as error:
                logger.error("%s; what is queued stays in the outbox", error)
            done.wait(_CHECK_EVERY_S)
    finally:
        watch.close()
