"""Lines of a log that hold a text, out of pieces that begin and end anywhere."""

from __future__ import annotations

from collections.abc import Callable

from agent.api.types import LogChunk, LogEnd

MOST_BYTES = 1024 * 1024
"""Of a line without an end: then it is judged as it is."""

Write = Callable[[LogChunk | LogEnd | None], None]


class Matching:
    """Takes pieces of a log and passes on the lines that hold a text, as bytes and with their own offsets."""

    def __init__(self, write: Write, text: str) -> None:
        self._write = write
        self._wanted = text.encode()
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
        if line and self._wanted in line:
            self._write(LogChunk(offset=at, data=line))


def _lines(data: bytes) -> list[bytes]:
    """Cut at line feeds alone."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
