"""Finished DICOM series of a live scan: collected with its images, then made, sent and delivered at its end.

A series names the worst verdict of its images, so none of it can leave before the last image is done.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from steadymr import delivery
from steadymr.config import Settings
from steadymr.errors import DeliveryError, OutputError
from steadymr.series.collect import SeriesCollector
from steadymr.series.identify import identified_or_nobody
from steadymr.source.wire.messages import Dicom
from steadymr.source.wire.outgoing import series_meta
from steadymr.types import NoiseSource, Readout, ScanHeader, SliceResult


class LiveSeries:
    """Takes images while a scan runs, if its settings ask for DICOM at all."""

    def __init__(self, header: ScanHeader, settings: Settings) -> None:
        self._settings = settings
        wanted = settings.live.images != "mrd" or bool(settings.live.deliver_to)
        self._collector = _collector(header, settings) if wanted else None
        self._scan = hashlib.sha256(header.xml.encode())
        self._n_images = 0

    def watch(self, readouts: Iterator[Readout]) -> Iterator[Readout]:
        """The same readouts; what they measured and where goes into the scan's fingerprint, and so into its UIDs."""
        for readout in readouts:
            if self._collector is not None:
                self._scan.update(repr((readout.role, readout.index, readout.k1, readout.k2)).encode())
                self._scan.update(np.ascontiguousarray(readout.data).data)
            yield readout

    def add(self, result: SliceResult, noise_source: NoiseSource) -> None:
        """Take one image."""
        if self._collector is not None:
            self._collector.add(result, noise_source)
            self._n_images += 1

    def finished(self) -> Iterator[Dicom]:
        """Deliver the series and yield their files, as the settings say; call it once all images have been added.

        They are in the outbox before the first file is yielded. Raises OutputError if the disk fails, DeliveryError if
        the destination has not stored all of them in time; they then stay in the outbox.
        """
        if self._collector is None or not self._n_images:
            return
        with _folder() as folder:
            written = self._collector.write(folder / "dicom", self._scan.hexdigest())
            queued = self._queue(folder)
            if self._settings.live.images != "mrd":
                yield from _messages(folder, written)
        if queued:
            self._follow(queued)

    def _queue(self, folder: Path) -> list[int]:
        live = self._settings.live
        if not live.deliver_to:
            return []
        return delivery.enqueue([folder], self._destination(), live.outbox)

    def _follow(self, queued: list[int]) -> None:
        live = self._settings.live
        result = delivery.follow(queued, self._destination(), live.outbox, timeout_s=live.delivery_wait_s)
        if not result.ok:
            raise DeliveryError(f"{result.sentence()}; see 'steadymr outbox list --outbox {live.outbox.absolute()}'")

    def _destination(self) -> delivery.Destination:
        name = self._settings.live.deliver_to
        return delivery.parse_destination(self._settings.destinations[name], name)


def _collector(header: ScanHeader, settings: Settings) -> SeriesCollector:
    return SeriesCollector(
        identified_or_nobody(header, settings), settings.fingerprint, settings.dicom, settings.fallback
    )


def _messages(folder: Path, written: list[dict[str, Any]]) -> Iterator[Dicom]:
    for series in written:
        meta = series_meta(series["verdict"], series["score"], description=series["description"])
        for place in (series["folder"], *(made["folder"] for made in series["objects"])):
            for path in sorted((folder / place).glob("*.dcm")):
                yield Dicom(path.read_bytes(), f"{path.parent.name}_{path.stem}", meta)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for a moment; a failing disk becomes an OutputError."""
    try:
        with tempfile.TemporaryDirectory(prefix="steadymr-") as folder:
            yield Path(folder)
    except OSError as error:
        raise OutputError(f"the DICOM series could not be written: {error.strerror or error}") from error
