"""Rigid motion against exact phases and against an object that can be evaluated in any pose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from perturb_scans import FOV_MM, back, blobs, energy, grid, scan, sensitivities, transform, uncalibrated

from steadymr.errors import PerturbationError
from steadymr.perturb import build, posed
from steadymr.perturb.coils import coil_maps, map_waves
from steadymr.perturb.estimate import estimate_object
from steadymr.perturb.hybrid import hybrid_of, image_of
from steadymr.perturb.lines import acquisition_rank, to_frequency
from steadymr.perturb.motion import RigidMotion, moved
from steadymr.perturb.posed import Pose, encoded_in_poses
from steadymr.types import KSpace

POSES = {
    "displaced": Pose(1.5, -1.0, 0.0),
    "turned": Pose(0.0, 0.0, float(np.deg2rad(3))),
    "both": Pose(-1.0, 1.5, float(np.deg2rad(-3))),
}


def whole_scan(kspace: KSpace, pose: Pose) -> KSpace:
    return moved(kspace, np.zeros(kspace.sampled.shape, dtype=np.int64), (pose,))


def test_a_displacement_by_whole_pixels_is_a_roll_of_the_image() -> None:
    kspace = scan(32, n_coils=1)
    shifted = whole_scan(kspace, Pose(x_mm=3 * FOV_MM / 32, y_mm=-2 * FOV_MM / 32))
    expected = np.roll(back(kspace.data), (-2, 3), axis=(-2, -1))
    assert energy(back(shifted.data) - expected) < 1e-5 * energy(expected)


def test_a_displacement_of_lines_is_the_exact_linear_phase_where_lines_are_missing_too() -> None:
    kspace = scan(32, n_coils=1, acceleration=3)
    shifted = whole_scan(kspace, Pose(x_mm=1.3, y_mm=0.7))
    k = np.arange(32) - 16
    phase = np.exp(-2j * np.pi * (k[:, None] * 0.7 + k * 1.3) / FOV_MM)
    assert energy(shifted.data - kspace.data * phase) < 1e-5 * energy(kspace.data)


def turned(image: np.ndarray, angle_rad: float, voxel_mm_xy: tuple[float, float]) -> np.ndarray:
    """Return what one uniform coil sees of an image that was turned, by all of k-space."""
    n_z, n_y, n_x = image.shape
    k1, uniform = np.arange(n_y), np.ones((1, n_z, 1, n_x), dtype=np.complex64)
    pose, all_zero = (Pose(angle_rad=angle_rad),), np.zeros_like(k1)
    return back(encoded_in_poses(hybrid_of(image), uniform, voxel_mm_xy, pose, all_zero, all_zero, k1)[:, None])[0]


def test_a_turn_by_fourier_shears_is_the_turned_object() -> None:
    angle = float(np.deg2rad(5))
    image = blobs(64)[None].astype(np.complex64)
    assert energy(turned(image, angle, (1.0, 1.0))[0] - blobs(64, angle)) < 1e-3 * energy(image)


@pytest.mark.parametrize("n_slices", [1, 2])
def test_a_line_made_from_a_band_around_it_is_the_line_made_from_all_of_k_space(
    n_slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kspace = scan(64, n_coils=8, n_calibration=16, n_slices=n_slices)
    waves, image = map_waves(kspace), back(kspace.data)[0].astype(np.complex64)
    poses = RigidMotion(translation_mm=2.0, rotation_deg=4.0).course(64, np.random.default_rng(0))
    k2, k1 = (place.ravel() for place in np.indices((n_slices, 64)))
    arguments = (hybrid_of(image), waves, (1.0, 1.0), poses, k1, k2, k1)
    banded = encoded_in_poses(*arguments)
    monkeypatch.setattr(posed, "MARGIN", 64)  # more than there is: every band is whole
    whole = encoded_in_poses(*arguments)
    assert 0 < energy(banded - whole) < 1e-3 * energy(whole)


def test_a_turn_heeds_voxels_that_are_not_square() -> None:
    angle = float(np.deg2rad(5))
    coarse, expected = (back(transform(blobs(64, a)[None])[:, 16:48]) for a in (0.0, angle))
    out = turned(coarse.astype(np.complex64), angle, (1.0, 2.0))
    assert energy(out - expected) < 2e-3 * energy(expected)


@pytest.mark.parametrize("acceleration", [1, 2, 4])
@pytest.mark.parametrize("pose", POSES.values(), ids=list(POSES))
def test_the_object_moves_under_coils_that_stay(pose: Pose, acceleration: int) -> None:
    def scanned(image: np.ndarray) -> KSpace:
        return scan(64, n_coils=8, acceleration=acceleration, n_calibration=16, object_=image)

    at_rest, truth = scanned(blobs(64)), scanned(blobs(64, pose.angle_rad, pose.x_mm, pose.y_mm))
    simulated = whole_scan(at_rest, pose)
    assert energy(simulated.data - truth.data) < 0.07 * energy(truth.data - at_rest.data)


def test_each_shot_sees_the_object_in_its_own_pose() -> None:
    kspace = scan(32, n_coils=1)
    poses = (Pose(), Pose(x_mm=2.0), Pose(y_mm=-3.0, angle_rad=0.05))
    shot = acquisition_rank(kspace) * 3 // 32
    together = moved(kspace, shot, poses)
    np.testing.assert_array_equal(together.data[:, shot == 0], kspace.data[:, shot == 0])
    for number in (1, 2):
        alone = whole_scan(kspace, poses[number])
        lines = alone.data[:, shot == number]  # computed for all of k-space; together, in a band
        assert energy(together.data[:, shot == number] - lines) < 1e-3 * energy(lines)


def test_noise_keeps_its_level_though_the_object_moves() -> None:
    kspace = scan(64, n_coils=4, acceleration=2, n_calibration=16)
    noise = (np.random.default_rng(0).standard_normal((*kspace.data.shape, 2)) @ [1, 1j]).astype(np.complex64)
    noise = np.where(kspace.sampled[..., None], noise, 0)
    noisy = replace(kspace, data=kspace.data + noise)
    left = whole_scan(noisy, POSES["both"]).data - whole_scan(kspace, POSES["both"]).data
    assert energy(left) == pytest.approx(energy(noise), rel=0.1)


def test_two_shots_are_one_sudden_move_of_the_stated_size() -> None:
    poses = RigidMotion(translation_mm=2.0, rotation_deg=3.0, shots=2).course(2, np.random.default_rng(0))
    assert poses[0] == Pose(0.0, 0.0, 0.0)
    assert np.hypot(poses[1].x_mm, poses[1].y_mm) == pytest.approx(2.0)
    assert abs(np.rad2deg(poses[1].angle_rad)) == pytest.approx(3.0)


def test_a_course_never_leaves_its_largest_excursion() -> None:
    poses = RigidMotion(translation_mm=2.0, rotation_deg=3.0).course(50, np.random.default_rng(0))
    assert max(np.hypot(pose.x_mm, pose.y_mm) for pose in poses) == pytest.approx(2.0)
    assert max(abs(np.rad2deg(pose.angle_rad)) for pose in poses) == pytest.approx(3.0)
    assert len(set(poses)) == 50


@pytest.mark.parametrize(("interleaved", "first_moved"), [(0.0, 16), (1.0, 1)])
def test_shots_are_runs_of_lines_or_interleaved(interleaved: float, first_moved: int) -> None:
    kspace = scan(32, n_coils=1)
    motion = build("rigid_motion", {"translation_mm": 2.0, "shots": 2.0, "interleaved": interleaved})
    data = motion(kspace, np.random.default_rng(0)).data
    changed = np.flatnonzero((data != kspace.data).any(axis=(0, 1, 3)))
    assert list(changed) == list(range(16, 32) if first_moved == 16 else range(1, 32, 2))


def test_calibration_acquired_apart_saw_the_object_at_rest() -> None:
    kspace = scan(acceleration=2, calibration="separate")
    shaken = build("rigid_motion", {"translation_mm": 3.0})(kspace, np.random.default_rng(0))
    np.testing.assert_array_equal(shaken.calibration, kspace.calibration)
    assert not np.array_equal(shaken.data, kspace.data)


def test_one_shot_cannot_move() -> None:
    with pytest.raises(PerturbationError, match="at least 2"):
        build("rigid_motion", {"translation_mm": 2.0, "shots": 1.0})(scan(), np.random.default_rng(0))


def test_several_coils_without_central_lines_are_refused() -> None:
    kspace = uncalibrated(scan(acceleration=4, n_calibration=0))
    with pytest.raises(PerturbationError, match="4 adjacent calibration or image lines"):
        build("rigid_motion", {"translation_mm": 2.0})(kspace, np.random.default_rng(0))


def test_central_lines_serve_where_no_calibration_is_flagged() -> None:
    flagged = scan(32, acceleration=2, n_calibration=11)
    np.testing.assert_allclose(coil_maps(uncalibrated(flagged)), coil_maps(flagged), atol=1e-4)


def test_scattered_lines_that_are_called_calibration_do_not_spoil_the_maps() -> None:
    flagged = scan(32, acceleration=4, n_calibration=7)
    scattered = replace(flagged, calibration=flagged.data, calibrated=flagged.sampled)
    np.testing.assert_allclose(coil_maps(scattered), coil_maps(flagged), atol=1e-4)


def test_estimated_maps_point_along_the_true_ones_inside_the_object() -> None:
    maps = coil_maps(scan(64, n_coils=8, acceleration=4, n_calibration=16))
    inside = np.abs(blobs(64)) > 0.05
    along = np.abs(np.sum(maps[:, 0].conj() * sensitivities(8, 64), axis=0))
    agreement = (along / np.linalg.norm(maps[:, 0], axis=0))[inside]
    assert agreement.min() > 0.99


@pytest.mark.parametrize("n_slices", [1, 2])
def test_smooth_maps_encode_as_their_images_do(n_slices: int) -> None:
    kspace = scan(32, n_coils=4, acceleration=2, n_slices=n_slices)
    estimate = estimate_object(kspace)
    y, x = grid(32)
    factor = np.exp(1j * (x + y)).astype(np.complex64)
    expected = transform(estimate.maps * estimate.image * factor)[:, kspace.acquired]
    np.testing.assert_allclose(estimate.encoded(factor), expected, atol=1e-3)
    unity = np.ones((1, 1), dtype=np.complex64)
    np.testing.assert_allclose(estimate.encoded(unity), estimate.lines, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 8, 6), (2, 7, 9)])
def test_between_image_and_k_space_nothing_is_lost(shape: tuple[int, int, int]) -> None:
    image = (np.random.default_rng(0).standard_normal((*shape, 2)) @ [1, 1j]).astype(np.complex64)
    hybrid = hybrid_of(image)
    np.testing.assert_allclose(image_of(hybrid), image, atol=1e-6)
    plain = np.fft.fft(hybrid, axis=1, norm="ortho")  # a readout as it lies in k-space, of each point along y
    expected = to_frequency(image, axes=(-1,))
    np.testing.assert_allclose(np.fft.fftshift(plain, axes=-1).swapaxes(-1, -2), expected, atol=1e-5)


def test_smooth_encoding_and_its_adjoint_agree() -> None:
    kspace = scan(32, n_coils=4, acceleration=2, n_slices=2)
    encoding, rng = estimate_object(kspace).encoding, np.random.default_rng(0)
    image = (rng.standard_normal((2, 32, 32, 2)) @ [1, 1j]).astype(np.complex64)
    seen = encoding.forward(image)
    lines = (rng.standard_normal((*seen.shape, 2)) @ [1, 1j]).astype(np.complex64)
    assert np.vdot(lines, seen) == pytest.approx(np.vdot(encoding.adjoint(lines), image), rel=1e-4)


def test_an_object_estimate_explains_an_accelerated_scan() -> None:
    kspace = scan(64, n_coils=8, acceleration=4, n_calibration=16)
    estimate = estimate_object(kspace)
    explained = np.where(kspace.sampled[..., None], transform(estimate.maps * estimate.image), 0)
    assert energy(explained - kspace.data) < 0.04 * energy(kspace.data)
