"""What running jobs tell of themselves that the scheduler wants to know: when they saved last, how fast they can stop.

Read before a pass, in a thread, and only where it can matter: where preemption is on and somebody waits.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.engine.claims import files_dir
from agent.engine.core import Core
from agent.jobs import contract
from agent.jobs.foreign import ForeignError, open_folder
from agent.jobs.row import JobRow
from agent.jobs.schedule import Running

_CHECKPOINTS_MOST = 1000
"""Entries of `ckpt` that are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What a run would lose and need if it were stopped."""

    at: int | None
    """When its last checkpoint was complete; `None`: it never told of one."""
    stop_s: float


class Progress:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._saved: dict[int, Saved] = {}

    async def refresh(self, running: Sequence[JobRow]) -> None:
        """Read anew."""
        _, pending = self._core.jobs.counts()
        if self._core.config.scheduler.preempt == "off" or not pending or not running:
            self._saved = {}
            return
        state_dir, grace_s = self._core.config.state_dir, self._core.config.jobs.grace_s
        folders = [(row.id, files_dir(state_dir, row.id)) for row in running]
        self._saved = await asyncio.to_thread(_read_all, folders, grace_s)

    def told(self, job: Running) -> Running:
        """The facts of a running job with what it told."""
        saved = self._saved.get(job.id)
        return job if saved is None else replace(job, saved_at=saved.at, stop_s=saved.stop_s)


def _read_all(folders: Sequence[tuple[int, Path]], grace_s: float) -> dict[int, Saved]:
    """No job is waited for longer than the grace, whatever it claims: it must not be too dear to be stopped."""
    found = {}
    for job_id, folder in folders:
        progress = contract.read_progress(folder)
        if progress is not None:
            saved_at = _last_checkpoint_at(folder)
            if saved_at is None and progress.save_s is not None:
                saved_at = int(progress.at)
            found[job_id] = Saved(at=saved_at, stop_s=min(progress.stop_s or 0.0, grace_s))
    return found


def _last_checkpoint_at(files: Path) -> int | None:
    """When the newest folder in `ckpt` came to be; one that exists is complete."""
    try:
        parent = open_folder(os.fspath(files))
    except (OSError, ForeignError):
        return None
    try:
        fd = os.open("ckpt", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError:
        return None
    finally:
        os.close(parent)
    try:
        names = [name for name in os.listdir(fd)[:_CHECKPOINTS_MOST] if name.isdecimal()]  # noqa: PTH208 - by descriptor
        times = [os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime for name in names]
    except OSError:
        return None
    finally:
        os.close(fd)
    return int(max(times)) if times else None
