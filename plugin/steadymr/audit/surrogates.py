"""What a worst case is crafted on: reconstructions as differentiable functions of k-space, for many rows at once.

A surrogate belongs to one problem, or to several of the same shape: rows ``0 .. n - 1`` of its input are versions of
the first problem's k-space, the next ``n`` of the second's, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Complex64
from torch import Tensor

from steadymr.errors import ReconError
from steadymr.recon.likelihood import Likelihood
from steadymr.recon.methods import NETWORK_REGULARISATION, REGULARISATION, Network
from steadymr.recon.operators import Sense, conjugate_gradient
from steadymr.recon.problem import Problem
from steadymr.recon.samplers import SIGMA_MAX, SIGMA_MIN, Denoiser, denoise, noise_levels, onward
from steadymr.recon.varnet import SupervisedVarnet

Surrogate: TypeAlias = Callable[[Tensor], Tensor]  #: (row coil y x) complex k-space -> (row y x) complex images

SMALLEST_PIXELS = 32  #: below, the networks see more padding than image
N_ITERATIONS = 30  #: of conjugate gradients, where there is no direct solution
N_LEVELS = 4  #: of the shortened chain


def classical_surrogate(problem: Problem, *, regularisation: float = REGULARISATION) -> Surrogate:
    """CG-SENSE, exactly solved: linear in k-space."""
    return _tikhonov(problem, regularisation)


def unet_surrogate(problems: Problem | Sequence[Problem], network: Network) -> Surrogate:
    """The supervised network behind CG-SENSE, as `steadymr.recon.methods.supervised` has it.

    Raises:
        ReconError: if the scan is too small for the network.
    """
    several = _several(problems)
    solvers = [_tikhonov(problem, NETWORK_REGULARISATION) for problem in several]

    def reconstruct(kspace: Tensor) -> Tensor:
        images = torch.cat([solve(part) for solve, part in zip(solvers, kspace.chunk(len(several)), strict=True)])
        channels = network(torch.stack([images.real, images.imag], dim=1)).float()
        return _on_support(several, torch.complex(channels[:, 0], channels[:, 1]))

    return reconstruct


def varnet_surrogate(problems: Problem | Sequence[Problem], network: SupervisedVarnet) -> Surrogate:
    """The unrolled network, through all its cascades and the classical image that it starts from.

    Raises:
        ReconError: if the scan is too small for the network.
    """
    several = _several(problems)
    maps = torch.stack([problem.supported.maps for problem in several])
    masks = torch.stack([problem.sense.mask for problem in several])

    def reconstruct(kspace: Tensor) -> Tensor:
        n = len(kspace) // len(several)
        return _on_support(several, network(kspace, maps.repeat_interleave(n, 0), masks.repeat_interleave(n, 0)))

    return reconstruct


def ensemble(surrogates: Sequence[Surrogate]) -> Surrogate:
    """The mean of several surrogates' images: what misleads it has to mislead most of them."""
    return lambda kspace: torch.stack([surrogate(kspace) for surrogate in surrogates]).mean(0)


def diffusion_surrogate(
    problem: Problem,
    denoiser: Denoiser,
    *,
    generator: torch.Generator,
    n_levels: int = N_LEVELS,
    n_samples: int = 1,
    sigma_max: float = SIGMA_MAX,
) -> Surrogate:
    """The product's own sampler, shortened, its noise drawn once and kept: the mean of ``n_samples`` chains.

    The steps are those of `steadymr.recon.samplers.preconditioned_langevin`. Attacking a random method needs its
    randomness held still, or averaged over (Athalye 2018, arXiv 1802.00420). Every row sees the same noise. What the
    network computed at each level is computed again on the way back, so that memory does not grow with the levels.
    """
    _several(problem)
    levels = noise_levels(n_levels, sigma_max, min(SIGMA_MIN, float(problem.noise_sd) / 3))
    still = _likelihood(problem, problem.kspace.expand(n_samples, -1, -1, -1))
    start = _tikhonov(problem, REGULARISATION)
    draws = [still.fluctuation(sigma, generator) / 2**0.5 for sigma in levels]

    def reconstruct(kspace: Tensor) -> Tensor:
        image = start(kspace).repeat_interleave(n_samples, 0)
        likelihood = _likelihood(problem, kspace.repeat_interleave(n_samples, 0))
        last = None
        for sigma, draw in zip(levels, draws, strict=True):
            half_noise = draw.repeat(len(kspace), 1, 1)
            mean = likelihood.mean(_denoised(denoiser, image + half_noise, sigma), sigma)
            chains = mean.reshape(len(kspace), n_samples, *mean.shape[-2:])
            image = mean + half_noise + onward(chains, last).flatten(0, 1)
            last = chains
        images: Tensor = chains.mean(1) * problem.seen
        return images

    return reconstruct


