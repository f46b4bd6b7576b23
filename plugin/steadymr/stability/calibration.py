"""What scores mean: a calibration made from scans whose truth is known, and what it says about one more image.

A calibration speaks for the conditions it was made under, and for no others. For each method it holds

- a linear map from agreement, conditions and evidence to the logit of ``1 - SSIM``, SSIM being that between the
  delivered image and the fully sampled one, inside the tissue;
- for each acceleration a conformal correction (Vovk 2005; cross-conformal, Vovk 2015), so that the SSIM lies above the
  score in at least nine scans of ten that are like those it was made from;
- for each acceleration how many times the spread an interval must be to hold nine of ten tissue pixels on average
  (conformal risk control, arXiv 2208.02814; intervals for images, arXiv 2202.05265);
- for each piece of evidence how large it was on clean scans, and the level at which all alarms together sound on one
  clean scan in twenty.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from steadymr.errors import OutputError, SettingsError
from steadymr.stability.conditions import Conditions, Reach
from steadymr.stability.regression import Linear

KIND = "steadymr stability calibration"
FORMAT = 1  #: goes up when an older steadymr could misread the file

FLOOR_PERCENT = 0.5  #: of the local signal: no interval is narrower, whatever the samples agree on
#: Evidence that can sound an alarm, and its share of the false alarms relative to the others'. What only repeats how
#: far the samples differ has none, for the score says that already.
ALARM_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "sentinel": 4.0,
        "sentinel_line": 2.0,
        "sentinel_image": 4.0,
        "residual_coil": 1.0,
        "residual_band": 1.0,
        "misfit": 1.0,
        "misfit_column": 1.0,
        "tempering": 2.0,
        "differs_classical": 1.0,
        "differs_supervised": 1.0,
        "differs_diffusion": 1.0,
    }
)
SENTINEL_PREFIX = "sentinel"  #: evidence from withheld lines
ERROR_RATIOS = ("sentinel", "sentinel_image")  #: squared error over the one expected, where neither could be fitted
BEYOND_ALL = 3.0  #: standard deviations beyond the worst clean scan: no doubt is left
LOGIT_LIMIT = 9.0


@dataclass(frozen=True, slots=True)
class Cell:
    """The scans of one acceleration."""

    acceleration: float
    n_scans: int
    correction: float  #: added to the predicted logit of the error
    interval_scale: float  #: half the interval's width over the spread


@dataclass(frozen=True, slots=True)
class Alarm:
    """One piece of evidence on clean scans: its logarithm, less what conditions and agreement make one expect."""

    name: str
    expected: Linear
    sd: float
    clean: tuple[float, ...]  #: rising, in units of ``sd``

    def excess(self, features: Mapping[str, float]) -> float:
        """How far the evidence lies above what was expected, in standard deviations of clean scans."""
        return (features[evidence_feature(self.name)] - self.expected(features)) / self.sd

    def p_value(self, excess: float) -> float:
        """Chance that a clean scan shows as much or more (conformal; never 0)."""
        n_above = len(self.clean) - int(np.searchsorted(self.clean, excess, side="left"))
        return (1 + n_above) / (1 + len(self.clean))


@dataclass(frozen=True, slots=True)
class MethodCalibration:
    """What is known about the images of one method."""

    method: str
    reach: Reach
    error: Linear
    cells: tuple[Cell, ...]
    alarms: tuple[Alarm, ...]
    level: float  #: of `combined`, without sentinels
    level_with_sentinels: float | None  #: None if no calibration scan had any

    def cell(self, acceleration: float) -> Cell:
        """The scans of the acceleration that speaks for this one."""
        return min(self.cells, key=lambda cell: abs(cell.acceleration - acceleration))


@dataclass(frozen=True, slots=True)
class Calibration:
    """A file that ``steadymr calibrate`` made."""

    methods: tuple[MethodCalibration, ...]
    made_from: str  #: in words: which scans
    definition: str  #: version of the score's definition
    version: str  #: of steadymr
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Sounded:
    """An alarm that sounded."""

    name: str
    value: float
    p_value: float
    beyond_all: bool  #: far above every clean scan


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a calibration says about one image."""

    score: float
    interval_scale: float
    alarms: tuple[Sounded, ...]


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
    for name in method.error.weights:
        if name not in features:
            return f"the calibration needs the evidence {name.removeprefix('log ')!r}, which this scan does not give"
    cell = method.cell(conditions.acceleration)
    sounded, inflation = _sounded(method, features, evidence)
    logit = method.error(features) + cell.correction + inflation
    return Judgement(_share(-logit), cell.interval_scale * math.exp(inflation / 2), sounded)


def _sounded(
    method: MethodCalibration, features: Mapping[str, float], evidence: Mapping[str, float]
) -> tuple[tuple[Sounded, ...], float]:
    """The alarms that sound, and by how much the sentinels say that the error is larger than the samples make it."""
    there = [alarm for alarm in method.alarms if evidence_feature(alarm.name) in features]
    with_sentinels = method.level_with_sentinels is not None and any(map(is_sentinel, (alarm.name for alarm in there)))
    level = method.level_with_sentinels if with_sentinels else method.level
    sounded, inflation = [], 0.0
    for alarm in there:
        excess = alarm.excess(features)
        p_value = alarm.p_value(excess)
        if p_value / weight_of(alarm.name) >= (level or 0.0):
            continue
        sounded.append(Sounded(alarm.name, evidence[alarm.name], p_value, excess > alarm.clean[-1] + BEYOND_ALL))
        if alarm.name in ERROR_RATIOS:
            inflation = max(inflation, excess * alarm.sd)
    return tuple(sounded), inflation


def features_of(conditions: Conditions, agreement: float, evidence: Mapping[str, float]) -> dict[str, float]:
    """What the linear maps see: logarithms, so that factors add."""
    return {
        **condition_features(conditions),
        "disagreement": logit(1 - agreement),
        **{evidence_feature(name): _log(value) for name, value in evidence.items() if math.isfinite(value)},
    }


def condition_features(conditions: Conditions) -> dict[str, float]:
    """The conditions as numbers."""
    return {
        "log noise": math.log(conditions.noise_sd),
        "log acceleration": math.log(conditions.acceleration),
        "log coils": math.log(conditions.n_coils),
        "log pixel": math.log(conditions.pixel_mm),
    }


def evidence_feature(name: str) -> str:
    """What a piece of evidence is called among the features."""
    return f"log {name}"


def is_sentinel(name: str) -> bool:
    """Whether this evidence comes from sentinel lines."""
    return name.startswith(SENTINEL_PREFIX)


def weight_of(name: str) -> float:
    """How many false alarms this evidence may cause, relative to others."""
    return ALARM_WEIGHTS.get(name, 1.0)


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
        error=Linear(**content["error"]),
        cells=tuple(Cell(**cell) for cell in content["cells"]),
        alarms=tuple(
            Alarm(one["name"], Linear(**one["expected"]), one["sd"], tuple(one["clean"])) for one in content["alarms"]
        ),
        level=content["level"],
        level_with_sentinels=content["level_with_sentinels"],
    )
