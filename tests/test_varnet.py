"""The unrolled network obeys the laws of the reconstruction that it unrolls, trained or not."""

from __future__ import annotations

import fastmri
import pytest
import torch
from torch import Tensor

from steadymr.errors import ReconError
from steadymr.recon.methods import supervised_varnet
from steadymr.recon.operators import fft_centred
from steadymr.recon.problem import problem_from
from steadymr.recon.varnet import SupervisedVarnet, cg_sense_start

Scan = tuple[Tensor, Tensor, Tensor]


def complex_noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.complex64)


def random_scan(n_batch: int = 1, n_coils: int = 3, size: tuple[int, int] = (24, 20)) -> Scan:
    """K-space of random images, maps of unit norm, and a mask of every other line and the centre."""
    maps = torch.nn.functional.normalize(complex_noise(n_coils, *size), dim=0)
    mask = torch.zeros(size[0], 1, dtype=torch.bool)
    mask[::2] = mask[size[0] // 2 - 3 : size[0] // 2 + 3] = True
    return fft_centred(maps * complex_noise(n_batch, 1, *size, seed=1)) * mask, maps, mask


def random_varnet() -> SupervisedVarnet:
    """A small network whose every weight is random, unlike a fresh one's."""
    torch.manual_seed(0)
    varnet = SupervisedVarnet(n_cascades=2, n_channels=4)
    for cascade in varnet.cascades:
        torch.nn.init.normal_(cascade.model.unet.up_conv[-1][-1].weight, std=0.1)
    return varnet.eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_fastmri_transforms_as_we_do(size: tuple[int, int]) -> None:
    images = complex_noise(2, *size)
    theirs = torch.view_as_complex(fastmri.fft2c(torch.view_as_real(images)))
    torch.testing.assert_close(theirs, fft_centred(images))


def test_an_untrained_network_returns_what_a_full_scan_shows() -> None:
    image = complex_noise(1, 24, 20, seed=1)
    _, maps, mask = random_scan()
    result = SupervisedVarnet(2, 4)(fft_centred(maps * image[:, None]), maps, torch.ones_like(mask))
    torch.testing.assert_close(result, image, atol=1e-4, rtol=1e-3)


def test_an_untrained_network_comes_nearer_to_the_data_than_its_start() -> None:
    kspace, maps, mask = random_scan()
    start = cg_sense_start(kspace, maps[None], mask[None, None])

    def misfit(image: Tensor) -> Tensor:
        return (fft_centred(maps * image[:, None]) * mask - kspace).abs().square().sum()

    assert misfit(SupervisedVarnet(2, 4)(kspace, maps, mask)) < misfit(start)


@pytest.mark.parametrize(("size", "n_coils"), [((33, 117), 1), ((16, 8), 2), ((9, 40), 3), ((32, 32), 9)])
def test_any_matrix_and_any_number_of_coils_go_in(size: tuple[int, int], n_coils: int) -> None:
    image = random_varnet()(*random_scan(2, n_coils, size))
    assert image.shape == (2, *size)
    assert torch.isfinite(torch.view_as_real(image)).all()


def test_a_stronger_signal_makes_an_equally_stronger_image() -> None:
    kspace, maps, mask = random_scan()
    varnet = random_varnet()
    torch.testing.assert_close(varnet(1000 * kspace, maps, mask), 1000 * varnet(kspace, maps, mask), rtol=1e-3, atol=1)


def test_each_scan_of_a_batch_is_reconstructed_by_itself() -> None:
    kspace, maps, mask = random_scan(3)
    varnet = random_varnet()
    together = varnet(kspace, maps.expand(3, -1, -1, -1), mask.expand(3, -1, -1))
    alone = torch.cat([varnet(one[None], maps, mask) for one in kspace])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)


def test_what_was_not_acquired_is_not_looked_at() -> None:
    kspace, maps, mask = random_scan()
    varnet = random_varnet()
    torch.testing.assert_close(varnet(kspace + 5 * ~mask, maps, mask), varnet(kspace, maps, mask))


def test_the_image_is_differentiable_with_respect_to_the_data() -> None:
    kspace, maps, mask = random_scan()
    varnet, direction = random_varnet(), complex_noise(*kspace.shape, seed=2) * mask

    def height(step: float | Tensor) -> Tensor:
        return varnet(kspace + step * direction, maps, mask).abs().square().sum()

    step = torch.zeros((), requires_grad=True)
    (slope,) = torch.autograd.grad(height(step), step)
    torch.testing.assert_close(slope, (height(0.02) - height(-0.02)) / 0.04, rtol=0.02, atol=1e-2)


def test_the_method_is_zero_where_no_coil_sees_anything() -> None:
    kspace, maps, mask = random_scan()
    maps[:, :5] = 0
    image = supervised_varnet(problem_from(1000 * kspace[0], maps, mask), random_varnet())
    assert not image[:5].any()
    assert image[5:].any()


def test_an_image_that_is_not_finite_is_refused() -> None:
    kspace, maps, mask = random_scan()
    problem = problem_from(1000 * kspace[0], maps, mask)
    with pytest.raises(ReconError, match="the supervised network made NaN"):
        supervised_varnet(problem, lambda k, s, m: torch.full_like(k[:, 0], torch.nan))


def test_the_image_follows_the_data_where_the_network_takes_everything_away() -> None:
    kspace, maps, mask = random_scan()
    problem = problem_from(1000 * kspace[0], maps, mask)
    image = supervised_varnet(problem, lambda k, s, m: torch.zeros_like(k[:, 0]))
    left = (problem.sense.forward(image) - problem.kspace).norm() / problem.kspace.norm()
    assert left < 0.5


def test_the_image_turns_with_the_phase_of_the_data() -> None:
    kspace, maps, mask = random_scan()
    network = random_varnet()
    image, turned = (supervised_varnet(problem_from(1000 * turn * kspace[0], maps, mask), network) for turn in (1, 1j))
    torch.testing.assert_close(turned, 1j * image, rtol=1e-3, atol=1e-3)
