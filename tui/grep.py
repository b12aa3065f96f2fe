"""Lines of a log that match, out of pieces that begin and end anywhere.

Rules kept here: a pattern is tried in this process alone, so that none can hold up a server; a server is only told of
plain text, to leave out what holds it not; a pattern that takes longer than `MOST_S` for one line ends the command.
"""

from __future__ import annotations

import re
import signal
import threading
import warnings
from collections.abc import Callable
from types import FrameType

from agent.api.errors import StokerError
from agent.api.types import LogChunk, LogEnd

MOST_BYTES = 1024 * 1024
"""Of a line without an end: then it is judged as it is."""
MOST_S = 2.0
"""For one line: `(a+)+$` can be made to take for ever, any honest pattern takes milliseconds."""
_SPECIAL = frozenset(r".^$*+?{}[]\|()")
_SHOWN = 60

Write = Callable[[LogChunk | LogEnd | None], None]


class PatternError(StokerError):
    """A pattern that cannot be used."""


class Choice:
    """Which lines are wanted: those that hold a text, or in which a pattern of Python's `re` is found."""

    def __init__(self, pattern: str, *, fixed: bool = False) -> None:
        """`fixed`: nothing in it has a meaning.

        Raises:
            PatternError: it is no pattern; the message names the place.
        """
        self._shown = pattern if len(pattern) <= _SHOWN else f"{pattern[:_SHOWN]}…"
        self.text = pattern if fixed or not _SPECIAL.intersection(pattern) else None
        """What every wanted line holds, where that is known."""
        self._bytes = pattern.encode("utf-8", "surrogateescape")
        self._pattern = None if self.text is not None else _compiled(pattern)

    def takes(self, line: bytes) -> bool:
        """Whether a line, with its end or without, is wanted.

        Raises:
            PatternError: the pattern took too long.
        """
        if self._pattern is None:
            return self._bytes in line
        text = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
        with _Limit(f"--grep: {self._shown!r} takes longer than {MOST_S:.0f} s for one line of {len(line)} bytes"):
            return self._pattern.search(text) is not None


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later Python may take otherwise
            return re.compile(pattern)
    except re.error as error:
        where = "" if error.pos is None else f" at character {error.pos + 1}, {pattern[error.pos :][:20]!r}"
        raise PatternError(f"{pattern!r} is no regular expression: {error.msg}{where}; {_LITERALLY}") from error
    except (OverflowError, RecursionError) as error:
        raise PatternError(f"{pattern!r} is no regular expression: it is too large; {_LITERALLY}") from error


_LITERALLY = "--fixed-strings (-F) looks for it as it is written"


class _Limit:
    """Ends what takes longer than `MOST_S` on the main thread: `re` looks for signals as it goes."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> None:
        if self._is_main:
            self._before = signal.signal(signal.SIGALRM, self._over)
            signal.setitimer(signal.ITIMER_REAL, MOST_S)

    def __exit__(self, *_: object) -> None:
        if self._is_main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)

    def _over(self, number: int, frame: FrameType | None) -> None:
        raise PatternError(f"{self._what}; make it simpler (no repeat within a repeat), or use --fixed-strings")


class Matching:
    """Takes pieces of a log and passes on the lines that are wanted, as bytes and with their own offsets."""

    def __init__(self, write: Write, choice: Choice) -> None:
        self._write = write
        self._wanted = choice
        self._open = b""
        self._at = 0

    def __call__(self, piece: LogChunk | LogEnd | None) -> None:
        """One piece, or the end."""
        if not isinstance(piece, LogChunk):
            self._judge(self._open, self._at)
            self._open = b""
            self._write(piece)
            return
        if piece.offset != self._at + len(self._open):  # what was between is gone: the line ends where it was cut
            self._judge(self._open, self._at)
            self._open, self._at = b"", piece.offset
        self._take(_lines(self._open + piece.data))

    def _take(self, lines: list[bytes]) -> None:
        self._open = b""
        for line in lines:
            if line.endswith(b"\n") or len(line) >= MOST_BYTES:
                self._judge(line, self._at)
                self._at += len(line)
            else:
                self._open = line

    def _judge(self, line: bytes, at: int) -> None:
        if line and self._wanted.takes(line):
            self._write(LogChunk(offset=at, data=line))


def _lines(data: bytes) -> list[bytes]:
    """Cut at line feeds alone."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
