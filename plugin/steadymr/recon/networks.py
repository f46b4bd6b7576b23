"""The two networks: a denoiser of complex images, the prior of the diffusion method, and a supervised U-Net.

Complex images are two real channels, real part first: ``(batch 2 y x)``. Scaling contract of both: the 99th
percentile of an image's magnitude is about 1; ``sigma`` is the standard deviation of noise in each real channel in
those units. Any matrix size goes in; sizes that do not halve evenly are padded by reflection and cropped again.
"""

from __future__ import annotations

import functools
from typing import Final, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

#: bfloat16 is for CUDA. On processors that announce AMX but run under a hypervisor without it, torch's bfloat16 layers
#: end the process with an illegal instruction, which no Python code can catch: on a CPU the default is float32.
Precision: TypeAlias = Literal["float32", "bfloat16"]

#: Standard deviation of a real channel of training images whose magnitude's 99th percentile is 1, air included.
SIGMA_DATA: Final = 0.3


def pad_to_multiple(images: Float[Tensor, "batch channel y x"], multiple: int) -> Float[Tensor, "batch channel y2 x2"]:
    """Pad the ends of y and x to a multiple; by reflection, or where an image is too small, by its last pixels."""
    pad_y, pad_x = (-size % multiple for size in images.shape[-2:])
    fits = pad_y < images.shape[-2] and pad_x < images.shape[-1]
    return functional.pad(images, (0, pad_x, 0, pad_y), mode="reflect" if fits else "replicate")


