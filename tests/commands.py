"""Programs that tests run: steadymr itself and validators of its output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any


def steadymr(*arguments: object) -> list[str]:
    """The command line of steadymr in this Python."""
    return [sys.executable, "-m", "steadymr", *map(str, arguments)]


def run_steadymr(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run steadymr as a user does, in a process of its own."""
    return subprocess.run(steadymr(*arguments), capture_output=True, text=True, timeout=300, check=False, **options)


def dciodvfy_errors(path: Path) -> list[str]:
    """What the DICOM validator objects to; it answers on stderr."""
    validator = Path(sys.executable).with_name("dciodvfy")
    done = subprocess.run([validator, "-new", path], capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]
