"""Who is on a GPU: processes that compute, processes that draw, and their share of the SMs. A part of the door to
`pynvml`; same as `nvidia-smi pmon`.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pynvml

from agent.api.gpus import GRAPHICS
from agent.api.types import GpuProcess
from agent.gpu.nvml_call import Asked, function_of
from agent.gpu.sieve import PERCENT, Sieve

PROCESS = struct.Struct("I4xQ8x")  # nvmlProcessInfo_t: pid, memory; not MIG instances
USE = struct.Struct("I4xQI12x")  # nvmlProcessUtilizationSample_t: pid, time, SM; not memory, encoder, decoder
_NOT_AVAILABLE = 2**64 - 1
"""`NVML_VALUE_NOT_AVAILABLE` in a field of 64 bits."""
_ROOM = 32
_NOBODY_S = 10.0
WINDOW_US = 2_000_000
"""How far back shares are asked for. The driver notes one about each second: with less a process would seem idle when
its turn is late."""
_ASK_S = 1.5

COMPUTE_FUNCTIONS = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")
COMPUTE, BOTH = "compute", f"compute+{GRAPHICS}"


class _List(Asked):
    """A list of NVML that grows with what it is told."""

    def __init__(self, index: int, function: Callable[..., int], layout: struct.Struct, *args: Any) -> None:
        """The function takes `args`, then a count, then room for rows."""
        super().__init__(index)
        self._function = function
        self._layout = layout
        self._args = args
        self._count = ctypes.c_uint()
        self._raw = b""
        self._rows: list[tuple[int, int]] = []
        """What the bytes were read as; most seconds they are as in the one before."""
        self._grow(_ROOM)

    def _grow(self, capacity: int) -> None:
        self.capacity = capacity
        room = ctypes.create_string_buffer(capacity * self._layout.size)
        self._question = partial(self._function, *self._args, ctypes.byref(self._count), room)
        self._view = memoryview(room).cast("B")

    def get(self, monotonic: float) -> list[tuple[int, int]] | None:
        """The rows; `None` where the driver does not say. See `Call.ask`."""
        if monotonic < self._quiet_until:
            return None
        self._count.value = self.capacity
        if code := self._question():
            if code == pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
                self._grow(2 * self._count.value)
                self._count.value = self.capacity
                code = self._question()
            if not self.judge(code, monotonic):
                return None
        return self.take(self._view[: min(self._count.value, self.capacity) * self._layout.size].tobytes())

    def is_offered(self, monotonic: float) -> bool:
        """Whether it is worth a question."""
        return self.error is None and monotonic >= self._quiet_until

    def take(self, raw: bytes) -> list[tuple[int, int]]:
        """The rows in such an answer, whoever asked."""
        self.error = None
        if raw != self._raw:
            self._raw, self._rows = raw, list(self._layout.iter_unpack(raw))
        return self._rows


class ProcessCall:
    """The processes of one GPU or MIG instance."""

    def __init__(self, index: int, library: ctypes.CDLL, handle: Any) -> None:
        self.compute = _List(index, function_of(library, *COMPUTE_FUNCTIONS), PROCESS, handle)
        names = ("nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v2")
        self._graphics = _List(index, function_of(library, *names), PROCESS, handle)
        self.draws = False
        """Some process does."""
        self._graphics_at = 0.0
        self.use = UseCall(index, library, handle)
        self._seen: tuple[object, ...] = ()
        self._made: tuple[GpuProcess, ...] = ()
        """Of what was seen last: most seconds are as the one before."""

    def get(self, now: float, monotonic: float, sieve: Sieve) -> tuple[GpuProcess, ...]:
        """See `Call.ask`; no process where the driver does not say.

        NVML `nvmlDeviceGetComputeRunningProcesses`, `…GraphicsRunningProcesses`, `…GetProcessUtilization`.
        """
        return self._join(self.compute.get(monotonic) or (), now, monotonic, sieve)

    def nobody_draws(self, monotonic: float) -> bool:
        """Ask whether that is so; raises as `Call.ask`."""
        return not self._drawing(monotonic)

    def put(self, compute: bytes, uses: bytes | None, monotonic: float, sieve: Sieve) -> tuple[GpuProcess, ...]:
        """As `get`, of answers to another's questions: who computes, and its use where that was asked for."""
        if uses is not None:
            self.use.put(uses, monotonic, sieve)
        seen = (self.compute.take(compute), (), self.use.told)
        if seen != self._seen:
            self._seen, self._made = seen, self._make(*seen)
        return self._made

    def _join(
        self, compute: Sequence[tuple[int, int]], now: float, monotonic: float, sieve: Sieve
    ) -> tuple[GpuProcess, ...]:
        graphics = self._drawing(monotonic) if self.draws or monotonic >= self._graphics_at else ()
        if not compute and not graphics:
            return ()
        seen = (compute, graphics, self.use.get(now, monotonic, sieve))
        if seen != self._seen:
            self._seen, self._made = seen, self._make(*seen)
        return self._made

    def _make(
        self, compute: Sequence[tuple[int, int]], graphics: Sequence[tuple[int, int]], shares: dict[int, int] | None
    ) -> tuple[GpuProcess, ...]:
        draws = dict(graphics)
        found = [
            _process(pid, used, BOTH if draws and draws.pop(pid, None) is not None else COMPUTE, shares)
            for pid, used in compute
        ]
        found += [_process(pid, used, GRAPHICS, shares) for pid, used in draws.items()]
        return tuple(found)

    def _drawing(self, monotonic: float) -> Sequence[tuple[int, int]]:
        """Where nobody draws, as on most nodes, it is asked for every 10 s only."""
        self._graphics_at = monotonic + _NOBODY_S
        found = self._graphics.get(monotonic) or ()
        self.draws = bool(found)
        return found


