"""Coil maps that may differ between opposite edges of the field of view, as ESPIRiT's cannot.

ESPIRiT's maps are periodic. Coils are not: where an object reaches both edges, the maps there mix the two sides. Here
the maps are polynomials in the place within the field of view, found together with an image by what explains the
calibration lines (joint image and sensitivities, JSENSE: Ying and Sheng 2007, doi 10.1002/mrm.21245), and then the
lines of the image around them as well. ESPIRiT's maps are the start.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Int64
from torch import Tensor

from steadymr.recon.coils import aligned_in_phase, calibration_block, run_around
from steadymr.recon.operators import conjugate_gradient
from steadymr.recon.polynomials import Polynomials

DEGREES = (7, 18)  #: of the polynomials, lowest and highest; which of them, the data say
DEGREE = 9  #: where the noise is not known; it meets most simulated loops close around a head within 1 %
MAP_WEIGHTS = (3e-7, 3e-5)  #: of a squared coefficient of degree 0, over the mean weight of the data
MAP_WEIGHT_OF_NOISE = 0.01  #: the same, over the noise's share in the data: the less noise, the finer maps may be
IMAGE_WEIGHT = 0.01  #: of the squared image, where fully sampled data and maps of unit norm weigh 1
GRID = 64  #: at most so many pixels along y and x hold the image; enough for the 24 lines of a calibration
WIDE_EXTENT = 48  #: of the image's own k-space so many lines and columns around the centre are used
WIDE_GRID = 96  #: and so many pixels hold the image
N_TURNS = 8
N_ITERATIONS = 10  #: of conjugate gradients, for the image of each turn
WORSE = 1.5  #: the polynomials are given up if they leave this many times as much unexplained as maps or noise should

logger = logging.getLogger(__name__)


def smooth_maps(
    calibration: Complex64[Tensor, "coil y x"],
    lines: Bool[Tensor, "y"],
    columns: tuple[int, int],
    maps: Complex64[Tensor, "coil y x"],
    *,
    noise_sd: float | None = None,
    image: tuple[Complex64[Tensor, "coil y x"], Bool[Tensor, "y"]] | None = None,
) -> Complex64[Tensor, "coil y x"]:
    """Maps that need not be periodic, everywhere, with the norm and phase convention of those that they start from.

    Minimises ``sum_c |F(p_c m) - calibration_c|^2`` in turns over the image m and the polynomials p_c, both weakly
    weighed down, and then the same over the image's own lines, of which those far from the centre are incomplete.
    Cost and memory hardly depend on the matrix size. The degree rises while that lowers Akaike's criterion (1974,
    doi 10.1109/TAC.1974.1100705): what the calibration lines leave unexplained, and a price for each coefficient.

    Args:
        calibration: k-space, of which the centre is used.
        lines: which k1 were acquired.
        columns: which k0 were acquired, as a half-open range.
        maps: ESPIRiT's from the same data; they are returned if the polynomials explain the data clearly worse than
            they do, and than noise would let them, since coils may be too small for them.
        noise_sd: of the calibration lines, per real channel; None if it is not known.
        image: k-space of the image and which k1 of it were acquired. It is left out unless it holds the calibration
            lines too: what is far from the centre cannot tell maps from images by itself.

    Raises:
        CalibrationError: if there are no calibration lines.
    """
    n_coils, n_y, n_x = maps.shape
    block = calibration_block(calibration, lines, columns)
    centre = _Centre.of_calibration(block, (min(n_y, GRID), min(n_x, GRID)))
    start = _at_grid(maps, centre.grid)
    if n_coils == 1 or not bool((start != 0).any()):
        return maps
    weight = _map_weight(block, noise_sd)
    basis, coefficients = _fit_of_its_degree(centre, start, weight, noise_sd)
    fitted = torch.nn.functional.normalize(basis.maps(coefficients, centre.grid), dim=0) * (start != 0).any(0)
    ours, theirs = centre.unexplained(fitted), centre.unexplained(start)
    noise = 0.0 if noise_sd is None else 2 * noise_sd**2 * block.numel()
    if ours > WORSE * max(theirs, noise):
        logger.warning(
            "polynomials leave %.1f times as much of the calibration lines unexplained as ESPIRiT's periodic coil "
            "maps, which are kept; look at the image where the object reaches the edge of the field of view",
            ours / theirs,
        )
        return maps
    if image is not None and _is_gapless(image[1], block.shape[1]):
        wide = _Centre.of_image(*image, columns, (min(n_y, WIDE_GRID), min(n_x, WIDE_GRID)))
        coefficients = _joint_fit(wide, basis, coefficients, weight)
    whole = torch.nn.functional.normalize(basis.maps(coefficients, (n_y, n_x)), dim=0)
    return aligned_in_phase(whole, block)


@dataclass(frozen=True, slots=True, eq=False)
class _Centre:
    """Samples around the centre of k-space, and the Fourier transform between them and images on a coarse grid."""

    block: Complex64[Tensor, "coil h w"]
    rows: Complex64[Tensor, "h y"]
    columns: Complex64[Tensor, "w x"]

    @classmethod
    def of_calibration(cls, block: Complex64[Tensor, "coil h w"], grid: tuple[int, int]) -> _Centre:
        """All of a block without gaps."""
        places = (np.arange(n) - n // 2 for n in block.shape[1:])
        return cls(block, *(_fourier(k, m, block.device) for k, m in zip(places, grid, strict=True)))

    @classmethod
    def of_image(
        cls,
        kspace: Complex64[Tensor, "coil y x"],
        lines: Bool[Tensor, "y"],
        columns: tuple[int, int],
        grid: tuple[int, int],
    ) -> _Centre:
        """The acquired lines within `WIDE_EXTENT`."""
        _, n_y, n_x = kspace.shape
        k1, k0 = (np.arange(n) - n // 2 for n in (n_y, n_x))
        in_y = lines.cpu().numpy() & _within(k1)
        in_x = _within(k0) & (np.arange(n_x) >= columns[0]) & (np.arange(n_x) < columns[1])
        rows, kept = (torch.from_numpy(np.flatnonzero(one)).to(kspace.device) for one in (in_y, in_x))
        to_rows, to_columns = _fourier(k1[in_y], grid[0], kspace.device), _fourier(k0[in_x], grid[1], kspace.device)
        return cls(kspace[:, rows][:, :, kept], to_rows, to_columns)

    @property
    def grid(self) -> tuple[int, int]:
        return self.rows.shape[1], self.columns.shape[1]

    def forward(self, images: Complex64[Tensor, "*any y x"]) -> Complex64[Tensor, "*any h w"]:
        return self.rows @ images @ self.columns.mT

    def adjoint(self, kspace: Complex64[Tensor, "*any h w"]) -> Complex64[Tensor, "*any y x"]:
        return self.rows.mH @ kspace @ self.columns.conj()

    def image(self, maps: Complex64[Tensor, "coil y x"], start: Complex64[Tensor, "y x"]) -> Complex64[Tensor, "y x"]:
        """The image that explains the block best with these maps."""

        def normal_op(image: Tensor) -> Tensor:
            seen: Tensor = (maps.conj() * self.adjoint(self.forward(maps * image))).sum(0)
            return seen + IMAGE_WEIGHT * image

        wanted = (maps.conj() * self.adjoint(self.block)).sum(0)
        return conjugate_gradient(normal_op, wanted, start, N_ITERATIONS)

    def unexplained(self, maps: Complex64[Tensor, "coil y x"]) -> float:
        """Energy of the block that no image under these maps explains."""
        return self.left_by(maps, self.image(maps, torch.zeros_like(maps[0])))

    def left_by(self, maps: Complex64[Tensor, "coil y x"], image: Complex64[Tensor, "y x"]) -> float:
        """Energy of the block that this image under these maps does not explain."""
        return float((self.block - self.forward(maps * image)).abs().square().sum())


def _map_weight(block: Complex64[Tensor, "coil h w"], noise_sd: float | None) -> float:
    """As the noise asks for: held down more, maps miss what the coils do; held down less, they follow the noise."""
    if noise_sd is None:
        return MAP_WEIGHTS[-1]
    noise_share = 2 * noise_sd**2 * block.numel() / float(block.abs().square().sum())
    return float(np.clip(MAP_WEIGHT_OF_NOISE * noise_share, *MAP_WEIGHTS))


def _fit_of_its_degree(
    centre: _Centre, maps: Complex64[Tensor, "coil y x"], map_weight: float, noise_sd: float | None
) -> tuple[Polynomials, Complex64[Tensor, "coil term"]]:
    """The polynomials that go furthest before another degree costs more than it explains."""

    def fit(degree: int) -> tuple[Polynomials, Complex64[Tensor, "coil term"]]:
        basis = Polynomials(degree)
        return basis, _joint_fit(centre, basis, _first_guess(centre, basis, maps, map_weight), map_weight)

    if noise_sd is None:
        return fit(DEGREE)
    fits = map(fit, range(DEGREES[0], DEGREES[1] + 1))
    best = next(fits)
    least = _akaike(centre, *best, map_weight, noise_sd)
    for found in fits:
        price = _akaike(centre, *found, map_weight, noise_sd)
        if price >= least:
            break
        best, least = found, price
    return best


def _akaike(
    centre: _Centre,
    basis: Polynomials,
    coefficients: Complex64[Tensor, "coil term"],
    map_weight: float,
    noise_sd: float,
) -> float:
    """Akaike's criterion: minus twice the log-likelihood, and twice the number of real parameters that are free.

    Penalised coefficients are free only in part (Hastie and Tibshirani: effective degrees of freedom).
    """
    maps = basis.maps(coefficients, centre.grid)
    image = centre.image(maps, torch.zeros_like(maps[0]))
    n_free = len(maps) * basis.n_free(centre.forward(basis.terms(centre.grid, maps.device) * image), map_weight)
    return centre.left_by(maps, image) / noise_sd**2 + 2 * 2 * n_free


def _first_guess(
    centre: _Centre, basis: Polynomials, maps: Complex64[Tensor, "coil y x"], map_weight: float
) -> Complex64[Tensor, "coil term"]:
    """The coefficients that come closest to ESPIRiT's maps where there is signal."""
    signal = torch.linalg.vector_norm(centre.adjoint(centre.block), dim=0) * (maps != 0).any(0)
    return basis.closest(basis.terms(centre.grid, maps.device) * signal, maps * signal, map_weight)


