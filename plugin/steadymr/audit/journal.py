"""Finished cells on disk, so that an audit that was killed goes on where it stopped.

``cells/settings.json`` says what the cells were computed with, ``cells/rows.jsonl`` has one line for each finished
cell, ``cells/<key>.npz`` its pictures. A cell counts once its line is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from steadymr.audit.rows import Outcome
from steadymr.errors import OutputError, SettingsError


class Journal:
    """The finished cells of one audit; entries hold ``rows`` and ``damage``."""

    def __init__(self, folder: Path, entries: dict[str, dict[str, Any]]) -> None:
        self._folder = folder
        self._entries = entries

    @property
    def entries(self) -> Mapping[str, dict[str, Any]]:
        """What was found in each finished cell, by its key."""
        return MappingProxyType(self._entries)

    def add(self, key: str, outcome: Outcome, *, with_images: bool) -> None:
        """Keep a finished cell. Raises OutputError if it cannot be written."""
        entry = {"key": key, "rows": outcome.rows, "damage": outcome.damage}
        with _as_output_error(self._folder):
            if with_images and outcome.images:
                self._write_images(key, outcome.images)
            with (self._folder / "rows.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self._entries[key] = entry

    def images(self, key: str) -> dict[str, np.ndarray]:
        """The pictures of a cell; none if they were not kept."""
        path = self._images_path(key)
        if not path.exists():
            return {}
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    def _write_images(self, key: str, images: Mapping[str, np.ndarray]) -> None:
        partial = self._images_path(key).with_suffix(".part")
        with partial.open("wb") as file:
            np.savez_compressed(file, **images)  # type: ignore[arg-type]  # the stub takes the names for options
        os.replace(partial, self._images_path(key))

    def _images_path(self, key: str) -> Path:
        return self._folder / f"{key}.npz"


def open_journal(out: Path, settings: dict[str, Any]) -> Journal:
    """The journal in ``out``, begun if there is none.

    Raises:
        SettingsError: the audit there was made with other settings, scans or weights; names the first that differs.
        OutputError: the folder cannot be written.
    """
    folder = out / "cells"
    path = folder / "settings.json"
    with _as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _check_same(json.loads(path.read_text(encoding="utf-8")), settings, out)
        else:
            _write_whole(path, json.dumps(settings, indent=2))
        entries = {entry["key"]: entry for entry in _whole_lines(folder / "rows.jsonl")}
        lines = "".join(json.dumps(entry) + "\n" for entry in entries.values())
        _write_whole(folder / "rows.jsonl", lines)  # without a torn last line, which the next would be glued to
    return Journal(folder, entries)


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Entries up to the first line that is torn."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            return
        yield entry


def _check_same(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    now = json.loads(json.dumps(now))
    different = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if different:
        name = different[0]
        raise SettingsError(
            f"{out} holds an audit that was made with another {name} ({_short(before.get(name))}, now "
            f"{_short(now.get(name))}); choose another --out, or delete that folder"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


@contextmanager
def _as_output_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"could not write to {folder}: {error.strerror or error}; finished cells are kept") from error
