"""What a calibrated score promises: coverage, false alarms, and silence outside what was calibrated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibrations import (
    CONDITIONS,
    N_PIXELS,
    SENTINELS,
    calibration_of,
    clean_and_harmed,
    observation,
    observations,
)

from steadymr.errors import SettingsError
from steadymr.stability.calibration import Calibration, Judgement, features_of, judge, load, logit, write
from steadymr.stability.conditions import anatomy_name
from steadymr.stability.fit import Observation, fit_method, sure_quantile
from steadymr.stability.intervals import FACTORS, SCALES, fit_intervals, missed_at, misses, smallest_factor
from steadymr.stability.regression import Linear, cross_residuals, fit_linear, fit_neighbours


def judged(one: Observation) -> Judgement:
    found = judge(calibration_of(300), one.conditions, one.agreement, one.evidence)
    assert isinstance(found, Judgement)
    return found


def test_nine_scans_of_ten_lie_above_their_score() -> None:
    """The bound holds on scans that no one has fitted anything to, and is not idle either."""
    new = observations(400, seed=7)
    covered = np.mean([one.ssim >= judged(one).score for one in new])
    assert 0.9 <= covered < 0.99


def test_the_score_ranks_scans_as_their_true_ssim_does() -> None:
    """Agreement and evidence together order scans by error."""
    new = observations(200, seed=8)
    ranks = [np.argsort(np.argsort(values)) for values in ([judged(one).score for one in new], [o.ssim for o in new])]
    assert np.corrcoef(*ranks)[0, 1] > 0.85


def test_an_alarm_sounds_on_some_clean_scans_but_on_no_more_than_one_in_twenty() -> None:
    """The alarm keeps to the false alarms it was given, on scans that no one has fitted anything to."""
    alarms = np.mean([judged(one).alarm is not None for one in observations(600, seed=9)])
    assert 0.01 <= alarms <= 0.05


def test_of_few_clean_scans_the_strangest_is_the_alarms_level() -> None:
    """It must be able to sound, however few scans a site has."""
    method = calibration_of(30).methods[0]
    alike = method.clean.alike(features_of(replace(CONDITIONS, noise_sd=0.05), 0.9, {}))
    for reading in method.readings:
        assert reading.level(alike) == max(reading.strange)


def test_a_deviation_on_the_sentinels_sounds_and_lowers_the_score() -> None:
    """What all samples share and the withheld lines contradict costs score, though the samples agree."""
    clean = observation(np.random.default_rng(3))
    assert judged(clean).alarm is None
    attacked = replace(clean, evidence={**clean.evidence, **dict.fromkeys(SENTINELS, 40.0)})
    alarm = judged(attacked).alarm
    assert alarm is not None
    assert {witness.name for witness in alarm.witnesses} >= {"sentinel", "sentinel_image"}
    assert alarm.beyond_all
    assert alarm.factor > 5
    assert judged(attacked).score < judged(clean).score - 0.1
    assert judged(attacked).interval_scale > judged(clean).interval_scale


def test_of_what_no_clean_scan_showed_the_most_deviant_is_named_first() -> None:
    """A reader sees three witnesses: those that tell, and not those that come first in the alphabet."""
    clean = observation(np.random.default_rng(3))
    faulty = replace(clean, evidence={**clean.evidence, "misfit": 5.0, "residual_band": 40.0, "sentinel": 10.0})
    alarm = judged(faulty).alarm
    assert alarm is not None
    assert [witness.name for witness in alarm.witnesses] == ["residual_band", "sentinel", "misfit"]


def test_a_scan_without_sentinels_is_judged_without_them() -> None:
    """There is a reading for what is left, with a bound of its own that holds."""
    evidence = ("misfit", "residual_band")
    new = [replace(o, evidence={name: o.evidence[name] for name in evidence}) for o in observations(400, seed=10)]
    assert 0.9 <= np.mean([one.ssim >= judged(one).score for one in new]) < 0.99


def test_evidence_unlike_that_of_clean_scans_sounds_though_it_tells_of_no_error() -> None:
    """A scanner's fault may show in the data and not yet in the image: the alarm does not wait for it."""
    clean = observation(np.random.default_rng(3))
    faulty = replace(clean, evidence={**clean.evidence, "misfit": 9.0})
    alarm = judged(faulty).alarm
    assert alarm is not None
    assert [witness.name for witness in alarm.witnesses] == ["misfit"]
    assert alarm.factor < 1.5
    assert judged(faulty).score == pytest.approx(judged(clean).score, abs=0.05)


