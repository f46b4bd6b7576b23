"""What both trainings share: schedule, average of weights, checkpoints that hold no code, and the loss curve."""

from __future__ import annotations

import csv
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from steadymr.errors import OutputError, SettingsError

logger = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[int, int, float], None]
Batch = TypeVar("Batch")
CHECKPOINT: Final = "checkpoint.safetensors"


class MachineSettings(BaseModel):
    """How the work is done, not what is learned: a run may be resumed with other numbers here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_workers: int = Field(1, gt=0, description="Processes that draw banks, and threads that draw batches ahead.")
    compile: bool = Field(False, description="Compile the convolutional parts; pays on a GPU, after a minute or two.")


class Schedule(BaseModel):
    """How the weights are fitted: AdamW, linear warm-up, linear decay at the end, averaged weights.

    The rate is constant until the last ``n_decay`` steps, so that a run may be made longer, or ended early, by
    another ``n_steps`` before its decay has begun, and is still the run that this configuration describes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(0, ge=0, description="Decides initial weights, crops, noise: everything but the bank of slices.")
    n_steps: int = Field(4000, gt=0, description="Steps of the optimiser.")
    n_decay: int = Field(800, gt=0, description="Steps at the end in which the learning rate falls to 1 per cent.")
    batch_size: int = Field(4, gt=0, description="Images a step.")
    sizes: tuple[tuple[int, int], ...] = Field(
        ((96, 96), (112, 112), (128, 128), (128, 96), (80, 120), (80, 80)),
        description="Sizes (y, x) of crops, one a step.",
    )
    learning_rate: float = Field(1e-3, gt=0, description="Highest learning rate.")
    n_warmup: int = Field(150, ge=0, description="Steps until it is reached.")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW's decay.")
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    average_decay: float = Field(0.998, ge=0, lt=1, description="Decay of the average of weights that is shipped.")
    checkpoint_every: int = Field(250, gt=0, description="Steps between checkpoints.")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        up = min((step + 1) / max(self.n_warmup, 1), 1.0)
        left = min((self.n_steps - step) / self.n_decay, 1.0)
        return self.learning_rate * min(up, 0.01 + 0.99 * left)


