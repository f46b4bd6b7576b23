"""Log lines as JSON for machines to collect.

Of an exception only type and places are written, not its text, because the text of a foreign exception may quote the
data it stumbled over, and data has patients.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import datetime, timezone

from steadymr.errors import SteadymrError


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, scan, and for exceptions what and where."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("scan", "peer", "outcome", "seconds"):
            if hasattr(record, name):
                entry[name] = getattr(record, name)
        if record.exc_info and record.exc_info[1] is not None:
            entry |= _exception(record.exc_info[1])
        return json.dumps(entry, ensure_ascii=False)


def _exception(error: BaseException) -> dict[str, object]:
    frames = traceback.extract_tb(error.__traceback__)
    facts: dict[str, object] = {
        "exception": type(error).__name__,
        "where": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if isinstance(error, SteadymrError):
        facts["reason"] = str(error)
    return facts