def _denoised(denoiser: Denoiser, images: Complex64[Tensor, "row y x"], sigma: float) -> Complex64[Tensor, "row y x"]:
    """The denoiser, computed again on the way back instead of kept."""

    def back(gradient: Tensor) -> Tensor:
        with torch.enable_grad():
            variable = images.detach().requires_grad_()
            # the inner product has this gradient; handing it to autograd as such would load torch's compiler
            inner = (gradient.conj() * denoise(denoiser, variable, sigma)).real.sum()
        return torch.autograd.grad(inner, variable)[0]

    with torch.no_grad():
        clean = denoise(denoiser, images, sigma)
    return _with_gradient(images, clean, back)


def _with_gradient(inputs: Tensor, outputs: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
    """``outputs``, with ``back`` carrying their gradient to ``inputs`` of the same shape.

    To autograd this is the identity plus a constant, with a hook. (Its checkpoint does the same for the denoiser, but
    loads torch's compiler at first use, which takes seconds.)
    """
    joined = inputs + (outputs - inputs).detach()
    if joined.requires_grad:
        joined.register_hook(back)  # type: ignore[no-untyped-call]  # torch's own
    return joined


def _likelihood(problem: Problem, kspace: Complex64[Tensor, "row coil y x"]) -> Likelihood:
    return Likelihood.of(problem.sense, kspace, problem.noise_sd.expand(len(kspace)))


def _several(problems: Problem | Sequence[Problem]) -> Sequence[Problem]:
    several = (problems,) if isinstance(problems, Problem) else tuple(problems)
    smallest = min(min(problem.kspace.shape[-2:]) for problem in several)
    if smallest < SMALLEST_PIXELS:
        raise ReconError(
            f"crafting worst cases needs {SMALLEST_PIXELS} pixels along each axis, and this scan has {smallest}; "
            "leave out worst cases, or choose a larger scan"
        )
    return several


def _on_support(problems: Sequence[Problem], images: Complex64[Tensor, "row y x"]) -> Complex64[Tensor, "row y x"]:
    supports = torch.stack([problem.support for problem in problems])
    return images * supports.repeat_interleave(len(images) // len(problems), 0)


def _tikhonov(problem: Problem, regularisation: float) -> Surrogate:
    """What conjugate gradients converge to; the regulariser stays that of the unchanged measurement."""
    weight, sense = regularisation * problem.noise_to_signal, problem.supported

    def solve(kspace: Tensor) -> Tensor:
        rhs = sense.adjoint(kspace)
        if sense.is_by_lines:
            return sense.columns.solve(rhs, 1.0, weight)
        with torch.no_grad():
            solution = _solved(rhs, sense, weight)
        # the matrix is Hermitian: the gradient takes the same way back
        return _with_gradient(rhs, solution, lambda gradient: _solved(gradient, sense, weight))

    return solve


def _solved(rhs: Complex64[Tensor, "row y x"], sense: Sense, weight: float) -> Complex64[Tensor, "row y x"]:
    def normal_op(images: Tensor) -> Tensor:
        return sense.normal(images) + weight * images

    return conjugate_gradient(normal_op, rhs, torch.zeros_like(rhs), N_ITERATIONS, tolerance=1e-5)
