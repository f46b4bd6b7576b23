"""When learned steps fail or take too long, the classical series still leaves, and says why it is alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steadymr.config import Settings
from steadymr.errors import DeadlineError, ReconError, SteadymrError, WeightsError
from steadymr.models import Models, load_models
from steadymr.recon.samplers import Denoiser

logger = logging.getLogger(__name__)

#: What a learned step can fail with: no weights, no memory, values that are not finite.
LEARNED_FAILURES = (ReconError, MemoryError, torch.OutOfMemoryError)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment after which sampling stops; None never comes."""

    end_s: float | None = None
    clock: Callable[[], float] = time.monotonic
    allowed_s: float = 0.0

    @classmethod
    def after(cls, allowed_s: float | None, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """The moment ``allowed_s`` from now."""
        return cls() if allowed_s is None else cls(clock() + allowed_s, clock, allowed_s)

    def check(self) -> None:
        """Raise DeadlineError once the moment has passed."""
        if self.end_s is not None and self.clock() > self.end_s:
            raise DeadlineError(f"the deadline of {self.allowed_s:g} s passed before the samples were drawn")

    def watched(self, denoiser: Denoiser) -> Denoiser:
        """The same denoiser, but it looks at the clock before each evaluation."""
        if self.end_s is None:
            return denoiser

        def watched(images: Tensor, sigma: Tensor) -> Tensor:
            self.check()
            return denoiser(images, sigma)

        return watched


def load_or_fall_back(settings: Settings) -> tuple[Settings, Models, str]:
    """Networks for a run; where weights are missing or damaged, settings for the classical series alone, and why.

    Raises WeightsError instead if the settings say ``fallback.on_failure: stop``. Other errors are never held back.
    """
    try:
        return settings, load_models(settings), ""
    except WeightsError as error:
        if settings.fallback.on_failure == "stop":
            raise
        reason = f"only the classical series is made: {error}"
        logger.error("%s", reason)
        alone = classical_alone(settings)
        return alone, load_models(alone), reason


def classical_alone(settings: Settings) -> Settings:
    """The same settings without anything learned."""
    return settings.model_copy(update={"methods": ("classical",), "samples": 0})


def sentence(error: BaseException) -> str:
    """What went wrong, as one sentence for a reader of the images."""
    if isinstance(error, SteadymrError):
        return str(error)
    return "memory ran out" if isinstance(error, MemoryError | torch.OutOfMemoryError) else repr(error)
