"""How quantities are written, on screens and in plain tables alike: short, with their unit, and a dash for unknown.

Rules kept here: durations of jobs are Slurm's (`1-02:03:04`), ages and countdowns use the two largest units, memory is
in binary units as `nvidia-smi` prints it. All pure.
"""

from __future__ import annotations

import math
import time

UNKNOWN = "–"

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def elapsed(seconds: float | None) -> str:
    """A run time or limit in Slurm's form: `00:41`, `03:12:44`, `1-02:03:04`."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, int(seconds))
    days, rest = divmod(whole, _DAY)
    hours, rest = divmod(rest, _HOUR)
    minutes, left = divmod(rest, _MINUTE)
    if days:
        return f"{days}-{hours:02}:{minutes:02}:{left:02}"
    return f"{hours:02}:{minutes:02}:{left:02}" if hours else f"{minutes:02}:{left:02}"


def age(seconds: float | None) -> str:
    """How old a value is: `now`, `4 s`, `3 min`, `2 h`, `5 d`."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, int(seconds))
    if whole < 2 * _MINUTE:
        return f"{whole} s"
    if whole < 2 * _HOUR:
        return f"{whole // _MINUTE} min"
    if whole < 2 * _DAY:
        return f"{whole // _HOUR} h"
    return f"{whole // _DAY} d"


def next_try(seconds: float) -> str:
    """When a link is tried again: `next try in 4 s`, and `trying now` once that is over: a try may take its time."""
    return f"next try in {age(math.ceil(seconds))}" if seconds > 0 else "trying now"


def countdown(seconds: float) -> str:
    """What is left of a term: `13 d 23 h`, `5 h 12 min`, `12 min 4 s`, `41 s`."""
    whole = max(0, int(seconds))
    for unit, name, smaller, smaller_name in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {smaller_name}"
    return f"{whole} s"


def size(count: int | None) -> str:
    """Bytes in the binary unit that leaves at most four digits: `512 B`, `1.5 KiB`, `71.2 GiB`."""
    if count is None:
        return UNKNOWN
    value, units = float(count), ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    for unit in units:
        if value < 1024 or unit == units[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return UNKNOWN


def gib_of(used: int | None, total: int | None) -> str:
    """Used of total memory in whole GiB, as short as a table needs it: `71/80G`."""
    if total is None:
        return UNKNOWN if used is None else f"{used / 2**30:.0f}G"
    shown = UNKNOWN if used is None else f"{used / 2**30:.0f}"
    return f"{shown}/{total / 2**30:.0f}G"


def percent(value: float | None) -> str:
    """`87%`."""
    return UNKNOWN if value is None else f"{value:.0f}%"


def celsius(value: int | None) -> str:
    """`62°C`."""
    return UNKNOWN if value is None else f"{value}°C"


def watts(milliwatts: int | None) -> str:
    """`512 W`, or `5.1 kW` from ten kilowatts up (sums of many GPUs)."""
    if milliwatts is None:
        return UNKNOWN
    value = milliwatts / 1000
    return f"{value / 1000:.1f} kW" if value >= 10_000 else f"{value:.0f} W"


def moment(seconds: int | None) -> str | None:
    """A time here: `2026-11-22 14:30:00 +0000`."""
    return None if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))


def count(number: int, noun: str) -> str:
    """`1 job`, `3 jobs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
