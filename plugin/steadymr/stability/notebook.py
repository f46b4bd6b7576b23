"""What a calibration saw of its scans, kept on disk: a line for each scan, as it comes.

A run that was broken off goes on from there, and another fit needs no new reconstructions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from steadymr.errors import OutputError, SettingsError
from steadymr.stability.conditions import Conditions
from steadymr.stability.fit import Observation

KIND: Final = "steadymr observations"
FORMAT: Final = 2


def read_notebook(path: Path, recipe: Mapping[str, Any] | None = None) -> dict[int, list[Observation]]:
    """Return what was seen of each scan, by its number; nothing if there is no file.

    The last line may be half written, as a run leaves it that was killed; it is left out.

    Raises:
        SettingsError: the file is something else, or was made by another recipe than the one that is given.
    """
    if not path.exists():
        return {}
    try:
        first, *lines = path.read_text(encoding="utf-8").split("\n")
        head = json.loads(first)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} should hold observations of a calibration: {error}") from error
    if not isinstance(head, dict) or (head.get("kind"), head.get("format")) != (KIND, FORMAT):
        raise SettingsError(f"{path} should hold observations of a calibration, format {FORMAT}, and is something else")
    if recipe is not None and head["recipe"] != _plain(recipe):
        raise SettingsError(f"{path} holds observations with other scans or settings: name another file, or remove it")
    entries = [json.loads(line) for line in lines[:-1]]  # what follows the last line's end was cut off
    return {entry["scan"]: [_observation(one) for one in entry["observations"]] for entry in entries}


def write_notebook(path: Path, recipe: Mapping[str, Any], seen: Mapping[int, Sequence[Observation]]) -> None:
    """Write what was seen of some scans; a file that was there is replaced. Raises OutputError."""
    head = json.dumps({"kind": KIND, "format": FORMAT, "recipe": recipe})
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [head, *(_line(scan, observations) for scan, observations in seen.items())]
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"the observations could not be written to {path}: {error.strerror}") from error


def append_to_notebook(path: Path, scan: int, observations: Sequence[Observation]) -> None:
    """Add what was seen of one more scan. Raises OutputError."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(_line(scan, observations) + "\n")
    except OSError as error:
        raise OutputError(f"the observations could not be written to {path}: {error.strerror}") from error


def _line(scan: int, observations: Sequence[Observation]) -> str:
    return json.dumps({"scan": scan, "observations": [asdict(one) for one in observations]})


def _observation(content: dict[str, Any]) -> Observation:
    return Observation(
        **{**content, "conditions": Conditions(**content["conditions"]), "misses": tuple(content["misses"])}
    )


def _plain(recipe: Mapping[str, Any]) -> Any:
    """As it is read back."""
    return json.loads(json.dumps(recipe))
