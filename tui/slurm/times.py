"""Times and sizes as Slurm writes them: `0:06`, `00:00:06`, `1-02:03:04`, `2026-11-22T05:24:50`, `100M`. All pure."""

from __future__ import annotations

import time

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def short(seconds: float | None, none: str = "INVALID") -> str:
    """As squeue writes it: `0:06`, `10:00`, `1:00:00`, `1-02:03:04`. Slurm's secs2time_str."""
    if seconds is None:
        return none
    days, rest = divmod(max(0, int(seconds)), _DAY)
    hours, rest = divmod(rest, _HOUR)
    minutes, left = divmod(rest, _MINUTE)
    if days:
        return f"{days}-{hours:02}:{minutes:02}:{left:02}"
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def full(seconds: float | None, none: str = "UNLIMITED") -> str:
    """As sacct and scontrol write it: `00:00:06`, `1-02:03:04`."""
    if seconds is None:
        return none
    days, rest = divmod(max(0, int(seconds)), _DAY)
    clock = f"{rest // _HOUR:02}:{rest // _MINUTE % 60:02}:{rest % _MINUTE:02}"
    return f"{days}-{clock}" if days else clock


def cpu(seconds: float | None) -> str:
    """CPU time as sacct writes it: `00:03.004`, `01:02:03`, `1-02:03:04`."""
    if seconds is None:
        return ""
    if seconds >= _HOUR:
        return full(seconds)
    return f"{int(seconds) // _MINUTE:02}:{seconds % _MINUTE:06.3f}"


def whole_minutes(seconds: int | None) -> int | None:
    """A limit as Slurm keeps it: whole minutes, rounded up."""
    return None if seconds is None else -(-seconds // _MINUTE)


def stamp(at: float | None, none: str = "Unknown") -> str:
    """A moment in this machine's time zone."""
    if at is None:
        return none
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return none


def headline(now: float) -> str:
    """The line above a long listing: `Sun Nov 22 05:24:52 2026`."""
    return time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(now))


def size(count: int | None, none: str = "0") -> str:
    """Bytes in the largest unit that divides them, mebibytes at least: `100M`, `4G`, `1536M`."""
    if count is None:
        return none
    mebi, unit = count // 2**20, 0
    while mebi and mebi % 1024 == 0 and unit < 3:
        mebi, unit = mebi // 1024, unit + 1
    return f"{mebi}{'MGTP'[unit]}" if mebi else "0"


def kibi(count: int | None) -> str:
    """MaxRSS as sacct writes it: `10240K`."""
    return "" if count is None else f"{-(-count // 1024)}K"
