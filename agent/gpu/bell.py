"""A clock that wakes one thread, and that others move without waking anybody. timerfd(2).

`threading` has no such thing: to move the end of a wait there, its thread has to be woken, which once a second on each
node costs as much as reading a GPU. The standard library has timerfd from 3.13 on.
"""

from __future__ import annotations

import ctypes
import math
import os
import struct
from functools import partial

_CLOCK_MONOTONIC, _TFD_CLOEXEC, _TFD_TIMER_ABSTIME = 1, 0o2000000, 1
_ITIMERSPEC = struct.Struct("llll")  # interval, then the moment: seconds and nanoseconds each
_AT_ONCE = (0, 0, 0, 1)
_NEVER = (0, 0, 0, 0)


class Bell:
    """Rings at one moment; silent at first."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "no timer: timerfd_create")
        self._spec = ctypes.create_string_buffer(_ITIMERSPEC.size)
        self._set = partial(libc.timerfd_settime, self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(self._spec), None)

    def set(self, at: float) -> None:
        """Ring at `at` (CLOCK_MONOTONIC seconds) and no longer at the moment before; `inf` is never."""
        if at == math.inf:
            self._move(_NEVER)
        else:
            whole = int(at)
            self._move((0, 0, whole, int((at - whole) * 1e9)))

    def ring(self) -> None:
        """Ring now."""
        self._move(_AT_ONCE)

    def wait(self) -> None:
        """Return when it rings. For one thread."""
        os.read(self._fd, 8)

    def _move(self, when: tuple[int, int, int, int]) -> None:
        _ITIMERSPEC.pack_into(self._spec, 0, *when)
        self._set()
