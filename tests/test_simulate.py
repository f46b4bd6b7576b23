"""Simulated scans are valid ISMRMRD, and what their truth says about them is so."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import ismrmrd
import nibabel
import numpy as np
import pytest

from steadymr.errors import OutputError, SettingsError
from steadymr.simulate import anatomy, seeds
from steadymr.simulate.coils import simulate_coils
from steadymr.simulate.fields import smooth_field
from steadymr.simulate.masks import centre_lines, equispaced_lines, random_lines
from steadymr.simulate.scan import Truth, simulate_scan

SMALL: dict[str, Any] = {"seed": 3, "matrix": (40, 32), "pixel_mm": 6.0, "n_coils": 4, "n_calibration": 8}


def read(path: Path) -> tuple[Any, list[ismrmrd.Acquisition]]:
    with ismrmrd.Dataset(str(path), "dataset", create_if_needed=False) as dataset:
        header = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
        return header, [dataset.read_acquisition(n) for n in range(dataset.number_of_acquisitions())]


def images_of(acquisitions: list[ismrmrd.Acquisition], truth: Truth, number: int = 0) -> np.ndarray:
    """Inverse transform of one slice's lines, oversampling cut off, coils combined with the true maps."""
    n_y, n_x = truth.images.shape[1:]
    kspace = np.zeros((len(truth.coil_maps), n_y, acquisitions[-1].number_of_samples), np.complex64)
    for acquisition in acquisitions:
        if not acquisition.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT) and acquisition.idx.slice == number:
            kspace[:, acquisition.idx.kspace_encode_step_1] = acquisition.data
    shifted = np.fft.ifftshift(kspace, axes=(1, 2))
    wide = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(1, 2))
    start = wide.shape[2] // 2 - n_x // 2
    return (truth.coil_maps.conj() * wide[:, :, start : start + n_x]).sum(0)


@pytest.mark.parametrize("kind", anatomy.ANATOMIES)
@pytest.mark.parametrize("matrix", [(48, 48), (33, 50)])
def test_a_drawing_has_its_size_and_its_99th_percentile_at_one(kind: anatomy.Anatomy, matrix: tuple[int, int]) -> None:
    image = anatomy.draw(np.random.default_rng(0), matrix, 5.0, kind)
    assert image.shape == matrix
    assert np.percentile(np.abs(image), 99) == pytest.approx(1, rel=1e-3)


def test_air_around_a_head_is_dark() -> None:
    image = anatomy.draw_brain(np.random.default_rng(2), (64, 64), 5.0, "t1")
    assert np.abs(image[:4]).max() < 0.03


def test_the_same_generator_draws_the_same_head_and_another_draws_another() -> None:
    first, again, other = (anatomy.draw_mixed(seeds.subject_rng("test", n), (40, 40), 5.0) for n in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_purposes_never_share_a_subject() -> None:
    draws = {float(seeds.subject_rng(purpose, n).random()) for purpose in seeds.PURPOSES for n in range(20)}
    assert len(draws) == 20 * len(seeds.PURPOSES)


def test_fluid_is_bright_in_t2_and_dark_in_flair() -> None:
    scatter = np.random.default_rng(0)
    for family, sign in (("t2", 1), ("flair", -1), ("t1", -1)):
        tissues = anatomy.choose_tissues(scatter, family)
        assert sign * (tissues.fluid - tissues.white) > 0


def test_a_contrast_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"'t3'.*t1, t2, flair, pd"):
        anatomy.draw_brain(np.random.default_rng(0), (32, 32), 6.0, "t3")


def test_the_atlas_is_read_as_nibabel_reads_it() -> None:
    spec = importlib.util.find_spec("nilearn")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / anatomy.ATLAS_FILE.format("gm")
    expected = nibabel.load(path).get_fdata(dtype=np.float32) / 255
    np.testing.assert_allclose(anatomy.load_atlas().grey, expected, atol=1e-6)


def test_a_smooth_field_varies_by_about_one_and_is_smooth() -> None:
    field = np.stack([smooth_field(np.random.default_rng(n), (60, 50), 1.0, 10.0) for n in range(20)])
    assert 1.1 < field.std() < 1.5
    assert np.abs(np.diff(field, axis=1)).max() < 1.2


@pytest.mark.parametrize("n_coils", [1, 4, 16])
def test_coil_maps_have_unit_norm_everywhere_and_differ(n_coils: int) -> None:
    maps = simulate_coils(np.random.default_rng(0), n_coils, (40, 24))
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, rtol=1e-4)
    strongest = np.abs(maps).argmax(0)
    assert len(np.unique(strongest)) == n_coils


def test_masks_hold_the_centre_and_the_grid() -> None:
    lines = equispaced_lines(64, 4, 10, offset=1)
    assert lines[1::4].all()
    assert lines[32 - 5 : 32 + 5].all()
    assert lines.sum() == len({*range(1, 64, 4), *range(27, 37)})
    assert centre_lines(9, 3).tolist() == [False] * 3 + [True] * 3 + [False] * 3


