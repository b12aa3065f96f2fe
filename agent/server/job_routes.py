"""The addresses of jobs: submit, plan, list, look at, and what is asked of one. Thin: the engine knows the rules."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiohttp import web

from agent.api.errors import ApiError, StokerError
from agent.api.queue import RequeueRequest, SignalRequest, StepRequest, UpdateRequest
from agent.api.refs import JobRef
from agent.api.tasks import TasksRequest, TaskVerb
from agent.api.types import CancelRequest, Hello, LogChunk, LogEnd, SubmitReply, SubmitRequest
from agent.config import Config
from agent.engine.base import Asker
from agent.jobs.filters import JobFilter
from agent.server.base import caller_of, json_response, key_of, query_int, query_states, read_body
from agent.server.stream import HEARTBEAT_S, NdjsonStream

if TYPE_CHECKING:
    from agent.engine.base import Engine

LOG_ANSWER_BYTES = 8 * 1024 * 1024
"""Most of a log that one answer carries; a reader asks on from where it ended."""

PAGE_MOST = 10_000
_PAGE = 1000
_MANY_WORDS = 200
"""Names that one query may list."""

_GREP_MOST = 1000
_LOG_PIECE_BYTES = 256 * 1024
_LOG_POLL_S = 0.2
"""How often a followed log is looked at: a file grows without an event that aiohttp could await."""

_REF = r"{ref:\d+(?:_\d+)?}"


class JobRoutes:
    """The handlers."""

    def __init__(self, config: Config, engine: Engine, hello: Hello) -> None:
        self._name = config.name
        self._engine = engine
        self._hello = hello

    def add(self, router: web.UrlDispatcher, root: str) -> None:
        """Put the addresses below `root`."""
        router.add_get(f"{root}/jobs", self._list)
        router.add_post(f"{root}/jobs", self._submit)
        router.add_post(f"{root}/jobs/plan", self._plan)
        router.add_get(f"{root}/jobs/{_REF}", self._get)
        router.add_get(f"{root}/jobs/{_REF}/log", self._log)
        router.add_get(f"{root}/jobs/{_REF}/report", self._report)
        router.add_get(f"{root}/jobs/{_REF}/results", self._results)
        router.add_post(f"{root}/jobs/{_REF}/cancel", self._cancel)
        router.add_post(f"{root}/jobs/{_REF}/tasks/{{verb:{'|'.join(TaskVerb)}}}", self._ask_tasks)
        router.add_post(f"{root}/jobs/{_REF}/hold", self._hold)
        router.add_post(f"{root}/jobs/{_REF}/release", self._release)
        router.add_post(f"{root}/jobs/{_REF}/requeue", self._requeue)
        router.add_post(f"{root}/jobs/{_REF}/top", self._top)
        router.add_post(f"{root}/jobs/{_REF}/signal", self._signal)
        router.add_post(f"{root}/jobs/{_REF}/update", self._update)
        router.add_post(f"{root}/jobs/{_REF}/steps", self._start_step)
        router.add_post(f"{root}/jobs/{_REF}/steps/{{step:\\d{{1,9}}}}/signal", self._signal_step)

    # --- taking in ----------------------------------------------------------------------------------------------------

    async def _submit(self, request: web.Request) -> web.Response:
        caller, key = caller_of(request), key_of(request)
        body = await self._submission(request)
        job, created = await self._engine.submit(body, user=caller.user, uid=caller.uid, key=key, admin=caller.admin)
        return json_response(SubmitReply(job=job, created=created), status=201 if created else 200)

    async def _plan(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        body = await self._submission(request)
        return json_response(await self._engine.plan(body, user=caller.user, uid=caller.uid, admin=caller.admin))

    async def _submission(self, request: web.Request) -> SubmitRequest:
        body = await read_body(request, SubmitRequest)
        if body.node not in (None, self._name):
            raise ApiError(404, "unknown_node", f"this is {self._name}, not {body.node}", "$.node")
        return body

    # --- looking ------------------------------------------------------------------------------------------------------

    async def _list(self, request: web.Request) -> web.Response:
        steps = request.query.get("steps") in ("1", "true")
        return json_response(await self._engine.jobs(query_filter(request), steps=steps))

    async def _get(self, request: web.Request) -> web.Response:
        return json_response(await self._engine.job(ref_of(request)))

    async def _report(self, request: web.Request) -> web.Response:
        return json_response(await self._engine.report(await self._own(request, "the report of job")))

    async def _results(self, request: web.Request) -> web.Response:
        return json_response(await self._engine.results(await self._own(request, "the results of job")))

    async def _log(self, request: web.Request) -> web.StreamResponse:
        ref = await self._own(request, "the log of job")
        offset = query_int(request, "offset", 0) or 0
        since, grep = query_int(request, "since", None), _text_wanted(request)
        if request.query.get("follow") in ("1", "true"):
            return await self._follow(request, ref, offset, since, grep)
        limit = min(query_int(request, "limit", LOG_ANSWER_BYTES) or 0, LOG_ANSWER_BYTES)
        read = await self._engine.read_log(ref, offset, limit, since=since, grep=grep)
        while not read.chunks and limit and read.next > offset:  # no line in what one look goes through
            offset = read.next
            read = await self._engine.read_log(ref, offset, limit, grep=grep)
        start = read.chunks[0].offset if read.chunks else offset
        headers = {"Stoker-Log-Offset": str(start), "Stoker-Log-End": str(read.end)}
        # A gap ends the answer: its bytes are one run from the start offset; the reader asks on from there.
        return web.Response(body=_first_run(read.chunks), headers=headers, content_type="application/octet-stream")

    async def _follow(
        self, request: web.Request, ref: JobRef, offset: int, since: int | None, grep: bytes | None
    ) -> web.StreamResponse:
        stream = await NdjsonStream.open(request)
        try:
            await stream.send(self._hello)
            silent_since = time.monotonic()
            while True:
                job = await self._engine.job(ref)  # before the read: what a job wrote before its end is then seen
                read = await self._engine.read_log(ref, offset, _LOG_PIECE_BYTES, since=since, grep=grep)
                moved, offset, since = read.next > offset, max(offset, read.next), None
                if read.chunks:
                    await stream.send(*read.chunks)
                    silent_since = time.monotonic()
                elif job.state.is_final and not moved:
                    await stream.send(LogEnd(job=job))
                    return await stream.finish()
                elif time.monotonic() - silent_since >= HEARTBEAT_S:
                    await stream.heartbeat()
                    silent_since = time.monotonic()
                if not moved:
                    await asyncio.sleep(_LOG_POLL_S)
        except ConnectionResetError:
            return stream.response

    # --- asking -------------------------------------------------------------------------------------------------------

    async def _cancel(self, request: web.Request) -> web.Response:
        asked = await read_body(request, CancelRequest) if request.can_read_body else CancelRequest()
        return json_response(await self._engine.cancel(ref_of(request), asker_of(request), asked))

    async def _ask_tasks(self, request: web.Request) -> web.Response:
        asked, verb = await read_body(request, TasksRequest), TaskVerb(request.match_info["verb"])
        return json_response(await self._engine.ask_tasks(verb, ref_of(request), asker_of(request), asked))

    async def _hold(self, request: web.Request) -> web.Response:
        return json_response(await self._engine.hold(ref_of(request), asker_of(request)))

    async def _release(self, request: web.Request) -> web.Response:
        return json_response(await self._engine.release(ref_of(request), asker_of(request)))

    async def _requeue(self, request: web.Request) -> web.Response:
        asked = await read_body(request, RequeueRequest) if request.can_read_body else RequeueRequest()
        return json_response(await self._engine.requeue(ref_of(request), asker_of(request), asked))

    async def _top(self, request: web.Request) -> web.Response:
        return json_response(await self._engine.top(ref_of(request), asker_of(request)))

    async def _signal(self, request: web.Request) -> web.Response:
        asked = await read_body(request, SignalRequest)
        return json_response(await self._engine.signal(ref_of(request), asker_of(request), asked))

    async def _start_step(self, request: web.Request) -> web.Response:
        asked = await read_body(request, StepRequest)
        return json_response(await self._engine.start_step(ref_of(request), asker_of(request), asked))

    async def _signal_step(self, request: web.Request) -> web.Response:
        asked, step = await read_body(request, SignalRequest), int(request.match_info["step"])
        return json_response(await self._engine.signal_step(ref_of(request), step, asker_of(request), asked))

    async def _update(self, request: web.Request) -> web.Response:
        asked = await read_body(request, UpdateRequest)
        return json_response(await self._engine.update(ref_of(request), asker_of(request), asked))

    async def _own(self, request: web.Request, what: str) -> JobRef:
        ref = ref_of(request)
        caller_of(request).require_owner(await self._engine.owner(ref), f"{what} {ref}")
        return ref


def asker_of(request: web.Request) -> Asker:
    """Who asks, in the engine's words."""
    caller = caller_of(request)
    return Asker(user=caller.user, uid=caller.uid, admin=caller.admin)


