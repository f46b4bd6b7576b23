"""Where received bytes wait to be decoded: slabs of memory that are used again once nobody looks at them.

Decoded arrays are views of a slab. A slab with living views is set aside, not overwritten; a bytearray knows whether
it has any, because it then refuses to change its size.
"""

from __future__ import annotations

from collections import deque

_SLAB_BYTES = 1 << 21
_LEAST_RECEIVE_BYTES = 1 << 16
_SPARE_SLABS = 4


def _has_views(slab: bytearray) -> bool:
    """True while a memoryview or array looks into the slab; otherwise its last byte is taken off and put back."""
    try:
        last = slab.pop()
    except BufferError:
        return True
    slab.append(last)
    return False


class Inbox:
    """A first-in first-out run of bytes, filled in place and read without copying."""

    def __init__(self) -> None:
        """Nothing waits."""
        self._slab = bytearray(_SLAB_BYTES)
        self._start = 0
        self._end = 0
        self._set_aside: deque[bytearray] = deque(maxlen=_SPARE_SLABS)

    def __len__(self) -> int:
        """Number of bytes that wait."""
        return self._end - self._start

    def waiting(self) -> memoryview:
        """The bytes that wait, oldest first; arrays made from this view keep their slab from being overwritten."""
        return memoryview(self._slab)[self._start : self._end].toreadonly()

    def room_for(self, total_bytes: int) -> memoryview:
        """A place to receive into, such that at least ``total_bytes`` will have room counting those that wait."""
        free = len(self._slab) - self._end
        if free < max(total_bytes - len(self), _LEAST_RECEIVE_BYTES):
            self._move(max(total_bytes, _SLAB_BYTES))
        return memoryview(self._slab)[self._end :]

    def filled(self, n_bytes: int) -> None:
        """The first ``n_bytes`` of the place that ``room_for`` gave now hold data."""
        self._end += n_bytes

    def consume(self, n_bytes: int) -> None:
        """The oldest ``n_bytes`` have been decoded."""
        self._start += n_bytes

    def _move(self, size: int) -> None:
        """Carry the waiting bytes to the front of a slab that nobody looks at."""
        rest = bytes(memoryview(self._slab)[self._start : self._end])
        self._set_aside.append(self._slab)
        self._slab = self._unused_slab(max(size, len(rest) + _LEAST_RECEIVE_BYTES))
        self._slab[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def _unused_slab(self, size: int) -> bytearray:
        for slab in self._set_aside:
            if len(slab) >= size and len(slab) <= 2 * size and not _has_views(slab):
                self._set_aside.remove(slab)
                return slab
        return bytearray(size)