def _joint_fit(
    centre: _Centre, basis: Polynomials, coefficients: Complex64[Tensor, "coil term"], map_weight: float
) -> Complex64[Tensor, "coil term"]:
    """Better coefficients of the maps, by turns of image and maps."""
    terms = basis.terms(centre.grid, coefficients.device)
    image = torch.zeros_like(terms[0])
    for _ in range(N_TURNS):
        image = centre.image(basis.maps(coefficients, centre.grid), image)
        coefficients = basis.closest(centre.forward(terms * image), centre.block, map_weight)
    return coefficients


def _is_gapless(lines: Bool[Tensor, "y"], n_lines: int) -> bool:
    """Whether at least so many lines around the centre lack none."""
    first, end = run_around(lines.cpu().numpy(), len(lines) // 2)
    return end - first >= n_lines


def _within(k: Int64[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
    return (k >= -WIDE_EXTENT // 2) & (k < WIDE_EXTENT // 2)


def _fourier(k: Int64[np.ndarray, " sample"], n: int, device: torch.device) -> Complex64[Tensor, "sample pixel"]:
    """The centred orthonormal transform to some samples of k-space, 0 being zero frequency."""
    cycles = np.outer(k, np.arange(n) - n // 2) / n
    return torch.from_numpy((np.exp(-2j * np.pi * cycles) / np.sqrt(n)).astype(np.complex64)).to(device)


def _at_grid(maps: Complex64[Tensor, "coil y x"], grid: tuple[int, int]) -> Complex64[Tensor, "coil y2 x2"]:
    """The maps at the pixels next to those of a coarser grid over the same field of view."""
    rows, columns = (
        np.rint((np.arange(m) - m // 2) * n / m).astype(int) + n // 2 for n, m in zip(maps.shape[1:], grid, strict=True)
    )
    return maps[:, rows][:, :, columns]