class NoiseEmbedding(nn.Module):
    """Turns ln(sigma)/4 into features: cosines and sines of 16 frequencies, then two layers."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, n_features), nn.SiLU(), nn.Linear(n_features, n_features), nn.SiLU())

    def forward(self, log_noise: Float[Tensor, "batch"]) -> Float[Tensor, "batch feature"]:
        """Return the features of each noise level."""
        frequencies = torch.logspace(-0.5, 1.5, 16, device=log_noise.device)
        angles = log_noise[:, None] * frequencies
        features: Tensor = self.layers(torch.cat([angles.cos(), angles.sin()], dim=1))
        return features


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around which the input passes; the noise level scales and shifts in between."""

    def __init__(self, n_in: int, n_out: int, n_features: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(8, n_in)
        self.conv_in = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.modulation = nn.Linear(n_features, 2 * n_out)
        self.norm_out = nn.GroupNorm(8, n_out)
        self.conv_out = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.passage = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]  # bias is there, its type says Optional

    def forward(
        self, images: Float[Tensor, "batch n_in y x"], features: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch n_out y x"]:
        """Return the block's output on the same grid."""
        scale, shift = self.modulation(features)[:, :, None, None].chunk(2, dim=1)
        inner = self.conv_in(functional.silu(self.norm_in(images)))
        inner = self.conv_out(functional.silu(self.norm_out(inner) * (1 + scale) + shift))
        result: Tensor = self.passage(images) + inner
        return result


class DenoiserUnet(nn.Module):
    """A U-Net on 2 x 2 blocks of pixels: residual blocks, average pooling, nearest-neighbour enlargement, no attention.

    The first and the last convolution always run in single precision: at small sigma the noise is finer than
    bfloat16's steps at the image's own amplitude.
    """

    def __init__(self, channels: tuple[int, ...] = (32, 64, 128), n_blocks: int = 2) -> None:
        super().__init__()
        self.channels, self.n_blocks = channels, n_blocks
        self.multiple = 2 ** len(channels)
        n_features = 2 * channels[0]
        self.embed = NoiseEmbedding(n_features)
        self.first = nn.Conv2d(8, channels[0], 3, padding=1)
        block = functools.partial(ResidualBlock, n_features=n_features)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, n_out in enumerate(channels):
            n_in = channels[max(level - 1, 0)]
            self.down.append(nn.ModuleList([block(n_in if i == 0 else n_out, n_out) for i in range(n_blocks)]))
            n_below = channels[min(level + 1, len(channels) - 1)]
            self.up.append(
                nn.ModuleList([block((n_below if i == 0 else n_out) + n_out, n_out) for i in range(n_blocks)])
            )
        self.middle = block(channels[-1], channels[-1])
        self.last = nn.Conv2d(channels[0], 8, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(
        self, images: Float[Tensor, "batch 2 y x"], log_noise: Float[Tensor, "batch"]
    ) -> Float[Tensor, "batch 2 y x"]:
        """Return the raw output; y and x are multiples of ``multiple``."""
        features = self.embed(log_noise)
        with torch.autocast(images.device.type, enabled=False):
            hidden = self.first(functional.pixel_unshuffle(images.float(), 2))
        skips = []
        for level, blocks in enumerate(self.down):
            hidden = functional.avg_pool2d(hidden, 2) if level else hidden
            for block in blocks:  # type: ignore[attr-defined]  # a ModuleList iterates
                hidden = block(hidden, features)
                skips.append(hidden)
        hidden = self.middle(hidden, features)
        for level in reversed(range(len(self.up))):
            for block in self.up[level]:  # type: ignore[attr-defined]
                hidden = block(torch.cat([hidden, skips.pop()], dim=1), features)
            hidden = functional.interpolate(hidden, scale_factor=2.0, mode="nearest") if level else hidden
        with torch.autocast(images.device.type, enabled=False):
            output: Tensor = functional.pixel_shuffle(self.last(functional.silu(hidden.float())), 2)
        return output


class Denoiser(nn.Module):
    """Estimates the clean image from a noisy one of known noise level, E[x | x + sigma n].

    Preconditioning after Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models (NeurIPS
    2022), table 1: D(x, sigma) = c_skip x + c_out F(c_in x, ln(sigma) / 4), always in single precision; F is the
    U-Net, which may run in bfloat16.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (32, 64, 128),
        n_blocks: int = 2,
        sigma_data: float = SIGMA_DATA,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.unet = DenoiserUnet(channels, n_blocks)
        self.sigma_data = sigma_data
        self.precision = precision
        self.rmse_by_sigma: tuple[tuple[float, float], ...] = ()  #: error on held-out images, if it was measured

    def forward(
        self, images: Float[Tensor, "batch 2 y x"], sigma: Float[Tensor, "batch"]
    ) -> Float[Tensor, "batch 2 y x"]:
        """Denoise each image; sigma > 0 is the noise of each of its real channels."""
        variance, variance_data = (sigma.float() ** 2)[:, None, None, None], self.sigma_data**2
        total = variance + variance_data
        c_skip, c_out, c_in = variance_data / total, self.sigma_data * (variance / total).sqrt(), total.rsqrt()
        padded = pad_to_multiple(c_in * images.float(), self.unet.multiple)
        padded = padded.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            raw = self.unet(padded, sigma.float().log() / 4)
        clean: Tensor = c_skip * images + c_out * raw[..., : images.shape[-2], : images.shape[-1]].float()
        return clean

    def denoise(
        self, images: Float[Tensor, "batch 2 y x"], sigma: Float[Tensor, "batch"]
    ) -> Float[Tensor, "batch 2 y x"]:
        """Denoise each image; the same as calling the object."""
        return self.forward(images, sigma)


class SupervisedUnet(nn.Module):
    """Maps a CG-SENSE image to the image without its noise and aliasing: the input plus a correction by a U-Net.

    The U-Net is fastMRI's (`fastmri.models.Unet`). Each image is divided by the 99th percentile of its own
    magnitude on the way in and multiplied by it on the way out.
    """

    MULTIPLE: Final = 16  # four poolings
    SMALLEST: Final = 32  # instance normalisation needs more than one pixel at the bottom

    def __init__(self, n_channels: int = 18, precision: Precision = "float32") -> None:
        from fastmri.models import Unet  # here, because it loads pandas and more: seconds that other methods save

        super().__init__()
        self.n_channels = n_channels
        self.unet = Unet(in_chans=2, out_chans=2, chans=n_channels, num_pool_layers=4)
        self.precision = precision

    def forward(self, images: Float[Tensor, "batch 2 y x"]) -> Float[Tensor, "batch 2 y x"]:
        """Correct each image."""
        magnitude = torch.linalg.vector_norm(images.float(), dim=1).flatten(1)
        scale = torch.quantile(magnitude, 0.99, dim=1).clamp_min(1e-12)[:, None, None, None]
        padded = pad_to_multiple(images.float() / scale, self.MULTIPLE)
        if min(padded.shape[-2:]) < self.SMALLEST:
            padded = pad_to_multiple(padded, self.SMALLEST)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            correction = self.unet(padded.contiguous(memory_format=torch.channels_last))
        corrected: Tensor = images + scale * correction[..., : images.shape[-2], : images.shape[-1]].float()
        return corrected
