"""The linear maps of parallel imaging and how to invert them, for any number of images at once.

Transforms are centred and orthonormal: zero frequency, and the centre of the field of view, sit at index ``n // 2``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Complex, Complex64, Float
from torch import Tensor

from steadymr.errors import ReconError

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # documented, but not typed


def fft_centred(images: Complex[Tensor, "*axes"], dims: tuple[int, ...] = (-2, -1)) -> Complex[Tensor, "*axes"]:
    """Image to k-space: ``F(k) = sum_x f(x) exp(-2 pi i k x / n) / sqrt(n)`` along each of ``dims``."""
    spectrum = torch.fft.fftn(torch.fft.ifftshift(images, dim=dims), dim=dims, norm="ortho")
    shifted: Tensor = torch.fft.fftshift(spectrum, dim=dims)
    return shifted


def ifft_centred(kspace: Complex[Tensor, "*axes"], dims: tuple[int, ...] = (-2, -1)) -> Complex[Tensor, "*axes"]:
    """K-space to image: the inverse, and the adjoint, of `fft_centred`."""
    images = torch.fft.ifftn(torch.fft.ifftshift(kspace, dim=dims), dim=dims, norm="ortho")
    shifted: Tensor = torch.fft.fftshift(images, dim=dims)
    return shifted


@dataclass(frozen=True, eq=False)
class Sense:
    """The encoding of parallel imaging, ``A = mask F maps`` (Pruessmann 1999, doi 10.1002/(SICI)1522-2594(199911)42:5).

    The mask is ``(k1, 1)`` if whole lines are acquired or left out, else ``(k1, k0)``.
    """

    maps: Complex[Tensor, "coil y x"]
    mask: Bool[Tensor, "y #x"]

    @property
    def is_by_lines(self) -> bool:
        """Whether the readout is fully sampled, so that columns of the image don't mix."""
        return self.mask.shape[-1] == 1

    @cached_property
    def columns(self) -> ColumnSolver:
        """The exact solver, computed when first asked for; only if `is_by_lines`."""
        return ColumnSolver.of(self)

    def forward(self, images: Complex[Tensor, "*sample y x"]) -> Complex[Tensor, "*sample coil y x"]:
        """Images to the samples that the scanner would measure, zero where it does not."""
        return fft_centred(self.maps * images.unsqueeze(-3)) * self.mask

    def adjoint(self, kspace: Complex[Tensor, "*sample coil y x"]) -> Complex[Tensor, "*sample y x"]:
        """K-space to images, coils combined: ``A^H``."""
        return (self.maps.conj() * ifft_centred(kspace * self.mask)).sum(-3)

    def normal(self, images: Complex[Tensor, "*sample y x"]) -> Complex[Tensor, "*sample y x"]:
        """``A^H A``; a fully sampled readout needs no transform along it."""
        dims = (-2,) if self.is_by_lines else (-2, -1)
        kspace = fft_centred(self.maps * images.unsqueeze(-3), dims) * self.mask
        return (self.maps.conj() * ifft_centred(kspace, dims)).sum(-3)


def per_sample(weight: float | Float[Tensor, "sample"]) -> float | Float[Tensor, "sample 1 1"]:
    """A weight as it multiplies images: one number for all, or one for each sample."""
    return weight if isinstance(weight, float) else weight[:, None, None]


def conjugate_gradient(
    normal_op: Callable[[Tensor], Tensor],
    b: Complex[Tensor, "*sample y x"],
    x0: Complex[Tensor, "*sample y x"],
    n_iterations: int,
    tolerance: float = 0.0,
) -> Complex[Tensor, "*sample y x"]:
    """Solve ``normal_op(x) = b`` for each sample on its own (Hestenes and Stiefel 1952).

    Args:
        normal_op: Hermitian, positive definite, and acting on each sample alone.
        b: the right hand sides.
        x0: where to start.
        n_iterations: how many products with ``normal_op`` at most, besides the first.
        tolerance: a sample is left as it is once its residual is below this share of the norm of ``b``.
    """
    x = x0
    residual = b - normal_op(x)
    direction = residual
    energy = _energy(residual)
    enough = tolerance**2 * _energy(b)
    for _ in range(n_iterations):
        active = energy > enough
        if x.device.type == "cpu" and not bool(active.any()):  # elsewhere asking would cost a round trip
            break
        image = normal_op(direction)
        curvature = (direction.conj() * image).real.sum((-2, -1), keepdim=True)
        step = torch.where(active & (curvature > 0), energy / curvature, 0.0)
        x = x + step * direction
        residual = residual - step * image
        previous, energy = energy, _energy(residual)
        direction = residual + torch.where(active, energy / previous, 0.0) * direction
    return x


def _energy(images: Complex[Tensor, "*sample y x"]) -> Float[Tensor, "*sample 1 1"]:
    return (images.real.square() + images.imag.square()).sum((-2, -1), keepdim=True)


