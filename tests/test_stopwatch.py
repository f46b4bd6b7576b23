"""Times by stage add up, and waiting for items is told apart from using them."""

from __future__ import annotations

import time
from collections.abc import Iterator

from steadymr.stopwatch import Stopwatch


def test_stages_add_up_under_their_names() -> None:
    """Two visits to a stage are one figure; the total covers all."""
    watch = Stopwatch()
    for _ in range(2):
        with watch("recon"):
            time.sleep(0.01)
    seconds = watch.seconds()
    assert 0.02 <= seconds["recon"] <= seconds["total"]


def test_only_the_making_of_items_is_timed() -> None:
    """What the consumer does between items belongs to other stages."""

    def slow() -> Iterator[int]:
        for number in range(2):
            time.sleep(0.01)
            yield number

    watch = Stopwatch()
    for _ in watch.each("source", slow()):
        time.sleep(0.1)
    assert 0.02 <= watch.seconds()["source"] < 0.1
