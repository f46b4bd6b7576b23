"""The sentence that joins the stages: readouts become k-space, k-space images, images series with a verdict."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from steadymr import __version__, perturb
from steadymr.assemble import assemble
from steadymr.caveats import Caveats
from steadymr.collect import SeriesCollector
from steadymr.config import Settings
from steadymr.errors import SettingsError
from steadymr.models import load_models
from steadymr.output import written_aside
from steadymr.reconstruct import Run, reconstruct
from steadymr.report import html, summary
from steadymr.source.replay import Scan, open_scan
from steadymr.stability.score import DEFINITION
from steadymr.stopwatch import Stopwatch
from steadymr.types import KSpace, ScanHeader, VolumeIndex
from steadymr.undersample import undersample

Progress = Callable[[float, float | None, str], None]  #: steps done, steps in all if known, what was done


def replay(
    scan_path: Path,
    out: Path,
    settings: Settings,
    *,
    reference: Path | None = None,
    progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Reconstruct a file and write ``out/dicom/<series>/*.dcm``, ``out/report.html`` and ``out/summary.json``.

    Parameters
    ----------
    scan_path
        An ISMRMRD file.
    out
        Made if missing; results of an earlier run in it are replaced once the new ones are complete.
    settings
        What to do; see `steadymr.config.Settings`.
    reference
        A full scan of the same object with the same counters; its reconstruction is taken as the truth.
    progress
        Told about each step.

    Returns
    -------
    The content of ``summary.json``.

    Raises
    ------
    SteadymrError
        One of its subclasses, with one sentence; ``out`` is then as it was before.
    """
    watch = Stopwatch()
    perturbations = perturb.parse_all(settings.perturb)
    with ExitStack() as stack:
        scan = stack.enter_context(open_scan(scan_path))
        full = stack.enter_context(open_scan(reference)) if reference else None
        aside = stack.enter_context(written_aside(out))
        with watch("load models"):
            models = load_models(settings)
        run = Run(settings, models, perturbations, watch, _steps(progress, scan, settings))
        series = SeriesCollector(scan.header, scan.sha256, fingerprint(settings), settings.dicom)
        report, caveats = html.ReportBuilder(), Caveats(settings, perturbations)
        images: list[dict[str, Any]] = []
        for kspace, truth in _volumes(scan, full, settings, watch):
            caveats.look_at(kspace)
            for result in reconstruct(kspace, truth, run):
                with watch("dicom"):
                    series.add(result, kspace.noise_source)
                with watch("report"):
                    report.add(result)
                    images.extend(summary.image_entries(result))
        with watch("dicom"):
            written = series.write(aside / "dicom")
        content = summary.summarise(
            images=images,
            version=__version__,
            input={"file": scan_path.name, "sha256": scan.sha256, "n_readouts": scan.n_readouts},
            settings={**settings.as_dict(), "fingerprint": fingerprint(settings)},
            series=written,
            timings_s=watch.seconds(),
            warnings=caveats.sentences(),
            definition=DEFINITION,
            noise_source=caveats.noise_source,
        )
        html.write(report.render(content), aside / "report.html")
        summary.write(content, aside / "summary.json")
    return content


def fingerprint(settings: Settings) -> str:
    """SHA-256 of all settings that can change a pixel; the device is not one, for the pixels themselves tell."""
    text = json.dumps(settings.model_dump(mode="json", exclude={"device", "destinations"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _volumes(
    scan: Scan, reference: Scan | None, settings: Settings, watch: Stopwatch
) -> Iterator[tuple[KSpace, KSpace | None]]:
    """Volumes to reconstruct, each with the full k-space of the same object where there is one."""
    volumes = watch.each("assemble", _assembled(scan, settings))
    acceleration = settings.undersample.acceleration
    if reference is not None and acceleration > 1:
        raise SettingsError("--undersample makes its own reference: leave --reference out")
    if reference is not None:
        yield from _matched(volumes, watch.each("assemble", _assembled(reference, settings)))
        return
    for kspace in volumes:
        if acceleration > 1:
            yield undersample(kspace, acceleration, settings.undersample.calibration_lines), kspace
        else:
            yield kspace, None


def _assembled(scan: Scan, settings: Settings) -> Iterator[KSpace]:
    return assemble(scan.readouts(), scan.header, averages=settings.assemble.averages)


def _matched(volumes: Iterator[KSpace], references: Iterator[KSpace]) -> Iterator[tuple[KSpace, KSpace]]:
    """Pair volumes with references by index; both come in their own order of completion."""
    waiting: dict[VolumeIndex, KSpace] = {}
    for kspace in volumes:
        while kspace.index not in waiting:
            reference = next(references, None)
            if reference is None:
                raise SettingsError(f"--reference has no volume like {kspace.index}: is it of the same protocol?")
            waiting[reference.index] = reference
        yield kspace, _same_grid(kspace, waiting.pop(kspace.index))


def _same_grid(kspace: KSpace, reference: KSpace) -> KSpace:
    if reference.data.shape != kspace.data.shape:
        raise SettingsError(
            f"--reference has k-space of shape {reference.data.shape} (coil k2 k1 k0), the scan {kspace.data.shape}: "
            "is it of the same protocol?"
        )
    return reference


def _steps(progress: Progress, scan: Scan, settings: Settings) -> Callable[[str], None]:
    """Count steps for a progress bar: coil maps, samples and each method, for each plane of each volume."""
    per_plane = 1 + bool(settings.samples) + len(settings.methods)
    total = scan.n_volumes * _n_partitions(scan.header) * per_plane
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        progress(done, total, what)

    progress(0, total, "reading")
    return step


def _n_partitions(header: ScanHeader) -> int:
    return header.encoded.matrix_xyz[2]
