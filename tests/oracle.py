"""Priors whose denoiser and whose posterior are known exactly, by dense algebra: what a sampler has to agree with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steadymr.recon.operators import Sense


@dataclass(frozen=True)
class Component:
    """A complex Gaussian: real and imaginary part are independent and have the same covariance (pixel pixel2)."""

    weight: float
    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class Posterior:
    """What is known of the image: moments of the complex value, and of its samples' misfit."""

    mean: Tensor
    variance: Tensor
    shares: Tensor  #: probability of each component
    residual: float  #: mean of |kspace - A x|^2 over samples


@dataclass(frozen=True)
class Oracle:
    """A Gaussian mixture as the prior of images of (size size) pixels."""

    components: tuple[Component, ...]
    size: int

    def sample(self, generator: torch.Generator) -> Tensor:
        weights = torch.tensor([c.weight for c in self.components])
        component = self.components[int(torch.multinomial(weights, 1, generator=generator))]
        noise = torch.view_as_complex(torch.randn(self.size**2, 2, dtype=torch.float64, generator=generator))
        factor = torch.linalg.cholesky(component.covariance).to(torch.complex128)
        return (component.mean + factor @ noise).reshape(self.size, self.size)

    def denoiser(self):
        """The exact posterior mean under white noise, as the networks' contract wants it."""
        parts = []
        for component in self.components:  # double precision for the decomposition, single for the many applications
            values, vectors = torch.linalg.eigh(component.covariance)
            parts.append((component, values.float(), vectors.to(torch.complex64)))

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            variance = sigma[0] ** 2
            noisy = torch.complex(x[:, 0], x[:, 1]).flatten(1)
            logs, means = [], []
            for component, values, vectors in parts:
                mean = component.mean.to(noisy.dtype)
                modes = (noisy - mean) @ vectors
                total = values + variance
                logs.append(
                    torch.log(torch.tensor(component.weight))
                    - 0.5 * (modes.abs() ** 2 / total).sum(1)
                    - total.log().sum()
                )
                means.append(mean + (modes * (values / total)) @ vectors.mT)
            share = torch.softmax(torch.stack(logs), 0)
            clean = sum(s[:, None] * m for s, m in zip(share, means, strict=True)).reshape(-1, self.size, self.size)
            return torch.stack([clean.real, clean.imag], 1).to(x.dtype)

        return denoise

    def posterior(self, sense: Sense, kspace: Tensor, noise_sd: float) -> Posterior:
        """What the k-space leaves possible; noise_sd is per real channel."""
        normal, back = _dense(sense, self.size), sense.adjoint(kspace).flatten().to(torch.complex128)
        logs, means, covariances = [], [], []
        for component in self.components:
            precision = torch.linalg.inv(component.covariance) + normal / noise_sd**2
            covariance = torch.linalg.inv(precision)
            innovation = (back - normal @ component.mean) / noise_sd**2
            shift = covariance @ innovation
            # |kspace - A mean|^2, less what all components share
            misfit = (torch.vdot(component.mean, normal @ component.mean) - 2 * torch.vdot(back, component.mean)).real
            explained = torch.vdot(innovation, shift).real
            logs.append(
                torch.log(torch.tensor(component.weight, dtype=torch.float64))
                - 0.5 * (misfit / noise_sd**2 - explained)
                - torch.linalg.slogdet(component.covariance)[1]
                - torch.linalg.slogdet(precision)[1]
            )
            means.append(component.mean + shift)
            covariances.append(2 * covariance)
        shares = torch.softmax(torch.stack(logs), 0)
        mean = sum(s * m for s, m in zip(shares, means, strict=True))
        variance, residual = torch.zeros(self.size**2, dtype=torch.float64), kspace.abs().double().square().sum()
        for share, own_mean, covariance in zip(shares, means, covariances, strict=True):
            variance += share * (covariance.diagonal().real + (own_mean - mean).abs() ** 2)
            spread = torch.vdot(own_mean, normal @ own_mean) + (normal * covariance.T).sum()
            residual += share * (spread - 2 * torch.vdot(back, own_mean)).real
        shape = (self.size, self.size)
        return Posterior(mean.reshape(shape), variance.reshape(shape), shares, float(residual))


def _dense(sense: Sense, size: int) -> Tensor:
    basis = torch.eye(size**2, dtype=torch.complex64).reshape(-1, size, size)
    return sense.normal(basis).reshape(size**2, size**2).T.to(torch.complex128)


def texture(size: int) -> Oracle:
    """One Gaussian: smooth texture inside a disc, hardly anything outside."""
    covariance = _texture_covariance(size, amplitude=0.3)
    return Oracle((Component(1.0, _disc(size, 0.9) * 0.7 + 0j, covariance),), size)


def lesion_or_not(size: int) -> Oracle:
    """The same anatomy, less variable, with or without a lesion that undersampling can hide."""
    covariance = _texture_covariance(size, amplitude=0.1)
    anatomy = (_disc(size, 0.9) * 0.7).to(torch.complex128)
    y, x = _grid(size)
    lesion = 0.35 * torch.exp(-(((x - 0.25) ** 2 + (y + 0.2) ** 2) / 0.14**2)).flatten()
    return Oracle((Component(0.5, anatomy, covariance), Component(0.5, anatomy + lesion, covariance)), size)


def _grid(size: int) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(size, dtype=torch.float64) - size // 2) / (size / 2)
    return torch.meshgrid(axis, axis, indexing="ij")


def _disc(size: int, radius: float) -> Tensor:
    y, x = _grid(size)
    return torch.sigmoid((radius - (x**2 + y**2).sqrt()) * size / 2).flatten()


def _texture_covariance(size: int, amplitude: float) -> Tensor:
    y, x = (axis.flatten() for axis in _grid(size))
    distance = ((x[:, None] - x) ** 2 + (y[:, None] - y) ** 2).sqrt()
    envelope = amplitude * _disc(size, 0.9)
    return envelope[:, None] * torch.exp(-distance / 0.25) * envelope + 1e-4 * torch.eye(size**2, dtype=torch.float64)
