"""What is looked at besides repeated sampling: names, meanings and the words for reasons.

All are pure numbers, larger is worse. The numbers themselves come from the reconstruction; those that compare images
are computed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float32

from steadymr.stability.metrics import ssim_map


@dataclass(frozen=True, slots=True)
class Kind:
    """One piece of evidence."""

    meaning: str  #: one sentence for the report
    reason: str  #: words for a reason; ``{value}`` and ``{place}`` are filled in
    notable: float  #: the value above which it is a reason: a working assumption, well above what clean scans show


EVIDENCE: Mapping[str, Kind] = MappingProxyType(
    {
        "sentinel": Kind(
            "Squared deviation of lines that were measured but withheld from what the samples predict there, over "
            "what noise and the samples' own differences allow; about 1 if the samples tell the truth.",
            "the sentinel lines deviate {value:.1f} x from what the samples predict ({place})",
            3.0,
        ),
        "sentinel_line": Kind(
            "The same for the withheld line that deviates most.",
            "sentinel {place} deviates {value:.1f} x from what the samples predict",
            4.0,
        ),
        "sentinel_coil": Kind(
            "The same for the receiver coil that deviates most.",
            "on the sentinel lines {place} deviates {value:.1f} x from what the samples predict",
            4.0,
        ),
        "sentinel_pattern": Kind(
            "Squared deviation of the withheld lines along those combinations of coils in which the samples differ: "
            "the more, the more it counts.",
            "the sentinel lines deviate {value:.1f} x from what the samples predict, where these are least sure",
            2.0,
        ),
        "sentinel_image": Kind(
            "Squared deviation of the withheld lines from what this image itself predicts, over what noise and the "
            "samples' differences allow.",
            "the sentinel lines deviate {value:.1f} x from what this image predicts",
            6.0,
        ),
        "residual": Kind(
            "Squared difference between the measured lines and those that the image predicts, over the noise's "
            "variance; about 1 if nothing but noise is left.",
            "the image misses the measured lines by {value:.1f} x the noise",
            2.0,
        ),
        "residual_coil": Kind(
            "The same for the receiver coil that fits worst.",
            "receiver residual {value:.1f} x the noise on {place}",
            2.0,
        ),
        "residual_band": Kind(
            "The same for the band of k-space that fits worst.",
            "residual {value:.1f} x the noise in {place}",
            2.0,
        ),
        "residual_mode": Kind(
            "The same for those patterns of pixels that fit worst, sorted by how far they stand above the noise, over "
            "what an image like the samples' mean leaves of the noise there. Small changes of the data that move an "
            "image far hide among patterns that the coils hardly tell apart.",
            "residual {value:.2f} x what noise should leave in {place}",
            1.15,
        ),
        "out_of_step": Kind(
            "What one phase and one shift along the readout for each line explain of the residual, over what they "
            "explain of noise. Above it the object moved, or field or receiver drifted, between readouts.",
            "the measured lines are out of step with the image, {value:.1f} x what noise does (most of all {place})",
            2.0,
        ),
        "deaf_coil": Kind(
            "The noise's share in what the coil that hears least measured at the centre of k-space; 1 if it is deaf, "
            "0.1 if it hears well.",
            "{place} hears hardly more than noise",
            0.5,
        ),
        "misfit": Kind(
            "Measured energy that no image under these coil maps explains, over what noise leaves unexplained.",
            "no image under these coil maps explains the data: {value:.2f} x the noise is left",
            1.15,
        ),
        "misfit_column": Kind(
            "The same for the columns of the image that fit worst: above 1.1 to 1.2 the object reaches over the edge "
            "of the field of view, or coils, object or lines were not where they should have been.",
            "the coil maps do not explain {place}: {value:.2f} x the noise is left",
            1.2,
        ),
        "dispersion_measured": Kind(
            "Variance of the samples on the measured lines over the noise's; below 1, since those lines are known.",
            "the samples disagree by {value:.1f} x the noise where k-space was measured",
            1.5,
        ),
        "dispersion_unmeasured": Kind(
            "Energy in which the samples differ on the lines that were not measured, as a share of the image's.",
            "the samples differ by {value:.2f} of the image's energy where nothing was measured",
            0.05,
        ),
        "differing_samples": Kind(
            "One less the mean SSIM of samples with each other.",
            "the samples resemble each other little (1 - SSIM {value:.2f})",
            0.4,
        ),
        "differs_diffusion": Kind(
            "One less the SSIM between this image and the mean of the samples, in tissue.",
            "it differs from the diffusion image (1 - SSIM {value:.2f})",
            0.4,
        ),
        "differs_supervised": Kind(
            "One less the SSIM between this image and the supervised one, in tissue.",
            "it differs from the supervised image (1 - SSIM {value:.2f})",
            0.4,
        ),
        "differs_classical": Kind(
            "One less the SSIM between this image and the classical one, in tissue.",
            "it differs from the classical image (1 - SSIM {value:.2f})",
            0.5,
        ),
        "tempering": Kind(
            "How far the samples' mean moves, relative to their spread, when the noise is said to be three times as "
            "strong as it is.",
            "the image moves by {value:.1f} x its spread when the data are trusted less",
            3.0,
        ),
        "cyclic": Kind(
            "Squared difference between the measured lines and those of an image reconstructed from this one, "
            "measured again on other lines, over the noise's variance.",
            "measured again on other lines it misses the acquired ones by {value:.1f} x the noise",
            10.0,
        ),
        "vulnerability": Kind(
            "How far a change of the data within the stated budget, crafted for this scan, moves the image, in per "
            "cent of its signal, over the budget in per cent.",
            "a crafted change of the data moves this image by {value:.1f} x its own size",
            5.0,
        ),
    }
)
OPTIONAL = ("differs_supervised", "tempering", "cyclic", "vulnerability")  #: there only if the settings say so


def reasons(values: Mapping[str, float], places: Mapping[str, str]) -> tuple[str, ...]:
    """What is notable, in words; ``places`` says for some names where the value was found."""
    return tuple(
        kind.reason.format(value=values[name], place=places.get(name, ""))
        for name, kind in EVIDENCE.items()
        if name in values and values[name] > kind.notable
    )


def difference(
    image: Float32[np.ndarray, "y x"], other: Float32[np.ndarray, "y x"], mask: Bool[np.ndarray, "y x"]
) -> float:
    """One less the mean SSIM of two images inside the mask; 1 for an image without signal."""
    data_range = float(image[mask].max())
    return 1 - float(ssim_map(other, image, data_range)[mask].mean()) if data_range > 0 else 1.0


def differing_samples(samples: Float32[np.ndarray, "sample y x"], mask: Bool[np.ndarray, "y x"]) -> float:
    """One less the mean SSIM of each sample with the next one: as many pairs as samples, not all of them."""
    pairs = zip(samples, np.roll(samples, -1, axis=0), strict=True)
    return float(np.mean([difference(one, other, mask) for one, other in pairs]))
