"""The end of a step, and of what its ranks left behind, whatever becomes of srun itself.

Rules kept here: a process of the step is known by its process group and by the step's key in its environment, which
children inherit; it is pinned by a pidfd before it is looked at, so a signal reaches that process or nobody.
Cheap imports only (see `words`).
"""

# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signal
    from collections.abc import Callable
else:
    try:
        import _signal as signal  # the public module pulls in `enum`, 6 ms of every start
    except ImportError:
        import signal

KEY_VARIABLE = "STOKER_STEP"
"""Holds the keys of all steps that a process is in, the outermost first."""

_ROUNDS = 400
_PAUSE_S = 0.005


class Guard:
    """A child that outlives srun for as long as it takes to end the step."""

    def __init__(self, key: str, lost: Callable[[], None]) -> None:
        """`lost` is called in the child once it has ended a step whose srun was killed."""
        heard, self._told = os.pipe()
        if os.fork() == 0:
            _watch(heard, key, lost)
        os.close(heard)

    def add(self, group: int) -> None:
        """Tell it of a rank's process group."""
        self._tell(b"%d\n" % group)

    def dismiss(self) -> None:
        """Srun has seen to everything itself."""
        self._tell(b"done\n")

    def _tell(self, line: bytes) -> None:
        """A guard that somebody killed costs the guard, not the step."""
        try:
            os.write(self._told, line)
        except OSError:
            return


def sweep(key: str) -> None:
    """Kill every process whose environment holds the key, until there is none."""
    for _ in range(_ROUNDS):
        found = [int(name) for name in os.listdir("/proc") if name.isdigit() and _kill_if_ours(int(name), key.encode())]
        if not found:
            return
        time.sleep(_PAUSE_S)


def _watch(heard: int, key: str, lost: Callable[[], None]) -> None:
    """In the child: wait for srun's word, or for its end without one."""
    os.setsid()
    os.dup2(heard, 3)
    os.closerange(0, 3)  # nobody may wait for the end of a stream because of us
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    said = b""
    while True:
        piece = os.read(3, 4096)
        if not piece:
            break
        said += piece
    groups = said.split()
    if groups[-1:] != [b"done"]:
        for group in groups:
            try:
                os.killpg(int(group), signal.SIGKILL)
            except OSError:
                continue
        sweep(key)
        lost()
    os._exit(0)


def _kill_if_ours(pid: int, key: bytes) -> bool:
    """Kill the process if it is of the step; whether it was."""
    if pid == os.getpid():
        return False
    try:
        pinned = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environ = file.read()
        if not any(
            each.startswith(KEY_VARIABLE.encode() + b"=") and key in each.partition(b"=")[2].split()
            for each in environ.split(b"\0")
        ):
            return False
        signal.pidfd_send_signal(pinned, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(pinned)
    return True
