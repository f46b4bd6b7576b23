from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from laws import assert_close
from scanner import coil_maps, ellipses, line_mask

from steadymr.errors import CalibrationError, ReconError
from steadymr.recon.methods import classical, fully_sampled
from steadymr.recon.noise import complex_normal, whitening_matrix
from steadymr.recon.operators import fft_centred
from steadymr.recon.problem import prepare, problem_from, redraw_noise
from steadymr.types import Geometry, KSpace, ScanHeader, Space, VolumeIndex

N_COILS, N_Y, N_X = 4, 40, 36


def header(space: Space) -> ScanHeader:
    return ScanHeader("", "", "cartesian", space, space, None, None, {}, (1, 1))


def covariance(n_coils: int, noise_sd: float, seed: int = 0) -> np.ndarray:
    """Channels of unequal gain that share some of their noise."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(n_coils) + 0.2 * (rng.normal(size=(n_coils, n_coils)) + 1j * rng.normal(size=(n_coils, n_coils)))
    return 2 * noise_sd**2 * mixing @ mixing.conj().T


def scan(acceleration: int = 2, n_z: int = 1, k0_first: int = 0, noise_sd: float = 0.01, gain: float = 1.0) -> KSpace:
    """The ellipses, a little darker in each slice, as the receiver would deliver them."""
    images = ellipses(N_Y, N_X) * torch.linspace(1, 0.5, n_z)[:, None, None]
    kspace = fft_centred(coil_maps(N_COILS, N_Y, N_X)[:, None] * images, (-3, -2, -1) if n_z > 1 else (-2, -1))
    white = complex_normal(tuple(kspace.shape), torch.Generator().manual_seed(1), kspace.device).numpy()
    channels = np.linalg.cholesky(covariance(N_COILS, noise_sd) / 2) * gain
    data = gain * kspace.numpy() + np.einsum("cd,dzyx->czyx", channels, white)
    data = data.astype(np.complex64)
    data[..., :k0_first] = 0
    sampled = np.broadcast_to(line_mask(N_Y, acceleration, 16).numpy().T, (n_z, N_Y)).copy()
    central = np.broadcast_to(np.abs(np.arange(N_Y) - N_Y // 2 + 0.5) < 8, (n_z, N_Y)).copy()
    space = Space((N_X, N_Y, n_z), (220.0, 220.0, 5.0 * n_z))
    geometry = Geometry((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), space.fov_mm_xyz)
    return KSpace(
        data=data * sampled[:, :, None],
        sampled=sampled,
        k0_range=(k0_first, N_X),
        calibration=data * central[:, :, None],
        calibrated=central,
        noise_covariance=gain**2 * covariance(N_COILS, noise_sd),
        noise_source="noise scan",
        index=VolumeIndex(),
        geometry=geometry,
        encoded=space,
        header=header(space),
    )


def visible(noise_sd: float) -> torch.Tensor:
    """Magnitude of the truth, shaded by all that the whitened coils receive together."""
    white = torch.from_numpy(whitening_matrix(covariance(N_COILS, noise_sd))).to(torch.complex64)
    received = torch.einsum("cd,dyx->cyx", white, coil_maps(N_COILS, N_Y, N_X))
    return ellipses(N_Y, N_X).abs() * torch.linalg.vector_norm(received, dim=0)


def test_whitened_noise_has_standard_deviation_one_per_real_channel():
    matrix = covariance(3, 7.0)
    white = whitening_matrix(matrix)
    np.testing.assert_allclose(white @ matrix @ white.conj().T, 2 * np.eye(3), atol=1e-12)


def test_a_channel_without_noise_is_named():
    with pytest.raises(ReconError, match=r"channels without noise: \[1\]"):
        whitening_matrix(np.diag([1.0, 0.0, 2.0]).astype(complex))


@pytest.mark.parametrize(("acceleration", "k0_first", "tolerance"), [(1, 0, 0.02), (3, 0, 0.05), (2, 8, 0.25)])
def test_the_classical_image_is_the_truth_in_the_receivers_unit(acceleration, k0_first, tolerance):
    (problem,) = prepare(scan(acceleration, k0_first=k0_first, noise_sd=0.002))
    image, truth = classical(problem).abs(), visible(0.002)
    assert torch.quantile(image, 0.99) == pytest.approx(1, abs=0.05)
    assert (image * problem.scale - truth).norm() < tolerance * truth.norm()


def test_the_receivers_gain_changes_the_scale_and_nothing_else():
    (quiet,), (loud,) = prepare(scan()), prepare(scan(gain=1000.0))
    assert loud.scale == pytest.approx(quiet.scale, rel=1e-3)  # both in units of the noise
    assert_close(loud.kspace, quiet.kspace, rtol=1e-2, atol=1e-3)


def test_the_noise_level_is_what_the_data_hold():
    (problem,) = prepare(scan(acceleration=2, noise_sd=0.3))
    corner = problem.kspace[:, problem.sense.mask[:, 0]][:, :3, :6]
    assert torch.view_as_real(corner).std() == pytest.approx(float(problem.noise_sd), rel=0.15)


def test_the_signal_power_is_the_images():
    (problem,) = prepare(scan(acceleration=1, noise_sd=0.02))
    power = (classical(problem).abs().square().sum() / problem.support.sum()).item()
    assert problem.signal_power == pytest.approx(power, rel=0.1)


def test_coils_see_beyond_the_object_but_methods_without_a_prior_are_told_where_it_ends():
    (problem,) = prepare(scan(noise_sd=0.002))
    assert bool(problem.seen.all())
    assert not bool(problem.support.all())
    assert torch.equal((problem.supported.maps != 0).any(0), problem.support)
    assert_close(problem.supported.maps[:, problem.support], problem.sense.maps[:, problem.support])
    assert not classical(problem)[~problem.support].any()


def test_slices_of_a_volume_come_apart():
    problems = list(prepare(scan(n_z=4, noise_sd=0.002)))
    assert [p.z for p in problems] == [0, 1, 2, 3]
    brightness = [float(classical(p).abs().mean() * p.scale) for p in problems]
    np.testing.assert_allclose(np.array(brightness) / brightness[0], np.linspace(1, 0.5, 4), rtol=0.03)


def test_of_an_asymmetric_echo_only_what_was_acquired_is_used():
    (problem,) = prepare(scan(k0_first=8))
    assert not problem.sense.is_by_lines
    assert not problem.sense.mask[:, :8].any()


def test_redrawn_noise_is_added_where_data_were_acquired_at_the_measured_level():
    (problem,) = prepare(scan(noise_sd=0.05))
    noisier = redraw_noise(problem, 6, torch.Generator().manual_seed(0))
    added = noisier.kspace - problem.kspace
    acquired = problem.sense.mask.expand(N_Y, N_X)
    assert not added[..., ~acquired].any()
    assert torch.view_as_real(added[..., acquired]).std() == pytest.approx(float(problem.noise_sd), rel=0.02)
    assert_close(noisier.noise_sd, (problem.noise_sd * 2**0.5).expand(6))


def test_redrawn_noise_hangs_on_the_generator_alone():
    (problem,) = prepare(scan())
    draws = [redraw_noise(problem, 2, torch.Generator().manual_seed(seed)).kspace for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_full_scan_is_the_reference_of_its_undersampled_self():
    (problem,) = prepare(scan(acceleration=3, noise_sd=0.002))
    reference, image = fully_sampled(scan(acceleration=1, noise_sd=0.002), problem), classical(problem)
    assert (reference - image).norm() < 0.1 * reference.norm()


def test_nan_is_refused_and_said_where():
    broken = scan()
    data = broken.data.copy()
    data[0, 0, 3, 5] = np.nan
    with pytest.raises(ReconError, match="the k-space hold NaN"):
        next(prepare(replace(broken, data=data)))


def test_a_scan_without_calibration_lines_is_refused():
    bare = replace(scan(), calibrated=np.zeros((1, N_Y), bool))
    with pytest.raises(CalibrationError, match="calibration lines"):
        next(prepare(bare))


def test_a_slice_without_signal_is_refused():
    maps, mask = coil_maps(N_COILS, N_Y, N_X), line_mask(N_Y, 2, 4)
    with pytest.raises(ReconError, match="zero or not finite"):
        problem_from(torch.zeros(N_COILS, N_Y, N_X, dtype=torch.complex64), maps, mask)
