from __future__ import annotations

import base64
import io
import json
import re
import struct
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from steadymr.report import figures, html, summary
from steadymr.types import (
    Geometry,
    Identity,
    Image,
    ModelIdentity,
    PerturbationRecord,
    SampleSet,
    ScanHeader,
    Sequence,
    SliceResult,
    Space,
    StabilityReport,
    TruthReport,
    VolumeIndex,
)

N = 32
TRUTH = TruthReport(31.5, 0.92, 0.01)
SPIKE = PerturbationRecord(name="spikes", parameters={"strength": 3.0}, seed=11)


def make_result(
    method: str = "diffusion",
    *,
    slice: int = 0,
    score: float | None = 0.91,
    verdict: str = "stable",
    brightness: float = 1.0,
    n_z: int = 1,
    n_samples: int = 3,
    with_reference: bool = True,
    truth: TruthReport | None = TRUTH,
    perturbations: tuple[PerturbationRecord, ...] = (),
    protocol: str = "t2",
    assumed: str = "",
    seed: int = 0,
) -> SliceResult:
    rng = np.random.default_rng(seed)
    truth_image = rng.random((n_z, N, N), dtype=np.float32)
    data = np.float32(brightness) * truth_image
    spread = np.full((n_z, N, N), 4.0, np.float32)
    spread[:, :8] = np.nan
    space = Space((N, N, n_z), (240.0, 240.0, 5.0))
    header = ScanHeader(
        xml="<ismrmrdHeader/>",
        measurement_id="meas_7",
        trajectory="cartesian",
        encoded=space,
        recon=space,
        k1_limits=None,
        k2_limits=None,
        counters={},
        acceleration=(2, 1),
        identity=Identity(patient_name="DOE^JANE", patient_id="PID-12345", patient_birth_date="19700101"),
        sequence=Sequence(protocol_name=protocol),
    )
    geometry = Geometry(
        (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (240.0, 240.0, 5.0), assumed
    )
    image = Image(
        data=data,
        method=method,
        index=VolumeIndex(slice=slice),
        geometry=geometry,
        header=header,
        derivation="",
        is_mean_of_samples=method == "diffusion",
        model=ModelIdentity("prior", "ab" * 32) if method == "diffusion" else None,
        perturbations=perturbations,
    )
    samples = SampleSet(data + rng.random((n_samples, 1, N, N), np.float32), np.arange(n_samples) % 2 == 1)
    stability = StabilityReport(score, verdict, ("two of three agree",), spread, n_samples, n_samples // 2)  # type: ignore[arg-type]
    reference = truth_image if with_reference else None
    return SliceResult(image, stability, truth if with_reference else None, samples, reference)


def make_series(result: SliceResult, **changes: Any) -> dict[str, Any]:
    series = {"method": result.image.method, "description": "T2 diffusion", "n_images": 1, "sop_class": "1.2.840"}
    return {**series, "score": result.stability.score, "verdict": result.stability.verdict, **changes}


def summarise(*results: SliceResult, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "version": "0.1.0",
        "input": {"path": "/home/doe/DOE^JANE/scan.h5", "n_readouts": 128},
        "settings": {"stability": {"n_samples": 3}},
        "series": [make_series(result) for result in results],
        "timings_s": {"recon": 1.25},
        "warnings": [],
        "definition": "How far repeated sampling agrees.",
        "noise_source": "noise scan",
    }
    entries = [entry for result in results for entry in summary.image_entries(result)]
    return summary.summarise(images=entries, **{**arguments, **changes})


def render(*results: SliceResult, builder: html.ReportBuilder | None = None, **changes: Any) -> str:
    builder = builder or html.ReportBuilder()
    for result in results:
        builder.add(result)
    return builder.render(summarise(*results, **changes))


class Page(HTMLParser):
    """The text that is seen, the tags, and everything that a browser would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self._hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._hidden += tag in ("style", "script")
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "poster")]
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data + " "


def pixels(page: Page, alt: str) -> np.ndarray:
    (uri,) = [image["src"] for image in page.images if image["alt"] == alt]
    assert uri is not None
    png = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Picture.open(io.BytesIO(png)).convert("L"), dtype=float)


def test_summary_is_strict_json_with_null_for_what_is_not_finite(tmp_path: Path) -> None:
    perfect = make_result(truth=TruthReport(float("inf"), 1.0, 0.0))
    summary.write(summarise(perfect, settings={"tolerance": float("nan")}), tmp_path / "summary.json")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert read["images"][0]["truth"]["psnr_db"] is None
    assert read["truth"]["diffusion"]["psnr_db"] is None
    assert read["settings"]["tolerance"] is None


def test_summary_holds_what_programs_rely_on() -> None:
    made = summarise(make_result(slice=4, perturbations=(SPIKE,), assumed="slice normal"))
    assert {"version", "input", "settings", "series", "images", "truth", "timings_s", "definition"} <= made.keys()
    (entry,) = made["images"]
    assert (entry["slice"], entry["repetition"], entry["z"], entry["method"]) == (4, 0, 0, "diffusion")
    assert (entry["score"], entry["verdict"], entry["reasons"]) == (0.91, "stable", ["two of three agree"])
    assert (entry["n_samples"], entry["n_noise_draws"], entry["spread_median_percent"]) == (3, 1, 4.0)
    assert made["perturbations"] == [{"name": "spikes", "parameters": {"strength": 3.0}, "seed": 11}]
    assert made["models"] == [{"method": "diffusion", "name": "prior", "sha256": "ab" * 32}]
    assert (made["geometry_assumed"], made["noise_source"]) == (["slice normal"], "noise scan")


def test_truth_is_the_mean_over_the_images_of_a_method() -> None:
    results = [make_result(slice=i, truth=TruthReport(30.0 + i, 0.9, 0.02)) for i in range(3)]
    made = summarise(*results, make_result("classical", with_reference=False))
    assert made["truth"] == {"diffusion": {"psnr_db": 31.0, "ssim": pytest.approx(0.9), "nmse": 0.02, "n_images": 3}}


def test_key_order_does_not_depend_on_the_data() -> None:
    first, second = summarise(make_result()), summarise(make_result("classical", with_reference=False, score=None))
    assert list(first) == list(second)
    assert list(first["images"][0]) == list(second["images"][0])


def test_each_plane_of_a_volume_has_its_entry() -> None:
    assert [entry["z"] for entry in summarise(make_result(n_z=3))["images"]] == [0, 1, 2]


@pytest.mark.parametrize(("score", "verdict"), [(None, "unscored"), (0.99, "unscored"), (float("nan"), "stable")])
def test_unscored_is_never_shown_as_a_number(score: float | None, verdict: str) -> None:
    result = make_result(score=score, verdict=verdict)
    made = summarise(result)
    assert (made["images"][0]["score"], made["images"][0]["verdict"]) == (None, "unscored")
    assert made["series"][0]["score"] is None
    text = Page(render(result)).text
    assert "not scored" in text
    assert not re.search(r"0\.99|\bnan\b|\bNone\b|score, 0 to 1", text)


def test_uncalibrated_is_never_shown_as_a_score() -> None:
    """The raw agreement may be read, under its own name, and nothing stands where a score would."""
    result = make_result(score=None, verdict="uncalibrated")
    result = replace(result, stability=replace(result.stability, agreement=0.87))
    made = summarise(result)
    assert (made["images"][0]["score"], made["images"][0]["verdict"]) == (None, "uncalibrated")
    text = Page(render(result)).text
    assert "not calibrated" in text
    assert "raw agreement of samples, no score" in text
    assert "score, 0 to 1" not in text


def test_a_sensitivity_map_is_shown_where_there_is_one() -> None:
    """The second source of spread, beside the first."""
    result = make_result()
    mapped = replace(result.stability, sensitivity_percent=result.stability.spread_percent)
    alts = [image["alt"] for image in Page(render(replace(result, stability=mapped))).images]
    assert "sensitivity map of diffusion" in alts
    assert "sensitivity map of diffusion" not in [image["alt"] for image in Page(render(result)).images]


def test_a_volume_without_tissue_has_no_median_and_no_map() -> None:
    result = make_result()
    nothing = replace(result.stability, spread_percent=np.full((1, N, N), np.nan, np.float32))
    result = replace(result, stability=nothing)
    assert summarise(result)["images"][0]["spread_median_percent"] is None
    page = Page(render(result))
    assert "nothing was judged" in page.text
    assert "stability map of diffusion" not in [image["alt"] for image in page.images]


@pytest.mark.parametrize("field", ["protocol", "reason", "setting", "warning", "description", "file", "perturbation"])
def test_markup_from_strangers_is_shown_and_not_run(field: str) -> None:
    planted = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    result = make_result(protocol=planted if field == "protocol" else "t2")
    changes: dict[str, Any] = {}
    if field == "reason":
        result = replace(result, stability=replace(result.stability, reasons=(planted,)))
    elif field == "perturbation":
        result = replace(result, image=replace(result.image, perturbations=(replace(SPIKE, name=planted),)))
    elif field != "protocol":
        changes = {
            "setting": {"settings": {planted: 1}},
            "warning": {"warnings": [planted]},
            "description": {"series": [make_series(result, description=planted)]},
            "file": {"input": {"note": planted}},
        }[field]
    page = render(result, **changes)
    assert planted not in page
    assert planted in Page(page).text.replace("  ", " ")
    assert Page(page).tags.count("script") == 1


def test_the_patient_is_not_in_the_report() -> None:
    page = render(make_result())
    assert not re.search("DOE|JANE|PID-12345|19700101|/home/", page)
    assert "meas_7" in page
    assert "scan.h5" in page


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = render(make_result(), make_result("classical"))
    assert Page(page).loads
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in Page(page).loads)
    assert not re.search(r"https?://|@import|url\(|<link|<iframe", page)


def test_every_sample_is_in_the_page_and_named() -> None:
    page = Page(render(make_result(n_samples=5)))
    samples = [image for image in page.images if str(image["alt"]).startswith("sample ")]
    assert len({image["src"] for image in samples}) == 5
    assert "sample 2 of 5, fresh noise" in page.text
    assert "sample 3 of 5, measured noise" in page.text


def test_a_perturbed_scan_says_so_loudly_and_a_clean_one_does_not() -> None:
    assert "Perturbed on purpose" not in Page(render(make_result())).text
    text = Page(render(make_result(perturbations=(SPIKE,)))).text
    assert "Perturbed on purpose: " in text
    assert re.search(r"spikes\s*, strength = 3.0, seed 11", text)


@pytest.mark.parametrize(("qualification", "shown"), [({}, True), ({"content_qualification": "PRODUCT"}, False)])
def test_research_is_marked_unless_a_series_is_a_product(qualification: dict[str, str], shown: bool) -> None:
    result = make_result()
    text = Page(render(result, series=[make_series(result, **qualification)])).text
    assert ("RESEARCH – not for diagnosis" in text) == shown


@pytest.mark.parametrize("verdict", ["stable", "review", "unstable"])
def test_a_verdict_is_told_by_word_and_by_shape(verdict: str) -> None:
    page = render(make_result(verdict=verdict))
    banner = page[page.index('<div class="series') :]
    assert verdict in Page(banner[: banner.index('class="number"')]).text
    shape = re.search(r"<(circle|path)[^>]*>", banner)
    assert shape is not None
    others = [render(make_result(verdict=other)) for other in html.VERDICT_MEANINGS if other != verdict]
    assert all(shape.group() not in other[other.index('<div class="series') :] for other in others)


def test_a_verdict_that_is_not_known_looks_like_none() -> None:
    result = make_result()
    page = render(result, series=[make_series(result, verdict="splendid")])
    assert '<div class="series unscored">' in page
    assert "Nothing is known about the stability" in page


@pytest.mark.parametrize("with_reference", [True, False])
def test_methods_of_a_volume_share_one_grey_window(with_reference: bool) -> None:
    bright = make_result("diffusion", with_reference=with_reference)
    dim = make_result("classical", brightness=0.5, with_reference=with_reference)
    page = Page(render(bright, dim))
    half = pixels(page, "classical, Slice 0")
    full = pixels(page, "diffusion, Slice 0")
    assert half[full < 250] == pytest.approx(full[full < 250] / 2, abs=1)
    assert page.text.count("One grey window") == 1


def test_what_is_left_out_is_said() -> None:
    builder = html.ReportBuilder(n_complete=1, n_pictured=3)
    text = Page(render(*(make_result(slice=i, seed=i) for i in range(5)), builder=builder)).text
    assert "2 of 5 volumes are shown with image and stability map only" in text
    assert "2 of 5 are left out here" in text
    assert text.count("sample 1 of 3") == 1
    assert all(f"Slice {i} " in text for i in range(5))


def test_a_scan_without_results_still_has_a_page() -> None:
    text = Page(render(warnings=["nothing was reconstructed"])).text
    assert "No series was made" in text
    assert "nothing was reconstructed" in text


def test_of_a_3d_volume_the_page_says_which_plane_it_shows() -> None:
    assert "plane 2 of 5, counted from 0" in Page(render(make_result(n_z=5))).text


def test_volumes_appear_in_the_order_of_the_scan_whatever_came_first() -> None:
    page = render(make_result(slice=2), make_result(slice=0), make_result("classical", slice=2))
    assert re.findall(r"<h3>(Slice \d)</h3>", page) == ["Slice 0", "Slice 2"]


def test_pixels_that_are_not_numbers_are_announced() -> None:
    result = make_result()
    result.image.data[0, 3, :4] = np.nan
    assert "4 pixels are not numbers" in Page(render(result)).text


@pytest.mark.parametrize(
    ("n_yx", "fov_mm_xy", "size"),
    [
        ((64, 64), (240.0, 240.0), (64, 64)),
        ((64, 32), (240.0, 240.0), (64, 64)),
        ((512, 256), (120.0, 240.0), (128, 256)),
    ],
)
def test_pictures_have_square_pixels_and_stay_small(
    n_yx: tuple[int, int], fov_mm_xy: tuple[float, float], size: tuple[int, int]
) -> None:
    assert figures.shown_size(n_yx, fov_mm_xy, 256) == size


def test_a_shrunk_map_keeps_its_level_and_what_was_not_judged() -> None:
    plane = np.full((64, 64), 10.0, np.float32)
    plane[:, :32] = np.nan
    palette = figures.map_palette("inferno")
    picture = np.asarray(Picture.open(io.BytesIO(figures.map_png(plane, 20.0, palette, (32, 32)))))
    assert np.all(picture[:, :16] == 0)
    assert np.all(np.abs(picture[:, 16:].astype(int) - 128) <= 1)
    assert tuple(palette[0]) == figures.NOT_JUDGED_RGB


@pytest.mark.parametrize(("with_reference", "n_columns"), [(True, 3), (False, 2)])
def test_the_overview_is_one_picture_of_all_methods(with_reference: bool, n_columns: int) -> None:
    results = [make_result(method, with_reference=with_reference) for method in ("diffusion", "classical")]
    png = figures.overview_png(results, dots_per_inch=50)
    assert struct.unpack(">II", png[16:24]) == (165 * n_columns, 300)


@pytest.mark.parametrize(
    ("result", "title"),
    [
        (make_result(), "diffusion: stable, score 0.91"),
        (make_result(score=0.99, verdict="unscored"), "diffusion: not scored"),
        (make_result(score=None, verdict="uncalibrated"), "diffusion: not calibrated"),
        (make_result(perturbations=(SPIKE,)), "diffusion: stable, score 0.91\nPERTURBED ON PURPOSE"),
    ],
)
def test_the_overview_names_verdict_and_perturbation(result: SliceResult, title: str) -> None:
    assert figures.overview_title(result) == title


def test_an_overview_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        figures.overview_png([])


def test_what_json_cannot_say_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="set"):
        summary.to_strict({"seeds": {1, 2}})


def test_the_page_says_whether_lines_were_measured_and_withheld() -> None:
    without = make_result()
    seen = replace(without, stability=replace(without.stability, evidence={"sentinel": 1.02}))
    assert "No lines were measured and withheld" in render(without)
    assert "No lines were measured and withheld" not in render(seen)
    assert "Lines were measured and withheld" in render(seen)
