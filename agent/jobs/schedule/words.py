"""How numbers, times and jobs are said in a reason."""

from __future__ import annotations

import time
from collections.abc import Sequence


def many(number: int, what: str) -> str:
    """`1 GPU`, `2 GPUs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def jobs(ids: Sequence[int]) -> str:
    """`jobs 7, 9`; the first four, and how many more."""
    shown = ", ".join(str(each) for each in ids[:4])
    more = f" and {len(ids) - 4} more" if len(ids) > 4 else ""
    return f"job{'' if len(ids) == 1 else 's'} {shown}{more}"


def gib(size_bytes: int) -> str:
    """`64 GiB`, `0.5 GiB`."""
    return f"{size_bytes / 2**30:.3g} GiB" if size_bytes < 100 * 2**30 else f"{size_bytes / 2**30:.0f} GiB"


def clock_span(seconds: int) -> str:
    """A time limit as squeue prints it and `--time` reads it: `30:00`, `2:00:00`, `1-00:00:00`."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}-{hour:02}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def moment(at: int) -> str:
    """A time as Slurm prints it, in the node's zone."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return "the end of time"
