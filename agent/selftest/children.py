"""Child processes of a self-test: their lines as they come, their ends, and that none is left.

Rules kept here: a child is its own session, so Ctrl-C is our business; it ends with its standard input, so that it does
not outlive us even by `kill -9`; one that says nothing for too long is killed and named.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import IO, Self

import msgspec

from agent.api.decode import decode
from agent.api.program import printable

_END_WAIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What a child said, read as its kind."""

    name: str
    value: msgspec.Struct


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A child is over; `why` is `None` when it ended well."""

    name: str
    why: str | None


@dataclass(slots=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    kind: type[msgspec.Struct]
    errors: IO[bytes]
    silence_s: float
    endless: bool
    heard_at: float = field(default_factory=time.monotonic)


class Children:
    """All of one step; leaving the `with` ends those that are left."""

    def __init__(self) -> None:
        self._running: dict[str, _Child] = {}
        self._news: SimpleQueue[tuple[_Child, bytes | None]] = SimpleQueue()

    def start(
        self,
        name: str,
        argv: Sequence[str],
        kind: type[msgspec.Struct],
        *,
        silence_s: float,
        environ: Mapping[str, str] | None = None,
        endless: bool = False,
    ) -> None:
        """Start one; `endless` ones are not waited for.

        Raises:
            OSError: it cannot be started.
        """
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environ, start_new_session=True
        )
        child = _Child(name, process, kind, errors, silence_s, endless)
        self._running[name] = child
        threading.Thread(target=self._follow, args=(child,), name=f"selftest-{name}", daemon=True).start()

    def first(self, name: str) -> Line | Ended:
        """The first word of a child, while no other runs."""
        child = self._running[name]
        for event in self._heard(lambda: name in self._running):
            return event
        return Ended(name=child.name, why="ended")

    def events(self) -> Iterator[Line | Ended]:
        """Lines and ends as they come, until all that are waited for have ended."""
        return self._heard(lambda: any(not each.endless for each in self._running.values()))

    def _heard(self, more: Callable[[], bool]) -> Iterator[Line | Ended]:
        while more():
            due = min(self._running.values(), key=lambda each: each.heard_at + each.silence_s)
            try:
                child, raw = self._news.get(timeout=max(0.0, due.heard_at + due.silence_s - time.monotonic()))
            except Empty:
                yield self._end(due, f"said nothing for {due.silence_s:.0f} s, and was ended")
                continue
            if child.name not in self._running:
                continue
            child.heard_at = time.monotonic()
            if raw is None:
                yield self._end(child, self._how_it_ended(child))
                continue
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):  # a library that prints
                yield Line(name=child.name, value=decode(raw, child.kind))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in list(self._running.values()):
            self._end(child, None)

    def _follow(self, child: _Child) -> None:
        assert child.process.stdout is not None
        with child.process.stdout as output:
            for line in output:
                self._news.put((child, line))
        self._news.put((child, None))

    def _how_it_ended(self, child: _Child) -> str | None:
        try:
            code = child.process.wait(_END_WAIT_S)
        except subprocess.TimeoutExpired:
            return "closed its output and did not end"
        if code == 0:
            return None
        child.errors.seek(0)
        said = [line for line in child.errors.read()[-4096:].decode("utf-8", "replace").splitlines() if line.strip()]
        how = f"ended with status {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
        return f"{how}: {printable(said[-1].strip())[:200]}" if said else how

    def _end(self, child: _Child, why: str | None) -> Ended:
        """Sees that it is gone, with all it started; one that is stuck in the driver is left to the kernel."""
        del self._running[child.name]
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(_END_WAIT_S)
        for pipe in (child.process.stdin, child.errors):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return Ended(name=child.name, why=why)
