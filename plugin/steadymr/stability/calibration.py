"""What scores mean: a calibration made from scans whose truth is known, and what it says about one more image.

A calibration speaks for the conditions it was made under, and for no others. It is made from clean scans and from
scans that were harmed on purpose, by imperfections, noise and worst cases. For each method, and for each set of
evidence that a scan can come with (a `Reading`), it holds

- the error that agreement and conditions let expect of a clean scan, as the logit of ``1 - SSIM``, SSIM being that
  between the delivered image and the fully sampled one, inside the tissue;
- what evidence adds to it where that is larger than agreement and conditions let expect: learned from harmed scans too,
  so that it tells of errors that all samples share;
- what both missed on the scans that were most like this one;
- how large evidence was on clean scans, given agreement and conditions, see `steadymr.stability.usual`. Where a few
  pieces, the `WITNESSES`, deviate from that by more, taken together, than on nearly all clean scans that are alike, an
  alarm sounds;
- for each acceleration a conformal correction (Vovk 2005; cross-conformal, Vovk 2015), so that the SSIM lies above the
  score in at least nine scans of ten that are clean and like those it was made from, and does so for 19 calibrations
  of 20 (training-conditional, Vovk 2012, arXiv 1209.2673);
- how many times the spread an interval must be to hold nine of ten tissue pixels on average, given conditions and
  agreement, with a factor for each acceleration (conformal risk control; intervals for images, arXiv 2202.05265).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from steadymr.errors import OutputError, SettingsError
from steadymr.stability.conditions import Conditions, Reach
from steadymr.stability.intervals import Factor, Intervals
from steadymr.stability.regression import Linear, Neighbours
from steadymr.stability.usual import CleanScans, Usual, chance, evidence_feature, level, strangeness

KIND = "steadymr stability calibration"
FORMAT = 8  #: goes up when an older steadymr could misread the file

#: Evidence that the error is read from beside the agreement, where all scans of a calibration have it.
TELLING = ("differs_supervised", "differs_diffusion", "residual_band")
#: Evidence that a scan has only if it was asked for: each of these may be missing, and there is a reading without.
OPTIONAL = ("sentinel_image", "tempering")
#: By what a scan is likened to those of a calibration, beside conditions and agreement.
LIKENESS = (
    *TELLING,
    "residual_mode",
    "out_of_step",
    "dispersion_unmeasured",
    "sentinel",
    "sentinel_pattern",
    *OPTIONAL,
)
#: What an alarm listens to, where a scan has it: each sees harm that others do not, and more of them would cost more in
#: level than they tell (chosen on scans for calibration).
WITNESSES = ("misfit", "residual_mode", "out_of_step", "deaf_coil", "sentinel_pattern")
LEAST_LEVEL = 1.0  #: standard deviations: less is never strange
BEYOND_ALL = 3.0  #: standard deviations beyond the worst clean scan: no doubt is left
WITNESS_P = 0.05  #: evidence rarer than that on clean scans is named beside an alarm
LOGIT_LIMIT = 9.0


@dataclass(frozen=True, slots=True)
class Cell:
    """The scans of one acceleration."""

    acceleration: float
    n_scans: int
    correction: float  #: added to the predicted logit of the error


@dataclass(frozen=True, slots=True)
class ErrorMap:
    """From features to the logit of ``1 - SSIM``: what is usual, what unusual evidence adds, what both miss."""

    usual: Linear  #: of clean scans, from conditions and agreement alone
    expected: Mapping[str, Linear]  #: the logarithm of each piece of evidence, likewise
    added: Linear  #: by evidence beyond the expected, by name
    missed: Neighbours  #: by that on scans that were most alike

    @property
    def needs(self) -> frozenset[str]:
        """The features without which nothing can be said."""
        return frozenset({*map(evidence_feature, self.expected), *self.missed.centre})

    def __call__(self, features: Mapping[str, float]) -> float:
        """The logit that is expected."""
        return self.usual(features) + self.excess(features) + self.missed(features)

    def excess(self, features: Mapping[str, float]) -> float:
        """What evidence adds to the usual error."""
        return self.added(
            {name: features[evidence_feature(name)] - line(features) for name, line in self.expected.items()}
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """What is made of the agreement and of one set of evidence."""

    error: ErrorMap
    cells: tuple[Cell, ...]
    witnesses: tuple[str, ...]  #: evidence that the alarm listens to
    strange: tuple[float, ...]  #: how strange the evidence was on each clean scan, see `usual.strangeness`
    false_alarms: float  #: share of clean scans of the like that are stranger than the alarm's level

    @property
    def needs(self) -> frozenset[str]:
        """The features without which nothing can be said."""
        return self.error.needs | {evidence_feature(name) for name in self.witnesses}

    def cell(self, acceleration: float) -> Cell:
        """The scans of the acceleration that speaks for this one."""
        return min(self.cells, key=lambda cell: abs(cell.acceleration - acceleration))

    def level(self, alike: Float64[np.ndarray, " clean"]) -> float:
        """The strangeness above which the alarm sounds.

        The quieter a scan, the more of what maps and prior miss stands above its noise, in some subjects far more than
        in others: only scans that are alike say what is strange.
        """
        return max(level(self.strange, alike, self.false_alarms), LEAST_LEVEL)


@dataclass(frozen=True, slots=True)
class MethodCalibration:
    """What is known about the images of one method."""

    method: str
    reach: Reach
    readings: tuple[Reading, ...]  #: the one with most evidence first
    clean: CleanScans
    usual: tuple[Usual, ...]  #: logarithms of evidence
    intervals: Intervals


@dataclass(frozen=True, slots=True)
class Calibration:
    """A file that ``steadymr calibrate`` made."""

    methods: tuple[MethodCalibration, ...]
    made_from: str  #: in words: which scans
    definition: str  #: version of the score's definition
    version: str  #: of steadymr
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Witness:
    """Evidence that is rare on clean scans."""

    name: str
    value: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """Evidence is as on few clean scans."""

    factor: float  #: how much more error all evidence speaks of than agreement, as a ratio of ``(1 - SSIM) / SSIM``
    p_value: float
    beyond_all: bool  #: far above every clean scan
    witnesses: tuple[Witness, ...]  #: the rarest first


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a calibration says about one image."""

    score: float
    interval_scale: float  #: half the interval's width over the spread
    strangeness: float  #: of all witnesses together, over the alarm's level; above 1 it sounds
    alarm: Alarm | None


