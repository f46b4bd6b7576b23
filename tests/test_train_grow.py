"""A prior can begin as a narrower one that was trained before."""

from __future__ import annotations

import pytest
import torch

from steadymr.errors import SettingsError
from steadymr.recon.networks import Denoiser
from steadymr.train.grow import grow


def test_a_wider_prior_begins_where_a_narrow_one_stands() -> None:
    """Exactly, when every channel has as many copies; nearly, when some have more than others."""
    torch.manual_seed(0)
    narrow = randomised(Denoiser((8, 16), n_blocks=2))
    noisy, sigma = torch.randn(2, 2, 16, 16), torch.tensor([0.1, 0.5])
    clean = narrow(noisy, sigma)
    for channels, tolerance in (((16, 32), 1e-4), ((8, 16), 1e-5)):
        wide = Denoiser(channels, n_blocks=2)
        grow(narrow, wide, seed=1)
        torch.testing.assert_close(wide(noisy, sigma), clean, atol=tolerance, rtol=0)


def test_copies_of_a_channel_learn_different_things() -> None:
    torch.manual_seed(0)
    wide = Denoiser((16, 32), n_blocks=1)
    grow(randomised(Denoiser((8, 16), n_blocks=1)), wide)
    wide(torch.randn(1, 2, 16, 16), torch.tensor([0.3])).square().mean().backward()
    gradient = wide.unet.first.weight.grad
    assert gradient is not None
    assert not torch.allclose(gradient[0::2], gradient[1::2], rtol=0.05)


@pytest.mark.parametrize(("channels", "n_blocks"), [((16, 24), 2), ((8, 16, 32), 2), ((16, 32), 1)])
def test_what_is_not_a_wider_prior_of_the_same_depth_cannot_be_grown_into(
    channels: tuple[int, ...], n_blocks: int
) -> None:
    with pytest.raises(SettingsError, match="can only grow by widening all its levels by one factor"):
        grow(Denoiser((8, 16), n_blocks=2), Denoiser(channels, n_blocks=n_blocks))


def randomised(denoiser: Denoiser) -> Denoiser:
    """Give layers that begin at zero something to say."""
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return denoiser
