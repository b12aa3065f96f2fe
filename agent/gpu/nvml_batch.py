"""The plain questions of each second to one GPU: asked in a row, answered side by side in one buffer. A part of the
door to `pynvml`.

To ask them one by one, each with its buffer and its verdict, costs three times as much of the interpreter. A question
that the GPU does not know is left out of the row for an hour.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import call
from typing import Any

from agent.gpu.nvml_call import FORGET_S, UNSUPPORTED, raise_if_fatal

_ALIGNMENT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One function and what is wanted of its answer."""

    function: Callable[..., int]
    args: tuple[Any, ...]
    """Before the pointer to the answer."""
    layout: str
    """Of nvml.h's structure, for `struct` without alignment of its own; x skips what is not wanted."""
    start: bytes = b""
    """What the caller must fill in."""
    names: tuple[str, ...]
    """One for each value: what a reading calls it."""


def side_by_side(questions: Sequence[Question]) -> tuple[str, bytes]:
    """The layout of one buffer for all answers, each aligned, and what it holds at first."""
    layout, start = "", b""
    for question in questions:
        size, room = struct.calcsize(f"={question.layout}"), _room(question)
        layout += f"{question.layout}{room - size}x"
        start += question.start.ljust(room, b"\0")
    return layout, start


def calls_into(buffer: Any, questions: Sequence[Question]) -> list[partial[int]]:
    """The questions, prepared to be answered into such a buffer."""
    calls, offset = [], 0
    for question in questions:
        calls.append(partial(question.function, *question.args, ctypes.byref(buffer, offset)))
        offset += _room(question)
    return calls


def _room(question: Question) -> int:
    return -(-struct.calcsize(f"={question.layout}") // _ALIGNMENT) * _ALIGNMENT


class Batch:
    """Questions to one GPU. Values are in the order of the questions; one that is not known is `None`."""

    def __init__(self, index: int, questions: Sequence[Question]) -> None:
        self._index = index
        layout, start = side_by_side(questions)
        self._layout = struct.Struct("=" + layout)
        self._buffer = ctypes.create_string_buffer(start, len(start))
        self._calls = calls_into(self._buffer, questions)
        place = 0
        self._places: list[range] = []
        for question in questions:
            self._places.append(range(place, place + len(question.names)))
            place += len(question.names)
        self.names = tuple(name for question in questions for name in question.names)
        self._asked = list(range(len(questions)))
        self._row = list(self._calls)
        self._quiet_until: dict[int, float] = {}
        self.errors: dict[int, int] = {}
        """Place of a question that the GPU knows, and was not answered just now → the code with which it failed."""

    def ask(self, monotonic: float) -> Sequence[Any]:
        """The values now.

        Raises:
            GpuLostError: the GPU cannot be asked.
            DriverGoneError: the driver cannot.
        """
        if self._quiet_until:
            self._try_again(monotonic)
        codes = list(map(call, self._row))  # no line of Python between two questions
        values = self._layout.unpack_from(self._buffer)
        if self.errors or any(codes):
            self.errors = {number: code for number, code in zip(self._asked, codes, strict=True) if code}
        if self.errors or self._quiet_until:
            return self._left_out(list(values), monotonic)
        return values

    def failed(self) -> set[str]:
        """Names of the values that the GPU knows, and failed to say just now."""
        return {self.names[place] for number in self.errors for place in self._places[number]}

    def _left_out(self, values: list[Any], monotonic: float) -> list[Any]:
        """The values without those that were not answered."""
        unknown = [number for number, code in self.errors.items() if code in UNSUPPORTED]
        for code in self.errors.values():
            raise_if_fatal(code, self._index)
        if unknown:
            self._quiet_until.update(dict.fromkeys(unknown, monotonic + FORGET_S))
            self.errors = {number: code for number, code in self.errors.items() if number not in unknown}
            self._choose()
        for number in (*self._quiet_until, *self.errors):
            for place in self._places[number]:
                values[place] = None
        return values

    def _try_again(self, monotonic: float) -> None:
        due = [number for number, until in self._quiet_until.items() if monotonic >= until]
        for number in due:
            del self._quiet_until[number]
        if due:
            self._choose()

    def _choose(self) -> None:
        self._asked = [number for number in range(len(self._calls)) if number not in self._quiet_until]
        self._row = [self._calls[number] for number in self._asked]
