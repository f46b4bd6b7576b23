"""Coil maps that may differ between opposite edges of the field of view, as ESPIRiT's cannot.

ESPIRiT's maps are periodic. Coils are not: where an object reaches both edges, the maps there mix the two sides. Here
the maps are polynomials in the place within the field of view, found together with an image by what explains the
calibration lines (joint image and sensitivities, JSENSE: Ying and Sheng 2007, doi 10.1002/mrm.21245), and then the
lines of the image around them as well. ESPIRiT's maps are the start.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Int64
from torch import Tensor

from steadymr.recon.coils import aligned_in_phase, calibration_block, run_around
from steadymr.recon.operators import conjugate_gradient

DEGREE = 9  #: of the polynomials, which meet simulated loops close around a head within 1 %
DEGREES = tuple((i, j) for i, j in product(range(DEGREE + 1), repeat=2) if i + j <= DEGREE)  #: of each term: y, x
MAP_WEIGHTS = (3e-7, 3e-5)  #: of a squared coefficient of degree 0, over the mean weight of the data
MAP_WEIGHT_OF_NOISE = 0.01  #: the same, over the noise's share in the data: the less noise, the finer maps may be
MAP_WEIGHT_POWER = 3.5  #: that weight grows as (1 + degree) to this power
IMAGE_WEIGHT = 0.01  #: of the squared image, where fully sampled data and maps of unit norm weigh 1
GRID = 64  #: at most so many pixels along y and x hold the image; enough for the 24 lines of a calibration
WIDE_EXTENT = 48  #: of the image's own k-space so many lines and columns around the centre are used
WIDE_GRID = 96  #: and so many pixels hold the image
N_TURNS = 8
N_ITERATIONS = 10  #: of conjugate gradients, for the image of each turn
WORSE = 1.5  #: the polynomials are given up if they leave this many times as much of the data unexplained

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
    Cost and memory hardly depend on the matrix size.

    Args:
        calibration: k-space, of which the centre is used.
        lines: which k1 were acquired.
        columns: which k0 were acquired, as a half-open range.
        maps: ESPIRiT's from the same data; they are returned if the polynomials explain the data clearly worse, since
            coils may be too small for them.
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
    coefficients = _joint_fit(centre, _first_guess(centre, start, weight), weight)
    fitted = torch.nn.functional.normalize(_polynomials(coefficients, centre.grid), dim=0) * (start != 0).any(0)
    ours, theirs = centre.unexplained(fitted), centre.unexplained(start)
    if ours > WORSE * theirs:
        logger.warning(
            "polynomials leave %.1f times as much of the calibration lines unexplained as ESPIRiT's periodic coil "
            "maps, which are kept; look at the image where the object reaches the edge of the field of view",
            ours / theirs,
        )
        return maps
    if image is not None and _is_gapless(image[1], block.shape[1]):
        wide = _Centre.of_image(*image, columns, (min(n_y, WIDE_GRID), min(n_x, WIDE_GRID)))
        coefficients = _joint_fit(wide, coefficients, weight)
    whole = torch.nn.functional.normalize(_polynomials(coefficients, (n_y, n_x)), dim=0)
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
        image = self.image(maps, torch.zeros_like(maps[0]))
        return float((self.block - self.forward(maps * image)).abs().square().sum())


def _map_weight(block: Complex64[Tensor, "coil h w"], noise_sd: float | None) -> float:
    """As the noise asks for: held down more, maps miss what the coils do; held down less, they follow the noise."""
    if noise_sd is None:
        return MAP_WEIGHTS[-1]
    noise_share = 2 * noise_sd**2 * block.numel() / float(block.abs().square().sum())
    return float(np.clip(MAP_WEIGHT_OF_NOISE * noise_share, *MAP_WEIGHTS))


def _first_guess(
    centre: _Centre, maps: Complex64[Tensor, "coil y x"], map_weight: float
) -> Complex64[Tensor, "coil term"]:
    """The coefficients that come closest to ESPIRiT's maps where there is signal."""
    signal = torch.linalg.vector_norm(centre.adjoint(centre.block), dim=0) * (maps != 0).any(0)
    return _closest(_terms(centre) * signal, maps * signal, map_weight)


def _joint_fit(
    centre: _Centre, coefficients: Complex64[Tensor, "coil term"], map_weight: float
) -> Complex64[Tensor, "coil term"]:
    """Better coefficients of the maps, by turns of image and maps."""
    terms = _terms(centre)
    image = torch.zeros_like(terms[0])
    for _ in range(N_TURNS):
        image = centre.image(_polynomials(coefficients, centre.grid), image)
        coefficients = _closest(centre.forward(terms * image), centre.block, map_weight)
    return coefficients


def _terms(centre: _Centre) -> Complex64[Tensor, "term y x"]:
    along_y, along_x = (_legendre(n, centre.block.device) for n in centre.grid)
    return torch.stack([torch.outer(along_y[i], along_x[j]) for i, j in DEGREES])


def _is_gapless(lines: Bool[Tensor, "y"], n_lines: int) -> bool:
    """Whether at least so many lines around the centre lack none."""
    first, end = run_around(lines.cpu().numpy(), len(lines) // 2)
    return end - first >= n_lines


def _within(k: Int64[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
    return (k >= -WIDE_EXTENT // 2) & (k < WIDE_EXTENT // 2)


def _closest(
    terms: Complex64[Tensor, "term h w"], wanted: Complex64[Tensor, "coil h w"], map_weight: float
) -> Complex64[Tensor, "coil term"]:
    """Each coil's combination of terms that comes closest to what is wanted, with a penalty on high degrees."""
    flat, target = (values.flatten(1).to(torch.complex128) for values in (terms, wanted))
    gram = flat.conj() @ flat.mT
    growth = torch.tensor([(1.0 + i + j) ** MAP_WEIGHT_POWER for i, j in DEGREES], device=terms.device)
    penalty = map_weight * gram.diagonal().real.mean() * torch.diag(growth)
    coefficients: Tensor = torch.linalg.solve(gram + penalty, flat.conj() @ target.mT).mT
    return coefficients.to(torch.complex64)


def _polynomials(coefficients: Complex64[Tensor, "coil term"], grid: tuple[int, int]) -> Complex64[Tensor, "coil y x"]:
    square = coefficients.new_zeros((len(coefficients), DEGREE + 1, DEGREE + 1))
    rows, columns = zip(*DEGREES, strict=True)
    square[:, rows, columns] = coefficients
    along_y, along_x = (_legendre(n, coefficients.device) for n in grid)
    return along_y.mT @ square @ along_x


def _legendre(n: int, device: torch.device) -> Complex64[Tensor, "degree n"]:
    """Legendre polynomials of mean square 1 in the place of each pixel, which is -1 at one edge and 1 at the other."""
    place = 2 * (np.arange(n) - n // 2) / n
    values = np.polynomial.legendre.legvander(place, DEGREE) * np.sqrt(2 * np.arange(DEGREE + 1) + 1)
    return torch.from_numpy(values.T.astype(np.complex64)).to(device)


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
