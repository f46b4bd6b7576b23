"""Imperfections of encoding against closed forms."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from perturb_scans import back, energy, grid, scan, transform

from steadymr.errors import PerturbationError
from steadymr.perturb import Perturbation, build
from steadymr.perturb.encode import dephased
from steadymr.perturb.estimate import encoded
from steadymr.types import KSpace


def perturbed(perturbation: Perturbation, kspace: KSpace, seed: int = 0) -> KSpace:
    return perturbation(kspace, np.random.default_rng(seed))


def images(kspace: KSpace) -> np.ndarray:
    return back(kspace.data)


def close(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    return energy(one - other) <= tolerance * energy(other)


def test_a_gradient_delay_is_a_linear_phase_along_the_readout() -> None:
    kspace = scan()
    late = perturbed(build("gradient_delay", {"delay_us": 5.0, "dwell_us": 20.0}), kspace)
    _, x = grid(32)
    assert close(images(late), images(kspace) * np.exp(2j * np.pi * 0.25 * x), 1e-5)


def test_a_delay_of_one_dwell_time_moves_samples_by_one() -> None:
    kspace = scan(acceleration=2)
    late = perturbed(build("gradient_delay", {"delay_us": 20.0, "dwell_us": 20.0}), kspace)
    assert close(late.data, np.roll(kspace.data, 1, axis=-1), 1e-5)


def test_constant_off_resonance_moves_the_object_along_the_readout() -> None:
    kspace = scan()
    df_of_two_pixels = 2 / (20e-6 * 32)
    off = perturbed(build("off_resonance", {"frequency_hz": -df_of_two_pixels, "dwell_us": 20.0}), kspace)
    assert close(images(off), np.roll(images(kspace), 2, axis=-1), 1e-4)


def test_time_segmentation_equals_the_sum_over_all_points() -> None:
    n, dwell_s = 16, 150e-6
    rng = np.random.default_rng(0)
    image = (rng.standard_normal((1, 1, n, n, 2)) @ [1, 1j]).astype(np.complex64)
    map_hz = np.add(*grid(n)) * 128 + 20
    time_s = (np.arange(n) - n // 2) * dwell_s
    y, x = grid(n)
    wave = np.exp(-2j * np.pi * (np.arange(n) - n // 2)[:, None] * x)  # k0 x
    turn = np.exp(2j * np.pi * map_hz * time_s[:, None, None])  # k0 y x
    hybrid = np.einsum("yx,nx,nyx->yn", image[0, 0], wave, turn)
    direct = np.exp(-2j * np.pi * (np.arange(n) - n // 2)[:, None] * y.T) @ hybrid / n
    encode = partial(encoded, image, lines=np.ones((1, n), dtype=bool))
    segmented = dephased(encode, encode(np.ones((1, 1), dtype=np.complex64)), map_hz, time_s, 6)
    assert close(segmented[0], direct, 1e-3)


def test_five_segments_do_what_their_documentation_says() -> None:
    n = 128
    time_s = (np.arange(n) - n // 2) * 40e-6
    point = np.zeros((1, 1, n, n), dtype=np.complex64)
    point[..., n // 2, :] = 1
    lines = np.ones((1, n), dtype=bool)
    for hz, error in ((64.0, 1e-4), (164.0, 4e-3)):
        map_hz = np.tile(np.linspace(-hz, hz, n), (n, 1))
        wave = np.exp(-2j * np.pi * np.outer(np.arange(n) - n // 2, np.arange(n) - n // 2) / n)
        direct = (wave * np.exp(2j * np.pi * np.outer(time_s, map_hz[0]))).sum(axis=1) / n
        encode = partial(encoded, point, lines=lines)
        at_rest = encode(np.ones((1, 1), dtype=np.complex64))
        assert close(dephased(encode, at_rest, map_hz, time_s, 5)[0, 0], direct, error)


def test_no_more_segments_are_computed_than_a_weak_map_needs() -> None:
    n, times = 32, []
    time_s = (np.arange(n) - n // 2) * 20e-6
    weak = np.tile(np.linspace(-20, 20, n), (n, 1))

    at_rest = np.zeros((1, 1, n), dtype=np.complex64)

    def encode(factor: np.ndarray) -> np.ndarray:
        times.append(factor)
        return at_rest

    dephased(encode, at_rest, weak, time_s, 16)
    assert len(times) == 2  # and the object at rest is the third


def test_a_map_on_an_accelerated_scan_comes_close_to_the_same_map_on_the_full_scan() -> None:
    field = build("off_resonance", {"inhomogeneity_hz": 64.0, "dwell_us": 80.0})
    full, part = scan(64, n_coils=8), scan(64, n_coils=8, acceleration=2, n_calibration=12)
    change = perturbed(field, full, seed=3).data - full.data
    estimated = perturbed(field, part, seed=3).data - part.data
    assert close(estimated[:, part.sampled], change[:, part.sampled], 0.15)


def test_a_map_stays_within_its_largest_off_resonance() -> None:
    weak, strong = (
        perturbed(build("off_resonance", {"inhomogeneity_hz": hz, "dwell_us": 20.0}), scan()).data
        for hz in (1e-3, 10.0)
    )
    turn = 2 * np.pi * 10 * 16 * 20e-6
    assert 0 < energy(strong - weak) <= turn * energy(weak)


def test_nyquist_ghost_has_the_magnitude_of_the_textbook_half_a_field_of_view_away() -> None:
    kspace = scan()
    ghosted = perturbed(build("nyquist_ghost", {"phase_rad": 0.2}), kspace)
    alone = images(kspace)
    expected = np.cos(0.1) * alone - 1j * np.sin(0.1) * np.roll(alone, 16, axis=-2)
    assert close(images(ghosted) * np.exp(-0.1j), expected, 1e-5)


def test_odd_lines_are_displaced_along_the_readout() -> None:
    kspace = scan()
    ghosted = perturbed(build("nyquist_ghost", {"shift_samples": 1.0}), kspace)
    assert close(ghosted.data[:, :, 1::2], np.roll(kspace.data[:, :, 1::2], 1, axis=-1), 1e-5)
    np.testing.assert_array_equal(ghosted.data[:, :, ::2], kspace.data[:, :, ::2])


def test_every_other_acquired_line_turns_where_lines_are_left_out() -> None:
    kspace = scan(acceleration=4, n_calibration=0)
    ghosted = perturbed(build("nyquist_ghost", {"phase_rad": 0.1}), kspace)
    angles = np.angle(ghosted.data[0, 0, kspace.sampled[0], 16] / kspace.data[0, 0, kspace.sampled[0], 16])
    np.testing.assert_allclose(angles, [0, 0.1] * 4, atol=1e-5)


def test_concomitant_phase_is_quadratic_and_keeps_magnitudes() -> None:
    kspace = scan()
    turned = perturbed(build("echo_phase", {"concomitant_rad": 1.0}), kspace)
    y, x = grid(32)
    assert close(images(turned), images(kspace) * np.exp(1j * ((2 * x) ** 2 + (2 * y) ** 2)), 1e-5)


def test_an_echo_shift_moves_k_space_by_whole_samples_and_lines() -> None:
    kspace = scan()
    shifted = perturbed(build("echo_phase", {"shift_samples": 2.0, "shift_lines": 1.0}), kspace)
    assert close(shifted.data, np.roll(kspace.data, (1, 2), axis=(-2, -1)), 1e-5)


def test_a_shifted_line_holds_its_neighbours_samples() -> None:
    kspace = scan(n_calibration=8)
    wrong = perturbed(build("sampling_error", {"shifted_lines": 1.0}), kspace)
    ((place,),) = np.nonzero(np.abs(wrong.data - kspace.data).sum(axis=(0, 1, 3)) > 0)
    assert close(wrong.data[:, :, place], np.roll(kspace.data, -1, axis=2)[:, :, place], 1e-3)
    assert not kspace.calibrated[0, place]


def test_swapped_lines_exchange_their_samples() -> None:
    kspace = scan(n_calibration=8)
    wrong = perturbed(build("sampling_error", {"swapped_pairs": 1.0}), kspace)
    ((one, other),) = np.nonzero((wrong.data != kspace.data).any(axis=(0, 1, 3)))
    np.testing.assert_array_equal(wrong.data[:, :, one], kspace.data[:, :, other])
    np.testing.assert_array_equal(wrong.data[:, :, other], kspace.data[:, :, one])


def test_a_missing_line_is_zero_and_still_counts_as_sampled() -> None:
    kspace = scan(acceleration=2)
    wrong = perturbed(build("sampling_error", {"missing_lines": 1.0}), kspace)
    ((place,),) = np.nonzero((wrong.data != kspace.data).any(axis=(0, 1, 3)))
    assert not wrong.data[:, :, place].any()
    np.testing.assert_array_equal(wrong.sampled, kspace.sampled)


def test_a_mask_off_by_one_moves_all_lines_but_calibration() -> None:
    kspace = scan(acceleration=4, n_calibration=6)  # k1 = 13 to 18 calibrate, 0, 4, 8, 12, 20, 24, 28 do not
    wrong = perturbed(build("sampling_error", {"mask_offset_lines": 1.0}), kspace)
    assert list(np.flatnonzero(wrong.sampled[0])) == [1, 5, 9, 13, 14, 15, 16, 17, 18, 21, 25, 29]
    np.testing.assert_array_equal(wrong.data[:, :, 21], kspace.data[:, :, 20])
    np.testing.assert_array_equal(wrong.data[:, :, 13:19], kspace.data[:, :, 13:19])


def test_a_mask_off_by_one_moves_everything_where_all_lines_calibrate() -> None:
    kspace = scan(n_calibration=32)
    wrong = perturbed(build("sampling_error", {"mask_offset_lines": -1.0}), kspace)
    np.testing.assert_array_equal(wrong.data[:, :, :-1], kspace.data[:, :, 1:])
    assert not wrong.sampled[0, -1]


def test_more_wrong_lines_than_lines_are_refused() -> None:
    with pytest.raises(PerturbationError, match="would spoil 99 lines, but only 22"):
        perturbed(build("sampling_error", {"missing_lines": 99.0}), scan())


@pytest.mark.parametrize("name", ["gradient_delay", "off_resonance"])
def test_a_dwell_time_of_zero_is_refused(name: str) -> None:
    strength = {"gradient_delay": "delay_us", "off_resonance": "frequency_hz"}[name]
    with pytest.raises(PerturbationError, match="dwell_us must be a positive time"):
        perturbed(build(name, {strength: 1.0, "dwell_us": 0.0}), scan())


def test_the_reference_transform_and_the_scan_agree_on_the_centre() -> None:
    flat = transform(np.ones((1, 8, 8)))
    assert np.argmax(np.abs(flat)) == 4 * 8 + 4
