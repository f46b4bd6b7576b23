"""Many files, each replayed into a folder of its own, here or on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadymr.config import Settings
from steadymr.errors import SettingsError, SteadymrError
from steadymr.executors import Executor
from steadymr.pipeline import replay

SUFFIXES = (".h5", ".mrd", ".hdf5")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one file."""

    name: str
    summary: dict[str, Any] | None
    problem: str = ""  #: one sentence if it failed


def scans_in(folder: Path) -> tuple[Path, ...]:
    """The MRD files of a folder, by name; raises SettingsError if there are none."""
    found = tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES))
    if not found:
        raise SettingsError(f"{folder} holds no file that ends with {', '.join(SUFFIXES)}; name a scan, or its folder")
    return found


def replay_folder(
    folder: Path,
    out: Path,
    settings: Settings,
    executor: Executor,
    progress: Callable[[float, float | None, str], None] = lambda done, total, what: None,
) -> list[Replayed]:
    """Replay every file of ``folder`` into ``out/<its name>``; one that fails does not stop the others.

    On a cluster ``folder`` and ``out`` must lie at the same place on every node.
    """
    paths = [path.resolve() for path in scans_in(folder)]
    found: dict[int, Replayed] = {}
    progress(0.0, float(len(paths)), "replaying")
    for number, result in executor.run(_replay_one, ((settings, (path, out.resolve() / path.stem)) for path in paths)):
        found[number] = result
        progress(float(len(found)), float(len(paths)), "replaying")
    return [found[number] for number in range(len(paths))]


def _replay_one(settings: Settings, places: tuple[Path, Path]) -> Replayed:
    path, out = places
    try:
        return Replayed(path.name, replay(path, out, settings))
    except SteadymrError as error:
        return Replayed(path.name, None, " ".join(str(error).split()))
