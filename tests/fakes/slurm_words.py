"""Times and sizes as Slurm shows them: the other direction of `agent.jobs.grammar`, for round trips."""

from __future__ import annotations


def format_time_limit(seconds: int | None) -> str:
    """Write a time limit as Slurm shows it: `1-02:04:00`, `UNLIMITED`. `time_limit_s` reads it back."""
    if seconds is None:
        return "UNLIMITED"
    days, rest = divmod(seconds, 86_400)
    clock = f"{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock


def format_memory(size_bytes: int) -> str:
    """Write a size as Slurm shows it, in the largest unit that keeps it whole: `512M`, `1T`."""
    size, units = size_bytes // (1024 * 1024), iter("MGT")
    unit = next(units)
    while size and size % 1024 == 0 and (larger := next(units, None)):
        size, unit = size // 1024, larger
    return f"{size}{unit}"