def test_what_is_strange_is_judged_by_clean_scans_of_that_acceleration() -> None:
    """Evidence that scatters widely at one acceleration does not hide what is rare at another."""
    rng = np.random.default_rng(15)

    def scattered(one: Observation) -> Observation:
        """Its residual by patterns scatters ten times as much at R = 2."""
        value = 1 + (0.2 if one.conditions.acceleration == 2.0 else 0.02) * abs(rng.standard_normal())
        return replace(one, evidence={**one.evidence, "residual_mode": float(value)})

    calibration = Calibration((fit_method([scattered(one) for one in clean_and_harmed(300)]),), "drawn", "2", "0")
    sounded = []
    for acceleration in (2.0, 4.0):
        clean = observation(np.random.default_rng(3), acceleration=acceleration)
        strange = {**clean.evidence, "residual_mode": 1.2}
        found = judge(calibration, clean.conditions, clean.agreement, strange)
        assert isinstance(found, Judgement)
        sounded.append(found.alarm is not None)
    assert sounded == [False, True]


def test_a_sentinel_that_could_not_be_measured_is_as_if_there_were_none() -> None:
    """The scan is judged by what is left."""
    clean = observation(np.random.default_rng(3))
    unknown = replace(clean, evidence={**clean.evidence, "sentinel_pattern": float("nan")})
    without = {name: value for name, value in clean.evidence.items() if not name.startswith("sentinel")}
    assert judged(unknown) == judged(replace(clean, evidence=without))


def test_what_the_line_misses_is_learned_from_scans_that_were_alike() -> None:
    """Where two pieces of evidence matter only together, no line says so."""

    def twisted(one: Observation) -> Observation:
        """Its error follows the product of noise and misfit."""
        noise, misfit = np.log(one.conditions.noise_sd) + 4, np.log(one.evidence["misfit"]) / 0.2
        return replace(one, ssim=float(1 - np.exp(-3 + 0.7 * noise * misfit)))

    seen, new = ([twisted(one) for one in observations(n, seed=seed)] for n, seed in ((300, 13), (200, 14)))
    error = fit_method(seen).readings[0].error
    features = [features_of(one.conditions, one.agreement, one.evidence) for one in new]
    truth = np.array([logit(1 - one.ssim) for one in new])
    by_line, by_both = (
        truth - [line(one) for one in features] for line in (lambda f: error(f) - error.missed(f), error)
    )
    assert np.std(by_both) < 0.6 * np.std(by_line)


def test_harm_that_only_sentinels_show_lowers_the_score_by_what_it_costs() -> None:
    """Scores of clean and harmed scans rank together, though agreement says nothing of the harm."""
    mixed = [*observations(200, seed=11), *observations(200, seed=11, harmed=True)]
    ranks = [np.argsort(np.argsort(v)) for v in ([judged(o).score for o in mixed], [o.ssim for o in mixed])]
    assert np.corrcoef(*ranks)[0, 1] > 0.85
    flagged = [judged(one).alarm is not None for one in mixed if one.harmed and one.evidence["sentinel"] > 3]
    assert np.mean(flagged) > 0.9


def test_a_few_scans_beyond_recognition_do_not_set_the_slope() -> None:
    """Harm that ruins images without a trace makes evidence look worthless, unless what a scan may say is limited."""
    ruined = [replace(one, ssim=0.02) for one in observations(30, seed=12)]
    scans = clean_and_harmed(300)
    weights = [
        fit_method(given).readings[0].error.added.weights["sentinel_image"]
        for given in (scans, [*scans, *(replace(one, harm="ruined") for one in ruined)])
    ]
    assert weights[1] > 0.8 * weights[0]


def test_a_calibration_without_harmed_scans_cannot_learn_from_sentinels() -> None:
    """On clean scans alone they say nothing of the error, so the score hardly follows them."""
    blind = fit_method(observations(300)).readings[0].error.added.weights
    seeing = fit_method(clean_and_harmed(300)).readings[0].error.added.weights
    total = [weights.get("sentinel_image", 0.0) for weights in (blind, seeing)]
    assert total[0] < 0.1 < 0.7 < total[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"anatomy": ""}, "nobody stated the body part"),
        ({"anatomy": "knee"}, "the body part is knee"),
        ({"acceleration": 3.0}, "the acceleration is 3.0, and calibrated are 2, 4"),
        ({"n_coils": 32}, "32 coils"),
        ({"noise_sd": 0.5}, "the noise is 0.5 of the signal"),
        ({"pixel_mm": 0.4}, "pixels are 0.4 mm"),
        ({"prior": "other"}, "the prior's weights are other"),
        ({"model": "other"}, "the method's weights are other"),
        ({"sampler": "levels 3"}, "drawn with levels 3"),
        ({"reconstruction": "iterations 9"}, "made with iterations 9"),
        ({"method": "supervised"}, "no calibration is for the method supervised"),
    ],
)
def test_outside_what_was_calibrated_there_is_a_sentence_instead(change: dict[str, object], words: str) -> None:
    """One condition that differs is enough, and it is named."""
    found = judge(calibration_of(60), replace(CONDITIONS, **change), 0.95, observations(1)[0].evidence)
    assert isinstance(found, str)
    assert words in found