@pytest.mark.parametrize("acceleration", [1.0, 2.0, 4.5])
def test_random_masks_acquire_the_share_asked(acceleration: float) -> None:
    lines = random_lines(np.random.default_rng(0), 90, acceleration, 8)
    assert lines.sum() == round(90 / acceleration)
    assert lines[45 - 4 : 45 + 4].all()


def test_a_full_scan_shows_its_truth_up_to_the_noise_it_states(tmp_path: Path) -> None:
    truth = simulate_scan(tmp_path / "scan.h5", **SMALL, acceleration=1, n_slices=2, signal_to_noise=50.0)
    _, acquisitions = read(tmp_path / "scan.h5")
    for number in range(2):
        error = images_of(acquisitions, truth, number) - truth.images[number]
        assert error.std() == pytest.approx(np.sqrt(2) / 50, rel=0.2)


def test_an_accelerated_scan_is_a_part_of_the_full_one(tmp_path: Path) -> None:
    full, part = (tmp_path / name for name in ("full.h5", "part.h5"))
    whole = simulate_scan(full, **SMALL, acceleration=1)
    truth = simulate_scan(part, **SMALL, acceleration=3)
    lines = {a.idx.kspace_encode_step_1: a.data for a in read(full)[1][16:]}
    readouts = read(part)[1][16:]
    assert np.array_equal(whole.images, truth.images)
    assert sorted(a.idx.kspace_encode_step_1 for a in readouts) == np.flatnonzero(truth.sampled).tolist()
    assert all(np.array_equal(lines[a.idx.kspace_encode_step_1], a.data) for a in readouts)


def test_flags_tell_calibration_from_imaging_and_where_slices_end(tmp_path: Path) -> None:
    truth = simulate_scan(tmp_path / "scan.h5", **SMALL, acceleration=4, n_slices=2)
    _, acquisitions = read(tmp_path / "scan.h5")
    noise = [a for a in acquisitions if a.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    imaging = acquisitions[len(noise) :]
    assert len(noise) == 16
    for a in imaging:
        line = a.idx.kspace_encode_step_1
        on_grid, central = line % 4 == 0, bool(truth.calibrated[line])
        assert a.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION) == (central and not on_grid)
        assert a.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING) == (central and on_grid)
    ends = [a.idx.slice for a in imaging if a.is_flag_set(ismrmrd.ACQ_LAST_IN_SLICE)]
    assert ends == [0, 1]
    assert imaging[-1].is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT)


def test_noise_readouts_have_the_covariance_of_the_image_at_their_own_bandwidth(tmp_path: Path) -> None:
    truth = simulate_scan(tmp_path / "scan.h5", **SMALL)
    header, acquisitions = read(tmp_path / "scan.h5")
    samples = np.concatenate([a.data for a in acquisitions[:16]], axis=1)
    ratio = header.acquisitionSystemInformation.relativeReceiverNoiseBandwidth
    dwell = acquisitions[-1].sample_time_us / acquisitions[0].sample_time_us
    expected = truth.noise_covariance * dwell * ratio
    measured = samples @ samples.conj().T / samples.shape[1]
    assert np.abs(measured - expected).max() < 0.15 * np.abs(expected).max()


def test_slices_lie_where_the_geometry_says_and_axes_are_right_handed(tmp_path: Path) -> None:
    truth = simulate_scan(tmp_path / "scan.h5", **SMALL, n_slices=3, slice_mm=6.0, tilt_deg=20.0, turn_deg=-10.0)
    _, acquisitions = read(tmp_path / "scan.h5")
    for a in acquisitions[16:]:
        geometry = truth.geometry[a.idx.slice]
        np.testing.assert_allclose(list(a.position), geometry.centre_mm, atol=1e-4)
        np.testing.assert_allclose(np.cross(a.read_dir, a.phase_dir), geometry.slice_dir, atol=1e-6)
    step = np.subtract(truth.geometry[1].centre_mm, truth.geometry[0].centre_mm)
    np.testing.assert_allclose(step, 6.0 * np.array(truth.geometry[0].slice_dir))


def test_the_header_states_matrix_oversampling_acceleration_and_nobody(tmp_path: Path) -> None:
    simulate_scan(tmp_path / "scan.h5", **SMALL, acceleration=4)
    header, _ = read(tmp_path / "scan.h5")
    encoding = header.encoding[0]
    assert (encoding.encodedSpace.matrixSize.x, encoding.encodedSpace.matrixSize.y) == (64, 40)
    assert encoding.reconSpace.fieldOfView_mm.x == pytest.approx(32 * 6.0)
    assert encoding.parallelImaging.accelerationFactor.kspace_encoding_step_1 == 4
    assert header.subjectInformation.patientName == "STEADYMR^DEMO"


def test_the_same_seed_writes_the_same_samples(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        simulate_scan(tmp_path / name, **SMALL)
    (first_header, first), (second_header, second) = read(tmp_path / "a.h5"), read(tmp_path / "b.h5")
    assert first_header == second_header
    assert all(np.array_equal(a.data, b.data) for a, b in zip(first, second, strict=True))


def test_a_scan_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/scan\.h5"):
        simulate_scan(tmp_path / "file" / "scan.h5", **SMALL)
