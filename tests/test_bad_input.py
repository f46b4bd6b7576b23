"""Whatever is wrong with the input, the user gets one clear line, a non-zero exit code, and no half-written series."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import mrd
import numpy as np
import pytest
from commands import run_steadymr, steadymr
from scans import accelerated_lines, write_scan

N = 48


def truncated(folder: Path) -> Path:
    whole = write_scan(folder / "scan.h5", n=N)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return whole


def not_hdf5(folder: Path) -> Path:
    path = folder / "scan.h5"
    path.write_text("this is a text file")
    return path


def without_group(folder: Path) -> Path:
    with h5py.File(folder / "scan.h5", "w") as file:
        file.create_group("something_else")
    return folder / "scan.h5"


def without_encoded_space(folder: Path) -> Path:
    xml = mrd.header_xml(N, N)
    start, end = xml.index("<encodedSpace>"), xml.index("</encodedSpace>") + len("</encodedSpace>")
    return mrd.write(folder / "scan.h5", xml[:start] + xml[end:], mrd.readouts(mrd.kspace(n_x=N, n_y=N)))


def with_nan(folder: Path) -> Path:
    data = mrd.kspace(n_x=N, n_y=N)
    data[0, 0, 5, 7] = np.nan
    return mrd.write(folder / "scan.h5", mrd.header_xml(N, N), mrd.readouts(data))


def with_long_readouts(folder: Path) -> Path:
    return mrd.write(folder / "scan.h5", mrd.header_xml(N // 2, N), mrd.readouts(mrd.kspace(n_x=N, n_y=N)))


def without_calibration(folder: Path) -> Path:
    return write_scan(folder / "scan.h5", n=N, lines=accelerated_lines(N, 3, 0))


def radial(folder: Path) -> Path:
    xml = mrd.header_xml(N, N, trajectory="radial")
    return mrd.write(folder / "scan.h5", xml, mrd.readouts(mrd.kspace(n_x=N, n_y=N)))


def missing(folder: Path) -> Path:
    return folder / "nowhere.h5"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (truncated, "truncated"),
        (not_hdf5, "HDF5"),
        (without_group, "dataset"),
        (without_encoded_space, "encodedSpace"),
        (with_nan, "readout 5"),
        (with_long_readouts, "readout 0"),
        (without_calibration, "calibration"),
        (radial, "radial"),
        (missing, "nowhere.h5"),
    ],
)
def test_bad_scans_end_with_one_clear_line(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    """The line names what is wrong; nothing is left in the output folder."""
    out = tmp_path / "out"
    done = run_steadymr("replay", make(tmp_path), "--out", out, "--method", "classical", "--samples", "0")
    assert_one_line(done, words)
    assert not out.exists() or not list(out.iterdir())


def test_a_disk_that_fills_up_leaves_the_old_results(tmp_path: Path) -> None:
    """The failing write is named, and what was there before is still whole."""
    scan = write_scan(tmp_path / "scan.h5", n=N)
    replay = ("replay", scan, "--method", "classical", "--samples", "0", "--out")
    place, limited = small_disk(tmp_path)
    done = subprocess.run(limited(steadymr(*replay, place)), capture_output=True, text=True, check=False)
    assert_one_line(done, "could not write")
    assert not list(place.iterdir())


def small_disk(folder: Path) -> tuple[Path, Callable[[list[str]], list[str]]]:
    """A folder, and how to run a command so that the folder fills up: a 12 KiB disk, or a limit on the size of files.

    Mounting needs a user namespace, which some hosts refuse; the limit makes the same writes fail half-way.
    """
    place = folder / "disk"
    place.mkdir()
    unshare = shutil.which("unshare")
    if unshare and subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode == 0:
        script = f'mount -t tmpfs -o size=12k none "{place}" && "$@"; code=$?; ls -A "{place}" >&2; exit $code'
        return place, lambda command: [unshare, "-rm", "sh", "-c", script, "sh", *command]
    return place, lambda command: ["prlimit", "--fsize=5000", *command]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "magic"), "methods"),
        (("--samples", "2"), "at least 4"),
        (("--perturb", "gremlins=1"), "gremlins"),
        (("--perturb", "gain_drift.strenght=1"), "strenght"),
        (("--device", "tpu"), "device"),
        (("--config", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    """Before anything is read, the option that is wrong is named together with what would be right."""
    assert_one_line(run_steadymr("replay", tmp_path / "scan.h5", "--out", tmp_path / "out", *options), words)


def assert_one_line(done: subprocess.CompletedProcess[str], words: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode not in (0, 1), done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("steadymr: error:")
    assert words in lines[0]
