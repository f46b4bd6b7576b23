"""Polynomials in the place within the field of view, one for each coil, held down the more the higher their degree."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Complex64, Complex128
from torch import Tensor

GROWTH = 3.5  #: the penalty on a squared coefficient grows as (1 + degree) to this power


@dataclass(frozen=True, slots=True)
class Polynomials:
    """Polynomials in the place within the field of view, as sums of products of Legendre polynomials."""

    degree: int

    @property
    def degrees(self) -> list[tuple[int, int]]:
        """Of each term, along y and x."""
        return [(i, j) for i, j in product(range(self.degree + 1), repeat=2) if i + j <= self.degree]

    def terms(self, grid: tuple[int, int], device: torch.device) -> Complex64[Tensor, "term y x"]:
        """Each product by itself, of mean square 1."""
        along_y, along_x = (_legendre(self.degree, n, device) for n in grid)
        return torch.stack([torch.outer(along_y[i], along_x[j]) for i, j in self.degrees])

    def maps(
        self, coefficients: Complex64[Tensor, "coil term"], grid: tuple[int, int]
    ) -> Complex64[Tensor, "coil y x"]:
        """One polynomial for each coil, at the pixels of a grid over the field of view."""
        square = coefficients.new_zeros((len(coefficients), self.degree + 1, self.degree + 1))
        rows, columns = zip(*self.degrees, strict=True)
        square[:, rows, columns] = coefficients
        along_y, along_x = (_legendre(self.degree, n, coefficients.device) for n in grid)
        return along_y.mT @ square @ along_x

    def closest(
        self,
        terms: Complex64[Tensor, "term h w"],
        wanted: Complex64[Tensor, "coil h w"],
        weight: float,
    ) -> Complex64[Tensor, "coil term"]:
        """Each coil's combination of terms that comes closest to what is wanted, with a penalty on high degrees."""
        flat, target = (values.flatten(1).to(torch.complex128) for values in (terms, wanted))
        gram = flat.conj() @ flat.mT
        coefficients: Tensor = torch.linalg.solve(gram + self._penalty(gram, weight), flat.conj() @ target.mT).mT
        return coefficients.to(torch.complex64)

    def n_free(self, terms: Complex64[Tensor, "term h w"], weight: float) -> float:
        """How many of a coil's coefficients the penalty leaves free: the trace of what takes data to their fit."""
        flat = terms.flatten(1).to(torch.complex128)
        gram = flat.conj() @ flat.mT
        return float(torch.linalg.solve(gram + self._penalty(gram, weight), gram).diagonal().real.sum())

    def _penalty(self, gram: Complex128[Tensor, "term term"], weight: float) -> Complex128[Tensor, "term term"]:
        growth = torch.tensor([(1.0 + i + j) ** GROWTH for i, j in self.degrees], device=gram.device)
        return weight * gram.diagonal().real.mean() * torch.diag(growth).to(gram.dtype)


def _legendre(degree: int, n: int, device: torch.device) -> Complex64[Tensor, "degree n"]:
    """Legendre polynomials of mean square 1 in the place of each pixel, which is -1 at one edge and 1 at the other."""
    place = 2 * (np.arange(n) - n // 2) / n
    values = np.polynomial.legendre.legvander(place, degree) * np.sqrt(2 * np.arange(degree + 1) + 1)
    return torch.from_numpy(values.T.astype(np.complex64)).to(device)
