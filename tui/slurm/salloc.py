"""`salloc`: hold an allocation and work inside of it, in a shell or with one command. salloc(1).

Here the shell runs inside of the job, with its GPUs, its limits and its end, on this terminal: as Slurm does it with
`LaunchParameters=use_interactive_step`. It must be called on the node that the job runs on.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agent.api import program
from agent.api.errors import StokerError
from agent.api.types import Job, JobState
from tui import safe
from tui.slurm import alloc, ask
from tui.slurm.argv import ToolError

if TYPE_CHECKING:
    from tui.slurm.terminal import Ended

HELP = """\
Usage: salloc [OPTIONS] [COMMAND [ARGS]]

Waits for an allocation and runs COMMAND, or your shell, inside of it on this terminal; the allocation ends with it.
Options are sbatch's: -n, -c, -G, --gres, -t, -p, -A, …

      --no-shell     only hold it; it ends by its time limit or with scancel
  -Q, --quiet
"""
_OWN: Mapping[str, tuple[str, str]] = {
    "no-shell": ("", ""),
    "quiet": ("Q", ""),
    "bell": ("", ""),
    "no-bell": ("", ""),
    "kill-command": ("K", "?"),
    "immediate": ("I", "?"),
    "verbose": ("v", ""),
}


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command; its exit code."""
    from tui.slurm import terminal

    asked = alloc.read(argv, _OWN)
    if "immediate" in asked.names:
        raise ToolError("--immediate is not offered here: the job waits until there is room")
    quiet = "quiet" in asked.names
    queue = ask.Queue.open(environ)
    if "no-shell" in asked.names:
        return _hold(queue, asked, environ, quiet=quiet)
    door = terminal.Door()
    try:
        pty = terminal.is_terminal()
        command = asked.command or [environ.get("SHELL") or "/bin/sh"]
        words = door.command(command, *(["--pty"] if pty else []), "--salloc")
        job = safe.clean(_hand_in(queue, asked, words, environ))
        try:
            link = terminal.wait_start(queue.client, job, door, lambda sentence: _tell(sentence, quiet=quiet))
        except KeyboardInterrupt:
            _tell(f"Job allocation {job.id} has been revoked.", quiet=quiet)
            _tell("Job aborted due to signal", quiet=quiet)
            return 1
        _tell(f"Granted job allocation {job.id}", quiet=quiet)
        ended = terminal.attend(link, pty=pty)
        what = (
            f"Job allocation {job.id} has been revoked." if ended.revoked else f"Relinquishing job allocation {job.id}"
        )
        _tell(what, quiet=quiet)
        return _exit_code(ended)
    except KeyboardInterrupt:
        return terminal.INTERRUPTED
    finally:
        door.close()


def _exit_code(ended: Ended) -> int:
    """As salloc's: a command that its user ended from outside is no failure."""
    if ended.revoked or not ended.signal:
        return ended.shell_code
    return 0 if ended.signal in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL) else 1


def _hold(queue: ask.Queue, asked: alloc.Asked, environ: Mapping[str, str], *, quiet: bool) -> int:
    """`--no-shell`: an allocation that nobody sits in."""
    import time

    from tui import arrays

    if asked.command:
        raise ToolError("--no-shell takes no command")
    job = safe.clean(_hand_in(queue, asked, ["sleep", "infinity"], environ))
    while job.state in (JobState.PENDING, JobState.CONFIGURING):
        time.sleep(0.2)
        job = safe.clean(queue.client.job(arrays.ref(job)))
    if job.state.is_final:
        raise ToolError(f"Job allocation {job.id} has been revoked: {job.detail or job.state.value}")
    _tell(f"Granted job allocation {job.id}", quiet=quiet)
    return 0


def _hand_in(queue: ask.Queue, asked: alloc.Asked, command: Sequence[str], environ: Mapping[str, str]) -> Job:
    try:
        return alloc.hand_in(queue, asked, command, name="interactive", environ=environ).job
    except StokerError as error:
        raise ToolError(f"Job submit/allocate failed: {error}") from error


def _tell(sentence: str, *, quiet: bool) -> None:
    if not quiet:
        program.say(f"salloc: {safe.text(sentence)}")
