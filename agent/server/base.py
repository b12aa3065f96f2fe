"""What every server of ours has: one middleware that identifies the caller and turns faults into JSON, and the socket.

Rules kept here: a handler raises `ApiError` and never builds an error answer itself; a traceback goes to the log under
an id, never to the caller; bodies are at most 1 MiB and have 10 s to arrive; JSON goes out in one write.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import stat
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import web

from agent.api.decode import decode
from agent.api.errors import ApiError, StokerError
from agent.api.types import KEY_HEADER, MAX_BODY_BYTES, ErrorBody, JobState
from agent.server.peer import CALLER, Access, Caller
from agent.server.stream import STREAMS, Streams
from agent.telemetry.metrictext import Family, written_for

BODY_DEADLINE_S = 10.0
SHUTDOWN_S = 2.0
_DIGITS_MOST = 18
_SHOWN_MOST = 80

_log = logging.getLogger(__name__)
_encoder = msgspec.json.Encoder()
_T = TypeVar("_T")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(access: Access) -> web.Application:
    """An application without routes, with the rules above."""

    @web.middleware
    async def rim(request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            request[CALLER] = await access.caller(request)
            return await handler(request)
        except ApiError as error:
            return error_response(error)
        except web.HTTPException as error:
            return error_response(_of_aiohttp(error, request))
        except (asyncio.CancelledError, ConnectionResetError):
            raise
        except Exception:  # noqa: BLE001 — the rim: a fault in one request must not end the daemon
            fault = secrets.token_hex(4)
            _log.exception("fault=%s %s %s", fault, request.method, request.path)
            sentence = f"the service failed at this call; its log has the reason under fault={fault}"
            return error_response(ApiError(500, "internal", sentence))

    app = web.Application(middlewares=[rim], client_max_size=MAX_BODY_BYTES)
    app[STREAMS] = streams = Streams()
    app.on_shutdown.append(streams.end)
    return app


def caller_of(request: web.Request) -> Caller:
    """On whose behalf the request is served."""
    return request[CALLER]


def json_response(value: object, status: int = 200) -> web.Response:
    """Answer with a wire value."""
    return web.Response(body=_encoder.encode(value), status=status, content_type="application/json")


def metrics_response(request: web.Request, families: Iterable[Family]) -> web.Response:
    """Answer with metrics, as OpenMetrics or in the older text format: as `Accept` has it."""
    text, content_type = written_for(",".join(request.headers.getall("Accept", [])), families)
    return web.Response(body=text.encode(), headers={"Content-Type": content_type, "Vary": "Accept"})


def error_response(error: ApiError) -> web.Response:
    """Answer with the error's JSON."""
    return json_response(ErrorBody(code=error.code, message=error.message, field=error.field), status=error.status)


async def read_body(request: web.Request, kind: type[_T]) -> _T:
    """The request's JSON body as `kind`.

    Raises:
        ApiError: 400 with the path of the bad field, 408 when the body is late, 413 when it is over 1 MiB.
    """
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            raw = await request.read()
    except TimeoutError as error:
        raise ApiError(408, "slow_body", f"the body did not arrive within {BODY_DEADLINE_S:.0f} s") from error
    try:
        return decode(raw, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        raise ApiError(400, "bad_field", f"the request's body is wrong: {what}", where.strip("`") or None) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "bad_json", f"the request's body is not valid JSON: {error}") from error


def key_of(request: web.Request) -> str:
    """The idempotency key that a request which makes something must carry.

    Raises:
        ApiError: 400 when it has none that can be stored.
    """
    key = request.headers.get(KEY_HEADER, "")
    if not 1 <= len(key) <= 128 or not key.isascii() or not key.isprintable():
        sentence = f"this needs a header {KEY_HEADER} of 1 to 128 printable characters"
        raise ApiError(400, "bad_key", sentence, KEY_HEADER)
    return key


def query_int(request: web.Request, name: str, default: int | None, *, least: int = 0) -> int | None:
    """A whole number of the query string.

    Raises:
        ApiError: 400 when it is not one, or below `least`.
    """
    text = query_one(request, name)
    if text is None:
        return default
    is_number = text.isascii() and text.isdecimal()
    digits = text.lstrip("0") or "0"
    if is_number and len(digits) > _DIGITS_MOST:
        raise ApiError(400, "bad_query", f"{name}={shown(text)} is too great a number", name)
    if not is_number or int(digits) < least:
        raise ApiError(400, "bad_query", f"{name}={shown(text)} is not a whole number of at least {least}", name)
    return int(digits)


def query_one(request: web.Request, name: str) -> str | None:
    """What the query string says of a name.

    Raises:
        ApiError: 400 when it is there twice: nobody can tell which is meant.
    """
    found = request.query.getall(name, [])
    if len(found) > 1:
        raise ApiError(400, "bad_query", f"{name} is given {len(found)} times; give it once", name)
    return found[0] if found else None


def shown(text: str) -> str:
    """A foreign word for a sentence, cut where it is long."""
    return repr(text if len(text) <= _SHOWN_MOST else f"{text[: _SHOWN_MOST - 1]}…")


def query_states(request: web.Request) -> frozenset[JobState]:
    """The job states that `?state=A,B` names; empty for all.

    Raises:
        ApiError: 400 when one is no state.
    """
    words = {word.strip().upper() for word in request.query.get("state", "").split(",")} - {""}
    unknown = sorted(words - set(JobState))
    if unknown:
        known = ", ".join(JobState)
        raise ApiError(400, "bad_query", f"state={unknown[0]!r} is not a job state; known: {known}", "state")
    return frozenset(JobState(word) for word in words)


async def serve(app: web.Application, path: Path, listen_fd: int | None = None) -> web.AppRunner:
    """Listen on the socket that systemd handed over, or make our own, 0660.

    Raises:
        StokerError: the folder or the socket cannot be made, or another server already answers there.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S, keepalive_timeout=75.0)
    await runner.setup()
    sock = socket.socket(fileno=listen_fd) if listen_fd is not None else _bind(path)
    await web.SockSite(runner, sock, backlog=256).start()
    return runner


def _bind(path: Path) -> socket.socket:
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        if path.exists() and stat.S_ISSOCK(path.lstat().st_mode):
            _refuse_a_living_server(path)
            path.unlink()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The mode is set by the umask at bind: chmod afterwards would leave a moment in which others could connect.
        before = os.umask(0o117)
        try:
            sock.bind(os.fspath(path))
        finally:
            os.umask(before)
    except OSError as error:
        raise StokerError(f"cannot listen on {path}: {error}; set node.run_dir to a folder we may write to") from error
    return sock


def _refuse_a_living_server(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return
    raise StokerError(f"another service already answers on {path}; stop it, or give this one its own node.run_dir")


def _of_aiohttp(error: web.HTTPException, request: web.Request) -> ApiError:
    if error.status == 404:
        return ApiError(404, "not_found", f"{request.path} is no address of this API; GET /v1/hello tells its version")
    if error.status == 405:
        return ApiError(405, "bad_method", f"{request.path} does not take {request.method}")
    if error.status == 413:
        return ApiError(413, "too_large", f"the request's body is over {MAX_BODY_BYTES} bytes")
    return ApiError(error.status, "http", f"{request.method} {request.path}: {error.reason}")