def cg_sense(
    sense: Sense,
    kspace: Complex[Tensor, "*sample coil y x"],
    *,
    regularisation: float,
    n_iterations: int = 30,
    tolerance: float = 1e-5,
) -> Complex[Tensor, "*sample y x"]:
    """Minimise ``|A x - kspace|^2 + regularisation |x|^2`` by conjugate gradients from zero."""
    b = sense.adjoint(kspace)

    def normal_op(images: Tensor) -> Tensor:
        return sense.normal(images) + regularisation * images

    return conjugate_gradient(normal_op, b, torch.zeros_like(b), n_iterations, tolerance)


@dataclass(frozen=True, slots=True, eq=False)
class ColumnSolver:
    """All that ``A^H A`` can be asked, where whole lines are acquired: its eigenvectors, column by column of the image.

    With the readout fully sampled, ``A^H A`` maps each column x to itself by the Hermitian (y y) matrix
    ``sum_c diag(conj S_c) F^H M F diag(S_c)``; one eigendecomposition serves every noise level and every sample.
    """

    eigenvalues: Float[Tensor, "x y"]
    eigenvectors: Complex[Tensor, "x y y2"]

    @classmethod
    def of(cls, sense: Sense) -> ColumnSolver:
        """Decompose; costs one (y y) Hermitian eigenproblem for each column."""
        if not sense.is_by_lines:
            raise ValueError("columns are separate only if the readout is fully sampled")
        n_y = sense.mask.shape[0]
        identity = torch.eye(n_y, dtype=sense.maps.dtype, device=sense.maps.device)
        sampling = ifft_centred(fft_centred(identity, (0,)) * sense.mask, (0,))  # F^H M F, (y y2)
        by_column = sense.maps.permute(2, 1, 0)  # x y coil
        matrices = (by_column.conj() @ by_column.transpose(1, 2)) * sampling
        eigenvalues, eigenvectors = _eigen(matrices)
        return cls(eigenvalues.clamp_min(0.0), eigenvectors)

    def to_modes(self, images: Complex[Tensor, "sample y x"]) -> Complex[Tensor, "x y sample"]:
        """Coefficients of images in the eigenvectors; unitary, so white noise stays white noise."""
        by_column = images.conj().permute(2, 0, 1)  # x sample y; the images are conjugated, for they are far smaller
        return (by_column @ self.eigenvectors).mH

    def from_modes(self, modes: Complex[Tensor, "x y sample"]) -> Complex[Tensor, "sample y x"]:
        """Images from coefficients: the inverse of `to_modes`."""
        return (self.eigenvectors @ modes).permute(2, 1, 0)

    def precision(
        self, weight_data: float | Float[Tensor, "sample"], weight_prior: float
    ) -> Float[Tensor, "x y #sample"]:
        """Eigenvalues of ``weight_data A^H A + weight_prior I``, one set for each weight given."""
        return self.eigenvalues[..., None] * weight_data + weight_prior

    def solve(
        self,
        rhs: Complex[Tensor, "sample y x"],
        weight_data: float | Float[Tensor, "sample"],
        weight_prior: float,
    ) -> Complex[Tensor, "sample y x"]:
        """``(weight_data A^H A + weight_prior I)^-1 rhs``."""
        return self.from_modes(self.to_modes(rhs) / self.precision(weight_data, weight_prior))

    def inverse_sqrt(
        self,
        noise: Complex[Tensor, "sample y x"],
        weight_data: float | Float[Tensor, "sample"],
        weight_prior: float,
    ) -> Complex[Tensor, "sample y x"]:
        """``(weight_data A^H A + weight_prior I)^-1/2 noise``: white noise becomes a draw with covariance M."""
        return self.from_modes(self.to_modes(noise) / self.precision(weight_data, weight_prior).sqrt())


def _eigen(matrices: Complex64[Tensor, "x y y2"]) -> tuple[Float[Tensor, "x y"], Complex64[Tensor, "x y y2"]]:
    """Eigenvalues and eigenvectors of Hermitian matrices, in double precision where single does not converge.

    Columns partly outside the coils' support have many eigenvalues that are zero, on which LAPACK's divide and conquer
    has been seen to give up in single precision, and to return NaN without a word.
    """
    try:
        values, vectors = torch.linalg.eigh(matrices)
    except LinAlgError:
        return _eigen_in_double_precision(matrices)
    if not bool(torch.isfinite(values).all()):
        return _eigen_in_double_precision(matrices)
    return values, vectors


def _eigen_in_double_precision(
    matrices: Complex64[Tensor, "x y y2"],
) -> tuple[Float[Tensor, "x y"], Complex64[Tensor, "x y y2"]]:
    try:
        values, vectors = torch.linalg.eigh(matrices.to(torch.complex128))
    except LinAlgError as error:
        raise ReconError(f"the coil maps make equations that cannot be solved ({error}); look at the maps") from error
    return values.to(torch.float32), vectors.to(torch.complex64)
