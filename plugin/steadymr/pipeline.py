"""The sentence that joins the stages: readouts become k-space, k-space images, images series with a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from steadymr import __version__, perturb
from steadymr.config import Settings
from steadymr.errors import SettingsError
from steadymr.output import written_aside
from steadymr.report import html, summary
from steadymr.series.caveats import Caveats
from steadymr.series.collect import SeriesCollector
from steadymr.series.identify import identified
from steadymr.source.replay import Scan, open_scan
from steadymr.stability.evidence import EVIDENCE
from steadymr.stability.score import DEFINITION
from steadymr.stopwatch import Stopwatch
from steadymr.types import KSpace, ScanHeader, VolumeIndex
from steadymr.volume.arriving import accelerated, assembled, check_sentinels, whole
from steadymr.volume.reconstruct import begin_or_fall_back, reconstruct

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
        scan.header = identified(scan.header, settings)
        full = stack.enter_context(open_scan(reference)) if reference else None
        aside = stack.enter_context(written_aside(out))
        caveats = Caveats(settings, perturbations)
        run = begin_or_fall_back(settings, watch, _steps(progress, scan, settings), caveats.note)
        series = SeriesCollector(scan.header, settings.fingerprint, settings.dicom, settings.fallback)
        report = html.ReportBuilder()
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
            written = series.write(aside / "dicom", scan.sha256)
        content = summary.summarise(
            images=images,
            version=__version__,
            input={"file": _file_name(scan_path, settings), "sha256": scan.sha256, "n_readouts": scan.n_readouts},
            settings={**_public(settings), "fingerprint": settings.fingerprint},
            series=written,
            timings_s=watch.seconds(),
            warnings=caveats.sentences(),
            definition=DEFINITION,
            evidence_meanings={name: kind.meaning for name, kind in EVIDENCE.items()},
            noise_source=caveats.noise_source,
        )
        html.write(report.render(content), aside / "report.html")
        summary.write(content, aside / "summary.json")
    return content


def _file_name(scan_path: Path, settings: Settings) -> str:
    """The scan's file name, which may hold a patient's."""
    return "withheld" if settings.dicom.deidentify else scan_path.name


def _public(settings: Settings) -> dict[str, Any]:
    """All settings that may be written beside the images; whose scan it is stands in the images, if anywhere."""
    return {name: value for name, value in settings.as_dict().items() if name not in ("identity", "destinations")}


def _volumes(
    scan: Scan, reference: Scan | None, settings: Settings, watch: Stopwatch
) -> Iterator[tuple[KSpace, KSpace | None]]:
    """Volumes to reconstruct, each with the full k-space of the same object where there is one."""
    check_sentinels(settings)
    acceleration = settings.undersample.acceleration
    volumes = watch.each("assemble", _assembled(scan, settings) if acceleration == 1 else _whole(scan, settings))
    if reference is not None and acceleration > 1:
        raise SettingsError("--undersample makes its own reference: leave --reference out")
    if reference is not None:
        yield from _matched(volumes, watch.each("assemble", _whole(reference, settings)))
        return
    for kspace in volumes:
        if acceleration > 1:
            yield accelerated(kspace, settings), kspace
        else:
            yield kspace, None


def _assembled(scan: Scan, settings: Settings) -> Iterator[KSpace]:
    return assembled(scan.readouts(), scan.header, settings)


def _whole(scan: Scan, settings: Settings) -> Iterator[KSpace]:
    return whole(scan.readouts(), scan.header, settings)


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
