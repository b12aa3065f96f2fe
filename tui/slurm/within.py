"""`srun --jobid=17`: a step in a job of one's own that runs, from outside of it, on this terminal or in these streams.

Rules kept here: the agent starts one process in the job, which comes to our door (`terminal`) and starts the ranks as
any srun inside of the job does; the step has the job's GPUs, limits and environment, and our streams and folder; it
never lives longer than the job, nor than we do; what we end is the step and never the job.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.api import program
from agent.api.errors import ApiError, StokerError
from agent.api.refs import JobRef
from agent.api.types import Job, JobState
from tui import arrays, safe, submit
from tui.slurm import alloc, ask
from tui.slurm.argv import ToolError

if TYPE_CHECKING:
    import socket

    from tui.slurm.terminal import Door

_LATE_S = 15.0
"""How long the job may take to come to our door; it takes some 60 ms."""
_ASK_S = 0.3
_KILLED = 137
_INTO = 'cd "$0"; exec "$@"'
"""Our folder where the job finds it; else, once the shell has said so, the job's own. As Slurm does."""
_JOBS = {JobState.PENDING, JobState.CONFIGURING, JobState.RUNNING, JobState.COMPLETING}


def number_of(asked: alloc.Asked) -> str | None:
    """The job that `--jobid` names; `None` when none is named."""
    words, found = iter(asked.own), None
    for word in words:
        name, equals, value = word.partition("=")
        if name == "--jobid":
            found = value if equals else next(words, "")
    return found


def run(queue: ask.Queue, asked: alloc.Asked, number: str, tell: Callable[[str], None]) -> int:
    """The step, from start to end; its exit code.

    Raises:
        ToolError: there is no such job that runs, or it is somebody else's.
    """
    from tui.slurm import terminal

    words = [*_words(asked), "--", *asked.command]
    for word in words:
        submit.check_text(word)
    job = _running(queue, number)
    pty = "pty" in asked.names and terminal.is_terminal()
    door = terminal.Door()
    try:
        step = ["sh", "-c", _INTO, str(submit.here()), "srun", *words]
        flags = ["--srun", *(["--pty"] if pty else [])]
        try:
            queue.client.start_step(arrays.ref(job), door.command(step, *flags))
        except ApiError as error:
            raise _refusal(error, number) from error
        ended = terminal.attend(_link(queue, job, door, number), pty=pty)
    except KeyboardInterrupt:
        return terminal.INTERRUPTED
    finally:
        door.close()
    if ended.revoked and not ended.signal:
        tell(f"error: Job step aborted: job {number} has ended")
        return _KILLED
    return ended.shell_code


def _words(asked: alloc.Asked) -> list[str]:
    """What the step's srun is told: all that was typed but the job, and one rank where nothing else was said."""
    words = iter(asked.own)
    own = []
    for word in words:
        if word == "--jobid":
            next(words, None)
        elif not word.startswith("--jobid=") and not _is_immediate(word):
            own.append(word)
    ranks = [] if any(word.startswith(("-n", "--nt")) for word in asked.job) else ["--ntasks=1"]
    return [*ranks, *asked.job, *own]


def _is_immediate(word: str) -> bool:
    """`-I`: a step starts at once anyway."""
    return word.startswith(("-I", "--immediate"))


def _running(queue: ask.Queue, number: str) -> Job:
    if not (number.isascii() and number.isdecimal() and len(number) <= 12):
        raise ToolError(f'Invalid numeric value "{program.printable(number)}" for --jobid.')
    try:
        job = safe.clean(queue.client.job(JobRef(id=int(number))))
    except ApiError as error:
        if error.status != 404:
            raise
        raise _unconfirmed(number, ask.NO_SUCH_JOB) from error
    if job.state not in _JOBS:
        raise _expired(f"Slurm job {number} has expired", number)
    if job.state in (JobState.PENDING, JobState.CONFIGURING):
        raise _unconfirmed(number, "Job is pending execution")
    return job


def _refusal(error: ApiError, number: str) -> ToolError:
    if error.code == "job_over":
        return _expired(f"Slurm job {number} has expired", number)
    if error.code == "not_running":
        return _unconfirmed(number, "Job is pending execution")
    why = safe.text(error.message)
    if error.status == 403:
        why = f"Access/permission denied: {why}"
    elif error.status == 404:
        why = f"its node's agent starts none, it is of an older version: {why}"
    return ToolError(f"Unable to create step for job {number}: {why}")


def _unconfirmed(number: str, why: str) -> ToolError:
    return _expired(f"Unable to confirm allocation for job {number}: {why}", number)


def _expired(sentence: str, number: str) -> ToolError:
    hint = f"TOOL: Check SLURM_JOB_ID environment variable. Expired or invalid job {number}"
    return ToolError(f"TOOL: error: {sentence}\n{hint}", bare=True)


def _link(queue: ask.Queue, job: Job, door: Door, number: str) -> socket.socket:
    """The job's end of the link."""
    late_at = time.monotonic() + _LATE_S
    while (link := door.accept(_ASK_S)) is None:
        now = queue.client.job(arrays.ref(job))
        if now.state.is_final:
            raise _expired(f"Slurm job {number} has expired", number)
        if time.monotonic() >= late_at:
            raise StokerError(
                f"Unable to create step for job {number}: it did not come to this terminal within {_LATE_S:.0f} s; "
                f"it runs on {safe.text(job.node)}: run srun there"
            )
    return link
