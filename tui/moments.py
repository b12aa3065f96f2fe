"""Moments as one types them: `10m` ago, `yesterday`, `14:30`, `2026-11-20`, `2026-11-20T14:30`; Slurm's forms too."""

from __future__ import annotations

import re
import time

from agent.api.errors import StokerError

_UNITS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86400,
          "day": 86400, "w": 604800, "week": 604800, "y": 31536000, "year": 31536000}  # fmt: skip
_FORMS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d", "%m/%d/%y", "%m/%d/%y-%H:%M")
_TIMES = ("%H:%M:%S", "%H:%M")


def read(text: str, now: float) -> int:
    """Unix seconds of a moment, in this machine's time zone; a span alone is so long ago.

    Raises:
        StokerError: it is none of the forms.
    """
    word = text.strip().lower()
    span = re.fullmatch(r"(?:now)?-?([0-9]{1,9})\s*([a-z]*?)s?(?: ago)?", word)
    if span is not None and (span[2] in _UNITS or (span[2] == "" and word.endswith("s"))):
        return int(now) - int(span[1]) * _UNITS[span[2] or "s"]
    if word in ("now", "today", "midnight", "yesterday"):
        return int(now) if word == "now" else _midnight(now, days_ago=int(word == "yesterday"))
    if re.fullmatch(r"[0-9]{10}", word):
        return int(word)
    for form in _FORMS:
        if (found := _parsed(text.strip().replace(" ", "T", 1), form)) is not None:
            return found
    for form in _TIMES:
        if (
            found := _parsed(f"{time.strftime('%Y-%m-%d', time.localtime(now))}T{word}", f"%Y-%m-%dT{form}")
        ) is not None:
            return found
    raise StokerError(
        f"{text!r} is not a moment; write how long ago (10m, 2h, 3d, 1y), a time (14:30), a day (2026-11-20, yesterday)"
        " or both (2026-11-20T14:30)"
    )


def _midnight(now: float, *, days_ago: int) -> int:
    today = time.localtime(now)
    return int(time.mktime((today.tm_year, today.tm_mon, today.tm_mday - days_ago, 0, 0, 0, 0, 0, -1)))


def _parsed(text: str, form: str) -> int | None:
    try:
        return int(time.mktime(time.strptime(text, form)))
    except (ValueError, OverflowError):
        return None
