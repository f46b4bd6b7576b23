"""Taking turns at something that only a few scans may use at a time, such as the GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice


class Turns:
    """A semaphore that is served strictly in the order of asking.

    A scan asks again for each slice, so scans that run together alternate slice by slice however many each has.
    """

    def __init__(self, at_once: int = 1) -> None:
        """Nobody waits; ``at_once`` may hold a turn at a time."""
        self.at_once = at_once
        self._queue: dict[object, None] = {}  # an ordered set
        self._changed = threading.Condition()

    @property
    def n_asking(self) -> int:
        """How many ask, those whose turn it is included."""
        return len(self._queue)

    @property
    def n_running(self) -> int:
        """How many hold a turn."""
        return min(len(self._queue), self.at_once)

    @property
    def n_waiting(self) -> int:
        """How many wait for theirs."""
        return max(len(self._queue) - self.at_once, 0)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn, and hold it inside the ``with``."""
        ticket = object()
        with self._changed:
            self._queue[ticket] = None
        try:
            with self._changed:
                self._changed.wait_for(lambda: ticket in islice(self._queue, self.at_once))
            yield
        finally:
            with self._changed:
                del self._queue[ticket]
                self._changed.notify_all()
