"""The calls of a second to several GPUs that are alike, prepared in one row, GPU after GPU, and answered in one buffer.
A part of the door to `pynvml`.

No line of Python is between two calls. How far the row is, another thread sees from the iterator it is called through,
and by using that up it ends the row after the call that is being made.
"""

from __future__ import annotations

import ctypes
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import call, length_hint
from typing import Any

import pynvml

from agent.gpu.nvml_batch import calls_into, side_by_side
from agent.gpu.nvml_call import function_of
from agent.gpu.nvml_fields import ANSWER, ASKED, UsualFields
from agent.gpu.nvml_gpm import RESULTS, SAMPLES, SAMPLES_AT, compare_buffer
from agent.gpu.nvml_plain import PLAIN_VALUES, plain_questions
from agent.gpu.nvml_processes import COMPUTE_FUNCTIONS, PROCESS, USE
from agent.gpu.nvml_rings import SAMPLE

RINGS = (pynvml.NVML_TOTAL_POWER_SAMPLES, pynvml.NVML_GPU_UTILIZATION_SAMPLES, pynvml.NVML_MEMORY_UTILIZATION_SAMPLES)
ASKED_IN_TURN = ((0, 1, 2), (0,))
"""Which of them are asked in a turn. Those of load hold 20 seconds, and are asked every other second."""
USE_ROWS = 64
"""Room for a GPU's samples of who used it."""
_COUNTS = struct.Struct("=QQQII")
"""Of each ring the samples' type, above it their number; how many processes, how many samples of their use."""
_SINCE = 8
"""Bytes of the moment after which a ring is asked: of a ring GPU after GPU."""

