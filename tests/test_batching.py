"""Slices of several scans in one network evaluation: the same images, and nobody waits for the dead."""

from __future__ import annotations

import threading
from collections.abc import Callable

import peers
import pytest
import torch
from test_networks import small_denoiser
from torch import Tensor

from steadymr.live import batching
from steadymr.live.batching import SharedDenoiser
from steadymr.source.wire.turns import Turns


def shrinking(channels: Tensor, sigma: Tensor) -> Tensor:
    return channels / (1 + sigma[:, None, None, None] ** 2)


class Watched:
    """A denoiser that remembers how many images came together."""

    def __init__(self, denoiser: Callable[[Tensor, Tensor], Tensor] = shrinking) -> None:
        self.denoiser = denoiser
        self.sizes: list[int] = []

    def __call__(self, channels: Tensor, sigma: Tensor) -> Tensor:
        self.sizes.append(len(channels))
        return self.denoiser(channels, sigma)


def together(*calls: Callable[[], Tensor]) -> list[Tensor | Exception]:
    """Make all calls at the same time; results or errors in their order."""
    results: list[Tensor | Exception] = [RuntimeError("never came back")] * len(calls)
    start = threading.Barrier(len(calls))

    def run(number: int) -> None:
        start.wait()
        try:
            results[number] = calls[number]()
        except (ArithmeticError, torch.cuda.OutOfMemoryError) as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(peers.TIMEOUT_S)
    assert not any(thread.is_alive() for thread in threads)
    return results


def images(seed: int, n: int = 3, size: int = 16) -> Tensor:
    return torch.randn(n, 2, size, size, generator=torch.Generator().manual_seed(seed))


def sigmas(value: float, n: int = 3) -> Tensor:
    return torch.full((n,), value)


def test_what_comes_back_is_what_each_would_have_had_alone() -> None:
    network = small_denoiser()
    watched = Watched(network)
    shared = SharedDenoiser(watched, lambda: 2, longest_wait_s=5.0)
    first, second = together(lambda: shared(images(1), sigmas(0.5)), lambda: shared(images(2, 5), sigmas(0.1, 5)))
    assert watched.sizes == [8]
    torch.testing.assert_close(first, network(images(1), sigmas(0.5)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(second, network(images(2, 5), sigmas(0.1, 5)), atol=1e-5, rtol=1e-5)


def test_other_shapes_are_evaluated_apart() -> None:
    watched = Watched()
    shared = SharedDenoiser(watched, lambda: 2, longest_wait_s=5.0)
    calls = [lambda size=size: shared(images(1, 3, size), sigmas(0.5)) for size in (8, 16)]
    results = together(*calls)
    assert watched.sizes == [3, 3]
    assert sorted(result.shape[-1] for result in results if isinstance(result, Tensor)) == [8, 16]


def test_a_scan_alone_does_not_wait() -> None:
    shared = SharedDenoiser(shrinking, lambda: 1, longest_wait_s=1e6)
    assert shared(images(1), sigmas(0.5)).shape == (3, 2, 16, 16)


def test_a_scan_that_never_calls_holds_nobody_up_for_long() -> None:
    shared = SharedDenoiser(shrinking, lambda: 2, longest_wait_s=0.01)
    assert shared(images(1), sigmas(0.5)).shape == (3, 2, 16, 16)


def test_too_many_images_for_one_evaluation_become_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MOST_IMAGES", 4)
    watched = Watched()
    shared = SharedDenoiser(watched, lambda: 2, longest_wait_s=5.0)
    together(lambda: shared(images(1), sigmas(0.5)), lambda: shared(images(2), sigmas(0.5)))
    assert watched.sizes == [3, 3]


def test_a_failure_reaches_all_that_shared_it_and_the_next_call_works() -> None:
    def failing_once(channels: Tensor, sigma: Tensor) -> Tensor:
        if len(watched.sizes) == 1:
            raise ZeroDivisionError("the network failed")
        return shrinking(channels, sigma)

    watched = Watched(failing_once)
    shared = SharedDenoiser(watched, lambda: 2, longest_wait_s=5.0)
    results = together(lambda: shared(images(1), sigmas(0.5)), lambda: shared(images(2), sigmas(0.5)))
    assert [type(result) for result in results] == [ZeroDivisionError] * 2
    assert SharedDenoiser(watched, lambda: 1)(images(1), sigmas(0.5)).shape == (3, 2, 16, 16)


def test_what_is_too_much_together_is_tried_one_by_one() -> None:
    def small(channels: Tensor, sigma: Tensor) -> Tensor:
        if len(channels) > 4:
            raise torch.cuda.OutOfMemoryError("too much")
        return shrinking(channels, sigma)

    shared = SharedDenoiser(small, lambda: 2, longest_wait_s=5.0)
    results = together(lambda: shared(images(1), sigmas(0.5)), lambda: shared(images(2, 5), sigmas(0.5, 5)))
    assert sorted(isinstance(result, Tensor) for result in results) == [False, True]


def test_scans_of_many_levels_come_through_while_others_end_and_die() -> None:
    """Four threads with turns, 20 levels each; one fails half way, and the rest has the results it would have alone."""
    turns = Turns(3)
    shared = SharedDenoiser(shrinking, lambda: turns.n_running, longest_wait_s=0.05)

    def scan(seed: int, levels: int) -> Tensor:
        with turns.turn():
            image = images(seed)
            for level in range(levels):
                if seed == 2 and level == 10:
                    raise ZeroDivisionError("this scan dies")
                image = shared(image, sigmas(0.5 / (level + 1)))
            return image

    results = together(*(lambda seed=seed: scan(seed, 5 * seed + 5) for seed in range(4)))
    assert [type(result) for result in results] == [Tensor, Tensor, ZeroDivisionError, Tensor]
    for seed in (0, 1, 3):
        image = images(seed)
        for level in range(5 * seed + 5):
            image = shrinking(image, sigmas(0.5 / (level + 1)))
        torch.testing.assert_close(results[seed], image)
    assert (turns.n_running, turns.n_waiting) == (0, 0)
