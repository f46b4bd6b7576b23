"""Writing a text file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from steadymr.errors import OutputError


def write_whole(path: Path, text: str) -> None:
    """Write beside ``path``, then rename, so that nobody ever reads half a file.

    Raises:
        OutputError: the disk is full, the folder is missing, or permission is lacking.
    """
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")  # odd bytes in a file name
        os.replace(beside, path)
    except OSError as error:
        _remove(beside)
        message = (
            f"expected to write {path}, but the system says: {error.strerror or error}; is there space, and permission?"
        )
        raise OutputError(message) from error


def _remove(path: Path) -> None:
    """Remove what was left half-written; a folder that cannot be written cannot be cleaned either."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
