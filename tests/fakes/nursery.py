"""A program that is loaded once and forked as often as a test wants one: most of a small server's life is imports.

`python -m tests.fakes.nursery MODULE` imports the module and reads orders, a line each. For each it forks a child,
which prints its process id, runs `MODULE.live(order, ready)`, and prints its id again with a word once it is ready. A
child ends with its mother, and she with the test process.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import select
import signal
import subprocess
import sys
import traceback
from functools import cache
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_ROOT = Path(__file__).parents[2]


class Child:
    """A forked one, as `subprocess.Popen` has it; it is its mother's, who forgets it when it ends."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def send_signal(self, number: int) -> None:
        if not self._is_over(0):
            signal.pidfd_send_signal(self._fd, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float) -> None:
        if not self._is_over(timeout):
            raise TimeoutError(f"process {self.pid} lives after {timeout} s")

    def close(self) -> None:
        os.close(self._fd)

    def _is_over(self, timeout_s: float) -> bool:
        waiting = select.poll()
        waiting.register(self._fd, select.POLLIN)
        return bool(waiting.poll(timeout_s * 1000))


def born(module: str, order: str) -> Child:
    """A child of that program that is ready; `order` has no line breaks.

    Raises:
        AssertionError: it failed; why is on stderr.
    """
    mother = _mother(module)
    assert mother.stdin is not None and mother.stdout is not None
    mother.stdin.write(f"{order}\n")
    mother.stdin.flush()
    pid = int(mother.stdout.readline())
    child = Child(pid)  # she waits for our next order, so it is a process of hers, or was one a moment ago
    assert mother.stdout.readline() == f"{pid} ready\n"
    return child


@cache
def _mother(module: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "tests.fakes.nursery", module]
    made = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
    atexit.register(made.kill)
    return made


def _main(name: str) -> None:
    module = importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
    for order in iter(sys.stdin.readline, ""):
        if os.fork() == 0:
            _live(module.live, order)


def _live(live: object, order: str) -> None:
    """The child's life; it does not return."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _say(f"{os.getpid()}")
        live(order, lambda: _say(f"{os.getpid()} ready"))  # type: ignore[operator]
    except BaseException:  # noqa: BLE001 - it is told, and the child ends
        traceback.print_exc()
        _say(f"{os.getpid()} failed")
    finally:
        os._exit(1)


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    _main(sys.argv[1])
