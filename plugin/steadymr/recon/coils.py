"""Coil maps from calibration lines.

By ESPIRiT (Uecker 2014, doi 10.1002/mrm.24751): all short k-space neighbourhoods that the coils can produce span
a small subspace; at each pixel the coil sensitivities are the vector that the projection onto it leaves unchanged.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from jaxtyping import Bool, Complex, Complex64
from torch import Tensor

from steadymr.errors import CalibrationError
from steadymr.recon.operators import ifft_centred

KERNEL_WIDTH = 6  #: samples, along k1 and along k0
CALIBRATION_EXTENT = 24  #: at most so many lines and columns around the centre are used
SINGULAR_THRESHOLD = 0.02  #: neighbourhoods weaker than this share of the strongest count as noise
EIGENVALUE_CROP = 0.8  #: below, a pixel holds no signal that the coils explain, and its maps are zero
N_POWER_ITERATIONS = 20  #: enough to tell 1 from 0.8 in amplitude: 0.8 ** 20 = 0.01

logger = logging.getLogger(__name__)


def espirit_maps(
    calibration: Complex64[Tensor, "coil y x"],
    lines: Bool[Tensor, "y"],
    columns: tuple[int, int],
    *,
    kernel_width: int = KERNEL_WIDTH,
    singular_threshold: float = SINGULAR_THRESHOLD,
    eigenvalue_crop: float = EIGENVALUE_CROP,
) -> Complex64[Tensor, "coil y x"]:
    """Coil maps with ``sum |map|^2 = 1`` where there is signal, and 0 elsewhere.

    Their phase is relative to the strongest combination of coils, whose own map becomes real and positive. A single
    coil has the map 1. Needs memory for a few rows of (coil coil) matrices only, whatever the matrix size.

    Args:
        calibration: k-space, of which the centre is used.
        lines: which k1 were acquired.
        columns: which k0 were acquired, as a half-open range.
        kernel_width: neighbourhood in k-space, in samples; narrowed if there are too few calibration lines.
        singular_threshold: relative to the largest singular value of the neighbourhoods.
        eigenvalue_crop: 0 keeps every pixel.

    Raises:
        CalibrationError: if there are no calibration lines, or no pixel is left.
    """
    n_coils, n_y, n_x = calibration.shape
    block = calibration_block(calibration, lines, columns)
    if n_coils == 1:
        return torch.ones_like(calibration)
    lags = _kernel_correlations(block, kernel_width, singular_threshold)
    start = ifft_centred(_embed(block, (n_y, n_x)))
    maps = torch.zeros_like(calibration)
    for row in range(n_y):
        vectors, eigenvalues = _dominant_eigenvectors(_row_matrices(lags, row, n_y, n_x), start[:, row].T)
        maps[:, row] = (vectors * (eigenvalues >= eigenvalue_crop)[:, None]).T
    if not bool((maps != 0).any()):
        raise CalibrationError(
            f"no pixel has coil sensitivities that explain {block.shape[1]} calibration lines of {n_coils} channels; "
            "they hold hardly more than noise: look whether the calibration lines belong to this scan"
        )
    return aligned_in_phase(maps, block)


def calibration_block(
    calibration: Complex64[Tensor, "coil y x"], lines: Bool[Tensor, "y"], columns: tuple[int, int]
) -> Complex64[Tensor, "coil n_lines n_columns"]:
    """The gap-free block of calibration data around the centre of k-space, of `CALIBRATION_EXTENT` at most.

    Raises:
        CalibrationError: if no line at the centre was acquired.
    """
    _, n_y, n_x = calibration.shape
    first, end = run_around(lines.cpu().numpy(), n_y // 2)
    if end == first:
        raise CalibrationError(
            "coil maps need calibration lines around the centre of k-space, but none were acquired there; "
            "scan with integrated or separate reference lines (24 are plenty)"
        )
    rows = _limit(first, end, n_y // 2)
    kept = _limit(columns[0], columns[1], n_x // 2)
    return calibration[:, rows, kept]


def aligned_in_phase(
    maps: Complex64[Tensor, "coil y x"], block: Complex64[Tensor, "coil h w"]
) -> Complex64[Tensor, "coil y x"]:
    """The maps with the phase that makes their share in the block's strongest combination of coils positive."""
    phase = torch.einsum("cyx,c->yx", maps, _strongest_combination(block).conj()).angle()
    return maps * torch.polar(torch.ones_like(phase), -phase)


def run_around(lines: Bool[np.ndarray, "y"], centre: int) -> tuple[int, int]:
    """The run of acquired lines that holds the centre or a neighbour of it, half-open; empty if there is none."""
    near = [k for k in (centre, centre - 1, centre + 1) if 0 <= k < len(lines) and lines[k]]
    if not near:
        return 0, 0
    gaps = np.flatnonzero(~lines)
    before, after = gaps[gaps < near[0]], gaps[gaps > near[0]]
    return int(before[-1]) + 1 if before.size else 0, int(after[0]) if after.size else len(lines)


