"""The one client of the API, for the commands, the screen and the hub alike.

Rules kept here: synchronous and safe to use from several threads; every call has a deadline; an answer is decoded into
the wire's types or is a `ProtocolError`; a refusal is an `ApiError` with the server's own sentence. Streams run on
connections of their own. Needs no event loop and no ssh: what carries the bytes is the `Transport`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from agent.api.answer import Answer
from agent.api.decode import Decoder, decode, decoder
from agent.api.errors import ApiError, ProtocolError
from agent.api.health import Incident, KnownGpu
from agent.api.patience import Patience
from agent.api.pool import Call, Pool
from agent.api.queue import (
    Cron,
    DeadLetter,
    Drain,
    DrainRequest,
    PartitionUpdate,
    QueueRules,
    Reloaded,
    RequeueRequest,
    Reservation,
    ReservationRequest,
    ReservationUpdate,
    Share,
    SignalRequest,
    StepRequest,
    UpdateRequest,
)
from agent.api.refs import JobRef
from agent.api.stream import SILENCE_S, Stream
from agent.api.telemetry import MetricHistory
from agent.api.transport import Transport
from agent.api.types import (
    KEY_HEADER,
    ActivateRequest,
    CancelRequest,
    CronRequest,
    ErrorBody,
    Hello,
    Job,
    JobReport,
    LeaseGrant,
    LeaseRefusal,
    LeaseReply,
    Licence,
    LicenceAsk,
    LicenceEvent,
    LicenceFile,
    LicenceOrder,
    LicenceRelease,
    LogMessage,
    Node,
    NodeIdentity,
    NodeStatus,
    Plan,
    SubmitReply,
    SubmitRequest,
    TaskResult,
    WatchMessage,
)
from agent.api.usage import UsageExport, UsageFile, UsageMonth, UsageRows
from agent.api.wire import Wire, not_ours, read_all, read_some

TIMEOUT_S = 10.0
ANSWER_MAX_BYTES = 64 * 1024 * 1024

_T = TypeVar("_T")


class LogSlice(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a job's log."""

    offset: int
    """Position of the first byte of `data`; later than asked for when the bytes before it were cut."""
    end: int
    """Bytes the job has written so far."""
    data: bytes


