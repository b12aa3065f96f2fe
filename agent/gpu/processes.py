"""Who runs on a GPU: user and command of the process ids that the driver names.

Both are looked up by one thread of their own, because `/proc/PID/cmdline` blocks while that process is stuck in the
kernel with its memory map locked (what a sick driver does to it) and the account lookup may ask a directory server.
Until the thread knows a process, it has a number and no name.

An open file of `/proc/PID` answers ESRCH once that process is gone, even if its number is in use again: so the kept
descriptor proves that the cached names still belong to the process, for microseconds where psutil takes a hundred.
"""

from __future__ import annotations

import logging
import os
import pwd
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from queue import SimpleQueue

from agent.api.types import GpuProcess
from agent.gpu.frames import News, Renewal, Stamped

CHECK_S = 10.0
"""How often known names are proved; processes that come and go are looked up at once."""
_COMMAND_MAX_BYTES = 512
_MADE_MOST = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    comm_fd: int
    comm: bytes
    """The kernel's short name; changes when the process executes another program. Empty: to be looked up again."""
    user: str | None
    command: str | None
    started_at: int | None
    """Unix seconds."""


class ProcessNames:
    """Fills in what is known of the processes in readings, and asks for the rest in the background."""

    def __init__(self) -> None:
        self._known: dict[int, _Process] = {}
        self._wanted: SimpleQueue[frozenset[int]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._done = threading.Event()
        """Nobody is being looked up."""
        self._done.set()
        self._asked: frozenset[int] = frozenset()
        self._asked_at = 0.0
        self._lists: list[tuple[GpuProcess, ...]] = []
        """Of the last call."""
        self._made: dict[int, tuple[tuple[GpuProcess, ...], dict[int, _Process], tuple[GpuProcess, ...]]] = {}
        """By the identity of what it was made of, which is kept beside it."""

    def look(self, gpus: Iterable[Stamped | Renewal], monotonic: float) -> None:
        """Have the processes looked up that are on the GPUs now, where that is due. Never blocks."""
        if isinstance(gpus, News):
            lists = gpus.processes
        else:
            lists = [gpu.processes if isinstance(gpu, Renewal) else gpu.reading.processes for gpu in gpus]
        if lists == self._lists and monotonic < self._asked_at + CHECK_S:
            return
        pids = frozenset([process.pid for processes in lists for process in processes])
        if pids != self._asked or (pids and monotonic >= self._asked_at + CHECK_S):
            self._ask(pids, monotonic)
        if pids == self._asked:
            self._lists = lists

    def name(self, processes: tuple[GpuProcess, ...]) -> tuple[GpuProcess, ...]:
        """The same with users and commands, as of the last look-up."""
        known = self._known
        made = self._made.get(id(processes))
        if made is not None and made[1] is known:
            return made[2]
        named = tuple(self._named(process) for process in processes)
        if len(self._made) > _MADE_MOST:
            self._made.clear()
        self._made[id(processes)] = (processes, known, named)
        return named

    def known(self) -> object:
        """The same object for as long as `name` gives the same names."""
        return self._known

    def wait(self, timeout_s: float) -> bool:
        """Return when what was asked for is known; whether that was in time."""
        return self._done.wait(timeout_s)

    def _ask(self, pids: frozenset[int], monotonic: float) -> None:
        if not self._done.is_set():
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gpu-processes", daemon=True)
            self._thread.start()
        self._done.clear()
        self._asked, self._asked_at = pids, monotonic
        self._wanted.put(pids)

    def _named(self, process: GpuProcess) -> GpuProcess:
        known = self._known.get(process.pid)
        if known is None:
            return process
        return GpuProcess(
            pid=process.pid,
            memory_used_bytes=process.memory_used_bytes,
            user=known.user,
            command=known.command,
            kind=process.kind,
            sm_percent=process.sm_percent,
            started_at=known.started_at,
        )

    def _run(self) -> None:
        """The thread's life."""
        while True:
            wanted = self._wanted.get()
            try:
                found = self._look_up(wanted)
                if found != self._known:
                    self._known = found
            except Exception:  # the rim of a thread that must live
                logger.exception("whose processes run on the GPUs could not be looked up; it is tried again")
                self._known = {}  # which of their files were closed is not known
            finally:
                self._done.set()

    def _look_up(self, pids: frozenset[int]) -> dict[int, _Process]:
        for pid, process in self._known.items():
            if pid not in pids:
                os.close(process.comm_fd)
        found = {pid: _still(self._known.get(pid)) or _open(pid) for pid in pids}
        return {pid: process for pid, process in found.items() if process is not None}


def _still(process: _Process | None) -> _Process | None:
    """The process if it is still the one that was looked up, running the same program; else its file is closed."""
    if process is None:
        return None
    if process.comm and _comm(process.comm_fd) == process.comm:
        return process
    os.close(process.comm_fd)
    return None


def _open(pid: int) -> _Process | None:
    """Look a process up; `None` if it is gone or not ours to see (`hidepid`)."""
    try:
        folder = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        user = _user(os.fstat(folder).st_uid)
        command = _read(folder, "cmdline")
        started_at = _started_at(_read(folder, "stat"))
        comm_fd = os.open("comm", os.O_RDONLY, dir_fd=folder)
    except OSError:
        return None
    except Exception:  # the rim of one process: a directory server's library may raise anything
        logger.exception("whose process %d is could not be looked up; it is tried again", pid)
        return None
    finally:
        os.close(folder)
    comm = _comm(comm_fd)
    # Without arguments it is just being executed: they come, and its short name stays what it is.
    kept = comm if command else b""
    return _Process(comm_fd=comm_fd, comm=kept, user=user, command=_text(command or comm), started_at=started_at)


def _started_at(stat: bytes) -> int | None:
    """From `/proc/PID/stat`, see proc(5): the 22nd field, in ticks since boot. The second may contain anything."""
    try:
        ticks = int(stat[stat.rindex(b")") + 1 :].split()[19])
    except (ValueError, IndexError):
        return None
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return int(booted + ticks / os.sysconf("SC_CLK_TCK"))


def _comm(fd: int) -> bytes:
    """What the kernel calls the process now; empty once it is gone."""
    try:
        return os.pread(fd, 64, 0)
    except OSError:  # ESRCH
        return b""


def _user(uid: int) -> str:
    """The account's name, or its number when the account is gone."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _read(folder: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY, dir_fd=folder)
    try:
        return os.read(fd, _COMMAND_MAX_BYTES)
    finally:
        os.close(fd)


def _text(raw: bytes) -> str:
    """Foreign bytes as text: arguments joined by spaces. Whoever shows it cleans it further."""
    return raw.replace(b"\0", b" ").decode("utf-8", "replace").strip()