def _limit(first: int, end: int, centre: int) -> slice:
    half = CALIBRATION_EXTENT // 2
    return slice(max(first, centre - half), min(end, centre + half))


def _embed(block: Complex64[Tensor, "coil h w"], shape: tuple[int, int]) -> Complex64[Tensor, "coil y x"]:
    """The block in the middle of an empty k-space, smoothed at its edges against ringing."""
    n_coils, height, width = block.shape
    window = torch.outer(
        torch.hann_window(height + 2, periodic=False)[1:-1], torch.hann_window(width + 2, periodic=False)[1:-1]
    )
    whole = block.new_zeros((n_coils, *shape))
    top, left = shape[0] // 2 - height // 2, shape[1] // 2 - width // 2
    whole[:, top : top + height, left : left + width] = block * window.to(block.device)
    return whole


def _strongest_combination(block: Complex64[Tensor, "coil h w"]) -> Complex64[Tensor, "coil"]:
    """Principal component of the channels, with the phase that makes its largest entry real."""
    samples = block.flatten(1)
    vector = torch.linalg.eigh(samples @ samples.mH).eigenvectors[:, -1]
    largest = vector[vector.abs().argmax()]
    aligned: Tensor = vector * (largest.conj() / largest.abs())
    return aligned


def _kernel_correlations(
    block: Complex64[Tensor, "coil h w"], kernel_width: int, threshold: float
) -> Complex64[Tensor, "coil coil2 lag_y lag_x"]:
    """The projection onto the neighbourhoods' subspace, summed over pairs of samples with the same distance."""
    n_coils, height, width = block.shape
    tall, wide = min(kernel_width, (height + 1) // 2), min(kernel_width, (width + 1) // 2)
    if tall < kernel_width:
        logger.warning("only %d calibration lines: coil maps are coarse (kernel of %d lines)", height, tall)
    patches = block.unfold(1, tall, 1).unfold(2, wide, 1)  # coil row column tall wide
    patches = patches.permute(0, 3, 4, 1, 2).reshape(n_coils * tall * wide, -1)
    energies, vectors = torch.linalg.eigh(patches @ patches.mH)
    kept = vectors[:, energies > threshold**2 * energies[-1]]
    projection = (kept @ kept.mH).reshape(n_coils, tall, wide, n_coils, tall, wide)
    lags = block.new_zeros((n_coils, n_coils, 2 * tall - 1, 2 * wide - 1))
    for y in range(tall):
        for x in range(wide):  # lag = this sample's place minus (y, x), which runs from -y to tall - 1 - y
            block_of_lags = lags[:, :, tall - 1 - y : 2 * tall - 1 - y, wide - 1 - x : 2 * wide - 1 - x]
            block_of_lags += projection[:, :, :, :, y, x].permute(0, 3, 1, 2)
    return lags / (tall * wide)


def _row_matrices(
    lags: Complex64[Tensor, "coil coil2 lag_y lag_x"], row: int, n_y: int, n_x: int
) -> Complex64[Tensor, "x coil coil2"]:
    """The (coil coil) matrix of each pixel in one row, whose eigenvector to eigenvalue 1 are the sensitivities."""
    along_y = (lags * _phases(lags, 2, n_y)[row, :, None]).sum(2)  # coil coil2 lag_x
    return (along_y @ _phases(lags, 3, n_x).T).permute(2, 0, 1)


def _phases(lags: Complex64[Tensor, "coil coil2 lag_y lag_x"], dim: int, n: int) -> Complex64[Tensor, "pixel lag"]:
    half = lags.shape[dim] // 2
    distance = torch.arange(-half, half + 1, device=lags.device, dtype=torch.float64)
    pixel = torch.arange(n, device=lags.device, dtype=torch.float64) - n // 2
    return torch.exp(2j * torch.pi / n * torch.outer(pixel, distance)).to(torch.complex64)


def _dominant_eigenvectors(
    matrices: Complex64[Tensor, "x coil coil2"], start: Complex64[Tensor, "x coil"]
) -> tuple[Complex64[Tensor, "x coil"], Tensor]:
    """Unit eigenvectors to the largest eigenvalues, which are in [0, 1]; power iteration from the coils' own images."""
    vectors = start[..., None]
    for _ in range(N_POWER_ITERATIONS):
        vectors = matrices @ torch.nn.functional.normalize(vectors, dim=1)
    eigenvalues = torch.linalg.vector_norm(vectors, dim=1)[:, 0]
    return torch.nn.functional.normalize(vectors, dim=1)[..., 0], eigenvalues


def combine_coils(
    kspace: Complex[Tensor, "*sample coil y x"], maps: Complex[Tensor, "coil y x"]
) -> Complex[Tensor, "*sample y x"]:
    """The image of a fully sampled scan: ``sum_c conj(map_c) F^-1 kspace_c``."""
    return (maps.conj() * ifft_centred(kspace)).sum(-3)
