"""How far an image is from another inside tissue, how much a method amplifies, and what appeared or vanished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float32, Float64
from scipy import ndimage
from torch import Tensor

from steadymr.recon.operators import cg_sense
from steadymr.recon.problem import Problem
from steadymr.stability.metrics import compare_with_truth

HFEN_SIGMA_PIXELS: Final = 1.5
HFEN_KERNEL_PIXELS: Final = 15
LESION_MM: Final = 5.0  #: diameter of the smallest structure that is counted
LARGEST_LESIONS: Final = 16.0  #: a region of change larger than so many smallest structures is no structure
BACKGROUND_FACTOR: Final = 4.0  #: the surroundings a structure is seen against, in its own diameters
NOISE_MULTIPLE: Final = 5.0  #: beyond five standard deviations, noise makes less than one in a million pixels
CONTRAST_SHARE: Final = 0.10  #: of the tissue's median signal; what a reader may notice is a working assumption


@dataclass(frozen=True, slots=True)
class ImageMetrics:
    """One image against a reference, inside a mask."""

    psnr_db: float
    ssim: float
    nmse: float
    hfen: float
    n_appeared: int
    n_vanished: int


@dataclass(frozen=True, slots=True)
class Structures:
    """How many structures of lesion scale one image has that the other lacks."""

    n_appeared: int
    n_vanished: int
    labels: np.ndarray  #: (y x) pixels of each; positive numbers for appeared, negative for vanished, 0 elsewhere


def image_metrics(
    image: Float32[np.ndarray, "y x"],
    reference: Float32[np.ndarray, "y x"],
    mask: Bool[np.ndarray, "y x"],
    *,
    noise_sd: float | Float32[np.ndarray, "y x"],
    pixel_mm: float,
) -> ImageMetrics:
    """All of them at once. ``noise_sd`` is the thermal noise in the images; the mask must not be empty."""
    plain = compare_with_truth(image, reference, mask)
    found = structures(image, reference, mask, noise_sd=noise_sd, pixel_mm=pixel_mm)
    return ImageMetrics(
        psnr_db=plain.psnr_db,
        ssim=plain.ssim,
        nmse=plain.nmse,
        hfen=hfen(image, reference, mask),
        n_appeared=found.n_appeared,
        n_vanished=found.n_vanished,
    )


def hfen(
    image: Float32[np.ndarray, "y x"], reference: Float32[np.ndarray, "y x"], mask: Bool[np.ndarray, "y x"]
) -> float:
    """High-frequency error norm (Ravishankar and Bresler 2011, doi 10.1109/TMI.2010.2090538), relative.

    The L2 norm, inside the mask, of the difference after a Laplacian of Gaussian (1.5 pixels, 15 x 15), over that of
    the reference filtered alike: 0 for equal images, 1 for an empty one.
    """

    def edges(values: Float32[np.ndarray, "y x"]) -> Float64[np.ndarray, "pixel"]:
        truncate = (HFEN_KERNEL_PIXELS // 2) / HFEN_SIGMA_PIXELS
        filtered = ndimage.gaussian_laplace(values.astype(np.float64), HFEN_SIGMA_PIXELS, truncate=truncate)
        return np.asarray(filtered[mask])

    return float(np.linalg.norm(edges(image - reference)) / np.linalg.norm(edges(reference)))


def amplification(change: Complex64[Tensor, "y x"], delta: Complex64[Tensor, "coil y x"], problem: Problem) -> float:
    """``|dx| / |A^+ dy|``: how much larger an image's change is than what the measurement's change asks for.

    ``A^+`` is the least-squares inverse, damped where the thermal noise exceeds the signal, so that it does not itself
    amplify. 1 for that inverse; divide by the value for thermal noise of the same method to have it in units of that.
    """
    asked = cg_sense(problem.supported, delta, regularisation=problem.noise_to_signal)
    return float(torch.linalg.vector_norm(change * problem.support) / torch.linalg.vector_norm(asked))


def image_noise_sd(problem: Problem) -> Float32[np.ndarray, "y x"]:
    """Standard deviation, per real channel, of the thermal noise in the image that `amplification` compares with.

    Exact where whole lines are acquired: the diagonal of ``M A^H A M s^2`` with ``M = (A^H A + w)^-1``. Elsewhere the
    noise of a sample times the root of the acceleration.
    """
    sense, noise_sd = problem.supported, float(problem.noise_sd)
    if not sense.is_by_lines:
        share = float(sense.mask.float().mean())
        return np.full(problem.kspace.shape[-2:], noise_sd / share**0.5, np.float32)
    values, vectors = sense.columns.eigenvalues, sense.columns.eigenvectors
    passed = values / (values + problem.noise_to_signal) ** 2
    variance = torch.einsum("xyk,xk->yx", vectors.abs().square(), passed)
    sd: np.ndarray = (noise_sd * variance.sqrt()).cpu().numpy()
    return sd


def structures(
    image: Float32[np.ndarray, "y x"],
    reference: Float32[np.ndarray, "y x"],
    mask: Bool[np.ndarray, "y x"],
    *,
    noise_sd: float | Float32[np.ndarray, "y x"],
    pixel_mm: float,
    lesion_mm: float = LESION_MM,
) -> Structures:
    """Count what appeared or vanished at the scale of a small lesion.

    The difference is smoothed to that scale and freed of its surroundings (a Gaussian of full width ``lesion_mm`` less
    one four times as wide). Adjacent pixels where it exceeds five times its thermal noise and a tenth of the tissue's
    median signal make a structure if they cover a quarter of a lesion's area to 16 times that area. It appeared if the
    image has more contrast there, at the place of the largest change, than the reference; else it vanished. A
    structure that moved counts as both: register first.
    """
    sigma = max(lesion_mm / pixel_mm / 2.355, 0.5)  # a Gaussian's full width at half maximum is 2.355 sigma
    before, after = (_contrast(values, sigma) for values in (reference, image))
    change = after - before
    passes = float(np.sqrt(np.sum(_contrast(_impulse(sigma), sigma) ** 2)))
    visible = CONTRAST_SHARE * float(np.median(reference[mask]))
    significant = (np.abs(change) > np.maximum(NOISE_MULTIPLE * passes * np.asarray(noise_sd), visible)) & mask
    lesion_pixels = np.pi / 4 * (lesion_mm / pixel_mm) ** 2
    labels = np.zeros(change.shape, np.int32)
    counts = {1: 0, -1: 0}
    for component in _components(significant & (change > 0)) + _components(significant & (change < 0)):
        if not lesion_pixels / 4 <= component.sum() <= LARGEST_LESIONS * lesion_pixels:
            continue
        peak = np.unravel_index(np.argmax(np.where(component, np.abs(change), 0)), change.shape)
        kind = 1 if abs(after[peak]) > abs(before[peak]) else -1
        counts[kind] += 1
        labels[component] = kind * counts[kind]
    return Structures(counts[1], counts[-1], labels)


def _contrast(values: np.ndarray, sigma: float) -> Float64[np.ndarray, "y x"]:
    smooth, surroundings = (
        ndimage.gaussian_filter(values.astype(np.float64), width) for width in (sigma, BACKGROUND_FACTOR * sigma)
    )
    return np.asarray(smooth - surroundings)


def _impulse(sigma: float) -> Float64[np.ndarray, "y x"]:
    n = 2 * int(np.ceil(4 * BACKGROUND_FACTOR * sigma)) + 1
    impulse = np.zeros((n, n))
    impulse[n // 2, n // 2] = 1
    return impulse


def _components(significant: Bool[np.ndarray, "y x"]) -> list[Bool[np.ndarray, "y x"]]:
    labels, n = ndimage.label(significant)
    return [labels == number for number in range(1, n + 1)]


def noise_likeness(change: Complex64[Tensor, "y x"], mask: Bool[np.ndarray, "y x"]) -> tuple[float, float]:
    """What kind of artefact a change is: its excess kurtosis inside the mask, and the centroid of its spectrum.

    Gaussian noise has kurtosis 0; a few fake structures have a large one. The centroid is the mean spatial frequency,
    weighted by energy, in units of the largest along an axis: white noise has 0.765 on a square matrix, smooth
    structure less.
    """
    values = change.detach().cpu().numpy()
    parts = np.concatenate([values.real[mask], values.imag[mask]]).astype(np.float64)
    parts -= parts.mean()
    variance = float(np.mean(parts**2))
    kurtosis = float(np.mean(parts**4)) / max(variance**2, 1e-300) - 3
    energy = np.abs(np.fft.fft2(values)) ** 2
    frequency_y, frequency_x = (2 * np.fft.fftfreq(n) for n in values.shape)
    radius = np.hypot(frequency_y[:, None], frequency_x[None, :])
    return kurtosis, float((energy * radius).sum()) / max(float(energy.sum()), 1e-300)


def radial_spectrum(change: Complex64[Tensor, "y x"], n_rings: int = 16) -> Float64[np.ndarray, "ring"]:
    """Mean energy of a change in rings of spatial frequency, from zero to the largest along an axis."""
    values = change.detach().cpu().numpy()
    energy = np.abs(np.fft.fft2(values, norm="ortho")) ** 2
    frequency_y, frequency_x = (2 * np.fft.fftfreq(n) for n in values.shape)
    ring = (np.hypot(frequency_y[:, None], frequency_x[None, :]) * n_rings).astype(int).clip(0, n_rings)
    counts: np.ndarray = np.bincount(ring.ravel(), minlength=n_rings + 1)
    sums: np.ndarray = np.bincount(ring.ravel(), weights=energy.ravel(), minlength=n_rings + 1)
    return np.asarray(sums / np.maximum(counts, 1))[:n_rings]
