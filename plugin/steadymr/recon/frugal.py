"""A denoiser that gets along with the memory there is: fewer images at once, then the CPU, and it says so."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from steadymr.errors import DeviceError
from steadymr.recon.networks import Denoiser

logger = logging.getLogger(__name__)


class FrugalDenoiser:
    """The same estimates as the network's, in smaller batches where memory runs out, and at last on the CPU.

    What worked once is kept: a shortage is met again with every slice, and finding out costs time.
    """

    def __init__(self, network: Denoiser, device: str) -> None:
        """``network`` is on ``device`` and belongs to this object from now on."""
        self._network, self._device = network, torch.device(device)
        self._most: int | None = None  # images at once; None while there was no shortage
        self._shortages: dict[str, None] = {}  # an ordered set

    def __call__(self, images: Tensor, sigma: Tensor) -> Tensor:
        """Clean images; raises DeviceError if not even the CPU has memory for one of them."""
        while True:
            n_images = min(self._most or len(images), len(images))
            try:
                parts = [slice(first, first + n_images) for first in range(0, len(images), n_images)]
                return torch.cat([self._evaluate(images[part], sigma[part]) for part in parts])
            except RuntimeError as error:
                if not _is_shortage(error):
                    raise
                self._give_way(n_images, error)

    def shortages(self) -> tuple[str, ...]:
        """What memory did not allow so far, in sentences."""
        return tuple(self._shortages)

    def _evaluate(self, images: Tensor, sigma: Tensor) -> Tensor:
        clean: Tensor = self._network(images.to(self._device), sigma.to(self._device))
        return clean.to(images.device)

    def _give_way(self, n_images: int, error: RuntimeError) -> None:
        if n_images > 1:
            self._most = n_images // 2
            self._say(f"the device's memory did not suffice for {n_images} images at once: {self._most} at a time now")
            return
        if self._device.type == "cpu":
            raise DeviceError("memory does not suffice for the network and one image; free some memory") from error
        self._network.to("cpu").precision = "float32"  # see networks.Precision
        self._device, self._most = torch.device("cpu"), None
        self._say("the device's memory did not suffice for one image: the network runs on the CPU now, slowly")

    def _say(self, sentence: str) -> None:
        logger.warning("%s", sentence)
        self._shortages[sentence] = None


def _is_shortage(error: RuntimeError) -> bool:
    """Whether memory ran out; for the CPU's torch has no class of its own, only these words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
