"""The driver's own rings of samples: power 50 times a second, load about 6 times. A part of the door to `pynvml`.

Read each second, they give the least, the mean and the most in between, where a single reading would miss a peak that
lasts 20 ms. Known of them: an empty ring says NOT_FOUND; a sample may come again with the next answer, and old ones
with it; the values' type is told with each answer, and what lies beyond a short value in its room means nothing; times
are the wall clock's, which may be set back.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import pynvml

from agent.gpu.nvml_call import Asked, function_of
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
SAMPLE = 16
"""Bytes of an nvmlSample_t: time, then value."""
WORD = 4
_TIME = struct.Struct("=Q")

_Unpack = Callable[[Any, int], tuple[Any, ...]]
Unpackers = tuple[_Unpack, _Unpack]
"""What takes the values of so many samples of a type, and what takes the first and the last of their times."""
Spread = tuple[float, float, float]
"""Least, mean, most."""


class RingCall(Asked):
    """One ring of one GPU. NVML `nvmlDeviceGetSamples`."""

    def __init__(self, index: int, library: ctypes.CDLL, handle: Any, ring: int) -> None:
        super().__init__(index)
        self._function = function_of(library, "nvmlDeviceGetSamples")
        self._last = ctypes.c_ulonglong()
        # The values' type, then their number: two words in one, to be read and to be set at once.
        self._told = ctypes.c_ulonglong()
        references = (ctypes.byref(self._told), ctypes.byref(self._told, WORD))
        self._args = (handle, ctypes.c_uint(ring), self._last, *references)
        self.ring = ring
        self.room = 0
        """Samples that an answer may have; 0 before the first."""
        self.since = 0
        """The newest sample seen, in microseconds: what the driver is asked to begin after."""
        self._buffer: Any = None
        self._question: Callable[[], int] = self._make_room
        self._newest: int | None = None
        """Microseconds of the newest sample seen."""
        self.heard_at = 0.0
        """When there was news last."""

    def get(self, monotonic: float, sieve: Sieve, most: float) -> Spread | None:
        """Least, mean and most of the new samples; `None` where there are none. What is over `most` is dropped.

        Raises:
            GpuLostError: the GPU cannot be asked.
            DriverGoneError: the driver cannot.
        """
        if monotonic < self._quiet_until:
            return None
        self._told.value = self.room << 32
        self._last.value = self.since
        code = self._question()
        if (code and not self.judge(code, monotonic)) or not (values := self._new(monotonic)):
            self._listen(monotonic)
            return None
        return spread_of(values, sieve, most)

    def is_offered(self, monotonic: float) -> bool:
        """Whether it is worth a question."""
        return self.room > 0 and monotonic >= self._quiet_until

    def resume(self, since: int, heard_at: float) -> None:
        """Others asked meanwhile, and saw the samples up to there."""
        if since != self.since:
            self.since = self._newest = since
            self.heard_at = heard_at

    def _make_room(self) -> int:
        """The first question: for how many samples to make room; then as those after it."""
        code = self._function(*self._args, None)
        told = self._told.value >> 32 if code == pynvml.NVML_SUCCESS else 0
        self.room = min(max(told, _ROOM), _ROOM_MOST)
        self._buffer = ctypes.create_string_buffer(SAMPLE * self.room)
        self._question = partial(self._function, *self._args, self._buffer)
        self._told.value = self.room << 32
        return self._question()

    def _new(self, monotonic: float) -> Sequence[float]:
        """The values that were not seen before."""
        values, newest = news_of(self._told.value, self.room, self._buffer, self._newest)
        if newest is not None and newest != self._newest:
            self._newest = self.since = newest
            self.heard_at = monotonic
        return values

    def _listen(self, monotonic: float) -> None:
        """Nothing new came: now and then look at the ring from its beginning."""
        if self._newest is not None and monotonic - self.heard_at > SILENT_S:
            self.since = 0


def news_of(told: int, room: int, buffer: Any, since: int | None, start: int = 0) -> tuple[Sequence[float], int | None]:
    """The values of an answer that were not seen before, and the newest time; `since` is the newest before.

    `told` has the values' type, above it their number; `room` is how many fit into the buffer, where
    they begin at `start`.
    """
    unpack = unpackers_of(told, room)
    if unpack is None:
        return (), since
    values = unpack[0](buffer, start)
    first, last = unpack[1](buffer, start)
    if since is not None and since < first <= last:
        # As it should be: in order, and nothing old. To look at each time costs as much as all the rest.
        return values, last
    times = _times(len(values)).unpack_from(buffer, start)
    newest = max(times)
    if newest == since:
        return (), since
    if since is None:
        since = newest - FIRST_US
    elif newest < since:
        since = newest  # the clock was set back: begin again from here
    return tuple({at: value for at, value in zip(times, values, strict=True) if at > since}.values()), newest


def spread_of(values: Sequence[float], sieve: Sieve, most: float) -> Spread | None:
    """Least, mean and most; what is over `most` is dropped."""
    ordered = sorted(values)  # faster than to look twice
    low, high = ordered[0], ordered[-1]
    if high > most or low < 0:
        sane = [each for each in values if 0 <= each <= most]
        sieve.dropped += len(values) - len(sane)
        return (min(sane), sum(sane) / len(sane), max(sane)) if sane else None
    # Whole numbers stay whole: one with a fraction takes the frame ten times as long to write.
    return low, low if low == high else sum(values) / len(values), high


@lru_cache(maxsize=256)
def unpackers_of(told: int, room: int) -> Unpackers | None:
    """What takes the values of so many samples of this type, and what takes the first and the last of their times."""
    kind, count = told & 0xFFFF_FFFF, min(told >> 32, room)
    if not count or kind not in _CASTS:
        return None
    values = struct.Struct("=" + f"8x{_CASTS[kind]}" * count)
    if count == 1:
        return values.unpack_from, lambda buffer, start: 2 * _TIME.unpack_from(buffer, start)
    ends = struct.Struct(f"=Q{SAMPLE * (count - 1) - _TIME.size}xQ")
    return values.unpack_from, ends.unpack_from


@lru_cache(maxsize=256)
def _times(count: int) -> struct.Struct:
    return struct.Struct("=" + "Q8x" * count)
