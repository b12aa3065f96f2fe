"""The demo's child processes: services that listen until they are stopped, commands that end by themselves.

Rules kept here: a child has a session of its own, so Ctrl-C reaches the demo alone and jobs are cancelled before the
services stop; whatever a child leaves behind becomes the demo's own child (`adopt`) and is ended by `end_all`.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.api.errors import StokerError
from agent.demo.place import Place
from agent.engine.lean import become_subreaper as adopt
from agent.engine.procs import descendants, signal_exact

__all__ = ["adopt", "command", "end_all", "screen", "service"]

_START_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 10.0
_COMMAND_DEADLINE_S = 60.0
_SWEEP_PAUSE_S = 0.02


@contextmanager
def service(place: Place, what: str) -> Iterator[None]:
    """Run `stoker-agent` or `stoker-hub`: entered when it listens, stopped in order on the way out.

    Raises:
        StokerError: it does not start.
    """
    log = place.logs / f"{what}.log"
    read_end, write_end = os.pipe()
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [_program(f"stoker-{what}"), "run"],
            env=place.environment() | {"STOKER_READY_FD": str(write_end)},
            cwd=place.root,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            pass_fds=[write_end],
            start_new_session=True,
        )
    os.close(write_end)
    try:
        _await_ready(read_end, what, log)
        yield
    finally:
        _stop(process)


def command(place: Place, *words: str) -> str:
    """Run one of our commands in the work folder and return what it prints.

    Raises:
        StokerError: it failed; carries what it said.
    """
    try:
        done = subprocess.run(
            [_program(words[0]), *words[1:]],
            env=place.environment(),
            cwd=place.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_DEADLINE_S,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StokerError(f"`{' '.join(words)}` did not end within {_COMMAND_DEADLINE_S:.0f} s") from error
    if done.returncode:
        raise StokerError(f"`{' '.join(words)}` failed: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout


def screen(place: Place, words: Sequence[str]) -> None:
    """Give one of our commands the terminal until it ends. When we are interrupted it is asked to restore it."""
    process = subprocess.Popen([_program(words[0]), *words[1:]], env=place.environment(), cwd=place.work)
    try:
        process.wait()
    finally:
        _stop(process)


def end_all() -> None:
    """Kill and reap everything that is still below this process."""
    give_up = time.monotonic() + _STOP_DEADLINE_S
    while time.monotonic() < give_up:
        for pid, start in descendants(os.getpid()):
            signal_exact(pid, start, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(_SWEEP_PAUSE_S)


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _await_ready(read_end: int, what: str, log: Path) -> None:
    """Wait for the byte that a service writes when it listens, or for the end of a service that died."""
    try:
        ready, _, _ = select.select([read_end], [], [], _START_DEADLINE_S)
        if ready and os.read(read_end, 1):
            return
    finally:
        os.close(read_end)
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise StokerError(f"stoker-{what} does not start; it said: {said[-1] if said else 'nothing'}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
