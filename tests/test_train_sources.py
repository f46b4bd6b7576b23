"""A site's own scans become the images that they show, and no file serves for training and validation both."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import fft

from steadymr.errors import SettingsError
from steadymr.simulate.anatomy import draw_brain
from steadymr.simulate.coils import simulate_coils
from steadymr.simulate.header import write_header
from steadymr.simulate.scan import simulate_scan
from steadymr.simulate.seeds import subject_rng
from steadymr.train.data import BankSettings, prepare_bank
from steadymr.train.sources import DataSettings, files_of, read_images

MATRIX = (32, 40)  # y, x
PIXEL_MM = 5.0
BANK = BankSettings(n_slices=4, n_validation=2, matrix=36, pixel_mm_range=(5.0, 5.0))


def transform(image: np.ndarray) -> np.ndarray:
    return fft.fftshift(fft.fft2(fft.ifftshift(image, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))


def write_fastmri(path: Path, seed: int = 0, n_slices: int = 2) -> np.ndarray:
    """Write a multi-coil file as fastMRI does, the readout twice oversampled and before the phase encoding."""
    rng = subject_rng("demo", seed)
    images = np.stack([draw_brain(rng, MATRIX, PIXEL_MM) for _ in range(n_slices)])
    coil_images = simulate_coils(rng, 4, MATRIX) * images[:, None]
    wide = np.pad(coil_images, ((0, 0), (0, 0), (0, 0), (20, 20)))
    kspace = transform(wide) + 1e-3 * (rng.standard_normal(wide.shape) + 1j * rng.standard_normal(wide.shape))
    header = write_header(
        seed=0, n_coils=4, matrix_yx=MATRIX, pixel_mm=PIXEL_MM, slice_mm=5.0, n_slices=n_slices, acceleration=1,
        readout_oversampling=2,
    )  # fmt: skip
    with h5py.File(path, "w") as file:
        file["kspace"] = np.swapaxes(kspace, 2, 3).astype(np.complex64)
        file["ismrmrd_header"] = header
        file["reconstruction_rss"] = np.abs(images).astype(np.float32)
    return images


def write_ismrmrd(path: Path, seed: int = 0, acceleration: int = 1) -> np.ndarray:
    """Write a full scan as our simulator does."""
    truth = simulate_scan(
        path, seed=seed, n_coils=4, matrix=MATRIX, pixel_mm=PIXEL_MM, n_slices=2, acceleration=acceleration,
        n_calibration=16, signal_to_noise=200.0,
    )  # fmt: skip
    return np.asarray(truth.images)


WRITERS = {"fastmri": write_fastmri, "ismrmrd": write_ismrmrd}


def settings(source: str, folder: Path) -> DataSettings:
    return DataSettings.model_validate({"source": source, "folder": folder})


@pytest.mark.parametrize("source", WRITERS)
def test_images_are_those_that_were_scanned(source: str, tmp_path: Path) -> None:
    truth = np.abs(WRITERS[source](tmp_path / "a.h5"))
    images = np.abs(read_images(settings(source, tmp_path), tmp_path / "a.h5", 9, 36, (5.0, 5.0)))
    assert images.shape == (2, 36, 36)
    expected = np.pad(truth, ((0, 0), (2, 2), (0, 0)))[:, :, 2:38]
    for image, one in zip(images, expected, strict=True):
        assert np.corrcoef(image.ravel(), one.ravel())[0, 1] > 0.99
        assert np.percentile(image, 99) == pytest.approx(1, abs=1e-3)


def test_pixels_become_as_large_as_asked(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5")
    fine, coarse = (
        np.abs(read_images(settings("fastmri", tmp_path), tmp_path / "a.h5", 1, 40, (mm, mm))[0]) for mm in (5.0, 10.0)
    )
    assert (coarse > 0.2).sum() == pytest.approx((fine > 0.2).sum() / 4, rel=0.2)


@pytest.mark.parametrize("source", WRITERS)
def test_a_bank_holds_both_files_each_in_its_part(source: str, tmp_path: Path) -> None:
    for seed, name in enumerate(("a.h5", "b.h5")):
        WRITERS[source](tmp_path / name, seed)
    data = settings(source, tmp_path)
    banks = [prepare_bank(BANK, purpose, tmp_path / "bank", 1, data) for purpose in ("train", "validation")]
    assert [bank.shape for bank in banks] == [(2, 2, 36, 36)] * 2
    assert not np.array_equal(banks[0], banks[1])


def test_no_file_serves_twice_and_every_tenth_is_for_validation(tmp_path: Path) -> None:
    for n in range(21):
        (tmp_path / f"{n:02}.h5").touch()
    train, validation = (files_of(settings("fastmri", tmp_path), purpose) for purpose in ("train", "validation"))
    assert not set(train) & set(validation)
    assert (len(train), len(validation)) == (18, 3)


def test_a_bank_is_made_again_when_a_file_is_added(tmp_path: Path) -> None:
    for seed, name in enumerate(("a.h5", "b.h5")):
        write_fastmri(tmp_path / name, seed)
    data = settings("fastmri", tmp_path)
    before = prepare_bank(BANK, "train", tmp_path / "bank", 1, data)
    write_fastmri(tmp_path / "c.h5", 2)
    assert len(prepare_bank(BANK, "train", tmp_path / "bank", 1, data)) == len(before) + 2


def test_files_that_cannot_be_used_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.h5").write_bytes(b"no HDF5")
    write_ismrmrd(tmp_path / "b.h5", acceleration=2)
    for source in WRITERS:
        for name in ("a.h5", "b.h5"):
            assert read_images(settings(source, tmp_path), tmp_path / name, 2, 36, (5.0, 5.0)) == []
    assert len(caplog.messages) == 4
    assert "lines are missing" in caplog.messages[-1]


def test_a_masked_file_is_no_truth(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_fastmri(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["mask"] = np.ones(32)
    assert read_images(settings("fastmri", tmp_path), tmp_path / "a.h5", 2, 36, (5.0, 5.0)) == []
    assert "masked test file" in caplog.text


@pytest.mark.parametrize("n_files", [0, 1])
def test_a_folder_with_too_few_files_is_refused(tmp_path: Path, n_files: int) -> None:
    for n in range(n_files):
        (tmp_path / f"{n}.h5").touch()
    with pytest.raises(SettingsError, match=f"two .* or more, one for validation, not {n_files}"):
        files_of(settings("ismrmrd", tmp_path), "train")


def test_a_folder_with_nothing_of_use_is_refused(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        (tmp_path / name).write_bytes(b"no HDF5")
    with pytest.raises(SettingsError, match=r"none of the 1 files in .* can be used"):
        prepare_bank(BANK, "train", tmp_path / "bank", 1, settings("fastmri", tmp_path))


@pytest.mark.parametrize("values", [{"source": "fastmri"}, {"source": "simulation", "folder": "x"}])
def test_a_folder_is_given_where_and_only_where_it_is_read(values: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give a folder of scans"):
        DataSettings.model_validate(values)
