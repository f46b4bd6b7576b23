"""The unrolled supervised network: fastMRI's variational network, with this pipeline's coil maps.

End-to-end variational network after Sriram et al. (MICCAI 2020, arXiv 2004.06688), without its own network for the
sensitivities. Cascades are fastMRI's (`fastmri.models.varnet.VarNetBlock`): each sees the data again and corrects the
coil-combined image by a U-Net. fastMRI's transforms are centred and orthonormal, as all are here. Unlike fastMRI's
`NormUnet`, the U-Nets correct nothing before they have learned to, so that training starts from CG-SENSE's image.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Bool, Complex, Complex64, Float
from torch import Tensor, nn

from steadymr.recon.networks import Precision, pad_to_multiple
from steadymr.recon.operators import conjugate_gradient, fft_centred, ifft_centred

START_WEIGHT: Final = 0.005  #: Tikhonov weight of the first image, beside coil maps of unit norm
START_ITERATIONS: Final = 10  #: conjugate-gradient iterations of the first image
START_TOLERANCE: Final = 1e-4
N_POOLINGS: Final = 3
MULTIPLE: Final = 2 ** (N_POOLINGS + 1)  #: of an image's sides; instance normalisation needs two pixels at the bottom


class Correction(nn.Module):
    """What a U-Net (fastMRI's) finds wrong in each image, seen divided by its own root mean square."""

    def __init__(self, n_channels: int) -> None:
        from fastmri.models import Unet

        super().__init__()
        self.unet = Unet(in_chans=2, out_chans=2, chans=n_channels, num_pool_layers=N_POOLINGS)
        for parameter in self.unet.up_conv[-1][-1].parameters():  # the last convolution
            nn.init.zeros_(parameter)

    def forward(self, images: Float[Tensor, "batch 1 y x 2"]) -> Float[Tensor, "batch 1 y x 2"]:
        """Return the correction, in the images' unit."""
        channels = images[:, 0].permute(0, 3, 1, 2)
        scale = channels.square().mean((1, 2, 3), keepdim=True).clamp_min(1e-12).sqrt()
        wrong = self.unet(pad_to_multiple(channels / scale, MULTIPLE))[..., : channels.shape[-2], : channels.shape[-1]]
        correction: Tensor = (scale * wrong.float()).permute(0, 2, 3, 1)[:, None]
        return correction


class SupervisedVarnet(nn.Module):
    """Maps undersampled k-space to the coil-combined complex image, in k-space's own unit, whatever that is.

    Starts from a CG-SENSE image, then runs ``n_cascades`` times: pull the measured samples towards the data, subtract
    what a U-Net sees of noise and aliasing. Differentiable with respect to k-space, and any matrix size goes in.
    """

    def __init__(self, n_cascades: int = 6, n_channels: int = 8, precision: Precision = "float32") -> None:
        from fastmri.models.varnet import VarNetBlock  # here, because it loads pandas and more: seconds

        super().__init__()
        self.n_cascades, self.n_channels = n_cascades, n_channels
        self.cascades = nn.ModuleList([VarNetBlock(Correction(n_channels)) for _ in range(n_cascades)])
        self.precision = precision

    @property
    def corrections(self) -> list[nn.Module]:
        """The convolutional part of each cascade."""
        return [module for module in self.modules() if isinstance(module, Correction)]

    def forward(
        self,
        kspace: Complex[Tensor, "batch coil y x"],
        maps: Complex[Tensor, "*#batch coil y x"],
        mask: Bool[Tensor, "*#batch y #x"],
    ) -> Complex64[Tensor, "batch y x"]:
        """Reconstruct whitened k-space that is zero where ``mask`` is False; maps have unit norm over the coils.

        Maps and mask are shared by all of the batch, or one for each.
        """
        maps, mask = maps.expand(kspace.shape), mask.expand(len(kspace), *mask.shape[-2:])[:, None]
        start = _expand(cg_sense_start(kspace, maps, mask), maps)
        current, measured, by_coil = (torch.view_as_real(part.contiguous()) for part in (start, kspace, maps))
        with torch.autocast(kspace.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            for cascade in self.cascades:
                current = cascade(current, measured, mask[..., None], by_coil)
        return _reduce(torch.view_as_complex(current.float().contiguous()), maps)


def _expand(
    images: Complex[Tensor, "batch y x"], maps: Complex[Tensor, "batch coil y x"]
) -> Complex[Tensor, "batch coil y x"]:
    return fft_centred(maps * images[:, None])


def _reduce(
    kspace: Complex[Tensor, "batch coil y x"], maps: Complex[Tensor, "batch coil y x"]
) -> Complex[Tensor, "batch y x"]:
    return (maps.conj() * ifft_centred(kspace)).sum(1)


def cg_sense_start(
    kspace: Complex[Tensor, "batch coil y x"],
    maps: Complex[Tensor, "batch coil y x"],
    mask: Bool[Tensor, "batch 1 y #x"],
) -> Complex[Tensor, "batch y x"]:
    """The image to start from: some iterations of CG-SENSE, with a weight that suits most scans."""
    adjoint = _reduce(kspace * mask, maps)

    def normal_op(images: Tensor) -> Tensor:
        return _reduce(_expand(images, maps) * mask, maps) + START_WEIGHT * images

    return conjugate_gradient(normal_op, adjoint, torch.zeros_like(adjoint), START_ITERATIONS, START_TOLERANCE)
