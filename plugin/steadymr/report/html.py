"""report.html: one page that explains a run to a radiologist and can be mailed as it is.

The page loads nothing: pictures are inside it, and its few lines of script only flick through samples. It names the
measurement and the protocol, never the patient. All text passes through the template's escaping, because headers
are written by strangers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import jinja2
import numpy as np

from steadymr.report import figures
from steadymr.report.summary import judgement
from steadymr.types import SampleSet, ScanHeader, SliceResult, VolumeIndex

VERDICT_MEANINGS = {
    "stable": "Repeated sampling agrees, and nothing else speaks against these images.",
    "review": "Repeated sampling disagrees in places, or an alarm sounded: see the reasons and the stability map.",
    "unstable": "Repeated sampling disagrees, or the measurement contradicts it: do not rely on these images.",
    "uncalibrated": "Nobody has compared such scans with the truth: what repeated sampling shows has no known meaning.",
    "unscored": "Nothing is known about the stability of these images.",
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture with what is written under it."""

    uri: str
    caption: str


@dataclass(frozen=True, slots=True)
class MethodRow:
    """What one method made of one volume."""

    method: str
    judgement: dict[str, Any]
    truth: dict[str, Any] | None
    perturbed: bool
    image: Panel
    spread: Panel | None  #: None where nothing was judged
    sensitivity: Panel | None  #: None without a site model
    vulnerability: Panel | None  #: None unless asked for
    error: Panel | None
    samples: tuple[Panel, ...]
    n_not_finite: int


@dataclass(slots=True)
class VolumeSection:
    """The methods of one volume in one grey window."""

    title: str
    anchor: str
    plane: str  #: which plane of a 3-D volume is shown; empty in 2-D
    complete: bool  #: with samples, reference and error, or only image and map
    white: float | None = None
    size: tuple[int, int] = (1, 1)
    reference: Panel | None = None
    rows: list[MethodRow] = field(default_factory=list)

    @property
    def evidence_names(self) -> list[str]:
        """What was looked at for any of the methods, in the order it came up."""
        return list(dict.fromkeys(name for row in self.rows for name in row.judgement["evidence"]))


