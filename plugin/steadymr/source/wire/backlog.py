"""A queue between the thread that reads a socket and the one that reconstructs, bounded in bytes.

When it is full the reader waits, the socket's buffers fill, and the peer has to wait: that is the back-pressure.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from steadymr.errors import SteadymrError

Item = TypeVar("Item")


class Backlog(Generic[Item]):
    """First in, first out, for one writer and one reader.

    The writer ends it with ``finish``, with or without an error, which the reader meets after the last item. The
    reader may stop caring with ``discard``: then nothing is kept and the writer is never held up.
    """

    def __init__(self, most_bytes: int) -> None:
        """Hold at most ``most_bytes``, or one item if that is larger."""
        self._most_bytes = most_bytes
        self._items: deque[tuple[Item, int]] = deque()
        self._n_bytes = 0
        self._finished = False
        self._discarding = False
        self._changed = threading.Condition()
        self.error: SteadymrError | None = None

    def put(self, item: Item, n_bytes: int) -> None:
        """Add an item, once there is room for it."""
        with self._changed:
            self._changed.wait_for(lambda: self._discarding or self._has_room(n_bytes))
            if not self._discarding:
                self._items.append((item, n_bytes))
                self._n_bytes += n_bytes
                self._changed.notify_all()

    def finish(self, error: SteadymrError | None = None) -> None:
        """Nothing will follow; ``error`` says why, if it is not the natural end."""
        with self._changed:
            self._finished = True
            self.error = error
            self._changed.notify_all()

    def discard(self) -> None:
        """Drop what is waiting and whatever comes."""
        with self._changed:
            self._discarding = True
            self._items.clear()
            self._n_bytes = 0
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Items until the end; raises the writer's error there."""
        while (waiting := self._take()) is not None:
            yield waiting[0]
            del waiting  # or the item would live on while the reader waits for the next
        if self.error is not None:
            raise self.error

    def _has_room(self, n_bytes: int) -> bool:
        return not self._items or self._n_bytes + n_bytes <= self._most_bytes

    def _take(self) -> tuple[Item, int] | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._finished)
            if not self._items:
                return None
            item = self._items.popleft()
            self._n_bytes -= item[1]
            self._changed.notify_all()
            return item