def judge(
    calibration: Calibration | None, conditions: Conditions, agreement: float, evidence: Mapping[str, float]
) -> Judgement | str:
    """The calibrated score of one image, or a sentence that says which condition is not calibrated."""
    if calibration is None:
        return "there is no calibration"
    sentence = f"no calibration is for the method {conditions.method}"
    for method in calibration.methods:
        if method.method != conditions.method:
            continue
        missing = method.reach.missing(conditions)
        if not missing:
            return _judge(method, conditions, agreement, evidence)
        sentence = missing
    return sentence


def _judge(
    method: MethodCalibration, conditions: Conditions, agreement: float, evidence: Mapping[str, float]
) -> Judgement | str:
    features = features_of(conditions, agreement, evidence)
    readings = [one for one in method.readings if features.keys() >= one.needs]
    if not readings:
        name = min(method.readings[-1].needs - features.keys()).removeprefix(evidence_feature(""))
        return f"the calibration needs the evidence {name!r}, which this scan does not give"
    reading = readings[0]
    cell, excess = reading.cell(conditions.acceleration), reading.error.excess(features)
    alike = method.clean.alike(features)
    there = [one for one in method.usual if evidence_feature(one.name) in features]
    deviations = {one.name: one.deviation(features, alike) for one in there}
    strange = float(strangeness({name: np.array(deviations[name]) for name in reading.witnesses}))
    alarm, wider, limit = None, 1.0, reading.level(alike)
    if strange > limit:
        p_of_all, beyond_all = chance(strange, reading.strange, alike), strange > max(reading.strange) + BEYOND_ALL
        p_values = {one.name: one.p_value(features, alike) for one in there}
        alarm = Alarm(max(math.exp(excess), 1.0), p_of_all, beyond_all, _rare(p_values, deviations, evidence))
        wider = max(math.exp(excess / 2), 1.0)  # one less the SSIM grows with the square of small errors
    logit_of_error = reading.error(features) + cell.correction
    scale = method.intervals.scale(features, conditions.acceleration)
    return Judgement(_share(-logit_of_error), scale * wider, strange / limit, alarm)


def _rare(
    p_values: Mapping[str, float], deviations: Mapping[str, float], evidence: Mapping[str, float]
) -> tuple[Witness, ...]:
    """What is seldom seen on clean scans, the rarest first; among what none of them showed, what deviates most."""
    names = sorted(p_values, key=lambda name: (p_values[name], -deviations[name]))
    return tuple(Witness(name, evidence[name], p_values[name]) for name in names if p_values[name] <= WITNESS_P)