def test_evidence_that_the_score_needs_must_be_there() -> None:
    """A score is never made from half of what it was calibrated with."""
    found = judge(calibration_of(60), CONDITIONS, 0.95, {})
    assert found == "the calibration needs the evidence 'misfit', which this scan does not give"


def test_no_calibration_no_score() -> None:
    """Without a file there is a sentence."""
    assert judge(None, CONDITIONS, 0.99, {}) == "there is no calibration"


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    """And its checksum is that of its content."""
    written = write(calibration_of(60), tmp_path / "sub" / "mine.json")
    assert load(tmp_path / "sub" / "mine.json") == written
    assert written.methods == calibration_of(60).methods
    assert len(written.sha256) == 64


def test_a_calibration_that_was_changed_is_refused(tmp_path: Path) -> None:
    """One digit is enough."""
    write(calibration_of(60), tmp_path / "mine.json")
    content = json.loads((tmp_path / "mine.json").read_text())
    content["methods"][0]["readings"][0]["cells"][0]["correction"] += 1
    (tmp_path / "mine.json").write_text(json.dumps(content))
    with pytest.raises(SettingsError, match="was changed since it was written"):
        load(tmp_path / "mine.json")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": "steadymr stability calibration", "format": 99}'])
def test_what_is_no_calibration_is_refused(tmp_path: Path, content: str) -> None:
    """In one sentence."""
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(SettingsError):
        load(tmp_path / "x.json")


def test_too_few_scans_are_refused() -> None:
    """A bound from a handful of scans would be none."""
    with pytest.raises(SettingsError, match="needs 15 images of each acceleration"):
        fit_method(observations(20))


def test_scans_of_two_kinds_are_not_calibrated_together() -> None:
    """Two sets of weights make two calibrations."""
    mixed = [
        replace(one, conditions=replace(one.conditions, prior=str(i % 2))) for i, one in enumerate(observations(60))
    ]
    with pytest.raises(SettingsError, match="must share"):
        fit_method(mixed)


@pytest.mark.parametrize(("n", "rank"), [(15, 15), (29, 29), (64, 62), (96, 92)])
def test_the_bound_leaves_room_for_the_luck_of_few_scans(n: int, rank: int) -> None:
    """Binomial tails: 0.9^29 < 0.05, and of 96 four may lie above; of fewer than 29 the worst has to do."""
    assert sure_quantile([float(i) for i in range(1, n + 1)], 0.1, 0.95) == rank


def test_nineteen_calibrations_of_twenty_hold_what_they_promise() -> None:
    """Of uniform numbers the quantile is the share below it; one rank lower would not do."""
    drawn = np.random.default_rng(0).random((2000, 96))
    held = [sure_quantile(list(one), 0.1, 0.95) >= 0.9 for one in drawn]
    assert 0.95 <= np.mean(held) < 0.98
    assert np.mean(np.sort(drawn)[:, 90] >= 0.9) < 0.95


def test_intervals_hold_nine_pixels_of_ten_on_new_images() -> None:
    """Errors twice the spread in size need a factor, and the one found serves images that it was not found on."""
    rng = np.random.default_rng(5)
    factor = smallest_factor([misses(*_pixels(rng)) for _ in range(60)], [2.0] * 60)
    missed = [missed_at(misses(*_pixels(rng)), 2 * factor) for _ in range(100)]
    assert 0.04 <= np.mean(missed) <= 0.11