class Fit:
    """A network being trained: its weights, their average, the optimiser's state, the step, and the losses so far."""

    def __init__(self, network: nn.Module, schedule: Schedule, config: BaseModel) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own stub
        self.schedule = schedule
        self.recipe = config.model_dump_json(exclude={"schedule": {"n_steps": True}, "machine": True})
        self.parameters = dict(network.named_parameters())
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=schedule.weight_decay
        )
        self.step = 0
        self.losses: list[float] = []

    def update(self, loss: Float[Tensor, ""]) -> None:
        """Take one step down the gradient of the loss and move the average along."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own stub
        nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.clip_norm)
        self.optimiser.step()
        self.step += 1
        decay = min(self.schedule.average_decay, self.step / (self.step + 10))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.average[name].lerp_(parameter, 1 - decay)
        self.losses.append(float(loss.detach()))

    def save(self, folder: Path) -> None:
        """Write the checkpoint beside the old one, then put it in its place.

        Raises:
            OutputError: the checkpoint could not be written.
        """
        tensors = {f"weight/{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"average/{name}": p for name, p in self.average.items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        for name, parameter in self.parameters.items():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser/{key}/{name}"] = value
        metadata = {"step": str(self.step), "n_steps": str(self.schedule.n_steps), "recipe": self.recipe}
        partial = folder / (CHECKPOINT + ".part")
        try:
            save_file({name: t.contiguous() for name, t in tensors.items()}, partial, metadata)
            os.replace(partial, folder / CHECKPOINT)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"the checkpoint could not be written to {folder}: {error}") from error

    def resume(self, folder: Path) -> None:
        """Continue from a folder's checkpoint, if there is one.

        Raises:
            SettingsError: the checkpoint is of another recipe.
        """
        path = folder / CHECKPOINT
        if not path.exists():
            return
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            step, n_steps = int(metadata["step"]), int(metadata["n_steps"])
            decaying = step > min(n_steps, self.schedule.n_steps) - self.schedule.n_decay
            if metadata["recipe"] != self.recipe or (decaying and n_steps != self.schedule.n_steps):
                raise SettingsError(
                    f"{path} was made by another configuration; choose another folder, or train without resuming"
                )
            self._restore({name: file.get_tensor(name) for name in file.keys()}, step)  # noqa: SIM118  # no mapping
        logger.info("resuming at step %d of %d", self.step, self.schedule.n_steps)

    def _restore(self, tensors: dict[str, Tensor], step: int) -> None:
        self.step, self.losses = step, tensors["losses"].tolist()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"weight/{name}"])
                self.average[name].copy_(tensors[f"average/{name}"])
                keys = ("step", "exp_avg", "exp_avg_sq")
                state = {key: tensors[f"optimiser/{key}/{name}"] for key in keys}
                moments = {key: torch.empty_like(parameter).copy_(state[key]) for key in keys[1:]}
                self.optimiser.state[parameter] = {"step": state["step"], **moments}


def copy_weights(source: nn.Module, network: nn.Module, path: Path) -> None:
    """Begin with the weights of another network.

    Raises:
        SettingsError: its shape is another one.
    """
    try:
        network.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise SettingsError(f"start_from: the network in {path} has another shape than this configuration") from error


def compile_parts(parts: Iterable[nn.Module], machine: MachineSettings) -> None:
    """Compile the parts in place, if that is asked for; names and values of their weights stay."""
    if machine.compile:
        for part in parts:
            part.compile()


def batches(batch_of_step: Callable[[int], Batch], first: int, end: int, n_workers: int) -> Iterator[Batch]:
    """Yield the batches of steps in order, drawn ahead by threads if there are several workers.

    Everything random in a batch comes from its step's number, so the number of workers changes nothing.
    """
    if n_workers == 1:
        yield from map(batch_of_step, range(first, end))
        return
    with ThreadPoolExecutor(n_workers) as pool:
        waiting: deque[Future[Batch]] = deque()
        for step in range(first, end):
            waiting.append(pool.submit(batch_of_step, step))
            if len(waiting) > 2 * n_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def run_steps(
    fit: Fit,
    batch_of_step: Callable[[int], Batch],
    loss_of: Callable[[Batch], Float[Tensor, ""]],
    out: Path,
    progress: Progress | None,
    machine: MachineSettings,
) -> None:
    """Train to the end of the schedule, with checkpoints and the loss curve in ``out``.

    ``batch_of_step`` draws everything random from the step's number, so that a resumed run is the same run.
    ``progress`` is called with the step, the number of steps, and the mean of the last 100 losses.
    """
    for batch in batches(batch_of_step, fit.step, fit.schedule.n_steps, machine.n_workers):
        fit.update(loss_of(batch))
        recent = fit.losses[-100:]
        if progress is not None:
            progress(fit.step, fit.schedule.n_steps, sum(recent) / len(recent))
        if fit.step % fit.schedule.checkpoint_every == 0 or fit.step == fit.schedule.n_steps:
            fit.save(out)
            write_curve(fit.losses, out)
            logger.info("step %d of %d: loss %.4f", fit.step, fit.schedule.n_steps, sum(recent) / len(recent))


def write_curve(losses: list[float], folder: Path) -> None:
    """Write the loss of each step as ``loss.csv`` and a picture of it, averaged over 50 steps, as ``loss.png``."""
    from matplotlib.figure import Figure  # takes a second to import, only needed here

    with (folder / "loss.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("step", "loss"), *enumerate(losses, start=1)])
    blocks = [losses[i : i + 50] for i in range(0, len(losses), 50)]
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.semilogy([50 * i + len(block) for i, block in enumerate(blocks)], [sum(b) / len(b) for b in blocks])
    axes.set_xlabel("step")
    axes.set_ylabel("loss, mean of 50 steps")
    figure.savefig(folder / "loss.png", dpi=120)
