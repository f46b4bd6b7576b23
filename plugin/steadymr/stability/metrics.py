"""Image comparison inside tissue: the mask, PSNR, SSIM and NMSE."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy import ndimage
from skimage.metrics import structural_similarity

from steadymr.types import TruthReport

TISSUE_FRACTION = 0.1  #: of the 99th percentile: scalp and grey matter lie above, air and most of the skull below
NOISE_MULTIPLE = 3.0  #: tissue stands out of the noise, whose s.d. is 1 per channel in whitened units
SMALLEST_REGION_PIXELS = 25


def tissue_mask(magnitude: Float32[np.ndarray, "y x"], *, noise_sd: float = 1.0) -> Bool[np.ndarray, "y x"]:
    """Where there is tissue: smoothed magnitude above a tenth of its 99th percentile and above three times the noise.

    Holes are filled (ventricles and skull count as inside) and specks under 25 pixels are dropped. ``noise_sd`` is the
    noise per real channel in the image's units, 1 for whitened ones. The mask may be empty.
    """
    smooth = ndimage.gaussian_filter(magnitude, sigma=1.5)
    threshold = max(TISSUE_FRACTION * float(np.percentile(smooth, 99)), NOISE_MULTIPLE * noise_sd)
    filled = ndimage.binary_fill_holes(smooth > threshold)
    regions, n_regions = ndimage.label(filled)
    sizes = np.bincount(regions.ravel(), minlength=n_regions + 1)
    sizes[0] = 0
    return np.asarray((sizes >= SMALLEST_REGION_PIXELS)[regions])


def ssim_map(
    image: Float32[np.ndarray, "y x"], reference: Float32[np.ndarray, "y x"], data_range: float
) -> Float[np.ndarray, "y x"]:
    """Structural similarity at each pixel (Wang 2004: Gaussian window of 1.5 pixels, K1 = 0.01, K2 = 0.03)."""
    _, similarity = structural_similarity(
        image, reference, data_range=data_range, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    return np.asarray(similarity)


def compare_with_truth(
    image: Float32[np.ndarray, "y x"], reference: Float32[np.ndarray, "y x"], mask: Bool[np.ndarray, "y x"]
) -> TruthReport:
    """PSNR (peak = the reference's maximum), mean SSIM and NMSE of ``image`` against ``reference`` inside ``mask``.

    An image equal to the reference has an infinite PSNR. The mask must not be empty.
    """
    difference = (image - reference)[mask].astype(np.float64)
    truth = reference[mask].astype(np.float64)
    mean_square = float(np.mean(difference**2))
    peak = float(truth.max())
    return TruthReport(
        psnr_db=float("inf") if mean_square == 0 else 10 * float(np.log10(peak**2 / mean_square)),
        ssim=float(ssim_map(image, reference, peak)[mask].mean()),
        nmse=float(np.sum(difference**2) / np.sum(truth**2)),
    )
