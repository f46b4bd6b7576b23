"""The stability score, its map and its verdict: defined here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

from steadymr.stability.metrics import ssim_map, tissue_mask
from steadymr.types import Image, SampleSet, StabilityReport, Verdict

DEFINITION = (
    "The scan was reconstructed several times by drawing from all images that fit the measured data, some of the draws "
    "with the scanner's own noise added once more. The score is the mean structural similarity (SSIM), inside the "
    "tissue, between the delivered image and these draws: 1 when they all show the same, lower the more they differ. "
    "The map shows by how much they differ from the delivered image, in per cent of the local tissue signal. "
    "What every draw invents in the same way is not seen by this score."
)
DEFINITION_VERSION = "1"

LOCAL_SIGNAL_SIGMA_MM = 4.0  #: the neighbourhood whose mean signal a difference is compared with
NOTABLE_PERCENT = 20.0  #: differences above this are counted in the reasons


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores from ``stable`` on are stable, those below ``review`` unstable, the rest is for review.

    The defaults are working assumptions until a calibration against true errors replaces them.
    """

    stable: float = 0.90
    review: float = 0.75


def score_image(image: Image, samples: SampleSet | None, thresholds: Thresholds) -> StabilityReport:
    """Compare one image of a single plane, shape (1 y x), with repeated samples of the same plane.

    Without samples, or without any tissue, the report is ``unscored`` and says why.
    """
    if samples is None:
        return _unscored(image, None, "no samples were drawn, so nothing is known about this image's stability")
    mask = tissue_mask(samples.data.mean(axis=0)[0])
    if not mask.any():
        return _unscored(image, samples, "no tissue stands out of the noise in this image")
    score = agreement(image.data[0], samples.data[:, 0], mask)
    spread = spread_percent(image.data[0], samples.data[:, 0], mask, _pixel_mm(image))
    return StabilityReport(
        score=score,
        verdict=verdict_of(score, thresholds),
        reasons=_reasons(score, spread, samples, _pixel_mm(image)),
        spread_percent=spread[None],
        n_samples=len(samples.data),
        n_noise_draws=int(samples.noise_redrawn.sum()),
    )


def agreement(
    image: Float32[np.ndarray, "y x"], samples: Float32[np.ndarray, "sample y x"], mask: Bool[np.ndarray, "y x"]
) -> float:
    """Mean SSIM inside ``mask`` between the image and each sample, clipped to [0, 1]."""
    data_range = float(image[mask].max())
    if data_range <= 0:
        return 0.0
    similarities = [ssim_map(sample, image, data_range)[mask].mean() for sample in samples]
    return float(np.clip(np.mean(similarities), 0.0, 1.0))


def spread_percent(
    image: Float32[np.ndarray, "y x"],
    samples: Float32[np.ndarray, "sample y x"],
    mask: Bool[np.ndarray, "y x"],
    pixel_mm: tuple[float, float],
) -> Float32[np.ndarray, "y x"]:
    """RMS difference of the samples from the image, in per cent of the local tissue signal; NaN outside the mask."""
    difference = np.sqrt(np.mean((samples - image) ** 2, axis=0))
    sigma = [LOCAL_SIGNAL_SIGMA_MM / size for size in pixel_mm]
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    local_signal = ndimage.gaussian_filter(np.where(mask, samples.mean(axis=0), 0), sigma) / np.maximum(weight, 1e-6)
    floor = 1e-3 * float(local_signal[mask].max())  # a region without any signal would otherwise divide by zero
    percent = 100 * difference / np.maximum(local_signal, max(floor, 1e-30))
    return np.where(mask, percent, np.nan).astype(np.float32)


def verdict_of(score: float, thresholds: Thresholds) -> Verdict:
    """The verdict for a score."""
    if score >= thresholds.stable:
        return "stable"
    return "review" if score >= thresholds.review else "unstable"


def worst(reports: list[StabilityReport]) -> tuple[float | None, Verdict]:
    """A series is as stable as its least stable image; images that could not be scored are left out of it."""
    order: tuple[Verdict, ...] = ("stable", "review", "unstable")
    scored = [report for report in reports if report.score is not None]
    if not scored:
        return None, "unscored"
    verdict = max((report.verdict for report in scored), key=order.index)
    return min(report.score for report in scored if report.score is not None), verdict


def _reasons(
    score: float, spread: Float32[np.ndarray, "y x"], samples: SampleSet, pixel_mm: tuple[float, float]
) -> tuple[str, ...]:
    n_redrawn = int(samples.noise_redrawn.sum())
    reasons = [
        f"{len(samples.data)} samples ({n_redrawn} of them with redrawn noise) resemble the image with a mean SSIM of "
        f"{score:.2f}"
    ]
    notable = np.nan_to_num(spread) > NOTABLE_PERCENT
    area_cm2 = notable.sum() * pixel_mm[0] * pixel_mm[1] / 100
    if notable.any():
        share = 100 * notable.sum() / np.isfinite(spread).sum()
        reasons.append(
            f"samples differ from it by more than {NOTABLE_PERCENT:.0f} % of the local signal in {area_cm2:.1f} cm2, "
            f"{'under 1' if share < 1 else f'{share:.0f}'} % of the tissue"
        )
    return tuple(reasons)


def _unscored(image: Image, samples: SampleSet | None, reason: str) -> StabilityReport:
    return StabilityReport(
        score=None,
        verdict="unscored",
        reasons=(reason,),
        spread_percent=np.full_like(image.data, np.nan),
        n_samples=0 if samples is None else len(samples.data),
        n_noise_draws=0 if samples is None else int(samples.noise_redrawn.sum()),
    )


def _pixel_mm(image: Image) -> tuple[float, float]:
    _, n_y, n_x = image.data.shape
    return image.geometry.fov_mm_xyz[1] / n_y, image.geometry.fov_mm_xyz[0] / n_x