def test_intervals_are_wider_where_the_spread_tells_less_of_the_error() -> None:
    """Noise of the full scan, which no sample knows, weighs more in noisy scans; each level has its nine of ten."""
    rng = np.random.default_rng(6)

    def drawn(n: int) -> tuple[list[dict[str, float]], list[tuple[float, ...]]]:
        noise = [float(np.log(rng.choice([1.0, 3.0]))) for _ in range(n)]
        return [{"log noise": one} for one in noise], [misses(*_pixels(rng, np.exp(one))) for one in noise]

    features, missed = drawn(80)
    found = fit_intervals(features, missed, ["log noise"], [str(i) for i in range(80)], {4.0: list(range(80))})
    for level in (0.0, np.log(3.0)):
        held = [
            1 - missed_at(one, found.scale(feature, 4.0))
            for feature, one in zip(*drawn(80), strict=True)
            if feature["log noise"] == pytest.approx(level)
        ]
        assert 0.88 <= np.mean(held) <= 0.96


def test_an_interval_narrower_than_any_that_was_tried_counts_as_missing_everything() -> None:
    """Nothing is known of it, and too few misses would be a promise."""
    missed = tuple(0.0 for _ in SCALES)
    assert [missed_at(missed, scale) for scale in (SCALES[0] / 2, SCALES[0], SCALES[-1] * 2)] == [1.0, 0.0, 0.0]


def test_where_no_factor_is_enough_the_widest_is_taken() -> None:
    """An interval that misses everything cannot be made right, and must not become narrow."""
    assert smallest_factor([tuple(1.0 for _ in SCALES)] * 20, [1.0] * 20) == FACTORS[-1]


def _pixels(rng: np.random.Generator, more: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """An image, its truth, a spread that tells half the error or less, and the signal."""
    truth = np.full((N_PIXELS, N_PIXELS), 100.0, np.float32)
    spread_percent = rng.uniform(1, 5, truth.shape).astype(np.float32)
    error = 2 * more * spread_percent * rng.standard_normal(truth.shape)
    return (truth + error).astype(np.float32), truth, spread_percent, truth.astype(float)


def test_weights_of_rising_features_are_never_negative() -> None:
    """More evidence against an image never raises its score, whatever chance made of the calibration scans."""
    rng = np.random.default_rng(0)
    features = [{"a": float(a), "b": float(b)} for a, b in rng.standard_normal((50, 2))]
    targets = [2 * one["a"] - one["b"] for one in features]
    free, held = fit_linear(features, targets, ["a", "b"]), fit_linear(features, targets, ["a", "b"], ["a", "b"])
    assert free.weights["b"] == pytest.approx(-1, abs=0.1)
    assert held.weights.get("b", 0.0) >= 0
    assert held.weights["a"] > 1


def test_a_line_is_found_again() -> None:
    """Intercept and weight of data without noise; the residuals of the folds are then small."""
    features = [{"x": i / 10} for i in range(40)]
    targets = [3 - 2 * one["x"] for one in features]
    line = fit_linear(features, targets, ["x"])
    assert isinstance(line, Linear)
    assert line({"x": 1.0}) == pytest.approx(1.0, abs=0.1)
    assert np.abs(cross_residuals(features, targets, ["x"], [str(i) for i in range(40)])).max() < 0.3


def test_neighbours_say_what_they_had_and_nothing_far_away() -> None:
    """A case is believed to the share that doubt leaves it; what is far from all cases is told nothing."""
    features = [{"x": float(i % 2), "y": 10.0 * (i % 4)} for i in range(8)]
    near = fit_neighbours(features, [2.0, 0.0, 0.0, 0.0] * 2, ["x", "y"])
    assert near({"x": 0.0, "y": 0.0}) == pytest.approx(2.0, abs=0.8)
    assert abs(near({"x": 1.0, "y": 30.0})) < 0.5
    alone = fit_neighbours([{"x": 0.0}, {"x": 1.0}, {"x": 100.0}], [0.0, 0.0, 1.0], ["x"])
    assert alone({"x": -1e6}) == pytest.approx(0.0, abs=0.1)
    with pytest.raises(KeyError):
        near({"x": 0.0})


def test_a_group_is_never_on_both_sides_of_a_split() -> None:
    """A model that had seen a group's other members would know its offset."""
    features = [{"x": float(i % 2)} for i in range(40)]
    offsets = [10.0 * (i // 20) for i in range(40)]
    together = cross_residuals(features, offsets, ["x"], [str(i // 20) for i in range(40)])
    assert np.abs(together).min() > 9


@pytest.mark.parametrize(
    ("stated", "name"), [("HEAD", "head"), ("Brain", "head"), ("KNEE", "knee"), ("", ""), (" c_spine ", "cspine")]
)
def test_body_parts_have_one_name(stated: str, name: str) -> None:
    """Upper case, lower case and synonyms are the same place."""
    assert anatomy_name(stated) == name