class ReportBuilder:
    """Collects results one at a time as finished pictures, so that the arrays can be let go."""

    def __init__(
        self, *, n_complete: int = 6, n_pictured: int = 48, longest_px: int = 256, map_max_percent: float = 20.0
    ) -> None:
        """Set how much is drawn.

        Args:
            n_complete: volumes, in order of arrival, that are shown with samples, reference and error.
            n_pictured: volumes that are shown at all; all further ones appear in the table of figures only.
            longest_px: largest side of a picture in those first volumes; later ones have three quarters of it.
            map_max_percent: spread, in per cent of the local tissue signal, and error, in per cent of white, where
                the colours end. The same over the whole page, so that maps can be compared.
        """
        self._n_complete = n_complete
        self._n_pictured = n_pictured
        self._longest_px = longest_px
        self._map_max_percent = map_max_percent
        self._spread_palette = figures.map_palette(figures.SPREAD_COLOURS)
        self._error_palette = figures.map_palette(figures.ERROR_COLOURS)
        self._sections: dict[VolumeIndex, VolumeSection] = {}
        self._not_pictured: set[VolumeIndex] = set()
        self._scan: dict[str, str] = {}

    def add(self, result: SliceResult) -> None:
        """Draw one result. The first result of a volume sets the grey window for all its methods."""
        self._scan = self._scan or scan_facts(result.image.header)
        index = result.image.index
        if index not in self._sections and len(self._sections) >= self._n_pictured:
            self._not_pictured.add(index)
            return
        section = self._sections.setdefault(index, self._new_section(result))
        if section.white is None:
            section.white = _white_of(result)
        if section.complete and section.reference is None and result.reference is not None:
            section.reference = self._grey(result.reference, section, "fully sampled reference")
        section.rows.append(self._row(result, section))

    def render(self, summary: dict[str, Any]) -> str:
        """Return the whole page, from the pictures so far and from :func:`steadymr.report.summary.summarise`."""
        sections = [self._sections[index] for index in sorted(self._sections)]
        return (
            _environment()
            .get_template("template.html.j2")
            .render(
                summary=summary,
                meanings=summary["evidence_meanings"],
                scan=self._scan,
                series=[_series_banner(one, summary) for one in summary["series"]],
                research=any(one.get("content_qualification", "RESEARCH") != "PRODUCT" for one in summary["series"]),
                sections=sections,
                shortened=[section.title for section in sections if not section.complete],
                has_samples=any(row.samples for section in sections for row in section.rows),
                has_sentinels=any("sentinel" in one["evidence"] for one in summary["images"]),
                n_not_pictured=len(self._not_pictured),
                volume_title=_title_of_entry,
                n_volumes=len(sections) + len(self._not_pictured),
                spread_gradient=_gradient(self._spread_palette),
                error_gradient=_gradient(self._error_palette),
                map_max_percent=self._map_max_percent,
                not_judged="rgb({}, {}, {})".format(*figures.NOT_JUDGED_RGB),
            )
        )

    def _new_section(self, result: SliceResult) -> VolumeSection:
        n_z = result.image.data.shape[0]
        fov_x_mm, fov_y_mm, _ = result.image.geometry.fov_mm_xyz
        complete = len(self._sections) < self._n_complete
        longest_px = self._longest_px if complete else 3 * self._longest_px // 4
        return VolumeSection(
            title=volume_title(result.image.index),
            anchor="volume-" + "-".join(str(value) for value in asdict(result.image.index).values()),
            plane=f"plane {n_z // 2} of {n_z}, counted from 0" if n_z > 1 else "",
            complete=complete,
            size=figures.shown_size(result.image.data.shape[1:], (fov_x_mm, fov_y_mm), longest_px),
        )

    def _row(self, result: SliceResult, section: VolumeSection) -> MethodRow:
        image = result.image
        caption = "mean of the samples" if image.is_mean_of_samples else "delivered image"
        return MethodRow(
            method=image.method,
            judgement=judgement(result.stability),
            truth=None if result.truth is None else asdict(result.truth),
            perturbed=bool(image.perturbations),
            image=self._grey(image.data, section, caption),
            spread=self._spread(result, section),
            sensitivity=self._sensitivity(result, section),
            vulnerability=self._vulnerability(result, section),
            error=self._error(result, section) if section.complete else None,
            samples=self._samples(result.samples, section) if section.complete else (),
            n_not_finite=int(np.count_nonzero(~np.isfinite(image.data))),
        )

    def _grey(self, volume: np.ndarray, section: VolumeSection, caption: str) -> Panel:
        png = figures.grey_png(figures.central_plane(volume), section.white or 1.0, section.size)
        return Panel(figures.data_uri(png), caption)

    def _spread(self, result: SliceResult, section: VolumeSection) -> Panel | None:
        plane = figures.central_plane(result.stability.spread_percent)
        if not np.isfinite(plane).any():
            return None
        png = figures.map_png(plane, self._map_max_percent, self._spread_palette, section.size)
        return Panel(
            figures.data_uri(png), "stability map: how far samples differ from the image, % of local tissue signal"
        )

    def _sensitivity(self, result: SliceResult, section: VolumeSection) -> Panel | None:
        volume = result.stability.sensitivity_percent
        if volume is None or not np.isfinite(figures.central_plane(volume)).any():
            return None
        png = figures.map_png(figures.central_plane(volume), self._map_max_percent, self._spread_palette, section.size)
        caption = "sensitivity map: how far draws of the site's imperfections move the image, % of local tissue signal"
        return Panel(figures.data_uri(png), caption)

    def _vulnerability(self, result: SliceResult, section: VolumeSection) -> Panel | None:
        volume = result.stability.vulnerability_percent
        if volume is None or not np.isfinite(figures.central_plane(volume)).any():
            return None
        png = figures.map_png(figures.central_plane(volume), self._map_max_percent, self._spread_palette, section.size)
        caption = "vulnerability map: how far crafted changes of the data move the image, % of local tissue signal"
        return Panel(figures.data_uri(png), caption)

    def _error(self, result: SliceResult, section: VolumeSection) -> Panel | None:
        if result.reference is None or section.white is None:
            return None
        error = figures.error_percent(result.image.data, result.reference, section.white)
        plane = figures.central_plane(error)
        png = figures.map_png(plane, self._map_max_percent, self._error_palette, section.size)
        return Panel(figures.data_uri(png), "true error against the reference, % of white")

    def _samples(self, samples: SampleSet | None, section: VolumeSection) -> tuple[Panel, ...]:
        if samples is None:
            return ()
        n = samples.data.shape[0]
        notes = ["fresh noise" if redrawn else "measured noise" for redrawn in samples.noise_redrawn]
        captions = [f"sample {number} of {n}, {note}" for number, note in enumerate(notes, start=1)]
        return tuple(
            self._grey(volume, section, caption) for volume, caption in zip(samples.data, captions, strict=True)
        )


