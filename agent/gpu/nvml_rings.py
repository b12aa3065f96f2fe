"""The driver's own rings of samples: power 50 times a second, load about 6 times. A part of the door to `pynvml`.

Read each second, they give the least, the mean and the most in between, where a single reading would miss a peak that
lasts 20 ms. Known of them: an empty ring says NOT_FOUND; a sample may come again with the next answer, and old ones
with it; the values' type is told with each answer, and what lies beyond a short value in its room means nothing; times
are the wall clock's, which may be set back.
"""

from __future__ import annotations

import ctypes
import struct
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

_CASTS: dict[int, Any] = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: "d",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "I",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "Q",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "Q",
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "q",
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: "i",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: "H",
}
_SAMPLE = struct.Struct("QQ")  # nvmlSample_t: time, value

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
        self._times: Any = None
        """The buffer's times, side by side; the values are in `_values`, once for each type."""
        self._values: dict[int, Any] = {}

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
        values = self._new(monotonic) if call.ask(monotonic) else None
        if not values:
            self._listen(monotonic)
            return None
        low, high = min(values), max(values)
        if high > most or low < 0:
            sane = [each for each in values if 0 <= each <= most]
            sieve.dropped += len(values) - len(sane)
            return (float(min(sane)), sum(sane) / len(sane), float(max(sane))) if sane else None
        return float(low), sum(values) / len(values), float(high)

    def _sized(self) -> Call:
        """The call with a buffer for all that the ring holds."""
        code = self._function(*self._args, None)
        told = self._count.value if code == pynvml.NVML_SUCCESS else 0
        self._room = min(max(told, _ROOM), _ROOM_MOST)
        call = Call(self._index, self._function, *self._args, layout=_SAMPLE, rows=self._room)
        raw = memoryview(call.buffer).cast("B")
        self._times = raw.cast("Q")[::2]
        for kind, letter in _CASTS.items():
            cells: memoryview[Any] = raw.cast(letter)
            a_row = _SAMPLE.size // cells.itemsize
            self._values[kind] = cells[a_row // 2 :: a_row]
        return call

    def _new(self, monotonic: float) -> list[float]:
        """The values that were not seen before."""
        count = min(self._count.value, self._room)
        cells = self._values.get(self._kind.value)
        if cells is None or not count:
            return []
        values: list[float] = cells[:count].tolist()
        since = self._newest
        if since < self._times[0] <= self._times[count - 1] and self._heard_at is not None:
            # As it should be: in order, and nothing old. To look at each time costs as much as all the rest.
            self._newest = self._last.value = self._times[count - 1]
            self._heard_at = monotonic
            return values
        times: list[int] = self._times[:count].tolist()
        newest = max(times)
        if newest == since:
            return []
        if self._heard_at is None:
            since = newest - FIRST_US
        elif newest < since:
            since = newest  # the clock was set back: begin again from here
        self._newest = self._last.value = newest
        self._heard_at = monotonic
        return list({at: value for at, value in zip(times, values, strict=True) if at > since}.values())

    def _listen(self, monotonic: float) -> None:
        """Nothing new came: now and then look at the ring from its beginning."""
        if self._heard_at is not None and monotonic - self._heard_at > SILENT_S:
            self._last.value = 0
