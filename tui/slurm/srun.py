"""`srun` outside of a job: a job that runs the command's ranks, watched to its end. Inside of one: the step itself.

The ranks write on our own descriptors, which the job is handed (`terminal`), so their output and their errors stay
apart and reach us unchanged. A job on another node than ours cannot be handed them: its log is followed instead, in
which both are one. With `--jobid` no job is handed in: `within`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath

import agent
from agent.api import program
from agent.api.errors import StokerError
from agent.api.types import Job
from tui import arrays, safe
from tui.slurm import alloc, ask, within
from tui.slurm.argv import ToolError

HELP = """\
Usage: srun [OPTIONS] COMMAND [ARGS]

Outside of a job: hands in a job that starts COMMAND's ranks, shows their output as it comes, and ends with their exit
code; Ctrl-C twice within a second cancels the job. Options of sbatch are the job's; inside of a job: srun --help there.

  -n, --ntasks=N  -c, --cpus-per-task=N  -G, --gpus=N  -t, --time=TIME  …     the job's, as for sbatch
  -l, --label  -u, --unbuffered  -K, --kill-on-bad-exit  -W, --wait=SECONDS  -o, -e, -i FILE     of the ranks
      --jobid=JOB            a step in a job of one's own that runs, with its GPUs, limits and environment
      --gpu-bind=…  --pty: COMMAND on this terminal   --multi-prog: COMMAND is a file of ranks and their commands
  -Q, --quiet                errors only
      --test-only            tell when it would start
"""
_OWN: Mapping[str, tuple[str, str]] = {
    "label": ("l", ""),
    "unbuffered": ("u", ""),
    "kill-on-bad-exit": ("K", "?"),
    "wait": ("W", "="),
    "output": ("o", "="),
    "error": ("e", "="),
    "input": ("i", "="),
    "mpi": ("", "="),
    "cpu-bind": ("", "="),
    "gpu-bind": ("", "="),
    "mem-bind": ("", "="),
    "pty": ("", ""),
    "exact": ("", ""),
    "overlap": ("", ""),
    "disable-status": ("X", ""),
    "preserve-env": ("E", ""),
    "multi-prog": ("", ""),
    "jobid": ("", "="),
    "immediate": ("I", "?"),
    "threads": ("T", "="),
    "test-only": ("", ""),
    "quiet": ("Q", ""),
}
_LATE_S = 3.0
"""How long a job that runs may take to come to us before its log is followed instead."""
_BY_SIGNAL = 128
_NOT_HERE = {
    "immediate": "the job waits until there is room; sbatch --test-only tells when",
}


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command; its exit code."""
    if environ.get("SLURM_JOB_ID") and environ.get("JOB_DIR"):
        step = Path(agent.__file__).parent / "step" / "srun.py"
        os.execv(sys.executable, [sys.executable, "-I", "-S", str(step), *argv])  # noqa: S606
    asked = alloc.read(argv, _OWN)
    named = within.number_of(asked)
    number = environ.get("SLURM_JOB_ID") if named is None else named
    for name in asked.names & _NOT_HERE.keys() if number is None else ():
        raise ToolError(f"--{name} is not offered here: {_NOT_HERE[name]}")
    if not asked.command:
        raise ToolError("TOOL: fatal: No command given to execute.", bare=True)
    name = PurePath(asked.command[0]).name or "srun"
    queue = ask.Queue.open(environ)
    if number is not None:
        return within.run(queue, asked, number, _teller(asked))
    if "test-only" in asked.names:
        return _test(queue, asked, name, environ)
    if "pty" in asked.names:
        return _on_terminal(queue, asked, name, environ)
    return _watched(queue, asked, name, environ)


def _test(queue: ask.Queue, asked: alloc.Asked, name: str, environ: Mapping[str, str]) -> int:
    from tui.slurm import sbatch

    made = alloc.request(queue, asked, ["srun", *asked.command], name=name, environ=environ)
    return sbatch.tell_plan(queue, made, tool="srun", quiet="quiet" in asked.names)