class Client:
    """Calls to one server. Each raises `TransportError` when no answer comes and `ApiError` when the answer is no."""

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

    def hello(self) -> Hello:
        """Who answers, and in which version."""
        return self._get("/v1/hello", Hello)

    def nodes(self) -> list[NodeStatus]:
        """All nodes as the server sees them; an agent knows itself only."""
        return self._get("/v1/nodes", list[NodeStatus])

    def node(self, name: str | None = None) -> Node:
        """One node's own answer; without a name, of the agent that is asked."""
        return self._get(f"/v1/nodes/{quote(name, safe='')}/node" if name else "/v1/node", Node)

    def jobs(
        self,
        state: str | None = None,
        user: str | None = None,
        limit: int | None = None,
        *,
        node: str | None = None,
        **more: str | int | None,
    ) -> list[Job]:
        """Jobs, newest first; `state` is a Slurm state, or several joined by commas.

        Args:
            state: only these states.
            user: only this user's.
            limit: at most so many.
            node: of this node alone, as the hub asks it.
            more: `since`, `until` (Unix seconds: not ended before, not submitted after), `before` (ids below, for the
                next page), `array`, `cron`, `id`, `name`, `account`, `partition`, `qos`; `steps=1`: with their steps.
        """
        return self._get(_with_query(f"{_root(node)}/jobs", state=state, user=user, limit=limit, **more), list[Job])

    def job(self, ref: JobRef) -> Job:
        """One job."""
        return self._get(ref.path, Job)

    def report(self, ref: JobRef) -> JobReport:
        """One job's whole story: history, curve, account."""
        return self._get(f"{ref.path}/report", JobReport)

    def results(self, ref: JobRef) -> list[TaskResult]:
        """What each task of an array or a sweep has told of itself."""
        return self._get(f"{ref.path}/results", list[TaskResult])

    def submit(self, request: SubmitRequest, key: str) -> SubmitReply:
        """Store a job. The same `key` again gives the same job, so a submit without an answer may be repeated."""
        return self._ask("POST", "/v1/jobs", SubmitReply, request, {KEY_HEADER: key}, repeatable=True)

    def plan(self, request: SubmitRequest) -> Plan:
        """What a submit would do; nothing is stored."""
        return self._ask("POST", "/v1/jobs/plan", Plan, request, repeatable=True)

    # What is asked of a job. For an array's id without a task it is asked of all its tasks that have not ended, and the
    # answer is the first of them.

    def cancel(self, ref: JobRef, reason: str | None = None, *, revision: int | None = None) -> Job:
        """Ask a job to end; a job that has ended is left as it is."""
        asked = CancelRequest(reason=reason, revision=revision)
        return self._ask("POST", f"{ref.path}/cancel", Job, asked, repeatable=True)

    def hold(self, ref: JobRef) -> Job:
        """Keep a waiting job from starting."""
        return self._ask("POST", f"{ref.path}/hold", Job, repeatable=True)

    def release(self, ref: JobRef) -> Job:
        """Let a held job start again when its turn comes."""
        return self._ask("POST", f"{ref.path}/release", Job, repeatable=True)

    def requeue(self, ref: JobRef, *, hold: bool = False, revision: int | None = None) -> Job:
        """Stop a running job and let it wait again, or let an ended one run once more."""
        return self._ask("POST", f"{ref.path}/requeue", Job, RequeueRequest(hold=hold, revision=revision))

    def top(self, ref: JobRef) -> Job:
        """Put a waiting job before all others; for admins, and among one's own jobs for everybody."""
        return self._ask("POST", f"{ref.path}/top", Job, repeatable=True)

    def signal(self, ref: JobRef, signal: str, *, batch_only: bool = False) -> Job:
        """Send a running job's processes a signal that does not end it."""
        return self._ask("POST", f"{ref.path}/signal", Job, SignalRequest(signal=signal, batch_only=batch_only))

    def signal_step(self, ref: JobRef, step: int, signal: str) -> Job:
        """Send the processes of one step a signal; `KILL` ends the step, as a job is ended."""
        return self._ask("POST", f"{ref.path}/steps/{step}/signal", Job, SignalRequest(signal=signal))

    def start_step(self, ref: JobRef, command: Sequence[str]) -> Job:
        """Start a process more in a running job of one's own."""
        return self._ask("POST", f"{ref.path}/steps", Job, StepRequest(command=tuple(command)))

    def update(self, ref: JobRef, changes: Mapping[str, str], *, revision: int | None = None) -> Job:
        """Change a job in `scontrol update`'s words: `{"TimeLimit": "2:00:00"}`."""
        return self._ask("POST", f"{ref.path}/update", Job, UpdateRequest(changes=dict(changes), revision=revision))

    def log(
        self,
        ref: JobRef,
        offset: int = 0,
        limit: int | None = None,
        *,
        since: int | None = None,
        grep: str | None = None,
    ) -> LogSlice:
        """A piece of a job's log, at most `limit` bytes.

        Args:
            ref: the job.
            offset: where the piece begins.
            limit: at most so many bytes.
            since: only what was written after this, Unix seconds; a piece then begins later than asked for.
            grep: only lines that hold this text.
        """
        wire, answer = self._send(
            "GET", _with_query(f"{ref.path}/log", offset=offset, limit=limit, since=since, grep=grep)
        )
        data = self._finish(wire, answer)
        return LogSlice(
            offset=_number(answer, "Stoker-Log-Offset", self.where),
            end=_number(answer, "Stoker-Log-End", self.where),
            data=data,
        )

    def follow_log(
        self,
        ref: JobRef,
        offset: int = 0,
        *,
        heartbeats: bool = False,
        since: int | None = None,
        grep: str | None = None,
    ) -> Stream[LogMessage]:
        """A job's log as it grows; the last message is `LogEnd`. `since` and `grep` as for `log`."""
        query = _with_query(f"{ref.path}/log", follow=1, offset=offset, since=since, grep=grep)
        return self._stream(query, decoder(LogMessage), heartbeats)

    def watch(self, *, heartbeats: bool = False) -> Stream[WatchMessage]:
        """All nodes and jobs, then every change."""
        return self._stream("/v1/watch", decoder(WatchMessage), heartbeats)

    # What stands around the queue, of one node; a hub asked without a node's name puts all nodes' answers together.

    def rules(self, node: str | None = None) -> QueueRules:
        """Partitions, QOS, accounts and features that a submit may name."""
        return self._get(f"{_root(node)}/partitions", QueueRules)

    def shares(self, node: str | None = None) -> list[Share]:
        """The fair share."""
        return self._get(f"{_root(node)}/shares", list[Share])

    def drain(self, request: DrainRequest, node: str | None = None) -> list[Drain]:
        """Give a GPU or the node no new job; the answer is all that is drained."""
        return self._ask("POST", f"{_root(node)}/drain", list[Drain], request, repeatable=True)

    def resume(self, request: DrainRequest, node: str | None = None) -> list[Drain]:
        """Undo `drain`."""
        return self._ask("POST", f"{_root(node)}/resume", list[Drain], request, repeatable=True)

    def reservations(self, node: str | None = None) -> list[Reservation]:
        """Reservations that are not over."""
        return self._get(f"{_root(node)}/reservations", list[Reservation])

    def reserve(self, request: ReservationRequest, node: str | None = None) -> Reservation:
        """Make one; for admins."""
        return self._ask("POST", f"{_root(node)}/reservations", Reservation, request)

    def update_reservation(self, name: str, request: ReservationUpdate, node: str | None = None) -> Reservation:
        """Change one; for admins."""
        return self._ask("POST", f"{_root(node)}/reservations/{quote(name, safe='')}", Reservation, request)

    def update_partition(self, name: str, state: str, node: str | None = None) -> QueueRules:
        """Open or close a partition; for admins."""
        path = f"{_root(node)}/partitions/{quote(name, safe='')}"
        return self._ask("POST", path, QueueRules, PartitionUpdate(state=state), repeatable=True)

    def unreserve(self, name: str, node: str | None = None) -> list[Reservation]:
        """Delete one; the answer is the rest."""
        return self._ask("DELETE", f"{_root(node)}/reservations/{quote(name, safe='')}", list[Reservation])

    def reload(self, node: str | None = None) -> Reloaded:
        """Read the configuration again; for admins."""
        return self._ask("POST", f"{_root(node)}/reload", Reloaded, repeatable=True)

    def crons(self, node: str | None = None) -> list[Cron]:
        """Recurring jobs."""
        return self._get(f"{_root(node)}/cron", list[Cron])

    def add_cron(self, request: CronRequest, key: str) -> Cron:
        """Store a recurring job on the node that `request.request.node` names, or the asked agent's own."""
        return self._ask("POST", f"{_root(request.request.node)}/cron", Cron, request, {KEY_HEADER: key})

    def remove_cron(self, cron_id: int, node: str | None = None) -> list[Cron]:
        """Delete a recurring job; jobs that it made stay. The answer is the rest."""
        return self._ask("DELETE", f"{_root(node)}/cron/{cron_id}", list[Cron])

    def dead_letters(self, node: str | None = None) -> list[DeadLetter]:
        """Notices that could not be delivered; for admins."""
        return self._get(f"{_root(node)}/notices", list[DeadLetter])

    def retry_dead_letters(self, node: str | None = None) -> list[DeadLetter]:
        """Try them all again; the answer is what is dead still."""
        return self._ask("POST", f"{_root(node)}/notices/retry", list[DeadLetter])

    def licence(self) -> Licence:
        """The licence as the server sees it."""
        return self._get("/v1/licence", Licence)

    def licence_history(self, limit: int | None = None) -> list[LicenceEvent]:
        """What was done with the licence and its seats, newest first; on the hub."""
        return self._get(_with_query("/v1/licence/history", limit=limit), list[LicenceEvent])

    def activate(self, document: str) -> Licence:
        """Install a voucher or licence; for admins, on the hub."""
        return self._ask("POST", "/v1/licence", Licence, ActivateRequest(document=document))

    def licence_request(self, want: str) -> LicenceFile:
        """Make a request to the vendor about the licence; for admins, on the hub."""
        return self._ask("POST", "/v1/licence/request", LicenceFile, LicenceAsk(want=want))

    def licence_release(self, to: str | None = None) -> LicenceFile:
        """Give the licence back, for the site whose request `to` is; for admins, on the hub."""
        return self._ask("POST", "/v1/licence/release", LicenceFile, LicenceRelease(to=to))

    def licence_order(self, order: LicenceOrder) -> Licence:
        """Order something about seats; for admins, on the hub."""
        return self._ask("POST", "/v1/licence/order", Licence, order)

    def lease(self) -> LeaseReply:
        """The lease a node holds."""
        return self._get("/v1/lease", LeaseReply)

    def give_back_lease(self) -> LeaseGrant:
        """Have a node give its lease back; its word for it. For the hub."""
        return self._ask("DELETE", "/v1/lease", LeaseGrant)

    def put_lease(self, token: str) -> LeaseReply:
        """Hand a node its lease; for the hub."""
        return self._ask("PUT", "/v1/lease", LeaseReply, LeaseGrant(token=token), repeatable=True)

    def refuse_lease(self, refusal: LeaseRefusal) -> LeaseReply:
        """Tell a node why it gets no further lease; for the hub."""
        return self._ask("PUT", "/v1/lease/refusal", LeaseReply, refusal, repeatable=True)

    def renew_identity(self) -> NodeIdentity:
        """Have a node make itself another key, and drop the lease that was made out to the old one. For the hub."""
        return self._ask("POST", "/v1/lease/identity", NodeIdentity)

    def history(
        self,
        metric: str,
        *,
        gpu: str | None = None,
        since: int | None = None,
        until: int | None = None,
        points: int | None = None,
        node: str | None = None,
    ) -> MetricHistory:
        """`GET /v1/history`: a metric of a GPU (an index or a UUID) or of the node, in at most `points` buckets."""
        asked = _with_query("/history", metric=metric, gpu=gpu, **{"from": since, "to": until}, points=points)
        return self._get(f"{_root(node)}{asked}", MetricHistory)

    def incidents(self, *, over: bool = False, node: str | None = None) -> list[Incident]:
        """`GET /v1/incidents`: those of a node that are open; with `over` those that were as well."""
        return self._get(f"{_root(node)}{_with_query('/incidents', over=1 if over else None)}", list[Incident])

    def inventory(self, node: str | None = None) -> list[KnownGpu]:
        """`GET /v1/inventory`: the GPUs that a node is known to have."""
        return self._get(f"{_root(node)}/inventory", list[KnownGpu])

    def accept_inventory(self, node: str | None = None) -> list[KnownGpu]:
        """`POST /v1/inventory/accept`: take what is there now for right; for admins."""
        return self._ask("POST", f"{_root(node)}/inventory/accept", list[KnownGpu], repeatable=True)

    def acknowledge(self, number: int, node: str | None = None) -> Incident:
        """`POST /v1/incidents/N/acknowledge`; for admins."""
        return self._ask("POST", f"{_root(node)}/incidents/{number}/acknowledge", Incident, repeatable=True)

    def clear_incident(self, number: int, node: str | None = None) -> Incident:
        """`POST /v1/incidents/N/clear`: say that it is over; for admins."""
        return self._ask("POST", f"{_root(node)}/incidents/{number}/clear", Incident)

    def usage(self, month: str | None = None, by: str | None = None, node: str | None = None) -> UsageMonth:
        """`GET /v1/usage`: GPU time of a month (`2026-11`, UTC) by `user`, `account` or `model`."""
        return self._get(f"{_root(node)}{_with_query('/usage', month=month, by=by)}", UsageMonth)

    def usage_rows(self, chain: str = "", after: int = 0) -> UsageRows:
        """`GET /v1/usage/rows`: rows of a node's ledger; for the hub."""
        return self._get(_with_query("/v1/usage/rows", chain=chain, after=after), UsageRows)

    def export_usage(self, month: str | None = None, *, rows: bool = False) -> UsageFile:
        """`POST /v1/usage/export`: a month closed and signed; asked again, the same. For admins, on the hub."""
        asked = UsageExport(month=month, rows=rows)
        return self._ask("POST", "/v1/usage/export", UsageFile, asked, repeatable=True)

    def metrics(self, node: str | None = None) -> str:
        """The server's own page of metrics as OpenMetrics, or that of one node."""
        path = f"{_root(node)}/metrics" if node else "/metrics"
        wire, answer = self._send("GET", path, {"Accept": "application/openmetrics-text"})
        return self._finish(wire, answer).decode("utf-8", "replace")

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
        given = {"Content-Type": "application/json"} if body else {}
        call = Call(method=method, path=path, headers=given | dict(headers or {}), body=body, repeatable=repeatable)
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


def _number(answer: Answer, header: str, where: str) -> int:
    text = answer.header(header) or ""
    if not text.isascii() or not text.isdecimal():
        raise not_ours(where, f"{header}: {text}")
    return int(text)


def _root(node: str | None) -> str:
    return f"/v1/nodes/{quote(node, safe='')}" if node else "/v1"


def _with_query(path: str, **values: str | int | None) -> str:
    given = {name: value for name, value in values.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path
