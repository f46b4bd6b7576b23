"""From a file to flagged DICOM series, the whole way, as a user runs it."""

from __future__ import annotations

import ctypes
import json
import subprocess
from pathlib import Path
from typing import Any

import mrd
import numpy as np
import psutil
import pydicom
import pytest
from calibrations import calibration_for_scan
from commands import dciodvfy_errors, run_steadymr
from scans import accelerated_lines, pixels, write_scan

from steadymr.config import load_settings
from steadymr.pipeline import replay

QUICK: dict[str, Any] = {"samples": 4, "diffusion": {"levels": 4}}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-slice scan, accelerated afterwards and reconstructed with all methods."""
    folder = tmp_path_factory.mktemp("replay")
    scan = write_scan(folder / "scan.h5", n_slices=2)
    overrides = QUICK | {"undersample": {"acceleration": 2, "calibration_lines": 16}}
    replay(scan, folder / "out", load_settings(None, overrides))
    return folder / "out"


def summary_of(out: Path) -> Any:
    return json.loads((out / "summary.json").read_text())


def test_each_method_becomes_one_series(results: Path) -> None:
    """Three series of two images, in the folders that the summary names; in doubt the classical one leaves first."""
    series = summary_of(results)["series"]
    assert [one["method"] for one in series] == ["classical", "diffusion", "supervised"]
    for one in series:
        assert len(list((results / one["folder"]).glob("*.dcm"))) == one["n_images"] == 2


def test_every_instance_is_valid_dicom(results: Path) -> None:
    """dciodvfy finds no error in any file."""
    errors = {path.name: dciodvfy_errors(path) for path in results.rglob("*.dcm")}
    assert errors == {name: [] for name in errors}
    assert errors


def test_the_summary_holds_what_it_promises(results: Path) -> None:
    """Score, verdict, true error and times for programs to read."""
    summary = summary_of(results)
    assert {"version", "input", "settings", "series", "images", "truth", "timings_s"} <= set(summary)
    for one in summary["series"]:
        assert {"method", "description", "n_images", "score", "verdict", "sop_class"} <= set(one)
    for image in summary["images"]:
        assert (image["score"], image["verdict"]) == (None, "uncalibrated")
        assert 0 <= image["agreement"] <= 1
        assert image["evidence"]["residual"] > 0
        assert (image["n_samples"], image["n_noise_draws"]) == (4, 1)
    assert set(summary["truth"]) == {"diffusion", "supervised", "classical"}
    assert summary["truth"]["classical"]["psnr_db"] > 20


def test_the_verdict_is_in_the_series_description(results: Path) -> None:
    """What a viewer lists is what the summary says."""
    for one in summary_of(results)["series"]:
        dataset = pydicom.dcmread(next((results / one["folder"]).glob("*.dcm")))
        assert dataset.SeriesDescription == one["description"]
        assert one["verdict"].upper() in dataset.SeriesDescription


def test_slices_lie_where_the_readouts_say(results: Path) -> None:
    """Centre and directions of the readout heads give the corner of the image, to 1e-3 mm."""
    positions = sorted(
        tuple(map(float, pydicom.dcmread(path).ImagePositionPatient))
        for path in (results / "dicom").glob("*-classical/*")
    )
    corner = -24 * 256 / 48
    np.testing.assert_allclose(positions, [(corner, corner, 0.0), (corner, corner, 6.0)], atol=1e-3)


def test_the_report_shows_every_series_and_needs_no_network(results: Path) -> None:
    """One self-contained page with each verdict on it."""
    page = (results / "report.html").read_text()
    for one in summary_of(results)["series"]:
        assert one["method"] in page
        assert one["verdict"].upper() in page.upper()
    assert 'src="http' not in page


def test_same_seed_same_pixels_and_uids_another_seed_other_samples(tmp_path: Path) -> None:
    """A run can be repeated to the bit, and chance comes from the seed alone."""
    scan = write_scan(tmp_path / "scan.h5", lines=accelerated_lines(48, 2, 16))
    runs = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        replay(scan, tmp_path / name, load_settings(None, QUICK | {"methods": ["diffusion"], "seed": seed}))
        runs[name] = pixels(tmp_path / name / "dicom")
    assert runs["first"].keys() == runs["again"].keys()
    for uid, image in runs["first"].items():
        np.testing.assert_array_equal(image, runs["again"][uid])
    assert not runs["first"].keys() & runs["other"].keys()


def test_a_perturbed_scan_says_so_everywhere(tmp_path: Path) -> None:
    """No one can take the image for a diagnostic one: record, description and report."""
    scan = write_scan(tmp_path / "scan.h5")
    overrides = {"methods": ["classical"], "samples": 0, "perturb": ["rigid_motion.translation_mm=2"]}
    replay(scan, tmp_path / "out", load_settings(None, overrides))
    summary = summary_of(tmp_path / "out")
    assert summary["images"][0]["perturbations"][0]["name"] == "rigid_motion"
    assert "PERTURBED" in summary["series"][0]["description"]
    assert any("on purpose" in warning for warning in summary["warnings"])


def test_zero_strength_changes_no_pixel(tmp_path: Path) -> None:
    """A perturbation of strength zero is recorded, and nothing else happens."""
    scan = write_scan(tmp_path / "scan.h5")
    plain = {"methods": ["classical"], "samples": 0}
    replay(scan, tmp_path / "plain", load_settings(None, plain))
    replay(scan, tmp_path / "zero", load_settings(None, plain | {"perturb": ["gain_drift=0"]}))
    first, second = (next(iter(pixels(tmp_path / name).values())) for name in ("plain", "zero"))
    np.testing.assert_array_equal(first, second)


def test_derived_objects_stand_beside_their_series(tmp_path: Path) -> None:
    """Overlay, regions, map, report and key objects, each a series of its own, valid, and in the series' study."""
    scan = write_scan(tmp_path / "scan.h5", n_slices=2, lines=accelerated_lines(48, 3, 12))
    kinds = ["overlay", "segmentation", "parametric_map", "structured_report", "key_objects"]
    overrides = QUICK | {"methods": ["classical"], "dicom": {"objects": kinds, "region_percent": 0.01}}
    overrides |= {"stability": {"stable": 1.0, "review": 1.0, "anatomy": "head"}}
    made = calibration_for_scan(scan, load_settings(None, overrides), tmp_path / "mine.json")
    overrides["stability"]["calibration"] = str(made)
    (series,) = replay(scan, tmp_path / "out", load_settings(None, overrides))["series"]
    assert {one["kind"]: one["n_instances"] for one in series["objects"]} == dict(
        zip(kinds, (2, 1, 1, 1, 1), strict=True)
    )
    assert [dciodvfy_errors(path) for path in (tmp_path / "out").rglob("*.dcm")] == [[]] * 8
    studies = {pydicom.dcmread(path).StudyInstanceUID for path in (tmp_path / "out").rglob("*.dcm")}
    assert len(studies) == 1