_Calls = list[Callable[[], int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a GPU offers of what is asked each second, beside the plain questions, all of which it answers."""

    fields: UsualFields
    rooms: tuple[int, int, int]
    """Samples that fit for each of `RINGS`; 0 where it has none."""
    gpm: bool
    processes: int
    """Rows that fit; 0 where they are not told."""
    use: bool
    """What share of it each process uses is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One GPU, as the calls need it."""

    handle: Any
    samples: tuple[int, int]
    """GPM's: the next one to be taken, and the one before."""


class Sweep:
    """The rows of calls to some GPUs, and what came of them."""

    def __init__(self, library: ctypes.CDLL, kind: Kind, gpus: Sequence[Asked]) -> None:
        self.kind = kind
        self._library = library
        self._count = len(gpus)
        self._keep: list[Any] = []
        """Buffers and structures that only the driver's pointers know."""
        layout, plain = side_by_side(plain_questions(library, ctypes.c_void_p()))
        own = plain + b"".join(ASKED.pack(*each) for each in kind.fields.asked)
        self._answers = ctypes.create_string_buffer(own * self._count, len(own) * self._count)
        self._unpack = struct.Struct("=" + (layout + ANSWER * len(kind.fields.asked)) * self._count).unpack_from
        self.width = PLAIN_VALUES + 2 * len(kind.fields.asked)
        """Values of each GPU in `answers`."""
        self._fresh_counts = _COUNTS.pack(*(room << 32 for room in kind.rooms), kind.processes, USE_ROWS) * self._count
        self._counts = ctypes.create_string_buffer(self._fresh_counts, len(self._fresh_counts))
        self._counts_view = memoryview(self._counts).cast("B")
        self._unpack_counts = struct.Struct("=" + "QQQII" * self._count).unpack_from
        self._since = ctypes.create_string_buffer(_SINCE * len(RINGS) * self._count)
        self._pack_since = struct.Struct(f"={len(RINGS) * self._count}Q").pack_into
        self._use_since = ctypes.c_ulonglong()
        blank = compare_buffer().raw if kind.gpm else b""
        self._compared = [ctypes.create_string_buffer(blank * self._count or b"\0") for _ in range(2)]
        compared = f"{RESULTS}{len(blank) - struct.calcsize('=' + RESULTS)}x" if kind.gpm else ""
        self._unpack_compared = struct.Struct("=" + compared * self._count).unpack_from
        self.samples = [self._room(SAMPLE * room * self._count) for room in kind.rooms]
        """Where each ring is answered, GPU after GPU."""
        self._processes = memoryview(self._room(PROCESS.size * kind.processes * self._count)).cast("B")
        self._uses = memoryview(self._room(USE.size * USE_ROWS * self._count)).cast("B")
        rings_at = 8 + bool(kind.fields.asked) + bool(kind.processes)
        ends = [rings_at + sum(bool(kind.rooms[ring]) for ring in rings) for rings in ASKED_IN_TURN]
        self._may_be_quiet = [{*range(rings_at, end), end + 2 * kind.gpm} for end in ends]
        """Places of the rings and the use among the calls to one GPU, in each turn."""
        plains, first, second = self._rows(gpus, len(own), len(plain), len(blank))
        self._plain_row, self._whole_rows = plains, (first, second)
        self._row: _Calls = []
        self._calls: Iterator[Callable[[], int]] = iter(())
        self.codes: list[int] = []
        """What each call answered, those of one GPU after those of another."""
        self.is_over = True

    def prepare(self, since: Sequence[Sequence[int]]) -> None:
        """Make ready for all questions, once what was answered was looked at. `since` is of each ring the newest sample
        of each GPU.
        """
        self._counts_view[:] = self._fresh_counts
        self._pack_since(self._since, 0, *chain.from_iterable(since))

    def start(self, *, turn: int | None, use_since: int = 0) -> None:
        """Begin with the plain questions, or with all. `turn` says which of GPM's samples is taken, and with 1 it is
        asked who used the GPUs since then (microseconds).
        """
        if turn is None:
            self._row = self._plain_row
        else:
            self._row = self._whole_rows[turn]
            self._use_since.value = use_since
        self._calls, self.codes, self.is_over = iter(self._row), [], False

    def ask(self) -> None:
        """Make the calls. May block for ever."""
        self.codes = list(map(call, self._calls))
        self.is_over = True

    def asking(self) -> int | None:
        """Which of the GPUs is being asked, as any thread may see; `None` once all were."""
        if self.is_over:
            return None
        place = len(self._row) - length_hint(self._calls) - 1
        return min(max(place, 0) * self._count // len(self._row), self._count - 1)

    def abandon(self) -> None:
        """Have no other call made after the one that is: to be called by another thread."""
        deque(self._calls, maxlen=0)

    def codes_of_each(self) -> list[list[int]]:
        """What the calls to each GPU answered; where it is asked for, use is the last one."""
        calls = len(self._row) // self._count
        return [self.codes[start : start + calls] for start in range(0, len(self.codes), calls)]

    def may_be_quiet(self) -> set[int]:
        """Which of those have no news at times."""
        return set() if self._row is self._plain_row else self._may_be_quiet[self._row is self._whole_rows[1]]

    @property
    def is_whole(self) -> bool:
        """Whether every call was made."""
        return len(self.codes) == len(self._row)

    def answers(self) -> tuple[int, ...]:
        """All values, GPU after GPU: of the plain questions, then of each field how it came and what it is."""
        return self._unpack(self._answers)

    def counts(self) -> tuple[int, ...]:
        """As `_COUNTS`, GPU after GPU."""
        return self._unpack_counts(self._counts)

    def compared(self, turn: int) -> tuple[Any, ...]:
        """GPM's codes and values, GPU after GPU."""
        return self._unpack_compared(self._compared[turn])

    def processes(self, counts: Sequence[int]) -> list[bytes]:
        """Of each GPU so many rows of its processes, and no more than fit: behind them are another's."""
        size, view = self.kind.processes * PROCESS.size, self._processes
        starts = range(0, size * self._count, size)
        return [
            view[start : start + min(count * PROCESS.size, size)].tobytes()
            for start, count in zip(starts, counts, strict=True)
        ]

    def uses(self, gpu: int, count: int) -> bytes:
        """So many rows of their use, likewise."""
        start = gpu * USE_ROWS * USE.size
        return self._uses[start : start + min(count, USE_ROWS) * USE.size].tobytes()

    def _room(self, size: int) -> Any:
        made = ctypes.create_string_buffer(max(size, 1))
        self._keep.append(made)
        return made

    def _rows(
        self, gpus: Sequence[Asked], own: int, fields_at: int, compare_size: int
    ) -> tuple[_Calls, _Calls, _Calls]:
        """The plain questions; all, with GPM's first sample; all, with its second one, and the use."""
        plains: _Calls = []
        rows: tuple[_Calls, _Calls] = ([], [])
        for place, gpu in enumerate(gpus):
            view = (ctypes.c_char * own).from_buffer(self._answers, place * own)
            self._keep.append(view)
            plain = calls_into(view, plain_questions(self._library, gpu.handle))
            plains += plain
            common: _Calls = [*plain, *self._common(gpu, place, view, fields_at)]
            for turn, row in enumerate(rows):
                row += [*common, *self._rings(gpu, place, turn), *self._compares(gpu, turn, place * compare_size)]
            if self.kind.use:
                rows[1].append(self._use(gpu, place))
        return plains, rows[0], rows[1]

    def _common(self, gpu: Asked, place: int, view: Any, fields_at: int) -> _Calls:
        kind, counts_at = self.kind, place * _COUNTS.size
        found: _Calls = []
        if fields := kind.fields.asked:
            function = function_of(self._library, "nvmlDeviceGetFieldValues")
            found.append(partial(function, gpu.handle, len(fields), ctypes.byref(view, fields_at)))
        if kind.processes:
            function = function_of(self._library, *COMPUTE_FUNCTIONS)
            rows = ctypes.byref(self._keep[len(RINGS)], place * kind.processes * PROCESS.size)
            found.append(partial(function, gpu.handle, ctypes.byref(self._counts, counts_at + 24), rows))
        return found

    def _rings(self, gpu: Asked, place: int, turn: int) -> _Calls:
        counts_at = place * _COUNTS.size
        found: _Calls = []
        function = function_of(self._library, "nvmlDeviceGetSamples")
        for number in ASKED_IN_TURN[turn]:
            if room := self.kind.rooms[number]:
                last = ctypes.c_ulonglong.from_buffer(self._since, _SINCE * (self._count * number + place))
                at = counts_at + 8 * number
                told = (ctypes.byref(self._counts, at), ctypes.byref(self._counts, at + 4))
                samples = ctypes.byref(self.samples[number], place * room * SAMPLE)
                found.append(partial(function, gpu.handle, RINGS[number], last, *told, samples))
        return found

    def _compares(self, gpu: Asked, turn: int, at: int) -> _Calls:
        if not self.kind.gpm:
            return []
        sample, older = gpu.samples if turn == 0 else gpu.samples[::-1]
        buffer = self._compared[turn]
        SAMPLES.pack_into(buffer, at + SAMPLES_AT, older, sample)
        take = partial(function_of(self._library, "nvmlGpmSampleGet"), gpu.handle, ctypes.c_void_p(sample))
        return [take, partial(function_of(self._library, "nvmlGpmMetricsGet"), ctypes.byref(buffer, at))]

    def _use(self, gpu: Asked, place: int) -> Callable[[], int]:
        rows = ctypes.byref(self._keep[len(RINGS) + 1], place * USE_ROWS * USE.size)
        count = ctypes.byref(self._counts, place * _COUNTS.size + 28)
        return partial(
            function_of(self._library, "nvmlDeviceGetProcessUtilization"), gpu.handle, rows, count, self._use_since
        )
