"""`srun` outside of a job: a job that runs the command's ranks, watched to its end. Inside of one: the step itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import agent
from agent.api import program
from agent.api.errors import StokerError
from tui import safe
from tui.slurm import alloc, ask
from tui.slurm.argv import ToolError

HELP = """\
Usage: srun [OPTIONS] COMMAND [ARGS]

Outside of a job: hands in a job that starts COMMAND's ranks, shows their output as it comes, and ends with their exit
code; Ctrl-C ends the job. Options of sbatch are the job's; inside of a job: srun --help there.

  -n, --ntasks=N  -c, --cpus-per-task=N  -G, --gpus=N  -t, --time=TIME  …     the job's, as for sbatch
  -l, --label  -u, --unbuffered  -K, --kill-on-bad-exit  -W, --wait=SECONDS  -o, -e, -i FILE     of the ranks
      --gpu-bind=…  --pty: COMMAND on this terminal, with its standard input
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
}
_NOT_HERE = {
    "jobid": "a step is started from inside of its job",
    "multi-prog": "start each program with an srun of its own",
    "immediate": "the job waits until there is room; sbatch --test-only tells when",
}


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command; its exit code."""
    if environ.get("SLURM_JOB_ID") and environ.get("JOB_DIR"):
        step = Path(agent.__file__).parent / "step" / "srun.py"
        os.execv(sys.executable, [sys.executable, "-I", "-S", str(step), *argv])  # noqa: S606
    asked = alloc.read(argv, _OWN)
    for name in asked.names & _NOT_HERE.keys():
        raise ToolError(f"--{name} is not offered here: {_NOT_HERE[name]}")
    if not asked.command:
        raise ToolError("TOOL: fatal: No command given to execute.", bare=True)
    name = PurePath(asked.command[0]).name or "srun"
    queue = ask.Queue.open(environ)
    if "pty" in asked.names:
        return _on_terminal(queue, asked, name, environ)
    return _watched(queue, asked, name, environ)


def _watched(queue: ask.Queue, asked: alloc.Asked, name: str, environ: Mapping[str, str]) -> int:
    from tui import follow
    from tui.running import Running

    step = ["srun", *asked.own, "--", *asked.command]
    job = alloc.hand_in(queue, asked, step, name=name, environ=environ).job
    if job.array_job_id is not None:
        raise ToolError("an array has no terminal; use sbatch")
    watched = Running(queue.client, job, follow.writer(sys.stdout, json=False), _tell)
    code = watched.to_end()
    ended = safe.clean(watched.job)
    if ended.state.is_final and ended.exit_code is None:
        _tell(f"error: job {ended.id} {ended.state.value}: {ended.detail or ended.reason or ''}".rstrip(": "))
    return code


def _on_terminal(queue: ask.Queue, asked: alloc.Asked, name: str, environ: Mapping[str, str]) -> int:
    from tui.slurm import terminal

    door = terminal.Door()
    try:
        pty = terminal.is_terminal()
        job = alloc.hand_in(queue, asked, door.command(asked.command, pty=pty), name=name, environ=environ).job
        link = terminal.wait_start(queue.client, safe.clean(job), door, _tell)
        return terminal.attend(link, pty=pty)
    except KeyboardInterrupt:
        return terminal.INTERRUPTED
    except StokerError as error:
        raise ToolError(str(error)) from error
    finally:
        door.close()


def _tell(sentence: str) -> None:
    program.say(f"srun: {safe.text(sentence)}")
