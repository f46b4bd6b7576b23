"""A wider prior that begins where a narrower one stands, instead of at random.

Net2WiderNet (Chen et al., Net2Net, ICLR 2016): every channel of the narrow network is copied, some more often than
others, and what a layer took from a channel it now takes in shares from its copies. The shares are random, so that
copies learn different things; they add up to 1, so that the wide network computes what the narrow one did. That is
exact when every channel has as many copies; otherwise the statistics of group normalisation, which count a channel as
often as it was copied, differ a little, and the first steps of training mend it. Copies stay in the group of their
original, because channels keep their order and each level is widened by the same factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from steadymr.errors import SettingsError
from steadymr.recon.networks import Denoiser, ResidualBlock

#: For each channel of the wide network, the channel of the narrow one of which it is a copy.
Origins: TypeAlias = Int64[np.ndarray, " _"]
Layer: TypeAlias = nn.Linear | nn.Conv2d


def grow(narrow: Denoiser, wide: Denoiser, seed: int = 0) -> None:
    """Give a wide prior the weights of a narrow one, in place.

    Raises:
        SettingsError: the wide one has another depth, or levels that are not all wider by the same factor.
    """
    old, new = narrow.unet, wide.unet
    ratios = {after / before for before, after in zip(old.channels, new.channels, strict=False)}
    if (len(old.channels), old.n_blocks) != (len(new.channels), new.n_blocks) or len(ratios) != 1 or min(ratios) < 1:
        raise SettingsError(
            f"a prior with channels {list(old.channels)} and {old.n_blocks} blocks can only grow by widening all its "
            f"levels by one factor, not into channels {list(new.channels)} and {new.n_blocks} blocks"
        )
    rng = np.random.default_rng(seed)
    of_level = [_origins(before, after) for before, after in zip(old.channels, new.channels, strict=True)]
    features = _origins(2 * old.channels[0], 2 * new.channels[0])
    image = np.arange(8)

    with torch.no_grad():
        entering = np.arange(32)
        for source, target in zip(old.embed.layers, new.embed.layers, strict=True):
            if isinstance(source, nn.Linear) and isinstance(target, nn.Linear):
                _widen(source, target, entering, features, rng)
                entering = features
        _widen(old.first, new.first, image, of_level[0], rng)
        _widen(old.last, new.last, of_level[0], image, rng)
        _widen_block(old.middle, new.middle, of_level[-1], of_level[-1], features, rng)
        for level, kept in enumerate(of_level):
            above, below = of_level[max(level - 1, 0)], of_level[min(level + 1, len(of_level) - 1)]
            for i, (before, after) in enumerate(_blocks(old.down[level], new.down[level])):
                _widen_block(before, after, kept if i else above, kept, features, rng)
            for i, (before, after) in enumerate(_blocks(old.up[level], new.up[level])):
                _widen_block(before, after, _joined(kept if i else below, kept), kept, features, rng)


def _blocks(old: nn.Module, new: nn.Module) -> Iterator[tuple[ResidualBlock, ResidualBlock]]:
    return zip(cast(Iterable[ResidualBlock], old), cast(Iterable[ResidualBlock], new), strict=True)


def _origins(n_old: int, n_new: int) -> Origins:
    """Return the originals of channels that keep their order, copies beside each other."""
    return np.asarray(np.arange(n_new) * n_old // n_new)


def _joined(first: Origins, second: Origins) -> Origins:
    """Return the originals where two sets of channels are concatenated."""
    return np.concatenate([first, first.max() + 1 + second])


def _widen_block(
    old: ResidualBlock,
    new: ResidualBlock,
    entering: Origins,
    leaving: Origins,
    features: Origins,
    rng: np.random.Generator,
) -> None:
    _copy(old.norm_in, new.norm_in, entering)
    _widen(old.conv_in, new.conv_in, entering, leaving, rng)
    _widen(old.modulation, new.modulation, features, _joined(leaving, leaving), rng)
    _copy(old.norm_out, new.norm_out, leaving)
    _widen(old.conv_out, new.conv_out, leaving, leaving, rng)
    if isinstance(old.passage, nn.Conv2d) and isinstance(new.passage, nn.Conv2d):
        _widen(old.passage, new.passage, entering, leaving, rng)


def _widen(old: Layer, new: Layer, entering: Origins, leaving: Origins, rng: np.random.Generator) -> None:
    """Copy a layer's weights to the copies of its outputs, and share them out among the copies of its inputs."""
    share = rng.uniform(0.5, 1.5, len(entering))
    share /= np.bincount(entering, share)[entering]
    weight = old.weight[torch.from_numpy(leaving)][:, torch.from_numpy(entering)]
    shares = torch.from_numpy(share.astype(np.float32)).to(weight.device)
    new.weight.copy_(weight * shares.view(1, -1, *[1] * (weight.ndim - 2)))
    if old.bias is not None and new.bias is not None:
        new.bias.copy_(old.bias[torch.from_numpy(leaving)])


def _copy(old: nn.GroupNorm, new: nn.GroupNorm, origins: Origins) -> None:
    """Copy what belongs to each channel alone."""
    new.weight.copy_(old.weight[torch.from_numpy(origins)])
    new.bias.copy_(old.bias[torch.from_numpy(origins)])
