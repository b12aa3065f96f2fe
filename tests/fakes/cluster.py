"""A cluster in memory: what `agent.api.client.Client` offers, over simulated nodes whose values stand still.

For screens and commands that need states one cannot bring about with real daemons on demand: a node that is lost, a GPU
that hangs, a hostile name, a link that breaks in the middle of a log. Every call is recorded in `calls`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from agent.api.errors import ApiError, ConnectError
from agent.api.health import Incident, KnownGpu
from agent.api.jobcalls import LogSlice
from agent.api.queue import (
    Cron,
    DeadLetter,
    Drain,
    DrainChange,
    DrainRequest,
    Partition,
    QueueRules,
    Reservation,
    ReservationRequest,
    Share,
)
from agent.api.refs import JobRef
from agent.api.tasks import TaskGroup, TasksReply, TaskVerb
from agent.api.telemetry import MetricHistory
from agent.api.types import (
    API_VERSION,
    CronRequest,
    Heartbeat,
    Hello,
    Job,
    JobReport,
    JobState,
    JobUpdate,
    Licence,
    LicenceEvent,
    LicenceFile,
    LicenceUpdate,
    LogChunk,
    LogEnd,
    LogMessage,
    Node,
    NodeStatus,
    NodeUpdate,
    Plan,
    SubmitReply,
    SubmitRequest,
    TaskResult,
    WatchMessage,
)
from agent.api.usage import UsageBy, UsageMonth
from tests.fakes.values import DAY, NOW, job
from tui import arrays

T = TypeVar("T")


class Feed(Generic[T]):
    """A stream that the test feeds."""

    line = b"\\"
    """Messages that never were a line may hold anything."""

    def __init__(self, first: list[T]) -> None:
        self._queue: queue.Queue[T | Exception | None] = queue.Queue()
        for message in first:
            self._queue.put(message)

    def push(self, message: T | Exception | None) -> None:
        """Say something; an exception breaks the stream, `None` ends it."""
        self._queue.put(message)

    def __iter__(self) -> Iterator[T]:
        while (message := self._queue.get(timeout=60)) is not None:
            if isinstance(message, Exception):
                raise message
            yield message

    def close(self) -> None:
        self._queue.put(None)


class FakeCluster:
    """The server's side: its state, and what was asked of it."""

    def __init__(
        self,
        statuses: list[NodeStatus] | None = None,
        jobs: list[Job] | None = None,
        licence: Licence | None = None,
        *,
        server: str = "hub",
    ) -> None:
        self.hello = Hello(api=API_VERSION, version="0.1.0", server=server, cluster="acme-lab")
        self.statuses = {status.name: status for status in statuses or []}
        self.all_jobs = {(each.node, each.id): each for each in jobs or []}
        self.the_licence = licence
        self.the_history: list[LicenceEvent] = []
        self.the_usage: dict[tuple[str, UsageBy], UsageMonth] = {}
        self.logs: dict[tuple[str, int], bytes] = {}
        self.reports: dict[tuple[str, int], JobReport] = {}
        self.the_reservations: list[Reservation] = []
        self.over: dict[str, list[Incident]] = {}
        """Incidents of a node that are over."""
        self.known: dict[str, list[KnownGpu]] = {}
        self.past: dict[str, MetricHistory] = {}
        """History by metric, the same for all nodes and GPUs."""
        self.calls: list[tuple[str, Any]] = []
        self.refusal: Exception | None = None
        """Raised by the next submit or cancel."""
        self.down: Exception | None = None
        """Raised by every new stream while it is set."""
        self.open = threading.Event()
        """Cleared, it holds back every new watch stream."""
        self.open.set()
        self.watches: list[Feed[WatchMessage]] = []
        self.follows: list[Feed[LogMessage]] = []
        self.followed = threading.Event()

    def client(self) -> FakeClient:
        return FakeClient(self)

    def full_state(self) -> list[WatchMessage]:
        licence = [LicenceUpdate(licence=self.the_licence)] if self.the_licence else []
        return [
            self.hello,
            *(NodeUpdate(status=status) for status in self.statuses.values()),
            *(JobUpdate(job=each) for each in self.all_jobs.values()),
            *licence,
            Heartbeat(time=float(NOW)),
        ]

    def say(self, message: WatchMessage | Exception | None) -> None:
        """Send to everybody who watches."""
        for feed in self.watches:
            feed.push(message)

    def find(self, ref: JobRef) -> Job:
        for each in self.all_jobs.values():
            if ref.node not in (None, each.node):
                continue
            if each.id == ref.id if ref.task is None else (each.array_job_id, each.array_task_id) == (ref.id, ref.task):
                return each
        raise ApiError(404, "not_found", f"there is no job {ref}; stoker jobs lists them")

    def matching(self, ref: JobRef) -> list[Job]:
        """The job, or the tasks of the array that have not ended."""
        found = self.find(ref)
        if ref.task is not None or found.array_job_id != ref.id:
            return [found]
        tasks = [each for each in self.all_jobs.values() if (each.node, each.array_job_id) == (found.node, ref.id)]
        return [each for each in tasks if not each.state.is_final]


