"""A folder of results that appears whole or not at all: written aside, then renamed into place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steadymr.errors import OutputError

ASIDE_PREFIX = ".steadymr-aside-"


@contextmanager
def written_aside(out: Path) -> Iterator[Path]:
    """Yield an empty folder inside ``out``; on success its entries replace those of the same name in ``out``.

    On any error nothing in ``out`` changes and the folder is removed. A failing disk becomes an OutputError.
    """
    with _as_output_error(out):
        out.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=ASIDE_PREFIX, dir=out))
    try:
        with _as_output_error(out):
            yield aside
            _sync(aside)
            for entry in sorted(aside.iterdir()):
                _replace(entry, out / entry.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace(new: Path, place: Path) -> None:
    """Put ``new`` where ``place`` is; a folder that is in the way is moved into the folder aside and goes with it."""
    if place.is_dir():
        os.rename(place, new.with_name(f"{new.name}.replaced"))
    os.replace(new, place)


def _sync(folder: Path) -> None:
    """Force the files to disk, so that a full disk or a failing one shows before anything is renamed."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


@contextmanager
def _as_output_error(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"could not write the results to {out}: {reason}; nothing there was changed") from error