def features_of(conditions: Conditions, agreement: float, evidence: Mapping[str, float]) -> dict[str, float]:
    """What the linear maps see: logarithms, so that factors add."""
    return {
        **condition_features(conditions),
        "disagreement": logit(1 - agreement),
        **{evidence_feature(name): _log(value) for name, value in evidence.items() if math.isfinite(value)},
    }


def condition_features(conditions: Conditions) -> dict[str, float]:
    """The conditions as numbers.

    What is usual bends with the acceleration, whose square is among them therefore; and the more lines are missing, the
    less the noise counts, so their product is.
    """
    log_acceleration = math.log(conditions.acceleration)
    return {
        "log noise": math.log(conditions.noise_sd),
        "log acceleration": log_acceleration,
        "squared log acceleration": log_acceleration**2,
        "log noise x log acceleration": math.log(conditions.noise_sd) * log_acceleration,
        "log coils": math.log(conditions.n_coils),
        "log pixel": math.log(conditions.pixel_mm),
    }


def logit(share: float) -> float:
    """``log(share / (1 - share))``, limited to +-9."""
    bounded = min(max(share, 1e-9), 1 - 1e-9)
    return float(np.clip(math.log(bounded / (1 - bounded)), -LOGIT_LIMIT, LOGIT_LIMIT))


def _share(value: float) -> float:
    return 1 / (1 + math.exp(min(max(-value, -700.0), 700.0)))


def _log(value: float) -> float:
    return math.log(max(value, 1e-4))


def load(path: Path) -> Calibration:
    """Read a calibration.

    Raises SettingsError if it cannot be read, is something else, or was changed since it was written.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"the calibration {path} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("kind") != KIND or content.get("format") != FORMAT:
        raise SettingsError(f"{path} is no calibration of format {FORMAT}: make one with 'steadymr calibrate'")
    sha256 = content.pop("sha256", "")
    if checksum(content) != sha256:
        raise SettingsError(f"the calibration {path} was changed since it was written: its checksum does not match")
    methods = tuple(_method(one) for one in content["methods"])
    return Calibration(methods, content["made_from"], content["definition"], content["version"], sha256)


def write(calibration: Calibration, path: Path) -> Calibration:
    """Write a calibration with its checksum, and return it as it can be read back. Raises OutputError."""
    content: dict[str, Any] = {"kind": KIND, "format": FORMAT, **asdict(calibration)}
    del content["sha256"]
    content = json.loads(json.dumps(content))
    sha256 = checksum(content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".part")
        partial.write_text(json.dumps({**content, "sha256": sha256}) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"the calibration could not be written to {path}: {error.strerror}") from error
    return load(path)


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content in one canonical spelling."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _method(content: dict[str, Any]) -> MethodCalibration:
    reach: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content["reach"].items()
    }
    return MethodCalibration(
        method=content["method"],
        reach=Reach(**reach),
        readings=tuple(_reading(one) for one in content["readings"]),
        clean=CleanScans(**{name: tuple(values) for name, values in content["clean"].items()}),
        usual=tuple(_usual(one) for one in content["usual"]),
        intervals=_intervals(content["intervals"]),
    )


def _reading(content: dict[str, Any]) -> Reading:
    return Reading(
        error=_error_map(content["error"]),
        cells=tuple(Cell(**cell) for cell in content["cells"]),
        witnesses=tuple(content["witnesses"]),
        strange=tuple(content["strange"]),
        false_alarms=content["false_alarms"],
    )


def _error_map(content: dict[str, Any]) -> ErrorMap:
    missed = content["missed"]
    cases, weights = tuple(tuple(case) for case in missed["cases"]), tuple(missed["weights"])
    return ErrorMap(
        usual=Linear(**content["usual"]),
        expected={name: Linear(**line) for name, line in content["expected"].items()},
        added=Linear(**content["added"]),
        missed=Neighbours(missed["centre"], missed["scale"], cases, weights),
    )


def _intervals(content: dict[str, Any]) -> Intervals:
    return Intervals(Linear(**content["needed"]), tuple(Factor(**one) for one in content["factors"]))


def _usual(content: dict[str, Any]) -> Usual:
    return Usual(content["name"], Linear(**content["expected"]), tuple(content["excesses"]))