class FakeClient:
    """The client's side."""

    where = "memory"

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster

    def nodes(self) -> list[NodeStatus]:
        return list(self._cluster.statuses.values())

    def node(self, name: str | None = None) -> Node:
        described = self._cluster.statuses[name].node if name else None
        if described is None:
            raise ApiError(502, "node_unreachable", f"{name} does not answer")
        return described

    def jobs(
        self,
        state: str | None = None,
        user: str | None = None,
        limit: int | None = None,
        *,
        node: str | None = None,
        **more: str | int | None,
    ) -> list[Job]:
        found = sorted(self._cluster.all_jobs.values(), key=lambda each: -each.submitted_at)
        wanted = state.split(",") if state else None
        found = [j for j in found if (not wanted or j.state in wanted) and user in (None, j.user)]
        found = [j for j in found if more.get("array") in (None, j.array_job_id)]
        return found[:limit]

    def job(self, ref: JobRef) -> Job:
        return self._cluster.find(ref)

    def submit(self, request: SubmitRequest, key: str) -> SubmitReply:
        self._cluster.calls.append(("submit", (request, key)))
        self._refuse()
        stored = job(18, JobState.PENDING, name=request.script_name, reason="Resources", submitted_at=NOW)
        self._cluster.all_jobs["n1", 18] = stored
        self._cluster.say(JobUpdate(job=stored))
        return SubmitReply(job=stored, created=True)

    def cancel(self, ref: JobRef, reason: str | None = None, *, revision: int | None = None) -> Job:
        return self._change("cancel", ref, state=JobState.CANCELLED, ended_at=NOW)

    def ask_tasks(self, verb: TaskVerb, array: JobRef, tasks: str, *, hold: bool = False) -> TasksReply:
        self._cluster.calls.append((f"{verb} tasks", (array, tasks)))
        self._refuse()
        ask = {"cancel": self.cancel, "hold": self.hold, "release": self.release, "requeue": self.requeue}[verb]
        known = len(self._cluster.calls)
        changed = [ask(msgspec.structs.replace(array, task=number)) for number in arrays.numbers(tasks)]
        del self._cluster.calls[known:]
        return TasksReply(done=(TaskGroup(tasks=tasks, job=changed[0]),))

    def hold(self, ref: JobRef) -> Job:
        return self._change("hold", ref, held=True, reason="JobHeldUser", priority=0)

    def release(self, ref: JobRef) -> Job:
        return self._change("release", ref, held=False, reason="Priority")

    def requeue(self, ref: JobRef, *, hold: bool = False, revision: int | None = None) -> Job:
        return self._change("requeue", ref, state=JobState.PENDING, started_at=None, ended_at=None)

    def top(self, ref: JobRef) -> Job:
        return self._change("top", ref, priority=99_999)

    def signal(self, ref: JobRef, signal: str, *, batch_only: bool = False) -> Job:
        return self._change("signal", ref)

    def update(self, ref: JobRef, changes: Mapping[str, str], *, revision: int | None = None) -> Job:
        return self._change("update", ref, changes, nice=int(changes.get("Nice", "0")))

    def report(self, ref: JobRef) -> JobReport:
        self._cluster.calls.append(("report", ref))
        found = self._cluster.find(ref)
        return self._cluster.reports.get((found.node, found.id)) or JobReport(job=found, wait_s=0.0, run_s=0.0)

    def results(self, ref: JobRef) -> list[TaskResult]:
        return [TaskResult(job=each) for each in self.jobs(array=ref.id)]

    def plan(self, request: SubmitRequest) -> Plan:
        self._cluster.calls.append(("plan", request))
        self._refuse()
        would = job(0, JobState.PENDING, name=request.script_name, gpus=2)
        return Plan(job=would, starts_at=NOW + 300, gpu_indexes=(6, 7), sentence="It would start when job 42 ends.")

    def rules(self, node: str | None = None) -> QueueRules:
        return QueueRules(partitions=(Partition(name="main", default=True),))

    def shares(self, node: str | None = None) -> list[Share]:
        return []

    def usage(self, month: str | None = None, by: str | None = None, node: str | None = None) -> UsageMonth:
        self._cluster.calls.append(("usage", (month, by)))
        self._refuse()
        kind = UsageBy(by or "user")
        return self._cluster.the_usage.get((month or "", kind), UsageMonth(month=month or "2026-11", by=kind))

    def drain(self, request: DrainRequest, node: str | None = None) -> DrainChange | None:
        return self._drain("drain", request, node, Drain(reason=request.reason or "", by="root", at=NOW))

    def resume(self, request: DrainRequest, node: str | None = None) -> DrainChange | None:
        return self._drain("resume", request, node, None)

    def reservations(self, node: str | None = None) -> list[Reservation]:
        return list(self._cluster.the_reservations)

    def reserve(self, request: ReservationRequest, node: str | None = None) -> Reservation:
        return Reservation(name=request.name or "r", start_at=NOW, end_at=NOW + DAY)

    def unreserve(self, name: str, node: str | None = None) -> list[Reservation]:
        return []

    def crons(self, node: str | None = None) -> list[Cron]:
        return []

    def add_cron(self, request: CronRequest, key: str) -> Cron:
        return Cron(id=1, schedule=request.schedule, name=request.request.script_name, user="alice", node="n1")

    def remove_cron(self, cron_id: int, node: str | None = None) -> list[Cron]:
        return []

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
        self._cluster.calls.append(("history", (metric, gpu, node)))
        if metric not in self._cluster.past:
            raise ApiError(404, "no_history", "the fake cluster keeps none")
        return self._cluster.past[metric]

    def incidents(self, *, over: bool = False, node: str | None = None) -> list[Incident]:
        described = self._cluster.statuses[node].node if node else None
        if described is None:
            raise ApiError(502, "node_unreachable", f"{node} does not answer")
        return [*described.incidents, *(self._cluster.over.get(node or "", []) if over else [])]

    def inventory(self, node: str | None = None) -> list[KnownGpu]:
        if node and self._cluster.statuses[node].node is None:
            raise ApiError(502, "node_unreachable", f"{node} does not answer")
        return list(self._cluster.known.get(node or "", []))

    def accept_inventory(self, node: str | None = None) -> list[KnownGpu]:
        self._cluster.calls.append(("accept", node))
        self._refuse()
        described = self._cluster.statuses[node or "n1"].node
        assert described is not None
        self._cluster.known[node or "n1"] = [
            KnownGpu(uuid=gpu.uuid, index=gpu.index, name=gpu.name) for gpu in described.gpus
        ]
        return self.inventory(node)

    def acknowledge(self, number: int, node: str | None = None) -> Incident:
        return self._of_incident("acknowledge", number, node, acknowledged_at=NOW, acknowledged_by="root")

    def clear_incident(self, number: int, node: str | None = None) -> Incident:
        return self._of_incident("clear", number, node, cleared_at=NOW)

    def _of_incident(self, verb: str, number: int, node: str | None, **changed: Any) -> Incident:
        self._cluster.calls.append((verb, (node, number)))
        self._refuse()
        status = self._cluster.statuses[node or "n1"]
        assert status.node is not None
        found = next(each for each in status.node.incidents if each.id == number)
        new = msgspec.structs.replace(found, **changed)
        told = [new if each.id == number else each for each in status.node.incidents]
        still = tuple(each for each in told if each.cleared_at is None)
        status = msgspec.structs.replace(status, node=msgspec.structs.replace(status.node, incidents=still))
        self._cluster.statuses[status.name] = status
        self._cluster.say(NodeUpdate(status=status))
        return new

    def dead_letters(self, node: str | None = None) -> list[DeadLetter]:
        return []

    def retry_dead_letters(self, node: str | None = None) -> list[DeadLetter]:
        return []

    def licence_history(self, limit: int | None = None) -> list[LicenceEvent]:
        return self._cluster.the_history[:limit]

    def activate(self, document: str) -> Licence:
        self._cluster.calls.append(("activate", document))
        self._refuse()
        return self.licence()

    def licence_request(self, want: str) -> LicenceFile:
        raise ApiError(403, "forbidden", f"asking to {want} is for admins")

    def log(
        self,
        ref: JobRef,
        offset: int = 0,
        limit: int | None = None,
        *,
        since: int | None = None,
        grep: str | None = None,
    ) -> LogSlice:
        found = self._cluster.find(ref)
        data = self._cluster.logs.get((found.node, found.id), b"")
        end = len(data) if limit is None else offset + limit
        return LogSlice(offset=offset, end=len(data), data=data[offset:end])

    def follow_log(
        self,
        ref: JobRef,
        offset: int = 0,
        *,
        heartbeats: bool = False,
        since: int | None = None,
        grep: str | None = None,
    ) -> Feed[LogMessage]:
        self._cluster.calls.append(("follow", (ref, offset)))
        if self._cluster.down:
            raise self._cluster.down
        found = self._cluster.find(ref)
        data = self._cluster.logs.get((found.node, found.id), b"")[offset:]
        first: list[LogMessage] = [self._cluster.hello]
        first += [LogChunk(offset=offset, data=data)] if data else []
        first += [LogEnd(job=found)] if found.state.is_final else []
        feed = Feed(first)
        self._cluster.follows.append(feed)
        self._cluster.followed.set()
        return feed

    def watch(self, *, heartbeats: bool = False) -> Feed[WatchMessage]:
        self._cluster.open.wait(timeout=60)
        if self._cluster.down:
            raise self._cluster.down
        feed = Feed(self._cluster.full_state())
        self._cluster.watches.append(feed)
        return feed

    def licence(self) -> Licence:
        if self._cluster.the_licence is None:
            raise ApiError(404, "not_found", "no licence is installed")
        return self._cluster.the_licence

    def close(self) -> None:
        for feed in self._cluster.watches + self._cluster.follows:
            feed.close()

    def _change(self, verb: str, ref: JobRef, *asked: object, **changed: Any) -> Job:
        """Record what is asked, and change a job, or all tasks of an array that have not ended."""
        self._cluster.calls.append((verb, (ref, *asked) if asked else ref))
        self._refuse()
        for found in self._cluster.matching(ref):
            new = msgspec.structs.replace(found, **changed)
            self._cluster.all_jobs[new.node, new.id] = new
            self._cluster.say(JobUpdate(job=new))
        return self._cluster.find(ref)

    def _drain(self, verb: str, request: DrainRequest, node: str | None, drain: Drain | None) -> DrainChange:
        self._cluster.calls.append((verb, (node, request)))
        self._refuse()
        status = self._cluster.statuses[node or "n1"]
        assert status.node is not None
        gpus = [
            msgspec.structs.replace(gpu, drain=drain) if request.gpu in (gpu.uuid, str(gpu.index)) else gpu
            for gpu in status.node.gpus
        ]
        asked = (gpu.drain for gpu in status.node.gpus if request.gpu in (gpu.uuid, str(gpu.index)))
        before = status.node.drain if request.gpu is None else next(asked, None)
        whole = {"drain": drain} if request.gpu is None else {"gpus": tuple(gpus)}
        changed = msgspec.structs.replace(status, node=msgspec.structs.replace(status.node, **whole))
        self._cluster.statuses[status.name] = changed
        self._cluster.say(NodeUpdate(status=changed))
        return DrainChange(before=before, after=drain, drains=(drain,) if drain else ())

    def _refuse(self) -> None:
        if self._cluster.refusal is not None:
            refusal, self._cluster.refusal = self._cluster.refusal, None
            raise refusal


def no_server() -> ConnectError:
    """What a client raises when nobody listens."""
    return ConnectError("nobody listens on /run/stoker/hub.sock; the service has stopped: start it")