def test_without_samples_images_are_unscored(tmp_path: Path) -> None:
    """No number stands where nothing was computed."""
    scan = write_scan(tmp_path / "scan.h5")
    replay(scan, tmp_path / "out", load_settings(None, {"methods": ["classical"], "samples": 0}))
    (series,) = summary_of(tmp_path / "out")["series"]
    assert (series["score"], series["verdict"]) == (None, "unscored")
    assert "UNSCORED" in series["description"]


def test_a_full_scan_can_be_the_reference(tmp_path: Path) -> None:
    """--reference gives the true error of a scan that was really accelerated."""
    full = write_scan(tmp_path / "full.h5")
    fast = write_scan(tmp_path / "fast.h5", lines=accelerated_lines(48, 2, 16))
    done = run_steadymr(
        "replay", fast, "--out", tmp_path / "out", "--reference", full, "--method", "classical", "--samples", "0"
    )
    assert done.returncode == 0, done.stderr
    assert summary_of(tmp_path / "out")["truth"]["classical"]["psnr_db"] > 20


def test_being_elsewhere_is_no_error(tmp_path: Path) -> None:
    """A field that is off by a constant moves the object and does nothing else: the reference is moved after it."""
    full = write_scan(tmp_path / "full.h5")
    psnr_db = {}
    for shift_hz in (0.0, 150.0):  # 3.75 pixels of 48, at 20 us a sample
        wanted = {"methods": ["classical"], "samples": 0, "undersample": {"acceleration": 2, "calibration_lines": 16}}
        wanted["perturb"] = [f"off_resonance.frequency_hz={shift_hz}", "off_resonance.dwell_us=20"]
        replay(full, tmp_path / f"{shift_hz}", load_settings(None, wanted))
        psnr_db[shift_hz] = summary_of(tmp_path / f"{shift_hz}")["truth"]["classical"]["psnr_db"]
    assert psnr_db[150.0] == pytest.approx(psnr_db[0.0], abs=1.0)


