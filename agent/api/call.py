"""How one call to the API is made: what goes out, what comes back, and what is said when it does not.

Rules kept here: synchronous and safe to use from several threads; every call has a deadline; an answer is decoded into
the wire's types or is a `ProtocolError`; a refusal is an `ApiError` with the server's own sentence. Streams run on
connections of their own. Needs no event loop and no ssh: what carries the bytes is the `Transport`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from agent.api.answer import Answer
from agent.api.decode import Decoder, decode
from agent.api.errors import ApiError, ProtocolError
from agent.api.patience import Patience
from agent.api.pool import Call, Pool
from agent.api.stream import SILENCE_S, Stream
from agent.api.transport import Transport
from agent.api.types import KEY_HEADER, SUDO_HEADER, ErrorBody
from agent.api.wire import Wire, not_ours, read_all, read_some

TIMEOUT_S = 10.0
ANSWER_MAX_BYTES = 64 * 1024 * 1024

_T = TypeVar("_T")


class Caller:
    """Makes calls to one server; what may be asked of it are the groups of verbs that `Client` joins.

    Each call raises `TransportError` when no answer comes and `ApiError` when the answer is no.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        timeout_s: float = TIMEOUT_S,
        silence_s: float = SILENCE_S,
        patience: Patience | None = None,
    ) -> None:
        """`patience`: how a server is borne with that is away; without one each call fails at once."""
        self.where = transport.describe()
        self._transport = transport
        self._timeout_s = timeout_s
        self._silence_s = silence_s
        self._patience = patience
        self._pool = Pool(transport)
        self._behind = {} if transport.behind is None else {SUDO_HEADER: transport.behind}

    def request_raw(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", timeout_s: float | None = None
    ) -> RawAnswer:
        """Pass a request on as it is and hand back the answer as it comes, refusals included."""
        safe = method in ("GET", "HEAD", "PUT") or any(name.lower() == KEY_HEADER.lower() for name in headers)
        call = Call(method=method, path=path, headers=headers, body=body, repeatable=safe)
        wire, answer = self._pool.send(call, timeout_s or self._timeout_s)
        return RawAnswer(wire, answer, self._pool, self._silence_s)

    def close(self) -> None:
        """Close kept connections and the transport."""
        self._pool.close()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _get(self, path: str, kind: type[_T]) -> _T:
        return self._ask("GET", path, kind, repeatable=True)

    def _ask(
        self,
        method: str,
        path: str,
        kind: type[_T],
        value: msgspec.Struct | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        repeatable: bool = False,
    ) -> _T:
        body = b"" if value is None else msgspec.json.encode(value)
        wire, answer = self._send(method, path, headers, body, repeatable=repeatable)
        raw = self._finish(wire, answer)
        try:
            return decode(raw, kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise not_ours(self.where, raw) from error

    def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        repeatable: bool = True,
    ) -> tuple[Wire, Answer]:
        given = self._behind | ({"Content-Type": "application/json"} if body else {}) | dict(headers or {})
        call = Call(method=method, path=path, headers=given, body=body, repeatable=repeatable)
        if self._patience is None:
            return self._try(call)
        # What has a key and may have been sent is asked again by who knows the key, and can name it (`tui.handin`).
        again = repeatable and KEY_HEADER not in call.headers
        return self._patience.over(lambda: self._try(call), repeatable=again, changes=method != "GET")

    def _try(self, call: Call) -> tuple[Wire, Answer]:
        wire, answer = self._pool.send(call, self._timeout_s)
        if answer.status >= 400:
            raise self._refusal(answer.status, self._finish(wire, answer))
        return wire, answer

    def _finish(self, wire: Wire, answer: Answer) -> bytes:
        """Read the rest of an answer and keep its connection if it may be kept."""
        try:
            data = read_all(answer, self.where, ANSWER_MAX_BYTES)
        except BaseException:  # Ctrl-C too: the rest of this answer must not be read as the next call's
            wire.conn.close()
            raise
        _release(self._pool, wire, answer)
        return data

    def _refusal(self, status: int, raw: bytes) -> ApiError | ProtocolError:
        try:
            body = decode(raw, ErrorBody)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return not_ours(self.where, f"HTTP {status} ".encode() + raw)
        return ApiError(status, body.code, body.message, body.field)

    def _stream(self, path: str, decoder: Decoder[_T], heartbeats: bool) -> Stream[_T]:
        wire, answer = self._send("GET", path)
        return Stream(wire, answer, decoder, silence_s=self._silence_s, heartbeats=heartbeats)


class RawAnswer:
    """An answer passed on: status, headers, and the body in pieces as they come."""

    def __init__(self, wire: Wire, answer: Answer, pool: Pool, silence_s: float) -> None:
        self.status = answer.status
        self._wire = wire
        self._answer = answer
        self._pool = pool
        self._silence_s = silence_s
        self._released = False

    def header(self, name: str) -> str | None:
        """A header of the answer."""
        return self._answer.header(name)

    def read(self) -> bytes:
        """The body's next piece, as it comes; empty at its end, where the connection is kept or closed.

        Raises:
            TransportError: silence, or the body was cut short.
        """
        self._wire.allow(self._silence_s)
        try:
            piece = read_some(self._answer, self._wire.where)
        except BaseException:  # Ctrl-C too: a connection in the middle of an answer is good for nothing
            self.close()
            raise
        if not piece and not self._released:
            self._released = True
            _release(self._pool, self._wire, self._answer)
        return piece

    def close(self) -> None:
        """Stop before the end; may be called from another thread to wake the one that reads."""
        if not self._released:
            self._wire.conn.close()


def _release(pool: Pool, wire: Wire, answer: Answer) -> None:
    if answer.will_close:
        wire.conn.close()
    else:
        pool.give_back(wire)


def root(node: str | None) -> str:
    return f"/v1/nodes/{quote(node, safe='')}" if node else "/v1"


def with_query(path: str, **values: str | int | None) -> str:
    given = {name: value for name, value in values.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path
