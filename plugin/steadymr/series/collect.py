"""Images of a run become DICOM series: collected as they are done, written when the verdict of each series is known."""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from pydicom.dataset import Dataset

from steadymr import __version__
from steadymr.config import DicomSettings, FallbackSettings
from steadymr.dicom import identity, pixels, series
from steadymr.stability.score import DEFINITION_VERSION, DOUBTFUL, worst
from steadymr.types import NoiseSource, ScanHeader, SliceResult, StabilityReport, VolumeIndex

CLASSICAL = "classical"


class SeriesCollector:
    """Holds the stored pixels (two bytes each) of a run, by method."""

    def __init__(
        self,
        header: ScanHeader,
        settings_fingerprint: str,
        settings: DicomSettings,
        fallback: FallbackSettings | None = None,
    ) -> None:
        self._classical_first = (fallback or FallbackSettings()).on_doubt == "classical first"
        self._header = header
        self._scan_fingerprint = ""
        self._settings_fingerprint = settings_fingerprint
        self._settings = settings
        self._created = datetime.now().astimezone()
        self._salt = secrets.token_hex()  # forgotten with the run, so that nobody finds the way back
        self._slope: float | None = None
        self._noise_source: NoiseSource | None = None
        self._images: dict[str, list[series.StoredImage]] = {}
        self._reports: dict[str, list[StabilityReport]] = {}
        self._spreads: dict[VolumeIndex, dict[str, Float32[np.ndarray, "y x"]]] = {}

    def add(self, result: SliceResult, noise_source: NoiseSource) -> None:
        """Take one image; the first sets the rescale slope of the whole run."""
        self._slope = self._slope or pixels.choose_slope(result.image.data)
        self._noise_source = noise_source
        method = result.image.method
        self._images.setdefault(method, []).extend(series.store(result, self._slope))
        self._reports.setdefault(method, []).append(result.stability)
        if self._settings.objects:
            self._spreads.setdefault(result.image.index, {})[method] = result.stability.spread_percent[0]

    def write(self, folder: Path, scan_fingerprint: str) -> list[dict[str, Any]]:
        """Write one folder for each series and describe them, as ``summary.json`` lists them.

        UIDs are made from ``scan_fingerprint``, which is known when the whole scan is.
        """
        self._scan_fingerprint = scan_fingerprint
        return [self._write_series(folder, number, method) for number, method in enumerate(self._order())]

    def _order(self) -> list[str]:
        """The series as the images came; the classical one first if another is in doubt."""
        doubt = any(worst(self._reports[method])[1] in DOUBTFUL for method in self._images if method != CLASSICAL)
        first = [CLASSICAL] if self._classical_first and doubt and CLASSICAL in self._images else []
        return [*first, *(method for method in self._images if method not in first)]

    def _write_series(self, folder: Path, number: int, method: str) -> dict[str, Any]:
        images = sorted(self._images[method], key=lambda image: (image.index, image.z))
        facts = self._facts(method, images, self._settings.series_number + number)
        score, verdict = worst(self._reports[method])
        outcome = series.SeriesVerdict(verdict, score)
        place = folder / f"{facts.series_number}-{method}"
        datasets = [series.mr_image(image, facts, outcome, number) for number, image in enumerate(images, start=1)]
        saved = self._save(datasets, place)
        return {
            "method": method,
            "description": series.series_description(facts, outcome),
            "n_images": len(images),
            "score": score,
            "verdict": verdict,
            "sop_class": str(saved[0].SOPClassUID),
            "series_instance_uid": str(saved[0].SeriesInstanceUID),
            "folder": f"dicom/{place.name}",
            "objects": self._write_objects(folder, images, datasets, facts, outcome),
        }

    def _write_objects(
        self,
        folder: Path,
        images: list[series.StoredImage],
        datasets: list[Dataset],
        facts: series.SeriesFacts,
        outcome: series.SeriesVerdict,
    ) -> list[dict[str, Any]]:
        """Write what is derived from one MR series, a folder for each kind, and list it."""
        if not self._settings.objects:
            return []
        from steadymr.series.derive import (  # slow to load, and rarely asked for
            SERIES_NUMBER_STEP,
            Master,
            derived_series,
        )

        written = []
        spreads = [self._spreads[image.index][facts.method] for image in images]
        master = Master(images, datasets, spreads, facts, outcome)
        for step, kind in enumerate(self._settings.objects, start=1):
            number = facts.series_number + step * SERIES_NUMBER_STEP
            made = derived_series(kind, master, series_number=number, threshold_percent=self._settings.region_percent)
            if made:
                place = folder / f"{number}-{facts.method}-{kind.replace('_', '-')}"
                self._save(made, place)
                written.append({"kind": kind, "n_instances": len(made), "folder": f"dicom/{place.name}"})
        return written

    def _facts(self, method: str, images: list[series.StoredImage], series_number: int) -> series.SeriesFacts:
        return series.describe_series(
            exam=identity.exam(self._header, self._scan_fingerprint),
            header=self._header,
            method=method,
            model=images[0].model,
            perturbed=any(one.perturbations for one in images),
            series_number=series_number,
            scan_fingerprint=self._scan_fingerprint,
            settings_fingerprint=self._settings_fingerprint,
            definition=DEFINITION_VERSION,
            noise_source=self._noise_source,
            software_version=__version__,
            created=self._created,
        )

    def _save(self, datasets: list[Dataset], place: Path) -> list[Dataset]:
        """Write a series as it is, or without identity; what was written."""
        place.mkdir(parents=True)
        if self._settings.deidentify:
            from steadymr.dicom.deidentify import deidentified

            datasets = [deidentified(dataset, self._salt) for dataset in datasets]
        for number, dataset in enumerate(datasets, start=1):
            dataset.save_as(place / f"{number:05d}.dcm", enforce_file_format=True)
        return datasets