class UseCall(Asked):
    """Shares of the SMs. NVML `nvmlDeviceGetProcessUtilization`; nothing to tell is an error there, `NOT_FOUND`."""

    def __init__(self, index: int, library: ctypes.CDLL, handle: Any) -> None:
        super().__init__(index)
        self._function = function_of(library, "nvmlDeviceGetProcessUtilization")
        self._handle = handle
        self._count = ctypes.c_uint()
        self._count_ref = ctypes.byref(self._count)
        self._since = ctypes.c_ulonglong()
        self.told: dict[int, int] | None = None
        self._told_at = -math.inf
        self._grow(_ROOM)

    def _grow(self, capacity: int) -> None:
        self._capacity = capacity
        self._room = ctypes.create_string_buffer(USE.size * capacity)

    def get(self, now: float, monotonic: float, sieve: Sieve) -> dict[int, int] | None:
        """Process → its newest share in percent; one that is absent had none. `None` where the driver does not say.

        Asked for every other second: an answer covers two.
        """
        if not self._told_at <= monotonic < self._told_at + _ASK_S:
            self.told, self._told_at = self._tell(now, monotonic, sieve), monotonic
        return self.told

    def _tell(self, now: float, monotonic: float, sieve: Sieve) -> dict[int, int] | None:
        self._since.value = max(0, int(now * 1e6) - WINDOW_US)
        asked = self._ask(monotonic)
        if not asked and self.error == pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
            self._grow(2 * max(self._count.value, self._capacity))
            asked = self._ask(monotonic)
        if not asked:
            return {} if self.error == pynvml.NVML_ERROR_NOT_FOUND else None
        rows = memoryview(self._room).cast("B")[: min(self._count.value, self._capacity) * USE.size]
        return _newest(rows, sieve)

    def is_offered(self, monotonic: float) -> bool:
        """Whether it is worth a question."""
        return monotonic >= self._quiet_until

    def is_told(self, rows: bytes) -> bool:
        """Whether such an answer, of the one process that most GPUs have, says what is known."""
        if len(rows) != USE.size:
            return not rows and self.told == {}
        pid, _, share = USE.unpack(rows)
        return self.told == {pid: share}

    def put(self, rows: bytes, monotonic: float, sieve: Sieve) -> None:
        """What was answered to another's question."""
        self.error = None
        self.told, self._told_at = _newest(rows, sieve) if rows else {}, monotonic

    def _ask(self, monotonic: float) -> bool:
        if monotonic < self._quiet_until:
            return False
        self._count.value = self._capacity
        return self.judge(self._function(self._handle, self._room, self._count_ref, self._since), monotonic)


def _newest(rows: bytes | memoryview, sieve: Sieve) -> dict[int, int]:
    """Of each process its newest share."""
    if len(rows) == USE.size:  # most GPUs are one process's
        pid, _, share = USE.unpack(rows)
        return {} if sieve.whole(share, PERCENT) is None else {pid: share}
    newest: dict[int, tuple[int, int]] = {}
    for pid, at, share in USE.iter_unpack(rows):
        if at > newest.get(pid, (0, 0))[0] and sieve.whole(share, PERCENT) is not None:
            newest[pid] = (at, share)
    return {pid: share for pid, (_, share) in newest.items()}


def _process(pid: int, used: int, kind: str, shares: dict[int, int] | None) -> GpuProcess:
    return GpuProcess(
        pid=pid,
        memory_used_bytes=None if used == _NOT_AVAILABLE else used,
        kind=kind,
        sm_percent=None if shares is None else shares.get(pid, 0),
    )
