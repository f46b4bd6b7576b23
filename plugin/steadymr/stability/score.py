"""The stability score, its maps and its verdict: defined here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy import ndimage

from steadymr.stability.calibration import Alarm, Calibration, Judgement, Witness, judge
from steadymr.stability.conditions import Conditions
from steadymr.stability.intervals import FLOOR_PERCENT
from steadymr.stability.metrics import ssim_map, tissue_mask
from steadymr.stability.regions import Region, regions_above
from steadymr.types import Image, SampleSet, StabilityReport, Verdict

DEFINITION = (
    "The scan was reconstructed several times by drawing from all images that fit the measured data, some of the draws "
    "with the scanner's own noise added once more. The score is a lower bound on the structural similarity (SSIM), "
    "inside the tissue, between the delivered image and the one that full sampling would have given: on nine scans of "
    "ten like those it was calibrated with, the true similarity is higher. It follows from how much the draws differ "
    "from the delivered image and from what else was looked at, listed as evidence. Where evidence is unlike "
    "that of clean scans an alarm says so, and the verdict is review at best. Under conditions "
    "that were not calibrated there is no score, and the verdict is uncalibrated. The stability map shows by how much "
    "the draws differ from the delivered image, in per cent of the local tissue signal. What every draw invents in the "
    "same way does not show there. The alarm looks for it in what the image leaves unexplained of the measured data, "
    "and on lines measured and withheld from the reconstruction, where there are any."
)
DEFINITION_VERSION = "9"  #: goes up too where evidence or truth is computed in another way

LOCAL_SIGNAL_SIGMA_MM = 4.0  #: the neighbourhood whose mean signal a difference is compared with
NOTABLE_PERCENT = 20.0  #: differences above this are counted in the reasons
N_REGIONS_NAMED = 3
N_WITNESSES_NAMED = 3
VERDICTS: tuple[Verdict, ...] = ("stable", "review", "unstable", "uncalibrated", "unscored")  #: from good to unknown
DOUBTFUL: tuple[Verdict, ...] = ("unstable", "uncalibrated")  #: learned images that are not to be read alone


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores from ``stable`` on are stable, those below ``review`` unstable, the rest is for review."""

    stable: float = 0.90
    review: float = 0.75


@dataclass(frozen=True, slots=True)
class Basis:
    """What a score rests on: without calibration or conditions the verdict is ``uncalibrated``."""

    calibration: Calibration | None = None
    conditions: Conditions | None = None
    tolerance_percent: float = NOTABLE_PERCENT  #: regions whose interval is wider, in per cent of the signal, are named

    def judge(self, similar: float, evidence: Mapping[str, float]) -> Judgement | str:
        """The calibrated score, or a sentence that says what is not calibrated."""
        if self.conditions is None:
            return "nothing is known about its conditions"
        return judge(self.calibration, self.conditions, similar, evidence)


def score_image(
    image: Image,
    samples: SampleSet | None,
    thresholds: Thresholds,
    *,
    evidence: Mapping[str, float] | None = None,
    evidence_reasons: Sequence[str] = (),
    basis: Basis | None = None,
    unscored: str = "",
) -> StabilityReport:
    """Compare one image of a single plane, shape (1 y x), with repeated samples of the same plane.

    Args:
        image: what is delivered.
        samples: posterior samples on the same grid; None if there are none.
        thresholds: between the verdicts.
        evidence: what else was looked at, see `steadymr.stability.evidence`.
        evidence_reasons: the words it gives for reasons.
        basis: what turns agreement and evidence into a score.
        unscored: why there are no samples; empty if none were asked for.

    Without samples, or without any tissue, the report is ``unscored`` and says why.
    """
    known = dict(evidence or {})
    report = _compared(image, samples, thresholds, known, basis or Basis(), unscored)
    return replace(report, reasons=(*report.reasons, *evidence_reasons), evidence=known)


