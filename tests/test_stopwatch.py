"""Times by stage add up, and waiting for items is told apart from using them."""

from __future__ import annotations

from collections.abc import Iterator

from steadymr.stopwatch import Stopwatch


class Clock:
    """A clock that goes on only when it is told to: a busy machine can't make these tests fail."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def passes(self, seconds: float) -> None:
        self.now_s += seconds


def test_stages_add_up_under_their_names() -> None:
    """Two visits to a stage are one figure; the total covers all, what no stage timed too."""
    clock = Clock()
    watch = Stopwatch(clock)
    for _ in range(2):
        with watch("recon"):
            clock.passes(3)
        clock.passes(0.5)
    assert watch.seconds() == {"recon": 6, "total": 7}


def test_a_stage_that_fails_is_timed_too() -> None:
    """The time was spent all the same."""
    clock = Clock()
    watch = Stopwatch(clock)
    try:
        with watch("recon"):
            clock.passes(2)
            raise ValueError
    except ValueError:
        pass
    assert watch.seconds()["recon"] == 2


def test_only_the_making_of_items_is_timed() -> None:
    """What the consumer does between items belongs to other stages."""
    clock = Clock()

    def slow() -> Iterator[int]:
        for number in range(2):
            clock.passes(1)
            yield number

    watch = Stopwatch(clock)
    for _ in watch.each("source", slow()):
        clock.passes(10)
    assert watch.seconds() == {"source": 2, "total": 22}
