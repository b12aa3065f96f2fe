"""An NDJSON stream as an iterator of messages that knows how long the server has been silent.

One line is one JSON object. The server says something each second, if only `Heartbeat`; a stream that is silent for
15 s is lost (`DeadlineError`). A message of a kind we do not know is skipped: a newer server may say more.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Generic, Self, TypeVar

import msgspec

from agent.api.answer import Answer
from agent.api.decode import Decoder, decode
from agent.api.errors import ProtocolError, TransportError, VersionError
from agent.api.types import API_VERSION, Heartbeat, Hello
from agent.api.wire import Wire, not_ours, read_some

SILENCE_S = 15.0
STALE_S = 3.0
"""Silence after which values are shown dimmed with their age."""
LINE_MAX_BYTES = 4 * 1024 * 1024

_T = TypeVar("_T")


class _Tagged(msgspec.Struct):
    type: str


class Stream(Generic[_T]):
    """Messages as they come. Iterate in one thread; `close` may be used from any."""

    def __init__(
        self,
        wire: Wire,
        answer: Answer,
        decoder: Decoder[_T],
        *,
        silence_s: float,
        heartbeats: bool,
    ) -> None:
        self._wire = wire
        self._answer = answer
        self._decoder = decoder
        self._silence_s = silence_s
        self._heartbeats = heartbeats
        self._rest = bytearray()
        self._lines: deque[bytes] = deque()
        self._closed = False
        self.line = b""
        """What the last message was read from."""
        wire.allow(silence_s)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _T:
        """The next message; ends when the server ended the stream in order, or after `close`.

        Raises:
            DeadlineError: silence for `silence_s`.
            ProtocolError: the stream was cut short, or what came is not ours.
        """
        while True:
            self.line = self._line()
            message = self._decode(self.line)
            if message is None or (isinstance(message, Heartbeat) and not self._heartbeats):
                continue
            return message

    def close(self) -> None:
        """End it; wakes the thread that waits in it."""
        self._closed = True
        self._wire.conn.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self) -> bytes:
        while not self._lines:
            try:
                piece = read_some(self._answer, self._wire.where)
            except (TransportError, ValueError):
                if self._closed:
                    raise StopIteration from None
                self.close()
                raise
            if not piece:
                self._end()
            self._split(piece)
        line = self._lines.popleft()
        self._wire.allow(self._silence_s)
        return line

    def _end(self) -> None:
        was_closed = self._closed
        self.close()
        if self._rest and not was_closed:
            raise ProtocolError(f"the stream of {self._wire.where} was cut within a message; open it again")
        raise StopIteration

    def _split(self, piece: bytes) -> None:
        *lines, rest = piece.split(b"\n")
        for line in lines:
            self._lines.append(bytes(self._rest) + line)
            self._rest.clear()
        self._rest += rest
        if len(self._rest) > LINE_MAX_BYTES:
            self.close()
            raise ProtocolError(f"{self._wire.where} sent a message over {LINE_MAX_BYTES} bytes; it is left unread")

    def _decode(self, line: bytes) -> _T | None:
        try:
            message = self._decoder.decode(line)
        except msgspec.ValidationError as error:
            if self._is_newer(line):
                return None
            self.close()
            raise not_ours(self._wire.where, line) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.close()
            raise not_ours(self._wire.where, line) from error
        if isinstance(message, Hello) and message.api > API_VERSION:
            self.close()
            raise VersionError(
                f"{self._wire.where} speaks version {message.api} of the protocol and this program {API_VERSION}; "
                f"upgrade this program to {message.version}"
            )
        return message

    def _is_newer(self, line: bytes) -> bool:
        """Whether the line is a message of a kind that this version does not know."""
        try:
            tag = decode(line, _Tagged).type
        except msgspec.MsgspecError:
            return False
        return tag not in ("hello", "heartbeat", "node", "job", "licence", "log", "end")
