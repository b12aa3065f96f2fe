"""A job that somebody waits for at a terminal: what `stoker run` does, and `srun` and `salloc` outside a job.

Rules kept here: while it waits, the reason is told on stderr, each once; its output goes out as it comes, over every
outage; the first Ctrl-C asks it to end and goes on watching, the second one leaves it alone; the exit code is the job's
own, as a shell has it: 128 and the number where a signal ended it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.api.errors import StokerError
from agent.api.types import Job, JobState
from tui import arrays, outage, plain, safe, units
from tui.follow import Following, Write

if TYPE_CHECKING:
    from tui.client import ClusterClient

INTERRUPTED = 130
_FIRST_ASK_S, _LAST_ASK_S = 0.05, 2.0
_WAITING = (JobState.PENDING, JobState.CONFIGURING)


class Running:
    """One job on its way to its end, watched by whoever started it."""

    def __init__(self, client: ClusterClient, job: Job, write: Write, tell: Callable[[str], None] = plain.complain):
        """`write` takes the output (`follow.writer`), `tell` sentences for stderr."""
        self._client = client
        self._ref = arrays.ref(job)
        self._tell = tell
        self._job = job
        self._told = ""
        self._interrupts = 0
        self._asked_to_end = False
        self._bridge = outage.Bridge(f"watching job {arrays.label(job)}")
        self._bridge.answered()  # it has just been stored: the server is there
        self._following = Following(client, self._ref, write, self._bridge)

    @property
    def job(self) -> Job:
        """As it was when last looked at."""
        return self._job

    def to_end(self) -> int:
        """Wait for the start, pass the output on, and wait for the end; the exit code for our caller.

        Raises:
            StokerError: the job may not be read any more.
        """
        while True:
            try:
                if self._interrupts and not self._asked_to_end:
                    self._ask_to_end()  # in here: the second Ctrl-C may come while this waits for its answer
                self.wait_start()
                self._job = self._bridge.over(self._following.attempt)
                never_ran = self._asked_to_end and self._job.started_at is None
                return INTERRUPTED if never_ran else exit_code(self._job)
            except KeyboardInterrupt:
                self._interrupts += 1
                if self._interrupts > 1:
                    self._leave()
                    return INTERRUPTED

    def wait_start(self) -> Job:
        """Wait until the job has begun, or has ended without; tells the reason whenever it changes."""
        pause = _FIRST_ASK_S
        while self._job.state in _WAITING:
            self._tell_reason()
            time.sleep(pause)
            pause = min(_LAST_ASK_S, pause * 1.3)
            self._job = self._bridge.over(lambda: self._client.job(self._ref))
        return self._job

    def _tell_reason(self) -> None:
        reason = waiting_for(safe.clean(self._job), time.time())
        if self._job.state is JobState.PENDING and reason and self._job.reason != self._told:
            self._told = self._job.reason or ""
            self._tell(f"job {arrays.label(self._job)} waits: {reason}")

    def _ask_to_end(self) -> None:
        name = arrays.label(self._job)
        self._asked_to_end = True
        try:
            self._client.cancel(self._ref)
        except StokerError as error:
            self._tell(f"job {name} could not be cancelled: {error}")
        else:
            self._tell(f"job {name} is asked to end; Ctrl-C again stops waiting for it")

    def _leave(self) -> None:
        name = arrays.label(self._job)
        self._tell(f"not waiting any more; job {name} may still run: stoker show {name}, stoker logs -f {name}")


def exit_code(job: Job) -> int:
    """The job's own exit code, as a shell says it of a program; never 0 for a job that did not complete."""
    if job.exit_code is not None and (job.exit_code or job.state is JobState.COMPLETED):
        return job.exit_code
    return 128 + job.signal if job.signal else 1


def batch_code(job: Job) -> int:
    """What sbatch(1) `--wait` exits with: the job's own code, and 1 when a signal or something else ended it."""
    if job.exit_code is None or job.state not in (JobState.COMPLETED, JobState.FAILED):
        return job.exit_code or 1
    return job.exit_code


def waiting_for(job: Job, now: float) -> str:
    """Why a job waits and until when, in a line; empty while nothing is known."""
    parts = [": ".join(part for part in (job.reason, job.detail) if part)]
    if job.expected_start_at is not None:
        away = job.expected_start_at - now
        parts.append(f"starts within {units.countdown(away)}" if away > 0 else "starts next")
    return "; ".join(part for part in parts if part)
