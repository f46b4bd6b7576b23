from __future__ import annotations

import numpy as np
import pytest
import torch
from attacks import full_kspace, problem
from laws import assert_close
from scanner import coil_maps

from steadymr.audit.attack import worst_case
from steadymr.audit.damage import (
    damage_left,
    disarming_lines,
    energy_by_line,
    energy_by_region,
    recommend,
    tiles,
    with_lines,
)
from steadymr.audit.norms import Budget
from steadymr.audit.surrogates import classical_surrogate
from steadymr.recon.methods import classical
from steadymr.recon.noise import complex_normal

N = 32


def wave(line: int, amplitude: float = 1.0) -> torch.Tensor:
    """An image whose k-space is one sample of line ``line``."""
    y = torch.arange(N) - N // 2
    return amplitude * torch.exp(2j * torch.pi * (line - N // 2) * y / N)[:, None].expand(N, N).to(torch.complex64)


def sampled(made) -> np.ndarray:
    return made.sense.mask[:, 0].numpy()


def test_energy_by_line_sums_to_the_energy_of_the_change():
    change = complex_normal((N, N), torch.Generator().manual_seed(0), torch.device("cpu"))
    lines = energy_by_line(change, coil_maps(4, N, N))
    assert lines.sum() == pytest.approx(float(change.abs().square().sum()), rel=1e-4)


def test_the_energy_of_a_wave_lies_on_its_line():
    lines = energy_by_line(wave(20), coil_maps(1, N, N).abs().to(torch.complex64))
    assert int(lines.argmax()) == 20
    assert lines[20] == pytest.approx(N * N, rel=1e-4)


def test_energy_by_region_is_the_energy_of_each_tile():
    change, labels = torch.zeros(N, N, dtype=torch.complex64), tiles((N, N), 4)
    change[0, 0], change[9, 30] = 3, 4j
    energy = energy_by_region(change, labels)
    assert len(energy) == 16
    assert energy[[0, 7]] == pytest.approx([9, 16])
    assert energy.sum() == pytest.approx(25)


def test_the_lines_that_disarm_two_waves_are_their_own_the_stronger_first():
    made = problem(acceleration=4, n_coils=1)
    hidden = [int(line) for line in np.flatnonzero(~sampled(made))]
    change = wave(hidden[2]) + wave(hidden[5], 2.0)
    change = change * made.sense.maps[0].conj()  # the map of one coil is a phase
    found = disarming_lines(made, change, 2)
    assert found.lines == (hidden[5], hidden[2])
    assert found.share_left[0] == pytest.approx(0.2, abs=0.02)
    assert found.share_left[1] < 0.01


def test_acquiring_the_advised_lines_disarms_a_worst_case_of_cg_sense():
    made = problem(acceleration=3)
    surrogate = classical_surrogate(made)
    found = worst_case(
        made, surrogate, budget=Budget(0.03), generator=torch.Generator().manual_seed(0), n_steps=15, n_restarts=1
    )
    images = surrogate(torch.stack([made.kspace, made.kspace + found.delta]))
    advice = disarming_lines(made, images[1] - images[0], 4)
    full = full_kspace(4, N, N) / made.scale
    others = np.argsort(np.where(sampled(made), np.inf, energy_by_line(images[1] - images[0], made.sense.maps)))[:4]
    left = damage_left(made, found.delta, advice.lines, full, classical)
    assert left < 0.3
    assert left < 0.5 * damage_left(made, found.delta, others.tolist(), full, classical)


def test_with_lines_adds_the_measurement_and_keeps_what_was_there():
    made = problem(acceleration=4)
    full = full_kspace(4, N, N) / made.scale
    line = int(np.flatnonzero(~sampled(made))[0])
    more = with_lines(made, [line, N // 2], full)
    assert more.sense.mask.sum() == made.sense.mask.sum() + 1
    assert_close(more.kspace[:, line], full[:, line])
    assert_close(more.kspace[:, made.sense.mask[:, 0]], made.kspace[:, made.sense.mask[:, 0]])


def test_advice_names_the_hidden_lines_with_the_most_energy_and_as_many_lines_as_now():
    made = problem(acceleration=4, n_coils=1, n_centre=6)
    now = sampled(made)
    changes = [wave(20, 3.0) + wave(11, 2.0) + wave(16, 9.0), wave(20, 3.0) + wave(29)]
    maps = [torch.ones(1, N, N, dtype=torch.complex64)] * 2
    advice = recommend(changes, maps, now, n_sentinels=3)
    hidden = sorted((line for line in (20, 11, 29) if not now[line]), key=lambda line: -advice.line_energy[line])
    assert advice.sentinels[: len(hidden)] == tuple(hidden)
    assert advice.line_energy[20] == pytest.approx((9 / 94 + 9 / 10) / 2, rel=1e-3)
    assert int(advice.sampled.sum()) == int(now.sum())
    assert np.diff(np.flatnonzero(advice.sampled)).max() <= 8  # no half of k-space is left out
    assert not now[list(advice.sentinels)].any()
    assert advice.line_energy.sum() == pytest.approx(1)
    assert advice.n_calibration <= N // 3 + 1
