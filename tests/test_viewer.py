"""What a person sees: a study with all objects in Orthanc, looked at through headless Chromium."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_cases import AXIAL, save, slice_result
from pacs_peers import orthanc, running, tool
from PIL import Image as Picture
from test_dicom_derived import study

from steadymr.simulate.anatomy import draw
from steadymr.simulate.planes import Cut

VIEWER = "/usr/share/orthanc/plugins/libOrthancWebViewer.so"
RED = (225, 50, 50)  #: of the banner over an unstable image
SCREENSHOTS = Path(os.environ.get("STEADYMR_SCREENSHOTS", "runs/screenshots"))


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Orthanc with its web viewer, holding one simulated head and everything derived from it."""
    if not Path(VIEWER).exists():
        pytest.fail("Orthanc's web viewer is not installed: apt-get install orthanc-webviewer")
    folder = tmp_path_factory.mktemp("orthanc")
    with running(orthanc(folder, Plugins=[VIEWER], WebViewer={"CachePath": str(folder / "cache")})) as program:
        for kind, made in study(unstable_head()).items():
            for file in save(made, folder / "study", kind):
                program.rest("/instances", "POST", file.read_bytes())
        yield program


def unstable_head() -> Any:
    """One slice through a head whose samples differ in one region."""
    head = np.abs(draw(np.random.default_rng(3), (96, 96), 2.2, "brain", "t1", Cut("axial", 10.0)))[np.newaxis]
    geometry = AXIAL.__class__(AXIAL.centre_mm, AXIAL.read_dir, AXIAL.phase_dir, AXIAL.slice_dir, (211.2, 211.2, 5.0))
    one = slice_result(head.astype(np.float32), geometry=geometry)
    y, x = np.indices((96, 96))
    spread = 60 * np.exp(-(((x - 60) / 8) ** 2 + ((y - 40) / 6) ** 2))
    one.stability.spread_percent[:] = np.where(head > 0.05 * head.max(), spread, np.nan)
    return one


def chromium(*arguments: str, profile: Path) -> str:
    """Run Chromium without a window until the page is quiet; what it prints."""
    command = [
        tool("chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-proxy-server", "--hide-scrollbars", "--window-size=1000,760", "--virtual-time-budget=20000",
        f"--user-data-dir={profile}", *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout


def screenshot(pacs: Any, page: str, name: str, profile: Path) -> np.ndarray:
    """A page of Orthanc as Chromium draws it, kept as ``name``; axes (y x rgb)."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    file = (SCREENSHOTS / f"{name}.png").absolute()
    file.unlink(missing_ok=True)
    chromium(f"--screenshot={file}", f"http://127.0.0.1:{pacs.http_port}{page}", profile=profile)
    return np.asarray(Picture.open(file).convert("RGB"), int)


def series_of(pacs: Any, content: str) -> str:
    """Orthanc's name of the series whose description ends so."""
    found = pacs.rest("/series?expand")
    return str(next(s["ID"] for s in found if s["MainDicomTags"]["SeriesDescription"].endswith(content)))


def share_of(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 12) -> float:
    return float((np.abs(picture - np.array(colour)).max(-1) <= tolerance).mean())


def test_the_list_of_series_shows_verdict_and_kind_of_each(pacs: Any, tmp_path: Path) -> None:
    (found,) = pacs.rest("/studies")
    page = f"/app/explorer.html#study?uuid={found}"
    shown = chromium("--dump-dom", f"http://127.0.0.1:{pacs.http_port}{page}", profile=tmp_path)
    for content in ("", " | overlay", " | unstable regions", " | spread map", " | stability report", " | presentation"):
        assert f"steadymr diffusion | UNSTABLE 0.41{content}" in shown.replace("&nbsp;", " "), content
    assert share_of(screenshot(pacs, page, "series", tmp_path), (255, 255, 255)) < 0.9


def test_the_viewer_shows_the_image_in_its_window(pacs: Any, tmp_path: Path) -> None:
    picture = screenshot(pacs, f"/web-viewer/app/viewer.html?series={series_of(pacs, '0.41')}", "image", tmp_path)
    grey = (picture.max(-1) - picture.min(-1) < 8) & (picture.max(-1) > 60) & (picture.max(-1) < 230)
    assert grey.mean() > 0.05  # a head, neither black nor blank
    assert len(np.unique(picture[grey][:, 0])) > 50


def test_the_viewer_shows_the_banner_in_the_verdict_s_colour_and_the_map_in_red(pacs: Any, tmp_path: Path) -> None:
    page = f"/web-viewer/app/viewer.html?series={series_of(pacs, 'overlay')}"
    picture = screenshot(pacs, page, "overlay", tmp_path)
    assert share_of(picture, RED) > 0.01
    tinted = (picture[..., 0] - picture[..., 2] > 60) & (picture[..., 0] - picture[..., 1] < 90)
    assert 0.001 < tinted.mean() < 0.2  # the region that is unstable, not the whole head
