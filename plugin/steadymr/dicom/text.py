"""Values as DICOM writes them: text that fits its value representation, decimal strings, dates and times.

Lengths and characters are those of DICOM PS3.5, section 6.2. Text that only describes is shortened knowingly (it ends
in "..."); an identifier is never altered, since a shortened patient id is somebody else's.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal, TypeAlias

from pydicom.valuerep import format_number_as_ds

TextVR: TypeAlias = Literal["SH", "LO", "ST", "LT", "PN"]

MAXIMUM_LENGTH: dict[TextVR, int] = {"SH": 16, "LO": 64, "PN": 64, "ST": 1024, "LT": 10240}

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]+")
_CONTROL_BUT_NEWLINE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]+")
_TIME = re.compile(r"(?:[01]\d|2[0-3])(?:[0-5]\d(?:(?:[0-5]\d|60)(?:\.\d{1,6})?)?)?")


def describe(value: str, vr: TextVR) -> str:
    """Text that only describes, made to fit: control characters become spaces, too long text ends in "..."."""
    multi_line = vr in ("ST", "LT")
    cleaned = (_CONTROL_BUT_NEWLINE if multi_line else _CONTROL_CHARACTERS).sub(" ", value).strip()
    if not multi_line:
        cleaned = cleaned.replace("\\", "/")  # a backslash would separate two values
    limit = MAXIMUM_LENGTH[vr]
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 3] + "..."


def identifier(value: str, vr: TextVR) -> str | None:
    """An identifier exactly as given but for outer spaces, or None if DICOM cannot hold it unaltered.

    A person's name may have three groups (alphabetic=ideographic=phonetic), each with the whole length to itself.
    """
    stripped = value.strip(" ")
    groups = stripped.split("=") if vr == "PN" else [stripped]
    fits = max(map(len, groups)) <= MAXIMUM_LENGTH[vr] and len(groups) <= 3
    fits = fits and "\\" not in stripped and not _CONTROL_CHARACTERS.search(stripped)
    return stripped if fits else None


def code_string(value: str) -> str:
    """Text as a code string: upper case, at most 16 of the characters A-Z, 0-9, space and underscore."""
    return re.sub(r"[^A-Z0-9 _]+", "_", value.upper()).strip(" _")[:16]


def decimal(value: float) -> str:
    """A number as a decimal string with all the digits that 16 characters hold, without negative zero."""
    return str(format_number_as_ds(float(value) + 0.0))


def is_date(value: str) -> bool:
    """Whether this is a date of the calendar, written YYYYMMDD."""
    if not re.fullmatch(r"\d{8}", value, re.ASCII):
        return False
    try:
        datetime.strptime(value, "%Y%m%d")
    except ValueError:
        return False
    return True


def is_time(value: str) -> bool:
    """Whether this is a time of day, written HH, HHMM, HHMMSS or HHMMSS.FFFFFF."""
    return _TIME.fullmatch(value) is not None and value.isascii()
