"""How much of a GPU is used, from counters in its hardware: SMs, warps, tensor cores, memory bandwidth. NVML's GPM, on
Hopper and newer. A part of the door to `pynvml`.

Two samples are kept for each GPU and taken in turn; what lies between them is the time since the last reading. It does
not disturb a profiler, and no profiler disturbs it.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pynvml

from agent.gpu.nvml_call import FORGET_S, Asked, Call, function_of
from agent.gpu.sieve import PERCENT, Sieve

LEAST_S = 0.1
"""Samples closer to each other tell nothing."""

_SUPPORT = struct.Struct("4xI")  # nvmlGpmSupport_t: whether; not version
_HEAD = struct.Struct("IIPP")  # nvmlGpmMetricsGet_t: version, number of metrics, the two samples
SAMPLES = struct.Struct("PP")
SAMPLES_AT = 8
"""Where the two samples are in it."""
_METRIC = struct.Struct("IId24x")  # nvmlGpmMetric_t: number, return code, value; not names
_METRICS = (
    pynvml.NVML_GPM_METRIC_SM_UTIL,
    pynvml.NVML_GPM_METRIC_SM_OCCUPANCY,
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
)

_MOST = len(_METRICS) * PERCENT
"""All together; a sum with no number in it is not below it, whatever `min` and `max` made of that."""
RESULTS = f"{_HEAD.size}x" + len(_METRICS) * "4xId24x"  # the whole, of each metric without the number
_RESULTS = struct.Struct("=" + RESULTS)

GPM_NAMES = ("sm_active_percent", "sm_occupancy_percent", "tensor_active_percent", "dram_active_percent")
"""What a reading calls them."""
Shares = tuple[float | None, float | None, float | None, float | None]
"""SMs active, warps on them, tensor cores, memory bandwidth, in percent."""
NO_SHARES: Shares = (None, None, None, None)


class GpmCall(Asked):
    """The samples of one GPU."""

    def __init__(self, index: int, library: ctypes.CDLL, handle: Any, instance: int | None = None) -> None:
        """`handle` is the whole GPU's; `instance` the id of the GPU instance that is asked about."""
        super().__init__(index)
        self._library = library
        self._asked = (handle,) if instance is None else (handle, ctypes.c_uint(instance))
        self._sample = function_of(library, "nvmlGpmSampleGet" if instance is None else "nvmlGpmMigSampleGet")
        self._compare = function_of(library, "nvmlGpmMetricsGet")
        version = pynvml.NVML_GPM_SUPPORT_VERSION.to_bytes(4, sys.byteorder)
        function = function_of(library, "nvmlGpmQueryDeviceSupport")
        self._support = Call(index, function, handle, layout=_SUPPORT, start=version)
        self._turns: list[_Turn] = []
        """Which sample is taken next, and what compares it with the other one; two that change places."""
        self._at: float | None = None
        """When the newest sample was taken."""

    def get(self, monotonic: float, sieve: Sieve) -> Shares:
        """What happened since the call before.

        Raises:
            GpuLostError: the GPU cannot be asked.
            DriverGoneError: the driver cannot.
        """
        if monotonic < self._quiet_until or (not self._turns and not self._begin(monotonic)):
            return NO_SHARES
        if self._at is not None and monotonic - self._at < LEAST_S:
            return NO_SHARES
        turn = self._turns[0]
        self._turns.reverse()
        before, self._at = self._at, None
        if (code := turn.take()) and not self.judge(code, monotonic):
            return NO_SHARES
        self.error = None
        self._at = monotonic
        return NO_SHARES if before is None else self._compared(turn, monotonic, sieve)

    def is_ready(self, monotonic: float) -> bool:
        """Whether a sample was taken that the next one can be compared with."""
        return bool(self._turns) and monotonic >= self._quiet_until and self._at is not None

    def pair(self) -> tuple[int, int]:
        """The sample that is taken next, and the one before."""
        turn = self._turns[0]
        return turn.sample, turn.older

    def resume(self, taken: int, monotonic: float) -> None:
        """Others took so many samples meanwhile, in turn; the last one at that time."""
        if taken % 2:
            self._turns.reverse()
        self._at = monotonic
        self.error = None

    def _begin(self, monotonic: float) -> bool:
        """Find out whether the board can, and make room."""
        if not self._support.number(monotonic):
            if self._support.error is None:
                self._quiet_until = monotonic + FORGET_S
            return False
        samples = (ctypes.c_void_p(), ctypes.c_void_p())
        for each in samples:
            if not self.judge(self._library.nvmlGpmSampleAlloc(ctypes.byref(each)), monotonic):
                return False
        take, compare = partial(self._sample, *self._asked), self._compare
        self._turns = [_Turn(take, compare, *pair) for pair in (samples[::-1], samples)]
        return True

    def _compared(self, turn: _Turn, monotonic: float, sieve: Sieve) -> Shares:
        if (code := turn.compare()) and not self.judge(code, monotonic):
            return NO_SHARES
        codes = _RESULTS.unpack_from(turn.buffer)
        sm, occupancy, tensor, dram = values = codes[1::2]
        # To one place; `round` writes the number as text and reads that, which takes ten times as long.
        if not any(codes[0::2]) and min(values) >= 0 and max(values) <= PERCENT and sum(values) <= _MOST:
            # As `Sieve.share`; `round` would write each number as text and read that.
            return (
                int(10 * sm + 0.5) / 10,
                int(10 * occupancy + 0.5) / 10,
                int(10 * tensor + 0.5) / 10,
                int(10 * dram + 0.5) / 10,
            )
        sm, occupancy, tensor, dram = (
            None if code else sieve.share(value) for code, value in zip(codes[0::2], values, strict=True)
        )
        return sm, occupancy, tensor, dram


def compare_buffer() -> Any:
    """What `nvmlGpmMetricsGet` is asked with, but for the two samples."""
    # Of the whole structure's length: no driver writes beyond it, whatever it clears.
    buffer = ctypes.create_string_buffer(ctypes.sizeof(pynvml.c_nvmlGpmMetricsGet_t))
    _HEAD.pack_into(buffer, 0, pynvml.NVML_GPM_METRICS_GET_VERSION, len(_METRICS), 0, 0)
    for place, number in enumerate(_METRICS):
        _METRIC.pack_into(buffer, _HEAD.size + place * _METRIC.size, number, 0, 0.0)
    return buffer


class _Turn:
    """A sample, and the prepared question what happened between another one and it."""

    def __init__(
        self,
        take: Callable[..., int],
        compare: Callable[..., int],
        sample: ctypes.c_void_p,
        older: ctypes.c_void_p,
    ) -> None:
        self.take: Callable[[], int] = partial(take, sample)
        self.sample, self.older = sample.value or 0, older.value or 0
        self.buffer = compare_buffer()
        SAMPLES.pack_into(self.buffer, SAMPLES_AT, self.older, self.sample)
        self.compare: Callable[[], int] = partial(compare, self.buffer)