def _compared(
    image: Image,
    samples: SampleSet | None,
    thresholds: Thresholds,
    evidence: Mapping[str, float],
    basis: Basis,
    unscored: str,
) -> StabilityReport:
    if samples is None:
        reason = unscored or "no samples were drawn, so nothing is known about this image's stability"
        return unscored_report(image, None, reason)
    mask = tissue_mask(samples.data.mean(axis=0)[0])
    if not mask.any():
        return unscored_report(image, samples, "no tissue stands out of the noise in this image")
    similar = agreement(image.data[0], samples.data[:, 0], mask)
    spread = spread_percent(image.data[0], samples.data[:, 0], mask, pixel_mm(image))
    report = StabilityReport(
        score=None,
        verdict="uncalibrated",
        reasons=(),
        spread_percent=spread[None],
        n_samples=len(samples.data),
        n_noise_draws=int(samples.noise_redrawn.sum()),
        agreement=similar,
    )
    differing = _disagreement(image, samples, spread, mask)
    judged = basis.judge(similar, evidence)
    if isinstance(judged, str):
        return replace(report, reasons=(f"not calibrated for this scan: {judged}", _resemblance(report), *differing))
    interval = (judged.interval_scale * spread + FLOOR_PERCENT).astype(np.float32)
    wide = regions_above(interval, basis.tolerance_percent, image.geometry)
    alarms = [] if judged.alarm is None else [_alarm_words(judged.alarm)]
    return replace(
        report,
        score=judged.score,
        verdict=_verdict(judged, thresholds),
        reasons=(_bound(judged, report), *alarms, *differing, *_wide(wide, basis.tolerance_percent)),
        interval_percent=interval[None],
    )


def agreement(
    image: Float32[np.ndarray, "y x"], samples: Float32[np.ndarray, "sample y x"], mask: Bool[np.ndarray, "y x"]
) -> float:
    """Mean SSIM inside ``mask`` between the image and each sample, clipped to [0, 1]."""
    return float(np.clip(np.mean(similarities(image, samples, mask)), 0.0, 1.0))


def similarities(
    image: Float32[np.ndarray, "y x"], samples: Float32[np.ndarray, "sample y x"], mask: Bool[np.ndarray, "y x"]
) -> list[float]:
    """SSIM inside ``mask`` between the image and each sample; 0 for an image without signal."""
    data_range = float(image[mask].max())
    if data_range <= 0:
        return [0.0] * len(samples)
    return [float(ssim_map(sample, image, data_range)[mask].mean()) for sample in samples]


def chance_error(
    image: Float32[np.ndarray, "y x"], samples: Float32[np.ndarray, "sample y x"], mask: Bool[np.ndarray, "y x"]
) -> float:
    """Standard error of `agreement` from drawing so few samples: what more of them would still change.

    Samples come in antithetic pairs, which resemble the image equally well, so that pairs are counted.
    """
    similar = similarities(image, samples, mask)
    of_pairs = [np.mean(similar[i : i + 2]) for i in range(0, len(similar), 2)]
    return float(np.std(of_pairs, ddof=1) / np.sqrt(len(of_pairs))) if len(of_pairs) > 1 else np.inf


def spread_percent(
    image: Float32[np.ndarray, "y x"],
    samples: Float32[np.ndarray, "sample y x"],
    mask: Bool[np.ndarray, "y x"],
    pixel_mm: tuple[float, float],
) -> Float32[np.ndarray, "y x"]:
    """RMS difference of the samples from the image, in per cent of the local tissue signal; NaN outside the mask."""
    difference = np.sqrt(np.mean((samples - image) ** 2, axis=0))
    percent = 100 * difference / local_signal(samples.mean(axis=0), mask, pixel_mm)
    return np.where(mask, percent, np.nan).astype(np.float32)


def local_signal(
    magnitude: Float32[np.ndarray, "y x"], mask: Bool[np.ndarray, "y x"], pixel_mm: tuple[float, float]
) -> Float[np.ndarray, "y x"]:
    """Mean magnitude of the tissue around each pixel; a thousandth of the largest at least, so that it can divide."""
    sigma = [LOCAL_SIGNAL_SIGMA_MM / size for size in pixel_mm]
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    signal = ndimage.gaussian_filter(np.where(mask, magnitude, 0), sigma) / np.maximum(weight, 1e-6)
    floor = 1e-3 * float(signal[mask].max())
    return np.asarray(np.maximum(signal, max(floor, 1e-30)))


def verdict_of(score: float, thresholds: Thresholds) -> Verdict:
    """The verdict for a score that no alarm speaks against."""
    if score >= thresholds.stable:
        return "stable"
    return "review" if score >= thresholds.review else "unstable"


