"""The logs of all tasks of an array at once: whole lines, each with its task before it, `17_3: step 100`.

Rules kept here: which tasks there are and how to see one alone is said on stderr; a line is written when it is whole,
and what a task left without an end at its end; followed, the tasks are read in turn, so that one which writes much
holds up none, and those that have not begun are waited for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

import msgspec

from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.api.types import Job, LogChunk, LogEnd
from tui import arrays, pages, plain
from tui.follow import PIECE_BYTES, Wanted, Write
from tui.grep import Matching
from tui.logtext import LogText
from tui.outage import Bridge

if TYPE_CHECKING:
    from tui.client import ClusterClient

_ROUND_S = 0.5
"""Between two looks at all tasks."""


class TaskLogs:
    """The logs of one array's tasks on their way out."""

    def __init__(self, client: ClusterClient, first: Job, out: TextIO, wanted: Wanted, *, json: bool) -> None:
        self._client = client
        self._first = first
        self._out = out
        self._wanted = wanted
        self._json = json
        self._tasks: dict[int, _TaskLog] = {}
        self._failed = False

    def copy(self) -> int:
        """Write what all tasks have written so far, one after the other; 1 if one could not be read."""
        jobs = pages.tasks_of(self._client, self._first)
        _say_which(jobs)
        for job in jobs:
            if job.attempt:
                self._read(job)
                self._log(job).end()
        return int(self._failed)

    def follow(self) -> int:
        """Write what all tasks write until the last one has ended, over every outage; 1 if one could not be read."""
        bridge = Bridge(f"following array {self._first.array_job_id}")
        told = False
        while True:
            jobs = bridge.over(lambda: pages.tasks_of(self._client, self._first))
            if not told:
                _say_which(jobs)
                told = True
            for job in jobs:
                log = self._log(job)
                if job.attempt and not log.ended:
                    bridge.over(lambda job=job: self._read(job))  # type: ignore[misc]
                    if job.state.is_final:  # known before the read: all that it wrote has been read
                        log.end()
            if all(job.state.is_final for job in jobs):
                return int(self._failed)
            time.sleep(_ROUND_S)

    def _log(self, job: Job) -> _TaskLog:
        if job.id not in self._tasks:
            name = arrays.label(job)
            write: Write = _json_line(self._out, name) if self._json else _line_writer(self._out, name)
            if self._wanted.grep is not None:
                write = Matching(write, self._wanted.grep)
            self._tasks[job.id] = _TaskLog(write)
        return self._tasks[job.id]

    def _read(self, job: Job) -> None:
        """Write what is new of one task; a task whose log is refused is told of once and left out."""
        log, ref = self._log(job), arrays.ref(job)
        try:
            while not log.ended:
                piece = self._client.log(ref, log.offset, PIECE_BYTES, since=self._wanted.since)
                if not piece.data:
                    return
                log.take(LogChunk(offset=piece.offset, data=piece.data))
        except ApiError as error:
            if error.status >= 500:
                raise
            self._failed = True
            plain.complain(f"the log of job {ref.local} is not shown: {error}")
            log.end()


class _TaskLog:
    """How far one task's log was read."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self.offset = 0
        self.ended = False

    def take(self, chunk: LogChunk) -> None:
        self._write(chunk)
        self.offset = chunk.offset + len(chunk.data)

    def end(self) -> None:
        if not self.ended:
            self._write(None)
            self.ended = True


def _say_which(jobs: Sequence[Job]) -> None:
    """Say which tasks there are, and how one is shown alone."""
    first = jobs[0]
    name = first.array_job_id
    ranges = arrays.ranges([job.array_task_id or 0 for job in jobs])
    waiting = [job.array_task_id or 0 for job in jobs if not job.attempt]
    rest = f"; {name}_[{arrays.ranges(waiting)}] not begun" if waiting else ""
    alone = f"one task alone: stoker logs {JobRef(id=name or first.id, task=first.array_task_id)}"
    plain.note(f"array {name} has {len(jobs)} tasks, {ranges}{rest}; {alone}")


def _line_writer(out: TextIO, name: str) -> Write:
    """Whole lines behind the task's name: safe ones on a terminal, else the bytes as they are."""
    return _terminal_lines(out, name) if out.isatty() else _raw_lines(out, name)


def _raw_lines(out: TextIO, name: str) -> Write:
    before, open_line = f"{name}: ".encode(), b""

    def write(piece: LogChunk | LogEnd | None) -> None:
        nonlocal open_line
        if isinstance(piece, LogChunk):
            *lines, open_line = (open_line + piece.data).split(b"\n")
        else:
            lines, open_line = ([open_line] if open_line else []), b""
        if lines:
            out.buffer.write(b"".join(before + line + b"\n" for line in lines))
            out.buffer.flush()

    return write


def _terminal_lines(out: TextIO, name: str) -> Write:
    text = LogText()

    def write(piece: LogChunk | LogEnd | None) -> None:
        lines = text.feed(piece.offset, piece.data) if isinstance(piece, LogChunk) else text.finish()
        for line in lines:
            print(f"{name}: {line.text}", file=out)
        out.flush()

    return write


def _json_line(out: TextIO, name: str) -> Write:
    """A `LogChunk` a line, with the task that it is of."""

    def write(piece: LogChunk | LogEnd | None) -> None:
        if isinstance(piece, LogChunk):
            plain.as_json({"task": name, **msgspec.to_builtins(piece)}, out)

    return write
