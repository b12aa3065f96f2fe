"""What a step tells of itself: start and end, each a line of `$JOB_DIR/.steps.log`, for `sacct` and `squeue -s`.

    S ATTEMPT STEP TASKS CPUS TIME NAME
    E ATTEMPT STEP TIME CODE SIGNAL CANCELLED RSS_BYTES CPU_S        `-`: not known

Rules kept here: a line is one write to a file opened for appending, so lines of several steps never mix; the end is
flushed to the disk before srun ends; a folder that is full or not ours costs the account, never the step. The reader is
`agent.engine.stepbook`. Cheap imports only (see `words`).
"""

# ruff: noqa: PTH118

from __future__ import annotations

import os
import time

FILE = ".steps.log"

_NAME_MOST = 64
_OPEN = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Book:
    """One step's lines."""

    def __init__(self, folder: str | None, attempt: str, step: int) -> None:
        """`folder` is the job's; `None`: there is none, and nothing is kept."""
        self._path = None if folder is None else os.path.join(folder, FILE)
        self._step = f"{attempt} {step}"

    def begin(self, name: str, tasks: int, cpus: int) -> None:
        """The step starts."""
        shown = "".join(char if char.isprintable() else "?" for char in name)[:_NAME_MOST] or "?"
        self._write(f"S {self._step} {tasks} {cpus} {time.time():.3f} {shown}\n")

    def end(self, code: int, *, signalled: bool, cancelled: bool, rss_bytes: int | None, cpu_s: float | None) -> None:
        """It is over; `code` as a shell has it: 128 and the number where it is `signalled`."""
        how = f"- {code - 128}" if signalled else f"{code} -"
        rss = "-" if rss_bytes is None else rss_bytes
        cpu = "-" if cpu_s is None else f"{cpu_s:.3f}"
        self._write(f"E {self._step} {time.time():.3f} {how} {int(cancelled)} {rss} {cpu}\n", flush=True)

    def _write(self, line: str, *, flush: bool = False) -> None:
        if self._path is None:
            return
        try:
            fd = os.open(self._path, _OPEN, 0o600)
        except OSError:
            return
        try:
            os.write(fd, line.encode("utf-8", "replace"))
            if flush:
                os.fdatasync(fd)
        except OSError:
            return
        finally:
            os.close(fd)
