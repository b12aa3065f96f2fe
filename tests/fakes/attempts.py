"""Attempts made and run for tests: real shims, real children.

bench = Bench(tmp_path)
exit = bench.run("echo hello; exit 3")        # a bash script, from claim to exit record
attempt = bench.attempt("sleep 60")           # made, not launched
left(token)                                   # pids whose command line holds a text
"""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from agent.engine import procs, watch
from agent.engine.found import Ended
from agent.engine.launch import SHIM, ForkLauncher
from agent.engine.records import AttemptDir, Claim, Exit, Started

T = TypeVar("T")

DEADLINE_S = 60.0
"""For things that take milliseconds, on a machine that may be busy."""


class Bench:
    """A state folder with jobs in it."""

    def __init__(self, path: Path, first_job: int = 1) -> None:
        self.path = path
        self._jobs = first_job - 1
        self.last = AttemptDir(path)
        """The attempt made last."""
        self.number = 1
        """Of the attempts of each job that are made."""

    def attempt(self, script: str | list[str], **claim: Any) -> AttemptDir:
        """A stored claim: for bash text, or an argv."""
        self._jobs += 1
        attempt = self.last = AttemptDir(self.path / "jobs" / str(self._jobs) / str(self.number))
        argv = ("/bin/bash", "-c", script) if isinstance(script, str) else tuple(script)
        fields: dict[str, Any] = {
            "argv": argv,
            "env": {"PATH": "/usr/local/bin:/usr/bin:/bin"},
            "work_dir": "/tmp",
            "grace_s": 5.0,
        }
        attempt.create(Claim(**{**fields, **claim}))
        return attempt

    def run(self, script: str | list[str], **claim: Any) -> Exit:
        """Launch, wait, return the exit record."""
        return finish(self.launched(script, **claim))

    def launched(self, script: str | list[str], **claim: Any) -> AttemptDir:
        """Handed off to a shim."""
        attempt = self.attempt(script, **claim)
        launch(attempt)
        return attempt

    def running(self, script: str | list[str], **claim: Any) -> AttemptDir:
        """Handed off and past the job's first words: the script must say READY."""
        attempt = self.launched(script, **claim)
        until(lambda: b"READY" in log(attempt))
        return attempt

    def holding(self, code: int, **claim: Any) -> AttemptDir:
        """Running until `let_go`, and then ended with a code of its own."""
        self._go = self.path / f"go-{self._jobs + 1}"
        return self.running(f"echo READY; while [ ! -e {self._go} ]; do sleep 0.02; done; exit {code}", **claim)

    def let_go(self) -> None:
        """Let the job held last end."""
        self._go.touch()


def launch(attempt: AttemptDir) -> None:
    """By double fork."""
    asyncio.run(ForkLauncher().launch(1, attempt))


def finish(attempt: AttemptDir) -> Exit:
    """Wait for the end; it must have been recorded."""
    found = asyncio.run(_within(lambda: watch.wait_end(attempt, procs.boot_id())))
    assert isinstance(found, Ended), (found, crash(attempt))
    return found.exit


def stop(attempt: AttemptDir, why: Any = "cancel", by: str = "alice") -> None:
    """As the agent does."""
    asyncio.run(watch.stop(attempt, why, by))


def started(attempt: AttemptDir) -> Started:
    """The record, once it is there."""
    until(lambda: attempt.read_started() is not None)
    record = attempt.read_started()
    assert record is not None
    return record


def shim(attempt: AttemptDir, *options: str) -> subprocess.Popen[bytes]:
    """A shim that is our own child, to watch it closely."""
    command = [sys.executable, "-I", "-S", str(SHIM), *options, str(attempt.path)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env={}, start_new_session=True)


def log(attempt: AttemptDir) -> bytes:
    """The head of the log."""
    try:
        return (attempt.path / "log").read_bytes()
    except FileNotFoundError:
        return b""


def crash(attempt: AttemptDir) -> str:
    """What a shim that crashed left."""
    path = attempt.path / "shim.err"
    return path.read_text() if path.exists() else ""


def left(token: str) -> list[int]:
    """Pids of live processes whose command line holds the token."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            stat_ = procs.read_stat(int(folder.name))
            if token.encode() in command and stat_ is not None and stat_.state not in "ZX":
                found.append(int(folder.name))
    return found


def until(true: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Wait until something holds that nothing can be awaited for."""
    give_up = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < give_up, "it did not come to be in time"
        time.sleep(0.005)


def program(path: Path, text: str) -> Path:
    """An executable Python program."""
    path.write_text(f"#!{sys.executable} -IS\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return path


async def _within(wait: Callable[[], Awaitable[T]]) -> T:
    async with asyncio.timeout(DEADLINE_S):
        return await wait()
