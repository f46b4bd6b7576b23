"""Where memory runs out, the same images come out more slowly, and it is said."""

from __future__ import annotations

import logging

import pytest
import torch
from laws import assert_close
from torch import Tensor

from steadymr.errors import DeviceError
from steadymr.recon.frugal import FrugalDenoiser
from steadymr.recon.networks import Denoiser


class Cramped(Denoiser):
    """A network on a device with room for so many images, until it is moved to the CPU, where there is room for all."""

    def __init__(self, room: int) -> None:
        super().__init__(channels=(8,), n_blocks=1)
        self.room, self.batches, self.precision = room, [], "bfloat16"

    def to(self, *where, **how) -> Cramped:
        self.room = 99
        return super().to(*where, **how)

    def forward(self, images: Tensor, sigma: Tensor) -> Tensor:
        self.batches.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images / (1 + sigma[:, None, None, None])


IMAGES, SIGMA = torch.randn(7, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.linspace(0.1, 0.7, 7)


@pytest.mark.parametrize(("room", "tried"), [(7, [7]), (6, [7, 3, 3, 1]), (1, [7, 3, 1, 1, 1, 1, 1, 1, 1])])
def test_batches_are_halved_until_they_fit_and_the_estimates_stay(room, tried):
    network = Cramped(room)
    made = FrugalDenoiser(network, "cpu")
    assert_close(made(IMAGES, SIGMA), IMAGES / (1 + SIGMA[:, None, None, None]))
    assert network.batches == tried


def test_what_fits_is_remembered_and_said_once(caplog):
    network = Cramped(3)
    made = FrugalDenoiser(network, "cpu")
    with caplog.at_level(logging.WARNING):
        made(IMAGES, SIGMA)
        made(IMAGES, SIGMA)
    assert network.batches == [7, 3, 3, 1, 3, 3, 1]
    assert made.shortages() == (caplog.messages[0],) == tuple(caplog.messages)
    assert "7 images at once: 3 at a time" in caplog.messages[0]


def test_a_device_without_room_for_one_image_gives_way_to_the_cpu_in_single_precision(caplog):
    network = Cramped(0)
    made = FrugalDenoiser(network, "meta")  # a device of another name; its tensors are never looked at
    made._evaluate = lambda images, sigma: network(images, sigma)
    assert made(IMAGES, SIGMA).shape == IMAGES.shape
    assert network.precision == "float32"
    assert "on the CPU" in made.shortages()[-1]


def test_a_cpu_without_room_for_one_image_is_an_error():
    with pytest.raises(DeviceError, match="one image"):
        FrugalDenoiser(Cramped(0), "cpu")(IMAGES, SIGMA)


@pytest.mark.parametrize("words", ["DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", "else"])
def test_only_errors_about_memory_are_taken_for_shortages(words):
    network = Cramped(0)

    def broken(images: Tensor, sigma: Tensor) -> Tensor:
        raise RuntimeError(words)

    made = FrugalDenoiser(network, "cpu")
    network.forward = broken
    with pytest.raises(DeviceError if "memory" in words else RuntimeError):
        made(IMAGES, SIGMA)
