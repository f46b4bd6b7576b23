"""The objects beside a series that the settings ask for: each kind a series of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np
from jaxtyping import Float32
from pydicom.dataset import Dataset

from steadymr.config import DerivedObject
from steadymr.dicom import (
    derived,
    key_objects,
    overlay,
    parametric,
    presentation,
    segmentation,
    structured_report,
)
from steadymr.dicom.facts import SeriesFacts, SeriesVerdict
from steadymr.dicom.series import StoredImage

SERIES_NUMBER_STEP = 100  #: from one kind of object to the next

Spread = Float32[np.ndarray, "y x"]
Maker = Callable[["Master", int, float], Iterator[Dataset | None]]


class Master:
    """A finished MR series with the stability map of each image: what the objects are derived from."""

    def __init__(
        self,
        stored: Sequence[StoredImage],
        images: Sequence[Dataset],
        spreads: Sequence[Spread],
        facts: SeriesFacts,
        outcome: SeriesVerdict,
    ) -> None:
        self.images, self.facts, self.outcome = images, facts, outcome
        self.spreads = spreads
        self._keys = [derived.stack_key(image) for image in stored]

    def stacks(self) -> Iterator[derived.Stack]:
        """Images that lie side by side at one moment, in the order of the series."""
        order = sorted(range(len(self._keys)), key=lambda i: self._keys[i])
        for _, members in groupby(order, key=lambda i: self._keys[i]):
            numbers = list(members)
            yield derived.stack([self.images[i] for i in numbers], np.stack([self.spreads[i] for i in numbers]))


def derived_series(
    kind: DerivedObject, master: Master, *, series_number: int, threshold_percent: float
) -> list[Dataset]:
    """The instances of one kind, none of them where there is nothing to say (no unstable region, no issue)."""
    made = MAKERS[kind](master, series_number, threshold_percent)
    return [dataset for dataset in made if dataset is not None]


def _overlays(master: Master, series_number: int, threshold_percent: float) -> Iterator[Dataset | None]:
    for number, (image, spread) in enumerate(zip(master.images, master.spreads, strict=True), start=1):
        yield overlay.overlay_image(
            image, spread, master.facts, master.outcome, series_number=series_number, instance_number=number
        )


def _regions(master: Master, series_number: int, threshold_percent: float) -> Iterator[Dataset | None]:
    for number, stack in enumerate(master.stacks(), start=1):
        yield segmentation.unstable_regions(
            stack, master.facts, master.outcome,
            threshold_percent=threshold_percent, series_number=series_number, instance_number=number,
        )  # fmt: skip


def _maps(master: Master, series_number: int, threshold_percent: float) -> Iterator[Dataset | None]:
    for number, stack in enumerate(master.stacks(), start=1):
        yield parametric.spread_map(
            stack, master.facts, master.outcome, series_number=series_number, instance_number=number
        )


def _report(master: Master, series_number: int, threshold_percent: float) -> Iterator[Dataset | None]:
    yield structured_report.stability_report(
        master.images, master.facts, master.outcome, series_number=series_number, instance_number=1
    )


def _issue(master: Master, series_number: int, threshold_percent: float) -> Iterator[Dataset | None]:
    yield key_objects.quality_issue(
        master.images, master.facts, master.outcome, series_number=series_number, instance_number=1
    )


def _presentations(master: Master, series_number: int, threshold_percent: float) -> Iterator[Dataset | None]:
    images = sorted(master.images, key=presentation.rescale_key)
    for number, (_, alike) in enumerate(groupby(images, key=presentation.rescale_key), start=1):
        yield presentation.presentation_state(
            list(alike), master.facts, master.outcome, series_number=series_number, instance_number=number
        )


MAKERS: dict[DerivedObject, Maker] = {
    "overlay": _overlays,
    "segmentation": _regions,
    "parametric_map": _maps,
    "structured_report": _report,
    "key_objects": _issue,
    "presentation_state": _presentations,
}
