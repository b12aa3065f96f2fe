"""Times and durations in the words that people read them in."""

from __future__ import annotations

from datetime import UTC, datetime

from licensing.plans import DAY_S, MS_PER_HOUR, NEVER


def when(time: int) -> str:
    """A moment for people, in UTC because hub, node and laptop may be in three time zones."""
    return f"{_moment(time):%Y-%m-%d %H:%M} UTC"


def day(time: int) -> str:
    """Its day alone."""
    return f"{_moment(time):%Y-%m-%d}"


def _moment(time: int) -> datetime:
    """No calendar goes further than the year 9999; a grace that begins there, or a clock that stands there, does."""
    return datetime.fromtimestamp(min(time, NEVER), UTC)


def hours(gpu_ms: int) -> str:
    """GPU time, in hours."""
    return f"{gpu_ms / MS_PER_HOUR:.1f}"


def span(seconds: int) -> str:
    """Rounded down, as a countdown is read: 13 days, 5 hours, 40 minutes, 12 seconds."""
    for unit, length in (("day", DAY_S), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return f"{seconds} second{'s' if seconds != 1 else ''}"