def _watched(queue: ask.Queue, asked: alloc.Asked, name: str, environ: Mapping[str, str]) -> int:
    from tui.slurm import terminal

    step = ["srun", *asked.own, "--", *asked.command]
    door, aborted, tell = terminal.Door(), False, _teller(asked)

    def abort() -> None:
        nonlocal aborted
        aborted = True
        tell("forcing job termination")
        tell("Job step aborted: Waiting for job step to finish.")
        with contextlib.suppress(StokerError):  # stored before the ranks hear of it: the job ends as cancelled
            queue.client.cancel(arrays.ref(job))

    try:
        job = safe.clean(_hand_in(queue, asked, door.command(step, "--srun", "--else"), name, environ))
        try:
            link = terminal.wait_link(queue.client, job, door, tell, late_s=_LATE_S)
        except KeyboardInterrupt:
            return _revoked(job, tell)
        if link is not None:
            code = terminal.attend(link, pty=False, abort=abort).shell_code
            return terminal.INTERRUPTED if aborted else code
    except KeyboardInterrupt:
        return terminal.INTERRUPTED
    finally:
        door.close()
    return _followed(queue, job, tell)


def _revoked(job: Job, tell: Callable[[str], None]) -> int:
    """Ctrl-C while the job waited, which is taken out of the queue: as srun says it, and its exit code."""
    tell(f"Job allocation {arrays.label(job)} has been revoked")
    tell(f"Force Terminated JobId={arrays.label(job)}")
    return 1


def _followed(queue: ask.Queue, job: Job, tell: Callable[[str], None]) -> int:
    """By its log: the job runs where our descriptors are not, or did not begin at all."""
    from tui import follow
    from tui.endings import EndedError, Endings
    from tui.running import Running

    watched = Running(queue.client, job, follow.writer(sys.stdout, json=False), tell)
    try:
        with Endings():
            code = watched.to_end()
    except EndedError as end:
        with contextlib.suppress(StokerError):
            queue.client.cancel(arrays.ref(job))
        tell("forcing job termination")
        return end.code
    ended = safe.clean(watched.job)
    if ended.state.is_final and ended.exit_code is None:
        tell(f"error: job {ended.id} {ended.state.value}: {ended.detail or ended.reason or ''}".rstrip(": "))
    return code


def _on_terminal(queue: ask.Queue, asked: alloc.Asked, name: str, environ: Mapping[str, str]) -> int:
    from tui.slurm import terminal

    door, tell = terminal.Door(), _teller(asked)
    try:
        pty = terminal.is_terminal()
        command = door.command(asked.command, *(["--pty"] if pty else []))
        job = safe.clean(_hand_in(queue, asked, command, name, environ))
        try:
            link = terminal.wait_start(queue.client, job, door, tell)
        except KeyboardInterrupt:
            return _revoked(job, tell)
        code = terminal.attend(link, pty=pty).shell_code
        if code and code < _BY_SIGNAL:
            tell(f"error: {job.node}: task 0: Exited with exit code {code}")
        return code
    except KeyboardInterrupt:
        return terminal.INTERRUPTED
    except ToolError:
        raise
    except StokerError as error:
        raise ToolError(str(error)) from error
    finally:
        door.close()


def _hand_in(
    queue: ask.Queue, asked: alloc.Asked, command: Sequence[str], name: str, environ: Mapping[str, str]
) -> Job:
    if any(word.startswith(("-a", "--array")) for word in asked.job):
        raise ToolError("an array has no terminal; use sbatch")
    try:
        return alloc.hand_in(queue, asked, command, name=name, environ=environ).job
    except ToolError as error:
        raise ToolError(f"Unable to allocate resources: {error}") from error


def _teller(asked: alloc.Asked) -> Callable[[str], None]:
    """How srun speaks of itself: with `--quiet` of errors only."""

    def tell(sentence: str) -> None:
        if "quiet" not in asked.names or sentence.startswith("error: "):
            program.say(f"srun: {safe.text(sentence)}")

    return tell
