"""How perturbations are named, checked, chained, recorded and documented."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from perturb_scans import scan, strong

from steadymr.errors import PerturbationError, SteadymrError
from steadymr.perturb import (
    OUTSIDE_RANGE,
    PERTURBATIONS,
    apply,
    list_perturbations,
    markdown_table,
    parameters_of,
    parse,
    parse_all,
    strengths_of,
)
from steadymr.perturb.motion import RigidMotion
from steadymr.perturb.receive import ThermalNoise

DOCUMENTATION = Path(__file__).parents[1] / "docs" / "perturbations.md"


def test_the_dictionary_spells_names_as_the_classes_do() -> None:
    assert len(PERTURBATIONS) == 14
    assert all(kind.name == name for name, kind in PERTURBATIONS.items())


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_each_kind_states_units_ranges_and_sources(name: str) -> None:
    kind = PERTURBATIONS[name]
    facts = parameters_of(kind)
    assert kind.principal in strengths_of(kind)
    assert kind().is_zero()
    assert kind().outside_range() == ()
    assert all(item.meaning and item.source and item.low <= item.high for item in facts.values())


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_docstrings_say_which_ranges_are_only_assumed(name: str) -> None:
    kind = PERTURBATIONS[name]
    assumed = any(item.assumption for key, item in parameters_of(kind).items() if key in strengths_of(kind))
    assert assumed == ("working assumption" in " ".join(kind.__doc__.split()))


def test_only_what_moves_the_object_says_so() -> None:
    assert {name for name, kind in PERTURBATIONS.items() if kind.moves_object} == {"rigid_motion", "off_resonance"}


def test_only_what_is_the_same_in_every_line_distorts() -> None:
    assert {name for name, kind in PERTURBATIONS.items() if kind.distorts} == {"off_resonance"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rigid_motion.translation_mm=2", RigidMotion(translation_mm=2.0)),
        ("rigid_motion.shots=4", RigidMotion(shots=4)),
        (" thermal_noise = 1.5 ", ThermalNoise(sigma=1.5)),
        ("thermal_noise=1e-1", ThermalNoise(sigma=0.1)),
    ],
)
def test_text_becomes_a_perturbation(text: str, expected: object) -> None:
    assert parse(text) == expected


def test_parameters_of_one_name_are_merged_at_its_first_place() -> None:
    texts = ["rigid_motion=2", "thermal_noise=1", "rigid_motion.rotation_deg=3"]
    assert parse_all(texts) == (RigidMotion(translation_mm=2.0, rotation_deg=3.0), ThermalNoise(sigma=1.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("motion=2", "no perturbation is called 'motion'; there are thermal_noise, .*rigid_motion"),
        ("rigid_motion.speed=2", "rigid_motion has no parameter 'speed'; it has translation_mm, rotation_deg"),
        ("thermal_noise", "written NAME=NUMBER"),
        ("thermal_noise=", "written NAME=NUMBER"),
        ("thermal_noise=much", "written NAME=NUMBER.*'thermal_noise=much'"),
        ("thermal_noise=nan", "must be a finite number"),
        ("thermal_noise=inf", "must be a finite number"),
        ("thermal_noise=-1", "must not be negative"),
        ("coil_fault.dead_coils=0.5", "must be a whole number"),
        ("", "no perturbation is called ''"),
    ],
)
def test_text_that_means_nothing_is_refused_with_a_reason(text: str, message: str) -> None:
    with pytest.raises(PerturbationError, match=message):
        parse(text)


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(SteadymrError, match="given twice"):
        parse_all(["thermal_noise=1", "thermal_noise.sigma=2"])


def test_a_strength_outside_its_range_is_built_with_a_warning_and_marked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        motion = parse("rigid_motion.translation_mm=50")
    assert "outside its plausible range, 0 to 5" in caplog.text
    assert motion.outside_range() == ("translation_mm",)
    assert motion.record(0).parameters[OUTSIDE_RANGE] == 1.0


def test_a_strength_within_its_range_is_neither_warned_of_nor_marked(caplog: pytest.LogCaptureFixture) -> None:
    motion = parse("gradient_delay.delay_us=-5")
    assert not caplog.text
    assert OUTSIDE_RANGE not in motion.record(0).parameters


def test_a_chain_is_applied_in_order_and_recorded_even_at_zero() -> None:
    kspace = scan()
    chain = parse_all(["adc.clip_percent=5", "thermal_noise=0", "gain_drift=2"])
    changed = apply(kspace, chain, seed=3)
    assert [record.name for record in changed.perturbations] == ["adc", "thermal_noise", "gain_drift"]
    by_hand = kspace
    for perturbation, record in zip(chain, changed.perturbations, strict=True):
        by_hand = perturbation(by_hand, np.random.default_rng(record.seed))
    np.testing.assert_array_equal(changed.data, by_hand.data)


def test_an_empty_chain_returns_the_scan_as_it_is() -> None:
    kspace = scan()
    assert apply(kspace, (), seed=0) is kspace


def test_each_perturbation_draws_from_a_generator_of_its_own() -> None:
    twice = apply(scan(), [ThermalNoise(sigma=1.0)] * 2, seed=0)
    in_two_steps = apply(apply(scan(), [ThermalNoise(sigma=1.0)], seed=0), [ThermalNoise(sigma=1.0)], seed=0)
    assert twice.perturbations[0].seed != twice.perturbations[1].seed
    np.testing.assert_array_equal(twice.data, in_two_steps.data)


def test_another_seed_gives_other_noise() -> None:
    one, other = (apply(scan(), [ThermalNoise(sigma=1.0)], seed=seed).data for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_the_list_survives_json_and_names_every_parameter() -> None:
    rows = list_perturbations()
    assert json.loads(json.dumps(rows)) == rows
    named = {(row["name"], item["name"]) for row in rows for item in row["parameters"]}
    assert named == {(name, key) for name, kind in PERTURBATIONS.items() for key in parameters_of(kind)}


def test_the_documentation_holds_the_table_of_the_code() -> None:
    assert markdown_table() in DOCUMENTATION.read_text(encoding="utf-8")


def test_records_hold_plain_numbers() -> None:
    for name in PERTURBATIONS:
        record = strong(name).record(1)
        assert all(type(value) is float for value in record.parameters.values())
