"""One network evaluation for the slices of several scans: a denoiser that gathers calls of equal shape."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor

from steadymr.recon.samplers import Denoiser

SHARE_OF_EVALUATION = 0.5  #: how long a call waits for others, in units of the evaluation before it
MOST_IMAGES = 64  #: in one evaluation


class _Call:
    """What one scan asks for, and what became of it."""

    def __init__(self, channels: Tensor, sigma: Tensor) -> None:
        self.channels, self.sigma = channels, sigma
        self.result: Tensor | None = None
        self.error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.result is not None or self.error is not None

    def fits(self, other: _Call) -> bool:
        alike = self.channels.shape[1:] == other.channels.shape[1:] and self.channels.dtype == other.channels.dtype
        return alike and self.channels.device == other.channels.device


class SharedDenoiser:
    """A denoiser for several threads at once, with the results of one that each had for itself, up to rounding.

    The first call leads: it waits until as many calls wait as scans are under way, but no longer than a share of an
    evaluation, evaluates all that fit together, and hands out the results. The others wait for theirs, and lead the
    next evaluation if they were left over. Nobody waits for a scan that has ended, failed, or has other things to do.
    """

    def __init__(self, denoiser: Denoiser, n_scans: Callable[[], int], *, longest_wait_s: float = 0.1) -> None:
        """``n_scans`` says how many scans may be about to call."""
        self._denoiser = denoiser
        self._n_scans = n_scans
        self._longest_wait_s = longest_wait_s
        self._patience_s = longest_wait_s
        self._changed = threading.Condition()
        self._waiting: list[_Call] = []
        self._is_led = False

    def __call__(self, channels: Tensor, sigma: Tensor) -> Tensor:
        """Clean estimates, as the denoiser gives them; raises what the denoiser raises for this call."""
        call = _Call(channels, sigma)
        with self._changed:
            self._waiting.append(call)
            self._changed.notify_all()
            self._changed.wait_for(lambda: call.done or not self._is_led)
            leads = not call.done
            self._is_led |= leads
        if leads:
            self._lead(call)
        if call.error is not None:
            raise call.error
        assert call.result is not None  # for the type checker: done without an error
        return call.result

    def _lead(self, call: _Call) -> None:
        try:
            with self._changed:
                self._changed.wait_for(lambda: len(self._waiting) >= self._n_scans(), timeout=self._patience_s)
                calls = self._chosen(call)
            self._evaluate(calls)
        finally:
            with self._changed:
                self._is_led = False
                self._changed.notify_all()

    def _chosen(self, leader: _Call) -> list[_Call]:
        """The leader's call and those that fit with it, as long as there is room; the others go on waiting."""
        calls, n_images = [leader], len(leader.channels)
        for call in self._waiting:
            if call is not leader and call.fits(leader) and n_images + len(call.channels) <= MOST_IMAGES:
                calls.append(call)
                n_images += len(call.channels)
        self._waiting = [call for call in self._waiting if call not in calls]
        return calls

    def _evaluate(self, calls: list[_Call]) -> None:
        started = time.perf_counter()
        try:
            with torch.no_grad():
                cleaned = self._denoiser(
                    torch.cat([call.channels for call in calls]), torch.cat([call.sigma for call in calls])
                )
            for call, result in zip(calls, torch.split(cleaned, [len(call.channels) for call in calls]), strict=True):
                call.result = result
        except torch.cuda.OutOfMemoryError as error:
            self._one_by_one(calls, error)
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to those who asked
            for call in calls:
                call.error = error
        self._patience_s = min(SHARE_OF_EVALUATION * (time.perf_counter() - started), self._longest_wait_s)

    def _one_by_one(self, calls: list[_Call], error: Exception) -> None:
        """Together they were too many; alone each may still fit."""
        if len(calls) == 1:
            calls[0].error = error
            return
        for call in calls:
            self._evaluate([call])
