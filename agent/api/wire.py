"""HTTP/1.1 over a `Conn`: one request, one answer, one deadline.

Rules kept here: a request leaves in one write; the deadline covers the whole of what is waited for, not each piece, so
that a server which drips bytes is late too; whatever is not HTTP is a `ProtocolError` that shows its first bytes.
What an answer is made of, `answer` reads.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping

from agent.api.answer import PIECE_BYTES, Answer, GarbledError, NoAnswerError
from agent.api.errors import DeadlineError, ProtocolError, TransportError
from agent.api.transport import Conn


class BrokenError(TransportError):
    """The connection ended before the first byte of an answer; a kept one may simply have been closed meanwhile."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent
        """Whether the request may have reached the server."""


class Wire:
    """A `Conn` with one deadline for all that is read and written until it is set anew."""

    def __init__(self, conn: Conn, where: str) -> None:
        self.conn = conn
        self.where = where
        self._timeout_s = 0.0
        self._deadline = time.monotonic()

    def allow(self, timeout_s: float) -> None:
        """Set the deadline for what follows."""
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s

    def send(self, data: bytes) -> None:
        """Write everything.

        Raises:
            DeadlineError: the server does not take it.
            OSError: the connection broke.
        """
        self.conn.settimeout(self._left_s())
        try:
            self.conn.sendall(data)
        except TimeoutError as error:
            raise self._late() from error

    def read_into(self, buffer: memoryview) -> int:
        """Read what has come, at least one byte; 0 at the end.

        Raises:
            DeadlineError: nothing came in time.
            OSError: the connection broke.
        """
        self.conn.settimeout(self._left_s())
        try:
            return self.conn.recv_into(buffer)
        except TimeoutError as error:
            raise self._late() from error

    def file(self) -> io.BufferedReader:
        """What comes, as a file for one answer; closing it leaves the connection open for the next request."""
        return io.BufferedReader(_WireFile(self), PIECE_BYTES)

    def _left_s(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> DeadlineError:
        limit = f"{round(self._timeout_s, 1):g} s"
        return DeadlineError(
            f"{self.where} has not answered within {limit}; it hangs or the way to it is cut: try again, "
            "and look into its log if it stays so"
        )


class _WireFile(io.RawIOBase):
    """A wire as a file to read from."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: a wider buffer
        return self._wire.read_into(buffer)


def exchange(wire: Wire, method: str, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
    """Send a request and read the answer up to the end of its headers; the body is still to be read.

    Raises:
        BrokenError: the connection ended without a byte of an answer.
        DeadlineError: no answer within `timeout_s`.
        ProtocolError: the answer is not HTTP.
    """
    request = _request(method, path, headers, body)
    wire.allow(timeout_s)
    try:
        wire.send(request)
    except OSError as error:
        raise BrokenError(f"{wire.where} closed the connection; try again once its service runs", sent=False) from error
    try:
        return Answer(wire.file(), method)
    except (NoAnswerError, OSError) as error:
        raise BrokenError(f"{wire.where} ended the connection without an answer; try again", sent=True) from error
    except GarbledError as error:
        raise not_ours(wire.where, str(error)) from error


def read_some(answer: Answer, where: str) -> bytes:
    """The next piece of a body, as it comes; empty at its orderly end.

    Raises:
        DeadlineError: nothing came in time.
        ProtocolError: the body was cut short or is garbled.
    """
    try:
        return answer.piece()
    except (GarbledError, OSError, ValueError) as error:
        raise ProtocolError(f"the answer of {where} was cut short; its service may have stopped: try again") from error


def read_all(answer: Answer, where: str, limit_bytes: int) -> bytes:
    """The whole body.

    Raises:
        DeadlineError, ProtocolError: as `read_some`; also when it is longer than `limit_bytes`.
    """
    pieces, size = [], 0
    while piece := read_some(answer, where):
        pieces.append(piece)
        size += len(piece)
        if size > limit_bytes:
            raise ProtocolError(f"the answer of {where} is over {limit_bytes} bytes; ask for less at once")
    return b"".join(pieces)


def not_ours(where: str, sample: str | bytes) -> ProtocolError:
    """The error for an answer that Stoker did not write; `sample` is shown escaped and cut."""
    return ProtocolError(
        f"what answers at {where} does not speak Stoker's protocol: it said {sample[:80]!a}; check the address"
    )


def _request(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: stoker", *(f"{name}: {value}" for name, value in headers.items())]
    if body or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    if any(ord(character) < 0x20 for line in lines for character in line):
        raise ValueError(f"a control character in the request's head would forge a header: {lines!r}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
