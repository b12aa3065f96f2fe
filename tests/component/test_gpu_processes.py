"""User and command of processes: real processes, real `/proc`."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from typing import NoReturn

import pytest

from agent.api.types import GpuProcess, GpuReading
from agent.gpu.frames import Stamped
from agent.gpu.processes import CHECK_S, ProcessNames


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Executes the line it is sent, as `exec` of a shell would."""
    child = subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-c",
            "import os; print('up', flush=True); os.execvp('sh', ['sh', '-c', input()])",
            "a b",
            "\udcff\x1b",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        said(child, "up")
        yield child
    finally:
        child.kill()
        child.communicate()


_DUE = count(1000.0, CHECK_S)
"""Monotonic seconds at which a look is due for another check, each time."""


def filled(names: ProcessNames, reading: GpuReading, monotonic: float) -> tuple[GpuProcess, ...]:
    """As a frame tells them, once what it asked for is looked up."""
    names.look((Stamped(reading=reading, at=0.0),), monotonic)
    assert names.wait(60)
    return names.name(reading.processes)


def seen(names: ProcessNames, pid: int) -> GpuProcess:
    """What is said of a pid after another look."""
    reading = GpuReading(
        index=0, uuid="GPU-0", name="x", sampled_at=0.0, processes=(GpuProcess(pid=pid, memory_used_bytes=7),)
    )
    return filled(names, reading, next(_DUE))[0]


def said(process: subprocess.Popen[bytes], line: str) -> None:
    """Wait until it has said a line: then it is what it was started as."""
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n".encode()


def test_user_and_arguments_whatever_their_bytes(process: subprocess.Popen[bytes]) -> None:
    one = seen(ProcessNames(), process.pid)
    assert one.user == pwd.getpwuid(os.geteuid()).pw_name
    assert one.memory_used_bytes == 7
    assert one.started_at is not None
    assert abs(time.time() - one.started_at) < 60
    assert (one.command or "").endswith("a b \ufffd\x1b")  # cleaned by whoever shows it


def test_a_process_that_executes_another_program_is_renamed(process: subprocess.Popen[bytes]) -> None:
    names = ProcessNames()
    assert "a b" in (seen(names, process.pid).command or "")
    assert process.stdin is not None
    process.stdin.write(b"echo on; read x\n")
    process.stdin.flush()
    said(process, "on")
    assert seen(names, process.pid).command == "sh -c echo on; read x"


def test_known_names_are_proved_only_now_and_then(process: subprocess.Popen[bytes]) -> None:
    names = ProcessNames()
    reading = GpuReading(index=0, uuid="GPU-0", name="x", sampled_at=0.0, processes=(GpuProcess(pid=process.pid),))
    (known,) = filled(names, reading, 100.0)
    assert known.user is not None
    process.kill()
    process.wait()
    assert filled(names, reading, 100.0 + CHECK_S - 1)[0] is known
    assert filled(names, reading, 100.0 + CHECK_S)[0].user is None


def test_a_process_that_ended_lends_its_names_to_nobody(process: subprocess.Popen[bytes]) -> None:
    names = ProcessNames()
    assert seen(names, process.pid).user is not None
    process.kill()
    process.wait()
    gone = seen(names, process.pid)
    assert (gone.user, gone.command) == (None, None)


def test_the_files_of_processes_that_left_the_gpu_are_closed(process: subprocess.Popen[bytes]) -> None:
    names = ProcessNames()
    assert seen(names, process.pid).user is not None
    assert holds_open(process.pid)
    empty = GpuReading(index=0, uuid="GPU-0", name="x", sampled_at=0.0)
    filled(names, empty, 0.0)
    assert not holds_open(process.pid)


def test_a_look_up_that_fails_is_told_and_the_next_one_names_again(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: int) -> NoReturn:
        """A directory server's library that fails as none should."""
        monkeypatch.undo()
        raise RuntimeError("the directory is away")

    monkeypatch.setattr(pwd, "getpwuid", broken)
    names = ProcessNames()
    assert seen(names, process.pid).user is None
    assert "the directory is away" in caplog.text
    assert seen(names, process.pid).user is not None


@pytest.mark.parametrize("pid", [0, 4194304, 2**32 - 1])
def test_a_number_that_is_no_process_has_no_names(pid: int) -> None:
    names = ProcessNames()
    assert seen(names, os.getpid()).user is not None
    ghost = seen(names, pid)
    assert (ghost.user, ghost.command) == (None, None)


def holds_open(pid: int) -> bool:
    """Whether this process has a file of `/proc/PID` open."""
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith(f"/proc/{pid}/"):
                return True
        except OSError:
            continue
    return False
