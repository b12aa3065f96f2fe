"""Files that come into a folder, told by the kernel: how the agent hears of a shim's records without asking again and
again. inotify(7).

Rules kept here: an event only says "look now", what is there is read from the disk; where the kernel gives no watch
(its limits are used up) a timer says it instead; all watched folders together cost one descriptor and no thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MOVED_TO = 0x80
_ONLYDIR = 0x01000000
_EVENT = struct.Struct("iIII")
"""`struct inotify_event` without its name: wd, mask, cookie, length of the name."""

_READ_BYTES = 64 * 1024
_STEP_S = 0.02
"""How often a folder is looked at that the kernel does not watch for us."""

logger = logging.getLogger(__name__)


class Came(asyncio.Event):
    """Set when a file came into a folder."""

    def __init__(self) -> None:
        super().__init__()
        self.files = 0
        """How many came so far, as far as the kernel told."""


class Arrivals:
    """Watches folders for files that are renamed into them. Lives on one event loop."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._events: dict[int, Came] = {}

    def start(self) -> None:
        """Begin; without inotify, timers do its work."""
        fd = _libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0:
            logger.warning("the kernel gives no inotify (%s): records are looked for by time", _last_error())
            return
        self._fd = fd
        asyncio.get_running_loop().add_reader(fd, self._read)

    def stop(self) -> None:
        """Give everything back."""
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    @contextmanager
    def of(self, folder: Path) -> Iterator[Came]:
        """An event that is set when a file came into the folder, which exists; clear it before looking."""
        event = Came()
        watch = self._add(folder, event)
        ticker = None if watch is not None else asyncio.create_task(_tick(event), name=f"look-{folder.parent.name}")
        try:
            yield event
        finally:
            if ticker is not None:
                ticker.cancel()
            if watch is not None:
                self._drop(watch)

    def _add(self, folder: Path, event: Came) -> int | None:
        if self._fd is None:
            return None
        watch = int(_libc().inotify_add_watch(self._fd, os.fsencode(folder), _MOVED_TO | _ONLYDIR))
        if watch < 0 or watch in self._events:
            return None
        self._events[watch] = event
        return watch

    def _drop(self, watch: int) -> None:
        del self._events[watch]
        if self._fd is not None:
            _quick().inotify_rm_watch(self._fd, watch)

    def _read(self) -> None:
        assert self._fd is not None, "the reader is removed before the descriptor is closed"
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            watch, _mask, _cookie, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size + length
            if watch == -1:  # IN_Q_OVERFLOW: anything may have come
                for each in self._events.values():
                    each.set()
            elif watch in self._events:
                self._events[watch].files += 1
                self._events[watch].set()


async def _tick(event: asyncio.Event) -> None:
    while True:
        await asyncio.sleep(_STEP_S)
        event.set()


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@functools.cache
def _quick() -> ctypes.PyDLL:
    """For what touches no disk: the loop does not give its turn to another thread, to wait for it afterwards."""
    return ctypes.PyDLL(None)


def _last_error() -> str:
    return os.strerror(ctypes.get_errno())