def write(page: str, path: Path) -> None:
    """Write the page as UTF-8; odd bytes of a file name are written as escapes."""
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def scan_facts(header: ScanHeader) -> dict[str, str]:
    """Return what the page says about the scan; nothing here leads to the patient."""
    n_x, n_y, n_z = header.recon.matrix_xyz
    tesla = header.system.field_strength_t
    k1, k2 = header.acceleration
    return {
        "measurement": header.measurement_id or "not stated",
        "protocol": header.sequence.protocol_name or "not stated",
        "scanner": f"{header.system.vendor} {header.system.model}".strip() or "not stated",
        "field strength": "not stated" if tesla is None else f"{tesla:g} T",
        "image matrix": f"{n_x} × {n_y} × {n_z}",
        "acceleration by protocol": f"{k1} × {k2}",
    }


def volume_title(index: VolumeIndex) -> str:
    """Return "Slice 3", followed by those other counters that are not 0."""
    others = {name: value for name, value in asdict(index).items() if name != "slice" and value}
    return ", ".join([f"Slice {index.slice}", *(f"{name} {value}" for name, value in others.items())])


def _title_of_entry(entry: Mapping[str, Any]) -> str:
    return volume_title(VolumeIndex(**{name: entry[name] for name in VolumeIndex.__slots__}))


def _white_of(result: SliceResult) -> float | None:
    """From the reference where there is one, since it is the same for all methods."""
    volume = result.image.data if result.reference is None else result.reference
    return figures.white_level(figures.central_plane(volume))


def _series_banner(series: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """The series as summarised, with how many of its images got which verdict."""
    of_method = [entry for entry in summary["images"] if entry["method"] == series.get("method")]
    counts = Counter(entry["verdict"] for entry in of_method)
    return {
        **series,
        "looks": _looks(series.get("verdict")),
        "meaning": VERDICT_MEANINGS[_looks(series.get("verdict"))],
        "counts": [f"{counts[verdict]} {verdict}" for verdict in VERDICT_MEANINGS if counts[verdict]],
        "truth": summary["truth"].get(series.get("method")),
        "perturbed": any(entry["perturbations"] for entry in of_method),
    }


def _looks(verdict: str | None) -> str:
    """A verdict that this page does not know looks like no verdict, never like a good one."""
    return verdict if verdict in VERDICT_MEANINGS else "unscored"


def _score(judged: Mapping[str, Any]) -> str:
    """The score in words where there is none: nothing that could be taken for a number."""
    score = judged.get("score")
    looks = _looks(judged.get("verdict"))
    if looks == "uncalibrated":
        return "not calibrated"
    if score is None or looks == "unscored" or not math.isfinite(score):
        return "not scored"
    return f"{score:.2f}"


def _figure(value: float | None, digits: int = 2) -> str:
    if value is None or not math.isfinite(value):
        return "unknown"
    return f"{value:.{digits}f}" if value == 0 or abs(value) >= 10**-digits else f"{value:.1e}"


def _flat(settings: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines: ("stability.n_samples", "8")."""
    if not isinstance(settings, Mapping) or not settings:
        return [(prefix, _words(settings))]
    return [line for name, value in settings.items() for line in _flat(value, f"{prefix}.{name}" if prefix else name)]


def _words(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_words(item) for item in value)
    return str(value)


def _without_folders(text: str) -> str:
    """Only the file's name: folders are often called after patients or staff, and the page gets mailed around."""
    path = PureWindowsPath(text)
    return path.name if path.root and path.name else text


def _gradient(palette: np.ndarray) -> str:
    """The colour bar, as CSS."""
    colours = [f"rgb({r},{g},{b})" for r, g, b in palette[np.linspace(1, 255, 12).astype(int)]]
    return f"linear-gradient(to right, {', '.join(colours)})"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("steadymr", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(score=_score, figure=_figure, flat=_flat, without_folders=_without_folders, looks=_looks)
    return environment
