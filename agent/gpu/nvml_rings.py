"""The driver's own rings of samples: power 50 times a second, load about 6 times. A part of the door to `pynvml`.

Read each second, they give the least, the mean and the most in between, where a single reading would miss a peak that
lasts 20 ms. Known of them: an empty ring says NOT_FOUND; a sample may come again with the next answer, and old ones
with it; the values' type is told with each answer, and what lies beyond a short value in its room means nothing; times
are the wall clock's, which may be set back.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Sequence
from typing import Any

import pynvml

from agent.gpu.nvml_call import Call, function_of
from agent.gpu.sieve import Sieve

FIRST_US = 1_000_000
"""How far the first answer is looked at: what is older was before our time."""
SILENT_S = 5.0
"""After as long without a sample the ring is read from its beginning: the clock may have been set back."""
_ROOM = 128
_ROOM_MOST = 8192

_CASTS = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: "d",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "I4x",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "Q",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "Q",
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "q",
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: "i4x",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: "H6x",
}
_SAMPLE = 16
"""Bytes of an nvmlSample_t: time, then value."""
_TIME = struct.Struct("=Q")
_WHOLE = struct.Struct("=QQ")

Spread = tuple[float, float, float]
"""Least, mean, most."""


class RingCall:
    """One ring of one GPU. NVML `nvmlDeviceGetSamples`."""

    def __init__(self, index: int, library: ctypes.CDLL, handle: Any, ring: int) -> None:
        self._index = index
        self._function = function_of(library, "nvmlDeviceGetSamples")
        self._last = ctypes.c_ulonglong()
        self._kind = ctypes.c_uint()
        self._count = ctypes.c_uint()
        references = (ctypes.byref(self._kind), ctypes.byref(self._count))
        self._args = (handle, ctypes.c_uint(ring), self._last, *references)
        self._room = 0
        self._newest = 0
        """Microseconds of the newest sample seen."""
        self._heard_at: float | None = None
        self._call: Call | None = None
        self._buffer: Any = None

    def get(self, monotonic: float, sieve: Sieve, most: float) -> Spread | None:
        """Least, mean and most of the new samples; `None` where there are none. What is over `most` is dropped.

        Raises:
            GpuLostError: the GPU cannot be asked.
            DriverGoneError: the driver cannot.
        """
        call = self._call
        if call is None:
            call = self._call = self._sized()
        self._count.value = self._room
        if not call.ask(monotonic) or not (values := self._new(monotonic)):
            self._listen(monotonic)
            return None
        ordered = sorted(values)  # faster than to look twice
        low, high = ordered[0], ordered[-1]
        if high > most or low < 0:
            sane = [each for each in values if 0 <= each <= most]
            sieve.dropped += len(values) - len(sane)
            return (float(min(sane)), sum(sane) / len(sane), float(max(sane))) if sane else None
        if low == high:
            low = float(low)
            return low, low, low
        return float(low), sum(values) / len(values), float(high)

    def _sized(self) -> Call:
        """The call with a buffer for all that the ring holds."""
        code = self._function(*self._args, None)
        told = self._count.value if code == pynvml.NVML_SUCCESS else 0
        self._room = min(max(told, _ROOM), _ROOM_MOST)
        call = Call(self._index, self._function, *self._args, layout=_WHOLE, rows=self._room)
        self._buffer = call.buffer
        return call

    def _new(self, monotonic: float) -> Sequence[float]:
        """The values that were not seen before."""
        count, kind = self._count.value, self._kind.value
        if count > self._room:
            count = self._room
        if not count or kind not in _CASTS:
            return ()
        values = _values(kind, count).unpack_from(self._buffer)
        since = self._newest
        (first,), (last,) = _TIME.unpack_from(self._buffer), _TIME.unpack_from(self._buffer, _SAMPLE * (count - 1))
        if since < first <= last and self._heard_at is not None:
            # As it should be: in order, and nothing old. To look at each time costs as much as all the rest.
            self._newest = self._last.value = last
            self._heard_at = monotonic
            return values
        times = _times(count).unpack_from(self._buffer)
        newest = max(times)
        if newest == since:
            return ()
        if self._heard_at is None:
            since = newest - FIRST_US
        elif newest < since:
            since = newest  # the clock was set back: begin again from here
        self._newest = self._last.value = newest
        self._heard_at = monotonic
        return tuple({at: value for at, value in zip(times, values, strict=True) if at > since}.values())

    def _listen(self, monotonic: float) -> None:
        """Nothing new came: now and then look at the ring from its beginning."""
        if self._heard_at is not None and monotonic - self._heard_at > SILENT_S:
            self._last.value = 0


@functools.lru_cache(maxsize=256)
def _values(kind: int, count: int) -> struct.Struct:
    """The values of so many samples, without their times."""
    return struct.Struct("=" + f"8x{_CASTS[kind]}" * count)


@functools.lru_cache(maxsize=256)
def _times(count: int) -> struct.Struct:
    return struct.Struct("=" + "Q8x" * count)
