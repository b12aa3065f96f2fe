"""User and command of processes: real processes, real `/proc`."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from agent.api.types import GpuProcess, GpuReading
from agent.gpu.frames import Stamped
from agent.gpu.processes import CHECK_S, ProcessNames


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Executes the line it is sent, as `exec` of a shell would."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-c", "import os; os.execvp('sh', ['sh', '-c', input()])", "a b", "\udcff\x1b"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def filled(names: ProcessNames, reading: GpuReading, monotonic: float) -> tuple[GpuProcess, ...]:
    names.look((Stamped(reading=reading, at=0.0),), monotonic)
    return names.name(reading.processes)


def seen_until(names: ProcessNames, pid: int, wanted: Callable[[GpuProcess], bool]) -> GpuProcess:
    """What is said of a pid, once it is as wanted; it answers from the look-up before."""
    reading = GpuReading(
        index=0, uuid="GPU-0", name="x", sampled_at=0.0, processes=(GpuProcess(pid=pid, memory_used_bytes=7),)
    )
    until = time.monotonic() + 60
    while True:
        later = time.monotonic() * 1000  # each look is due for another check
        (process,) = filled(names, reading, later)
        if wanted(process):
            return process
        assert time.monotonic() < until, f"last seen: {process}"
        time.sleep(0.01)


def test_user_and_arguments_whatever_their_bytes(process: subprocess.Popen[bytes]) -> None:
    seen = seen_until(ProcessNames(), process.pid, lambda seen: "a b" in (seen.command or ""))
    assert seen.user == pwd.getpwuid(os.geteuid()).pw_name
    assert seen.memory_used_bytes == 7
    assert seen.started_at is not None
    assert abs(time.time() - seen.started_at) < 60
    assert (seen.command or "").endswith("a b \ufffd\x1b")  # cleaned by whoever shows it


def test_a_process_that_executes_another_program_is_renamed(process: subprocess.Popen[bytes]) -> None:
    names = ProcessNames()
    seen_until(names, process.pid, lambda seen: "a b" in (seen.command or ""))
    assert process.stdin is not None
    process.stdin.write(b"exec sleep 61\n")
    process.stdin.flush()
    assert seen_until(names, process.pid, lambda seen: seen.command == "sleep 61").pid == process.pid


def test_known_names_are_proved_only_now_and_then(process: subprocess.Popen[bytes]) -> None:
    names = ProcessNames()
    reading = GpuReading(index=0, uuid="GPU-0", name="x", sampled_at=0.0, processes=(GpuProcess(pid=process.pid),))
    until = time.monotonic() + 60
    while (seen := filled(names, reading, 100.0)[0]).user is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert filled(names, reading, 100.0 + CHECK_S - 1)[0] is seen
    seen_until(names, process.pid, lambda seen: seen.user is None)


def test_a_process_that_ended_lends_its_names_to_nobody(process: subprocess.Popen[bytes]) -> None:
    names = ProcessNames()
    seen_until(names, process.pid, lambda seen: seen.user is not None)
    process.kill()
    process.wait()
    seen_until(names, process.pid, lambda seen: seen.user is None and seen.command is None)


def test_the_files_of_processes_that_left_the_gpu_are_closed(process: subprocess.Popen[bytes]) -> None:
    names = ProcessNames()
    seen_until(names, process.pid, lambda seen: seen.user is not None)
    assert holds_open(process.pid)
    empty = GpuReading(index=0, uuid="GPU-0", name="x", sampled_at=0.0)
    until = time.monotonic() + 60
    while holds_open(process.pid):
        names.look((Stamped(reading=empty, at=0.0),), 0.0)
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_look_up_that_fails_is_told_and_the_next_one_names_again(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    def broken(_: int) -> NoReturn:
        """A directory server's library that fails as none should."""
        monkeypatch.undo()
        failed.set()
        raise RuntimeError("the directory is away")

    monkeypatch.setattr(pwd, "getpwuid", broken)
    names = ProcessNames()
    assert seen_until(names, process.pid, lambda seen: seen.user is not None).user
    assert failed.is_set()
    assert "the directory is away" in caplog.text


@pytest.mark.parametrize("pid", [0, 4194304, 2**32 - 1])
def test_a_number_that_is_no_process_has_no_names(pid: int) -> None:
    names = ProcessNames()
    real = seen_until(names, os.getpid(), lambda seen: seen.user is not None)
    assert real.user is not None
    ghost = seen_until(names, pid, lambda seen: True)
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