def test_the_phantom_of_debians_tools_is_replayed(tmp_path: Path) -> None:
    """Zero direction cosines, an old version number and no noise scan: assumptions are made and stated."""
    subprocess.run(
        ["ismrmrd_generate_cartesian_shepp_logan", "-m", "64", "-c", "8", "-r", "2", "-n", "0.02", "-o", "scan.h5"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    content = replay(tmp_path / "scan.h5", tmp_path / "out", load_settings(None, QUICK))
    assert [one["n_images"] for one in content["series"]] == [2, 2, 2]
    assert any("geometry" in warning for warning in content["warnings"])
    assert all(dciodvfy_errors(path) == [] for path in (tmp_path / "out").rglob("*.dcm"))


def test_slices_stream_through_memory(tmp_path: Path) -> None:
    """Sixteen more slices leave hardly a trace in memory: their k-space is let go slice by slice."""
    scan = write_scan(tmp_path / "scan.h5", n_slices=24, n=96, n_coils=8)
    process, resident = psutil.Process(), []

    def look(done: float, total: float | None, what: str) -> None:
        """What is in use, without what the allocator keeps for next time, which goes up and down by 10 MB."""
        ctypes.CDLL(None).malloc_trim(0)
        resident.append(process.memory_info().rss)

    replay(scan, tmp_path / "out", load_settings(None, {"methods": ["classical"], "samples": 0}), progress=look)
    kspace_of_sixteen_slices = 16 * 8 * 96 * 96 * 8
    assert resident[-1] - resident[len(resident) // 3] < kspace_of_sixteen_slices


def test_planes_of_a_3d_scan_lie_where_the_physics_put_them(tmp_path: Path) -> None:
    """Slice oversampling is dropped, and the middle partition is at the volume's centre."""
    data = mrd.kspace(n_coils=4, n_x=32, n_y=32, n_z=8, noise=0.01)
    lines = [mrd.noise_readout(mrd.covariance(4)), *mrd.readouts(data, position_mm=(1.0, 2.0, 3.0))]
    encoded, recon = mrd.header_xml(32, 32, 8, fov_mm=(256.0, 256.0, 16.0)).split("<reconSpace>")
    recon = recon.replace("<z>8</z>", "<z>6</z>", 1).replace("<z>16.0</z>", "<z>12.0</z>", 1)
    xml = f"{encoded}<reconSpace>{recon}"
    scan = mrd.write(tmp_path / "scan.h5", xml, lines)
    replay(scan, tmp_path / "out", load_settings(None, {"methods": ["classical"], "samples": 0}))
    datasets = [pydicom.dcmread(path) for path in sorted((tmp_path / "out").rglob("*.dcm"))]
    assert [float(dataset.ImagePositionPatient[2]) for dataset in datasets] == [-3.0, -1.0, 1.0, 3.0, 5.0, 7.0]
    assert {dataset.MRAcquisitionType for dataset in datasets} == {"3D"}
    assert all(dciodvfy_errors(path) == [] for path in (tmp_path / "out").rglob("*.dcm"))
