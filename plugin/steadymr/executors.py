"""Where work is done: in this process, in several on this machine, or on a Ray cluster. The results are the same.

An executor is given a function and pairs ``(shared, item)``; it calls ``function(shared, item)`` for each and yields
``(number, result)`` as they come. What many items share is sent to a cluster once.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

from steadymr.errors import ReconError, SettingsError

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING_PER_WORKER = 2  #: items handed out ahead of the workers, so that none of them idles and memory stays flat
RETRIES = 5  #: how often Ray repeats what was running on a node that was lost


@runtime_checkable
class Executor(Protocol):
    """Whatever can call a function for many items."""

    def run(
        self, function: Callable[[Shared, Item], Result], tasks: Iterable[tuple[Shared, Item]]
    ) -> Iterator[tuple[int, Result]]:
        """Yield the number of each task, counted from 0, with its result, in the order of completion.

        An exception of the function is raised here. The function must be importable by name where it runs.
        """


class Inline:
    """One after the other, in this process."""

    def run(
        self, function: Callable[[Shared, Item], Result], tasks: Iterable[tuple[Shared, Item]]
    ) -> Iterator[tuple[int, Result]]:
        """Yield in order."""
        for number, (shared, item) in enumerate(tasks):
            yield number, function(shared, item)


class _Pool:
    """Several processes of this machine."""

    def __init__(self, pool: ProcessPoolExecutor, n_processes: int) -> None:
        self._pool = pool
        self._window = WAITING_PER_WORKER * n_processes

    def run(
        self, function: Callable[[Shared, Item], Result], tasks: Iterable[tuple[Shared, Item]]
    ) -> Iterator[tuple[int, Result]]:
        """Yield as they come; a worker that dies is a ReconError."""
        waiting: dict[Future[Result], int] = {}
        try:
            for number, (shared, item) in enumerate(tasks):
                waiting[self._pool.submit(function, shared, item)] = number
                if len(waiting) >= self._window:
                    yield from self._finished(waiting)
            while waiting:
                yield from self._finished(waiting)
        except BrokenProcessPool as error:
            raise ReconError(
                "a worker process died, most likely for lack of memory; what was finished is kept: run the same "
                "command again with fewer --processes"
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    @staticmethod
    def _finished(waiting: dict[Future[Result], int]) -> Iterator[tuple[int, Result]]:
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            yield waiting.pop(future), future.result()


@contextmanager
def local_processes(n_processes: int) -> Iterator[Executor]:
    """Yield an executor of ``n_processes`` on this machine, of one thread each; with one, it is this process."""
    if n_processes < 1:
        raise SettingsError(f"--processes must be at least 1, got {n_processes}")
    if n_processes == 1:
        yield Inline()
        return
    context = multiprocessing.get_context("spawn")  # threads that torch has started do not survive a fork
    with _single_threaded_children(), ProcessPoolExecutor(n_processes, mp_context=context) as pool:
        yield _Pool(pool, n_processes)


@contextmanager
def ray_cluster(address: str, *, on_gpu: bool = False) -> Iterator[Executor]:
    """Yield an executor on the Ray cluster at ``address``, of which this machine must be a node.

    Each item takes one CPU, and one GPU if ``on_gpu``. What a lost node was doing is done again on another.

    Raises:
        SettingsError: Ray is not installed, or no cluster answers.
    """
    ray = _import_ray()
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False, include_dashboard=None)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise SettingsError(
            f"no Ray cluster answers at {address!r} ({' '.join(str(error).split())[:160]}): start one on this machine "
            "with 'ray start --head', or join one with 'ray start --address=HOST:6379', then use --ray auto"
        ) from error
    try:
        yield _Cluster(ray, on_gpu)
    finally:
        ray.shutdown()


class _Cluster:
    """The nodes of a Ray cluster."""

    def __init__(self, ray: Any, on_gpu: bool) -> None:
        self._ray = ray
        self._on_gpu = on_gpu

    def run(
        self, function: Callable[[Shared, Item], Result], tasks: Iterable[tuple[Shared, Item]]
    ) -> Iterator[tuple[int, Result]]:
        """Yield as they come; nodes may come and go."""
        remote = self._ray.remote(num_cpus=1, num_gpus=int(self._on_gpu), max_retries=RETRIES)(function)
        sent: list[tuple[Any, Any]] = []  # what is shared, and the reference under which the cluster knows it
        waiting: dict[Any, int] = {}
        try:
            for number, (shared, item) in enumerate(tasks):
                waiting[remote.remote(self._reference(shared, sent), item)] = number
                if len(waiting) >= self._window():
                    yield from self._finished(waiting)
            while waiting:
                yield from self._finished(waiting)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            raise ReconError(
                f"the Ray cluster lost work for good ({' '.join(str(error).split())[:160]}); what was finished is "
                "kept: run the same command again"
            ) from error
        finally:
            for reference in waiting:
                self._ray.cancel(reference)

    def _reference(self, shared: Any, sent: list[tuple[Any, Any]]) -> Any:
        """Send what is shared unless it was sent just now; items that share something stand side by side."""
        if not sent or sent[-1][0] is not shared:
            sent[:] = [(shared, self._ray.put(shared))]
        return sent[-1][1]

    def _window(self) -> int:
        return max(2, WAITING_PER_WORKER * int(self._ray.cluster_resources().get("CPU", 1)))

    def _finished(self, waiting: dict[Any, int]) -> Iterator[tuple[int, Any]]:
        done, _ = self._ray.wait(list(waiting), num_returns=1)
        for reference in done:
            yield waiting.pop(reference), self._ray.get(reference)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise SettingsError("--ray needs Ray, which is not installed: pip install 'steadymr[ray]'") from error
    return ray


@contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Have processes that are started meanwhile compute with one thread: libraries read this when they load."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
