"""Taking turns at something that only one scan may use at a time, such as the GPU."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock that is served strictly in the order of asking.

    A scan asks again for each slice, so scans that run together alternate slice by slice however many each has.
    """

    def __init__(self) -> None:
        """Nobody waits."""
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def n_waiting(self) -> int:
        """How many ask, the one whose turn it is included."""
        return len(self._queue)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn, and hold it inside the ``with``."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._queue[0] is ticket)
            yield
        finally:
            with self._changed:
                self._queue.remove(ticket)
                self._changed.notify_all()
