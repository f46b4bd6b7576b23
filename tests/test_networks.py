"""The networks take any size, keep the scaling contract, and the denoiser has the right limits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steadymr.recon.networks import SIGMA_DATA, Denoiser, SupervisedUnet, pad_to_multiple

CHANNELS = (8, 16)
SIZES = [(33, 117), (7, 5), (64, 64), (1, 40)]


def small_denoiser() -> Denoiser:
    """A denoiser whose every weight is random, unlike a fresh one's."""
    torch.manual_seed(0)
    denoiser = Denoiser(CHANNELS, n_blocks=1)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return denoiser.eval().requires_grad_(False)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", SIZES)
def test_networks_return_the_size_they_are_given(size: tuple[int, int]) -> None:
    images = noise(2, 2, *size)
    assert small_denoiser()(images, torch.full((2,), 0.1)).shape == images.shape
    assert SupervisedUnet(4)(images).shape == images.shape


@pytest.mark.parametrize("size", SIZES)
def test_padding_leaves_the_image_in_its_corner(size: tuple[int, int]) -> None:
    images = noise(1, 2, *size)
    padded = pad_to_multiple(images, 16)
    assert all(n % 16 == 0 for n in padded.shape[-2:])
    assert torch.equal(padded[..., : size[0], : size[1]], images)


def test_without_noise_the_denoiser_is_the_identity() -> None:
    images = noise(1, 2, 16, 16)
    torch.testing.assert_close(small_denoiser()(images, torch.tensor([1e-5])), images, atol=1e-3, rtol=0)


@pytest.mark.parametrize("sigma", [0.01, 0.3, 100.0])
def test_an_untrained_denoiser_is_the_best_linear_one(sigma: float) -> None:
    images = noise(1, 2, 16, 16)
    expected = images * SIGMA_DATA**2 / (SIGMA_DATA**2 + sigma**2)
    denoiser = Denoiser(CHANNELS, 1)
    torch.nn.init.zeros_(denoiser.unet.last.bias)
    torch.testing.assert_close(denoiser.denoise(images, torch.tensor([sigma])), expected)


def test_each_image_is_denoised_by_its_own_noise_level() -> None:
    images, sigma = noise(3, 2, 16, 16), torch.tensor([0.01, 0.1, 1.0])
    denoiser = small_denoiser()
    alone = torch.cat([denoiser(images[n : n + 1], sigma[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(denoiser(images, sigma), alone, atol=1e-5, rtol=1e-4)


def test_the_supervised_network_scales_with_its_input() -> None:
    torch.manual_seed(0)
    unet, images = SupervisedUnet(4).eval(), noise(1, 2, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(unet(50.0 * images), 50.0 * unet(images), rtol=1e-4, atol=1e-2)


def test_the_supervised_network_survives_an_empty_image() -> None:
    assert torch.isfinite(SupervisedUnet(4)(torch.zeros(1, 2, 32, 32))).all()


def test_gradients_reach_every_weight_of_the_denoiser() -> None:
    denoiser = small_denoiser().requires_grad_(True)
    denoiser(noise(1, 2, 16, 16), torch.tensor([0.2])).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in denoiser.parameters())
