"""One HTTP/1.1 answer as it comes: its head, and then its body in pieces.

Rules kept here: where a body ends is never guessed: by its chunks, else by its length, else where the connection ends,
and an answer that says two of them is refused; a head has a bound; nothing is waited for beyond the piece asked for.
Not the standard library's `http.client`, with which come `email` and `ssl`: a fifth of what `stoker submit` cost.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

LINE_MAX_BYTES = 64 * 1024
HEADERS_MAX = 100
PIECE_BYTES = 64 * 1024

_CONTINUE = 100
_NO_BODY = (204, 304)
_DIGITS_MAX = 15
_HEX = b"0123456789abcdefABCDEF"


class NoAnswerError(Exception):
    """The connection ended before the first byte."""


class GarbledError(Exception):
    """It is not HTTP/1 or was cut short; the message is what came instead, or what is missing."""


class Answer:
    """Status, headers, and the body's pieces."""

    def __init__(self, file: io.BufferedReader, method: str) -> None:
        """Read the head.

        Raises:
            NoAnswerError: nothing came.
            GarbledError: what came is no answer.
        """
        version, self.status, self._headers = _head(file)
        while self.status == _CONTINUE:
            version, self.status, self._headers = _head(file)
        self.will_close = version == b"HTTP/1.0" or "close" in (self.header("Connection") or "").lower()
        """Its connection cannot be asked again."""
        self._body = self._pieces(file, has_body=method != "HEAD" and self.status not in _NO_BODY)
        self._broken = False

    def header(self, name: str) -> str | None:
        """A header's value; all of them with commas where it came several times."""
        return self._headers.get(name.lower())

    def piece(self) -> bytes:
        """What has come of the body, at least one byte; nothing at its end.

        Raises:
            GarbledError: it was cut short, or its chunks are none.
        """
        if self._broken:
            raise GarbledError("it broke off before")
        try:
            return next(self._body, b"")
        except BaseException:  # Ctrl-C too: a generator that raised is over, and the next piece would look like the end
            self._broken = True
            raise

    def _pieces(self, file: io.BufferedReader, *, has_body: bool) -> Iterator[bytes]:
        coding, size = self.header("Transfer-Encoding"), self.header("Content-Length")
        if coding is not None and (coding.lower() != "chunked" or size is not None):
            raise GarbledError(f"Transfer-Encoding: {coding}, Content-Length: {size}")
        if size is not None and not (size.isascii() and size.isdecimal() and len(size) <= _DIGITS_MAX):
            raise GarbledError(f"Content-Length: {size}")
        if not has_body:
            return iter(())
        if coding is not None:
            return _chunks(file)
        if size is not None:
            return _sized(file, int(size))
        self.will_close = True
        return _rest(file)


def _head(file: io.BufferedReader) -> tuple[bytes, int, dict[str, str]]:
    first = _line(file)
    if first is None:
        raise NoAnswerError
    version, _, rest = first.partition(b" ")
    code = rest.partition(b" ")[0]
    if not version.startswith(b"HTTP/1.") or len(code) != 3 or not code.isdigit():
        raise GarbledError(first.decode("latin-1"))
    return version, int(code), _headers(file)


def _headers(file: io.BufferedReader) -> dict[str, str]:
    """Up to the empty line."""
    found: dict[str, str] = {}
    for _ in range(HEADERS_MAX):
        line = _line(file)
        if line == b"":
            return found
        if line is None:
            raise GarbledError("a head without its end")
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name or name != name.strip():
            raise GarbledError(line.decode("latin-1"))
        known = found.get(name.lower())
        found[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
    raise GarbledError(f"more than {HEADERS_MAX} headers")


def _line(file: io.BufferedReader) -> bytes | None:
    """The next line without its end; `None` where the connection has ended before it."""
    line = file.readline(LINE_MAX_BYTES)
    if not line:
        return None
    if not line.endswith(b"\n"):
        raise GarbledError(line.decode("latin-1"))
    return line.rstrip(b"\r\n")


def _chunks(file: io.BufferedReader) -> Iterator[bytes]:
    while size := _chunk_size(file):
        yield from _sized(file, size)
        if _line(file) != b"":
            raise GarbledError("a chunk without its end")
    _headers(file)  # trailers, for nobody


def _chunk_size(file: io.BufferedReader) -> int:
    digits = (_line(file) or b"").partition(b";")[0].strip()
    if not digits or digits.strip(_HEX) or len(digits) > _DIGITS_MAX:
        raise GarbledError(f"a chunk of size {digits.decode('latin-1')}")
    return int(digits, 16)


def _sized(file: io.BufferedReader, size: int) -> Iterator[bytes]:
    while size:
        piece = file.read1(min(PIECE_BYTES, size))
        if not piece:
            raise GarbledError(f"cut short by {size} bytes")
        size -= len(piece)
        yield piece


def _rest(file: io.BufferedReader) -> Iterator[bytes]:
    while piece := file.read1(PIECE_BYTES):
        yield piece
