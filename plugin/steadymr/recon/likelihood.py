"""What the data and a white Gaussian guess, taken together, say about an image: exactly, and for each sample alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor

from steadymr.recon.noise import antithetic_normal
from steadymr.recon.operators import Sense, conjugate_gradient

N_ITERATIONS = 12  #: of conjugate gradients, where there is no direct solution; 4 lose a quarter of the variance


@dataclass(frozen=True, slots=True, eq=False)
class Likelihood:
    """``N(kspace; A x, noise_sd^2)``, with standard deviations per real channel.

    With a guess ``N(x; guess, guess_sd^2)`` it makes a Gaussian of covariance
    ``M = (A^H A / noise_sd^2 + 1 / guess_sd^2)^-1``.
    """

    sense: Sense
    adjoint: Complex64[Tensor, "sample y x"]  #: A^H kspace
    energy: Float32[Tensor, "sample"]  #: |kspace|^2
    noise_sd: Float32[Tensor, "sample"]
    n_iterations: int = N_ITERATIONS

    @classmethod
    def of(
        cls, sense: Sense, kspace: Complex64[Tensor, "sample coil y x"], noise_sd: Float32[Tensor, "sample"]
    ) -> Likelihood:
        """What is said by k-space that is zero where nothing was acquired; one version of it for each sample."""
        energy = (kspace.real.square() + kspace.imag.square()).sum((-3, -2, -1))
        return cls(sense, sense.adjoint(kspace), energy, noise_sd)

    def repeated(self, n: int) -> Likelihood:
        """The same data for each of ``n`` samples."""
        return replace(
            self,
            adjoint=self.adjoint.expand(n, -1, -1),
            energy=self.energy.expand(n),
            noise_sd=self.noise_sd.expand(n),
        )

    def joined(self, other: Likelihood) -> Likelihood:
        """These samples' data, then the other's, of the same scan."""
        pairs = ((self.adjoint, other.adjoint), (self.energy, other.energy), (self.noise_sd, other.noise_sd))
        adjoint, energy, noise_sd = (torch.cat(pair) for pair in pairs)
        return replace(self, adjoint=adjoint, energy=energy, noise_sd=noise_sd)

    def residual_energy(self, images: Complex64[Tensor, "sample y x"]) -> Float32[Tensor, "sample"]:
        """``|A x - kspace|^2``."""
        inner = (images.conj() * (self.sense.normal(images) - 2 * self.adjoint)).real.sum((-2, -1))
        return self.energy + inner

    def mean(self, guess: Complex64[Tensor, "sample y x"], guess_sd: float) -> Complex64[Tensor, "sample y x"]:
        """``M (A^H kspace / noise_sd^2 + guess / guess_sd^2)``."""
        weight = self.noise_sd[:, None, None] ** -2
        return self._solve(self.adjoint * weight + guess / guess_sd**2, guess_sd, start=guess)

    def fluctuation(self, guess_sd: float, generator: torch.Generator) -> Complex64[Tensor, "sample y x"]:
        """Draws from ``N(0, M)``, in antithetic pairs."""
        (n_samples, n_y, n_x), device = self.adjoint.shape, self.adjoint.device
        if self.sense.is_by_lines:  # white noise is white in the eigenvectors too
            white = antithetic_normal(n_samples, (n_x, n_y), generator, device).movedim(0, -1)
            precision = self.sense.columns.precision(self.noise_sd**-2, guess_sd**-2)
            return self.sense.columns.from_modes(white / precision.sqrt())
        return self._perturb_and_optimise(guess_sd, generator)

    def _perturb_and_optimise(self, guess_sd: float, generator: torch.Generator) -> Complex64[Tensor, "sample y x"]:
        """``M u`` with u of covariance ``M^-1`` has covariance M (Orieux 2012, doi 10.1109/LSP.2012.2189104)."""
        n_samples, device = self.adjoint.shape[0], self.adjoint.device
        in_kspace = antithetic_normal(n_samples, tuple(self.sense.maps.shape), generator, device)
        in_image = antithetic_normal(n_samples, tuple(self.adjoint.shape[1:]), generator, device) / guess_sd
        noise = self.sense.adjoint(in_kspace) / self.noise_sd[:, None, None] + in_image
        return self._solve(noise, guess_sd, start=in_image * guess_sd**2)

    def _solve(self, rhs: Tensor, guess_sd: float, start: Tensor) -> Complex64[Tensor, "sample y x"]:
        if self.sense.is_by_lines:
            return self.sense.columns.solve(rhs, self.noise_sd**-2, guess_sd**-2)
        return conjugate_gradient(self._precision_op(guess_sd), rhs, start, self.n_iterations, tolerance=1e-5)

    def _precision_op(self, guess_sd: float) -> Callable[[Tensor], Tensor]:
        weight = self.noise_sd[:, None, None] ** -2
        return lambda images: self.sense.normal(images) * weight + images / guess_sd**2