def ref_of(request: web.Request) -> JobRef:
    """The job that the address names.

    Raises:
        ApiError: 404, no job has so long a number.
    """
    text = request.match_info["ref"]
    try:
        return JobRef.parse(text)
    except StokerError as error:
        raise ApiError(404, "no_such_job", f"there is no job {text[:40]}; see stoker jobs") from error


def query_filter(request: web.Request) -> JobFilter:
    """`?state=&user=&limit=&since=&until=&before=&array=&cron=&name=&account=&partition=&qos=&id=`, beside `steps=1`.

    Raises:
        ApiError: 400, a value makes no sense.
    """
    limit = query_int(request, "limit", _PAGE, least=1) or _PAGE
    return JobFilter(
        states=query_states(request),
        users=_words(request, "user"),
        names=_words(request, "name"),
        accounts=_words(request, "account"),
        partitions=_words(request, "partition"),
        qos=_words(request, "qos"),
        ids=tuple(_numbers(request, "id")),
        array=query_int(request, "array", None),
        cron=query_int(request, "cron", None),
        since=query_int(request, "since", None),
        until=query_int(request, "until", None),
        before=query_int(request, "before", None),
        limit=min(limit, PAGE_MOST),
    )


def _words(request: web.Request, name: str) -> tuple[str, ...]:
    words = tuple(word for word in request.query.get(name, "").split(",") if word)
    if len(words) > _MANY_WORDS:
        raise ApiError(400, "bad_query", f"{name}= lists {len(words)} words; ask for at most {_MANY_WORDS}", name)
    return words


def _numbers(request: web.Request, name: str) -> list[int]:
    words = _words(request, name)
    for word in words:
        if not (word.isascii() and word.isdecimal() and len(word) <= 18):
            raise ApiError(400, "bad_query", f"{name}={word[:40]!r} is not a job's number", name)
    return [int(word) for word in words]


def _text_wanted(request: web.Request) -> bytes | None:
    """The text of `?grep=`.

    Raises:
        ApiError: 400 when it is longer than anybody looks for.
    """
    text = request.query.get("grep")
    if text is not None and len(text) > _GREP_MOST:
        raise ApiError(400, "bad_query", f"grep= holds {len(text)} characters; {_GREP_MOST} are the most", "grep")
    return text.encode("utf-8", "surrogateescape") if text else None


def _first_run(chunks: Sequence[LogChunk]) -> bytes:
    run = bytearray()
    end: int | None = None
    for chunk in chunks:
        if end is not None and chunk.offset != end:
            break
        run += chunk.data
        end = chunk.offset + len(chunk.data)
    return bytes(run)
