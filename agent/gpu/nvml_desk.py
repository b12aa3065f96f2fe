"""All questions of a second in one row of prepared calls, for whichever GPU they are asked about. A part of the door to
`pynvml`.

A thread that reads has a desk, and GPUs that offer the same share it: what is called and where it is answered then lies
in the processor's cache from the second GPU on, where calls and buffers of each GPU's own come from memory each second.
Nobody else writes there, so a thread that is stuck in a call keeps its desk, and the next thread has another.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pynvml

from agent.gpu.nvml_batch import calls_into, side_by_side
from agent.gpu.nvml_call import function_of
from agent.gpu.nvml_fields import ANSWER, ASKED, UsualFields
from agent.gpu.nvml_gpm import RESULTS, SAMPLES, SAMPLES_AT, compare_buffer
from agent.gpu.nvml_plain import PLAIN_VALUES, plain_questions
from agent.gpu.nvml_processes import COMPUTE_FUNCTIONS, PROCESS
from agent.gpu.nvml_rings import SAMPLE

RINGS = (pynvml.NVML_TOTAL_POWER_SAMPLES, pynvml.NVML_GPU_UTILIZATION_SAMPLES, pynvml.NVML_MEMORY_UTILIZATION_SAMPLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a GPU offers of what is asked each second, beside the plain questions, all of which it answers."""

    fields: UsualFields
    rooms: tuple[int, int, int]
    """Samples that fit for each of `RINGS`; 0 where it has none."""
    gpm: bool
    processes: int
    """Rows that fit; 0 where they are not told."""


class Desks:
    """The desks of all threads that read, each made when it is first wanted."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._mine = threading.local()
        self._kinds: dict[Kind, Kind] = {}
        """Few: what a board does not offer it does not offer for an hour."""

    def of(self, kind: Kind) -> Desk:
        """The calling thread's, for such GPUs."""
        desks: dict[int, Desk] | None = getattr(self._mine, "desks", None)
        if desks is None:
            desks = self._mine.desks = {}
        desk = desks.get(id(kind))  # each is known once, and for good
        if desk is None:
            desk = desks[id(kind)] = Desk(self._library, kind)
        return desk

    def known(self, kind: Kind) -> Kind:
        """The one that all GPUs have that are alike."""
        return self._kinds.setdefault(kind, kind)


class Desk:
    """The calls of one thread for GPUs of one kind, and the buffers they are answered in."""

    def __init__(self, library: ctypes.CDLL, kind: Kind) -> None:
        self.kind = kind
        self.handle = ctypes.c_void_p()
        """The GPU that is asked; set before `row` is called."""
        layout, plain = side_by_side(plain_questions(library, self.handle))
        self.plain_layout = struct.Struct("=" + layout)
        fields = kind.fields.asked
        told_at = len(plain) + ASKED.size * len(fields)
        counts = struct.pack("=QQQQ", *(room << 32 for room in kind.rooms), kind.processes)
        start = plain + b"".join(ASKED.pack(*each) for each in fields) + counts
        self._buffer = ctypes.create_string_buffer(start + (compare_buffer().raw if kind.gpm else b""))
        self.layout = struct.Struct("=" + layout + ANSWER * len(fields) + "QQQI4x" + (RESULTS if kind.gpm else ""))
        self._counts, self._told = counts, memoryview(self._buffer)[told_at : told_at + len(counts)].cast("B")
        self._compare_at = told_at + len(counts)
        self._sample = ctypes.c_void_p()
        self.plain_row: list[Callable[[], int]] = [*calls_into(self._buffer, plain_questions(library, self.handle))]
        self.row = [*self.plain_row, *self._others(library, len(plain))]
        self.musts = len(self.row)
        """So many calls must be answered well; those of the rings, after them, have no news at times."""
        self.rings: list[tuple[int, ctypes.c_ulonglong, Any]] = []
        """Place in `RINGS`, after which sample, and where the samples are answered."""
        for place, room in enumerate(kind.rooms):
            if room:
                self._add_ring(library, place, room, told_at + 8 * place)
        self.told_place = PLAIN_VALUES + 2 * len(fields)
        """In `values`: of each ring the samples' type, above it their number; then how many processes there are."""
        self.count_place = self.told_place + len(RINGS)
        self.plain_values = self.plain_layout.unpack_from
        self.values = self.layout.unpack_from

    @property
    def buffer(self) -> Any:
        """Where all but the lists are answered, see `layout`."""
        return self._buffer

    def lay_out(self, handle: int, since: list[int], samples: tuple[int, int] | None) -> None:
        """Make ready for a GPU: after which sample of each ring is asked, and GPM's next sample and the one before."""
        self.handle.value = handle
        self._told[:] = self._counts
        for place, last, _ in self.rings:
            last.value = since[place]
        if samples is not None:
            self._sample.value, older = samples
            SAMPLES.pack_into(self._buffer, self._compare_at + SAMPLES_AT, older, samples[0])

    def _others(self, library: ctypes.CDLL, fields_at: int) -> list[Callable[[], int]]:
        kind, buffer = self.kind, self._buffer
        found: list[Callable[[], int]] = []
        if fields := kind.fields.asked:
            function = function_of(library, "nvmlDeviceGetFieldValues")
            count = ctypes.c_int32(len(fields))
            found.append(partial(function, self.handle, count, ctypes.byref(buffer, fields_at)))
        if kind.gpm:
            found.append(partial(function_of(library, "nvmlGpmSampleGet"), self.handle, self._sample))
            found.append(partial(function_of(library, "nvmlGpmMetricsGet"), ctypes.byref(buffer, self._compare_at)))
        if kind.processes:
            room = ctypes.create_string_buffer(kind.processes * PROCESS.size)
            self.processes = memoryview(room).cast("B")
            count_at = ctypes.byref(buffer, self._compare_at - 8)
            found.append(partial(function_of(library, *COMPUTE_FUNCTIONS), self.handle, count_at, ctypes.byref(room)))
        return found

    def _add_ring(self, library: ctypes.CDLL, place: int, room: int, told_at: int) -> None:
        last, samples = ctypes.c_ulonglong(), ctypes.create_string_buffer(SAMPLE * room)
        told = (ctypes.byref(self._buffer, told_at), ctypes.byref(self._buffer, told_at + 4))
        function = function_of(library, "nvmlDeviceGetSamples")
        self.row.append(partial(function, self.handle, RINGS[place], last, *told, ctypes.byref(samples)))
        self.rings.append((place, last, samples))
