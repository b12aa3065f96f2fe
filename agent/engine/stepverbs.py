"""What is asked of a job's steps: `scancel 17.0`, with or without a signal, and `srun --jobid=17`.

Rules kept here: a step hears by a fifo in its job's folder (`agent.step.asks`), which is somebody else's: it is opened
without following links or waiting, and must be a fifo of that folder's owner; a process more in a job is for the job's
owner alone to start, as with Slurm: an admin may end everybody's work, and do nothing in another's name.
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

from agent.api import signals
from agent.api.errors import ApiError
from agent.api.queue import SignalRequest, StepRequest
from agent.api.refs import JobRef
from agent.api.types import Job, JobState
from agent.engine import watch
from agent.engine.accept import as_api_error
from agent.engine.base import Asker
from agent.engine.claims import files_dir
from agent.engine.core import Core
from agent.engine.runs import Runner
from agent.engine.verbs import Verbs, signal_number
from agent.jobs.foreign import ForeignError, open_folder
from agent.jobs.row import JobRow
from agent.step.asks import END, fifo_name, signal_line

MOST_WORDS_BYTES = 128 * 1024
"""Of a step's command: far below what execve(2) takes together with a job's environment."""

_BY_PATH = ("/bin/sh", "-c", 'exec "$@"', "sh")
"""Finds a command on the job's own PATH."""


class StepVerbs:
    """See above."""

    def __init__(self, core: Core, runner: Runner, verbs: Verbs) -> None:
        self._core = core
        self._runner = runner
        self._verbs = verbs

    async def signal_step(self, ref: JobRef, step: int, asker: Asker, request: SignalRequest) -> Job:
        """See `Engine.signal_step`."""
        number = signal_number(request.signal)
        row = await self._running(ref, asker, step)
        line = END if signals.name_of(number) == "KILL" else signal_line(number)
        files = files_dir(self._core.config.state_dir, row.id)
        heard = await asyncio.to_thread(_tell, files, fifo_name(str(row.status.attempt), step), line)
        if not heard:
            raise ApiError(409, "step_over", f"job {ref} has no step {step} that runs; squeue -s -j {ref} lists them")
        return self._core.wire(row)

    async def start_step(self, ref: JobRef, asker: Asker, request: StepRequest) -> Job:
        """See `Engine.start_step`."""
        _check_words(request)
        row = await self._running(ref, asker, None)
        if row.uid != asker.uid:
            raise ApiError(403, "forbidden", f"job {ref} is {row.user}'s, who alone may start a step in it")
        with as_api_error():
            await watch.start_step(self._runner.attempt(row), [*_BY_PATH, *request.command])
        return self._core.wire(row)

    async def _running(self, ref: JobRef, asker: Asker, step: int | None) -> JobRow:
        """The one job that runs; an array has to be named by its task.

        Raises:
            ApiError: 404, 403; 409 where it does not run.
        """
        rows = await self._verbs.own(ref, asker)
        what = "a step" if step is None else f"step {step}"
        if len(rows) > 1:
            raise ApiError(409, "which_task", f"{ref} is an array: name the task that {what} is of, as {ref}_0")
        if rows[0].status.state not in (JobState.RUNNING, JobState.COMPLETING):
            state = rows[0].status.state
            raise ApiError(
                409,
                "job_over" if state.is_final else "not_running",
                f"job {ref} is {state}: {what} is of a job that runs",
            )
        return rows[0]


def _check_words(request: StepRequest) -> None:
    words = request.command
    if not words or not words[0]:
        raise ApiError(400, "bad_request", "a step needs a command", "$.command")
    if any("\0" in word for word in words):
        raise ApiError(400, "bad_request", "a command cannot hold a NUL", "$.command")
    if sum(len(word.encode("utf-8", "surrogatepass")) + 1 for word in words) > MOST_WORDS_BYTES:
        raise ApiError(
            400, "bad_request", f"a step's command has at most {MOST_WORDS_BYTES} bytes; put it in a file", "$.command"
        )


def _tell(files: Path, name: str, line: str) -> bool:
    """Write an ask into a step's fifo; whether somebody reads it."""
    try:
        folder = open_folder(os.fspath(files))
    except (OSError, ForeignError):
        return False
    try:
        fd = os.open(name, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=folder)
    except OSError:  # ENXIO: nobody reads it any more; or there is none, or it is no fifo
        return False
    finally:
        owner = os.fstat(folder).st_uid
        os.close(folder)
    try:
        facts = os.fstat(fd)
        if not stat.S_ISFIFO(facts.st_mode) or facts.st_uid != owner:
            return False
        return os.write(fd, f"{line}\n".encode()) > 0
    except OSError:  # full: it has not read for a long time
        return False
    finally:
        os.close(fd)
