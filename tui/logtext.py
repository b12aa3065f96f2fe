"""A job's log from bytes to safe lines, for the log screen and for `stoker logs` on a terminal.

Rules kept here: bytes are decoded as UTF-8 across the borders of chunks; a carriage return starts a line over, as a
progress bar means it, so only the last state of such a line is kept; a line is capped; bytes that the server's cap
left out become one visible note. Memory does not grow with what the job writes on one line.
"""

from __future__ import annotations

import codecs

import msgspec

from tui import safe
from tui.units import size

LINE_MAX = 32 * 1024
"""Characters gathered for a line that does not end; what comes after is a line of its own."""


class LogLine(msgspec.Struct, frozen=True):
    """One safe line; `note` marks one that we wrote ourselves."""

    text: str
    note: bool = False


class LogText:
    """Turns the pieces of one log into lines."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._open = ""
        self._next: int | None = None

    @property
    def partial(self) -> str:
        """The last line while it has no end yet, safe."""
        return _shown(self._open)

    def feed(self, offset: int, data: bytes) -> list[LogLine]:
        """Take the bytes that stand at `offset`; the lines they complete."""
        lines: list[LogLine] = []
        if self._next is not None and offset > self._next:
            lines += self.finish()
            lines.append(LogLine(f"… {size(offset - self._next)} of output left out …", note=True))
        self._next = offset + len(data)
        *ended, self._open = (self._open + self._decoder.decode(data)).split("\n")
        lines += [LogLine(_shown(line)) for line in ended]
        self._open = _last_state(self._open)
        if len(self._open) > LINE_MAX:
            lines.append(LogLine(_shown(self._open)))
            self._open = ""
        return lines

    def finish(self) -> list[LogLine]:
        """The open line, if there is one; the log has ended or jumps here."""
        rest, self._open = self._open + self._decoder.decode(b"", final=True), ""
        self._decoder.reset()
        return [LogLine(_shown(rest))] if rest else []


def _shown(line: str) -> str:
    """What a terminal would show of a line in the end."""
    return safe.text(_last_state(line).strip("\r").expandtabs(8))


def _last_state(line: str) -> str:
    """Cut what a carriage return wrote over; one at the very end has not overwritten anything yet."""
    body = line.rstrip("\r")
    return body.rpartition("\r")[2] + ("\r" if body != line else "")
