"""What holds for every perturbation, whatever it does."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from perturb_scans import energy, scan, strong

from steadymr.perturb import PERTURBATIONS, Perturbation, apply, at_zero, parameters_of
from steadymr.types import KSpace

SCANS = {
    "fully sampled": {},
    "accelerated, asymmetric echo": {"acceleration": 2, "k0_first": 5},
    "separate calibration, two slices": {"acceleration": 2, "calibration": "separate", "k0_first": 3, "n_slices": 2},
    "one coil": {"n_coils": 1},
}
NEEDS_COILS = {"coil_fault"}  # a dead coil must leave another


@cache
def read_only(kind: str) -> KSpace:
    made = scan(**SCANS[kind])
    for array in (made.data, made.sampled, made.calibration, made.calibrated, made.noise_covariance):
        array.setflags(write=False)
    return made


@pytest.fixture(params=SCANS)
def kspace(request: pytest.FixtureRequest) -> KSpace:
    return read_only(request.param)


@pytest.fixture(params=PERTURBATIONS)
def name(request: pytest.FixtureRequest, kspace: KSpace) -> str:
    return request.param


def fitting(name: str, kspace: KSpace) -> Perturbation:
    perturbation = strong(name)
    return replace(perturbation, dead_coils=0) if name in NEEDS_COILS and kspace.data.shape[0] == 1 else perturbation


def perturb_afresh(name: str, kspace: KSpace) -> KSpace:
    return fitting(name, kspace)(kspace, np.random.default_rng(0))


perturb = cache(perturb_afresh)  # most laws look at the same result


def test_zero_strength_changes_nothing(name: str, kspace: KSpace) -> None:
    same = at_zero(strong(name))(kspace, np.random.default_rng(0))
    assert same.data.tobytes() == kspace.data.tobytes()
    assert same.calibration.tobytes() == kspace.calibration.tobytes()


def test_strength_changes_something(name: str, kspace: KSpace) -> None:
    changed = perturb(name, kspace)
    assert energy(changed.data - kspace.data) + energy(changed.calibration - kspace.calibration) > 0


def test_the_same_seed_gives_the_same_data(name: str, kspace: KSpace) -> None:
    one, other = perturb(name, kspace), perturb_afresh(name, kspace)
    assert one.data.tobytes() == other.data.tobytes()
    assert one.calibration.tobytes() == other.calibration.tobytes()


def test_the_input_is_not_modified(name: str, kspace: KSpace) -> None:
    before = kspace.data.copy(), kspace.calibration.copy()
    perturb_afresh(name, kspace)  # the arrays are read-only besides
    np.testing.assert_array_equal(kspace.data, before[0])
    np.testing.assert_array_equal(kspace.calibration, before[1])


def test_everything_but_samples_stays(name: str, kspace: KSpace) -> None:
    changed = perturb(name, kspace)
    touched = {"data", "calibration"} | ({"sampled"} if name == "sampling_error" else set())
    for item in fields(KSpace):
        if item.name not in touched:
            assert getattr(changed, item.name) is getattr(kspace, item.name)


def test_what_was_not_acquired_stays_zero(name: str, kspace: KSpace) -> None:
    changed = perturb(name, kspace)
    assert not changed.data[:, ~changed.sampled].any()
    assert not changed.calibration[:, ~changed.calibrated].any()
    assert not changed.data[..., : kspace.k0_range[0]].any()
    assert not changed.calibration[..., : kspace.k0_range[0]].any()


def test_a_line_acquired_once_stays_the_same_line_in_both_arrays(name: str, kspace: KSpace) -> None:
    both = kspace.sampled & kspace.calibrated
    was_once = np.array_equal(kspace.data[:, both], kspace.calibration[:, both])
    changed = perturb(name, kspace)
    once = np.array_equal(changed.data[:, both], changed.calibration[:, both])
    assert once == (was_once and name != "coil_sensitivity_error")


def test_samples_stay_finite_and_single_precision(name: str, kspace: KSpace) -> None:
    changed = perturb(name, kspace)
    assert np.isfinite(changed.data).all()
    assert changed.data.dtype == changed.calibration.dtype == np.complex64


def test_a_record_is_appended_and_its_seed_repeats_the_data(name: str, kspace: KSpace) -> None:
    perturbation = fitting(name, kspace)
    changed = apply(kspace, [perturbation], seed=7)
    (record,) = changed.perturbations
    assert record.name == name
    assert record.parameters == {item.name: float(getattr(perturbation, item.name)) for item in fields(perturbation)}
    again = perturbation(kspace, np.random.default_rng(record.seed))
    np.testing.assert_array_equal(again.data, changed.data)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_hundredth_of_a_strength_does_about_a_hundredth(name: str) -> None:
    kspace = scan(acceleration=2)
    facts = parameters_of(PERTURBATIONS[name])
    full = strong(name)
    counts = {key: 0 for key, item in facts.items() if item.whole and item.role == "strength"}
    full = replace(full, **counts)
    little = replace(full, **{
        key: getattr(full, key) / 100 for key, item in facts.items() if item.role == "strength" and not item.whole
    })  # fmt: skip
    big, small = (item(kspace, np.random.default_rng(0)) for item in (full, little))
    effect = energy(big.data - kspace.data) + energy(big.calibration - kspace.calibration)
    assert energy(small.data - kspace.data) + energy(small.calibration - kspace.calibration) <= 0.02 * effect