def worst(reports: list[StabilityReport]) -> tuple[float | None, Verdict]:
    """A series is as stable as its least stable image.

    One unstable image makes it unstable. Otherwise one without a calibrated score makes it uncalibrated: the others'
    score must not speak for it. Images that could not be compared at all, such as those without tissue, are left out.
    """
    compared = [report for report in reports if report.verdict != "unscored"]
    if not compared:
        return None, "unscored"
    scores = [report.score for report in compared if report.score is not None]
    if any(report.verdict == "unstable" for report in compared):
        return min(scores), "unstable"
    if len(scores) < len(compared):
        return None, "uncalibrated"
    return min(scores), max((report.verdict for report in compared), key=VERDICTS.index)


def unscored_report(image: Image, samples: SampleSet | None, reason: str) -> StabilityReport:
    """The report of an image about which nothing is known, and why."""
    return StabilityReport(
        score=None,
        verdict="unscored",
        reasons=(reason,),
        spread_percent=np.full_like(image.data, np.nan),
        n_samples=0 if samples is None else len(samples.data),
        n_noise_draws=0 if samples is None else int(samples.noise_redrawn.sum()),
    )


def pixel_mm(image: Image) -> tuple[float, float]:
    """Sides of a pixel along y and x."""
    _, n_y, n_x = image.data.shape
    return image.geometry.fov_mm_xyz[1] / n_y, image.geometry.fov_mm_xyz[0] / n_x


def _verdict(judged: Judgement, thresholds: Thresholds) -> Verdict:
    """What the score says, but ``review`` at best after an alarm, and ``unstable`` after one beyond all doubt."""
    by_score = verdict_of(judged.score, thresholds)
    if judged.alarm is not None and judged.alarm.beyond_all:
        return "unstable"
    by_alarm: Verdict = "stable" if judged.alarm is None else "review"
    return max(by_score, by_alarm, key=VERDICTS.index)


def _resemblance(report: StabilityReport) -> str:
    return (
        f"{report.n_samples} samples ({report.n_noise_draws} of them with redrawn noise) resemble the image with a "
        f"mean SSIM of {report.agreement:.2f}"
    )


def _bound(judged: Judgement, report: StabilityReport) -> str:
    return f"the SSIM with full sampling is at least {judged.score:.2f} on nine scans of ten; {_resemblance(report)}"


def _alarm_words(alarm: Alarm) -> str:
    how = "far above all clean scans" if alarm.beyond_all else f"p = {alarm.p_value:.2g} on clean scans"
    witnesses = ", ".join(map(_witness_words, alarm.witnesses[:N_WITNESSES_NAMED]))
    more = alarm.factor >= 1.05
    return (
        f"alarm: evidence unlike that of clean scans, {how}"
        + (f": {witnesses}" if witnesses else "")
        + (f"; it speaks of {alarm.factor:.1f} x the error that the samples' agreement lets expect" if more else "")
    )


def _witness_words(witness: Witness) -> str:
    return f"{witness.name.replace('_', ' ')} = {witness.value:.3g} (p = {witness.p_value:.2g})"


def _disagreement(
    image: Image, samples: SampleSet, spread: Float32[np.ndarray, "y x"], mask: Bool[np.ndarray, "y x"]
) -> list[str]:
    """Where samples differ notably from the image, the largest areas first, and how many of them do."""
    signal = local_signal(samples.data[:, 0].mean(axis=0), mask, pixel_mm(image))
    percent = 100 * np.abs(samples.data[:, 0] - image.data[0]) / signal
    sentences = []
    for region in regions_above(spread, NOTABLE_PERCENT, image.geometry)[:N_REGIONS_NAMED]:
        n_differ = int(sum(np.sqrt(np.mean(one[region.inside] ** 2)) > NOTABLE_PERCENT for one in percent))
        sentences.append(
            f"{n_differ} of {len(percent)} samples differ from it by more than {NOTABLE_PERCENT:.0f} % of the local "
            f"signal in {region.area_cm2:.1f} cm2, {region.where}"
        )
    return sentences


def _wide(regions: Sequence[Region], tolerance_percent: float) -> list[str]:
    if not regions:
        return []
    area_cm2 = sum(region.area_cm2 for region in regions)
    return [
        f"the true signal may differ by more than {tolerance_percent:g} % in {area_cm2:.1f} cm2, the largest area "
        f"{regions[0].where}"
    ]
