"""What is known of the cluster: the one model that screens draw and tests ask, without Textual and without a clock.

Rules kept here: `now` is a parameter, monotonic seconds of this machine, and so is the moment a message arrived; ages
are counted from there and never from a node's wall clock. Values stay when a link drops, only their age grows: 3 s
without a word is stale, 15 s is lost, and what is lost is shown as dashes. Every message has passed `safe.clean`.
"""

from __future__ import annotations

import functools
import re
from enum import StrEnum

import msgspec

from agent.api.health import Incident, Severity
from agent.api.types import (
    Gpu,
    GpuSource,
    GpuState,
    Heartbeat,
    Hello,
    Job,
    JobState,
    JobUpdate,
    Licence,
    LicenceUpdate,
    LinkState,
    Node,
    NodeStatus,
    NodeUpdate,
    WatchMessage,
)

STALE_S = 3.0
LOST_S = 15.0
KEEP_ENDED = 2000
"""Jobs that have ended and are kept for looking at; the server keeps them all."""

JobKey = tuple[str, int]
"""Node and id: two nodes may both have a job 17."""


class ArrayKey(msgspec.Struct, frozen=True):
    """An array of one node, where a list shows it as one line."""

    node: str
    id: int


Key = JobKey | ArrayKey
"""What a line of a list of jobs stands for."""


class Freshness(StrEnum):
    """Whether a value may be shown as the present one."""

    CONNECTING = "connecting"
    LIVE = "up"
    STALE = "stale"
    LOST = "lost"


class LinkDown(msgspec.Struct, frozen=True, kw_only=True):
    """The link thread's word that its stream ended; it retries by itself."""

    reason: str
    retry_at: float | None = None
    """Monotonic seconds; `None` while it waits for the operator (an unknown host key)."""


class LinkView(msgspec.Struct, frozen=True, kw_only=True):
    """Our own link at one moment."""

    freshness: Freshness
    age_s: float | None
    """Seconds since the last message; `None` when there never was one."""
    reason: str | None
    retry_in_s: float | None


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A node at one moment, with the age that its values really have."""

    name: str
    freshness: Freshness
    age_s: float
    """Seconds since the node was last heard by the server, plus since the server told us."""
    reason: str | None
    retry_in_s: float | None
    node: Node | None

    @property
    def simulated(self) -> bool:
        """Whether its GPUs are simulated ones."""
        return self.node is not None and self.node.gpu_source is GpuSource.SIMULATED

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Its GPUs as last heard of."""
        return self.node.gpus if self.node else ()

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """What is wrong there as last heard of."""
        return self.node.incidents if self.node else ()

    def gpu_age_s(self, gpu: Gpu) -> float:
        """Seconds since the driver last answered for this GPU."""
        return gpu.age_s + self.age_s


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of the header."""

    nodes: int
    nodes_up: int
    nodes_stale: int
    nodes_lost: int
    gpus: int
    gpus_busy: int
    gpus_bad: int
    """GPUs that hang or were lost, on nodes that are heard of."""
    utilization_percent: float | None
    running: int
    pending: int
    critical: int
    """Critical incidents that are open, those of lost nodes too: nobody has said that they are over."""
    critical_unseen: int
    """Those of them that nobody has acknowledged."""


class _Heard(msgspec.Struct):
    status: NodeStatus
    arrived: float
    epoch: int


class Cluster:
    """The state, fed by `apply` and read by everything that draws."""

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self.licence: Licence | None = None
        self._nodes: dict[str, _Heard] = {}
        self._jobs: dict[JobKey, tuple[Job, int]] = {}
        self._heard_at: float | None = None
        self._server_time: tuple[float, float] | None = None
        self._down: LinkDown | None = None
        self._epoch = 0
        self._beats = 0
        self._totals: tuple[float, Totals] | None = None
        self._sorted: list[Job] | None = None
        """All jobs in their order; nothing after one has changed."""

    def apply(self, message: WatchMessage | LinkDown, arrived: float) -> bool:
        """Take in one message that arrived at `arrived`; whether it is more than new readings of what is known."""
        self._totals = None
        if isinstance(message, LinkDown):
            self._down = message
            return True
        was_down = self._down is not None
        self._heard_at, self._down = arrived, None
        before = self._nodes.get(message.status.name) if isinstance(message, NodeUpdate) else None
        if isinstance(message, Hello):
            self.hello, self._epoch, self._beats = message, self._epoch + 1, 0
        elif isinstance(message, Heartbeat):
            self._server_time = message.time, arrived
            self._beat()
        elif isinstance(message, NodeUpdate):
            self._nodes[message.status.name] = _Heard(message.status, arrived, self._epoch)
        elif isinstance(message, JobUpdate):
            self._jobs[job_key(message.job)] = message.job, self._epoch
            self._sorted = None
            self._forget_old_jobs()
        elif isinstance(message, LicenceUpdate):
            self.licence = message.licence
        if isinstance(message, NodeUpdate):
            return before is None or _standing(before.status) != _standing(message.status)
        return was_down or not isinstance(message, Heartbeat)

    def link(self, now: float) -> LinkView:
        """How our own link is."""
        age = None if self._heard_at is None else max(0.0, now - self._heard_at)
        if self._down is not None:
            retry = None if self._down.retry_at is None else max(0.0, self._down.retry_at - now)
            fresh = Freshness.LOST if age is None or age >= LOST_S else Freshness.STALE
            return LinkView(freshness=fresh, age_s=age, reason=self._down.reason, retry_in_s=retry)
        fresh = Freshness.CONNECTING if age is None else _freshness(age)
        return LinkView(freshness=fresh, age_s=age, reason=None, retry_in_s=None)

    def wall(self, now: float) -> float | None:
        """The server's clock, Unix seconds: what times of jobs and of the licence are compared with."""
        return None if self._server_time is None else self._server_time[0] + now - self._server_time[1]

    def nodes(self, now: float) -> list[NodeView]:
        """All nodes in the order of their names, numbers in them counted as numbers."""
        return [_view(self._nodes[name], now) for name in sorted(self._nodes, key=natural)]

    def node(self, name: str, now: float) -> NodeView | None:
        """One node."""
        heard = self._nodes.get(name)
        return _view(heard, now) if heard else None

    def jobs(self) -> list[Job]:
        """All jobs: those that run, then those that wait, then the ended, newest first."""
        if self._sorted is None:
            self._sorted = sorted((job for job, _ in self._jobs.values()), key=job_order)
        return list(self._sorted)

    def job(self, key: JobKey) -> Job | None:
        """One job."""
        found = self._jobs.get(key)
        return found[0] if found else None

    def job_on(self, node: str, job_id: int | None) -> Job | None:
        """The job that a GPU of `node` says it works for."""
        return None if job_id is None else self.job((node, job_id))

    def find_job(self, job_id: int, node: str | None = None, task: int | None = None) -> Job | None:
        """The job a user means by its number, or the task; the newest where several nodes have one."""
        on_node = [job for job, _ in self._jobs.values() if node in (None, job.node)]
        if task is None:
            named = [job for job in on_node if job.id == job_id]
        else:
            named = [job for job in on_node if (job.array_job_id, job.array_task_id) == (job_id, task)]
        return max(named, key=lambda job: job.submitted_at, default=None)

    @property
    def simulated(self) -> bool:
        """Whether any GPU known is a simulated one."""
        return any(heard.status.node and _is_simulated(heard.status.node) for heard in self._nodes.values())

    def totals(self, now: float) -> Totals:
        """The counts of the header. Values of lost nodes are not counted as if they were present.

        One drawing asks several times, and gets one answer.
        """
        if self._totals is None or self._totals[0] != now:
            self._totals = now, self._count(now)
        return self._totals[1]

    def _count(self, now: float) -> Totals:
        views = self.nodes(now)
        heard = [view for view in views if view.freshness in (Freshness.LIVE, Freshness.STALE)]
        gpus = [gpu for view in heard for gpu in view.gpus]
        loads = [g.utilization_percent for g in gpus if g.state is GpuState.OK and g.utilization_percent is not None]
        states = [job.state for job, _ in self._jobs.values()]
        grave = [each for view in views for each in view.incidents if each.severity is Severity.CRITICAL]
        return Totals(
            nodes=len(views),
            nodes_up=sum(view.freshness is Freshness.LIVE for view in views),
            nodes_stale=sum(view.freshness is Freshness.STALE for view in views),
            nodes_lost=sum(view.freshness is Freshness.LOST for view in views),
            gpus=sum(len(view.gpus) for view in views),
            gpus_busy=sum(gpu.job_id is not None for gpu in gpus),
            gpus_bad=sum(gpu.state is not GpuState.OK for gpu in gpus),
            utilization_percent=sum(loads) / len(loads) if loads else None,
            running=sum(not state.is_final and state is not JobState.PENDING for state in states),
            pending=sum(state is JobState.PENDING for state in states),
            critical=len(grave),
            critical_unseen=sum(each.acknowledged_at is None for each in grave),
        )

    def _beat(self) -> None:
        """After a reconnect drop what the new stream did not mention.

        The full state comes between Hello and the first quiet moment. One heartbeat more is waited for, since a server
        busy with a long state may beat in the middle of it.
        """
        self._beats += 1
        if self._beats != 2:
            return
        self._nodes = {name: heard for name, heard in self._nodes.items() if heard.epoch == self._epoch}
        self._sorted = None
        self._jobs = {key: pair for key, pair in self._jobs.items() if pair[1] == self._epoch}

    def _forget_old_jobs(self) -> None:
        if len(self._jobs) <= 2 * KEEP_ENDED:
            return
        ended = sorted((job for job, _ in self._jobs.values() if job.state.is_final), key=job_order)
        for job in ended[KEEP_ENDED:]:
            del self._jobs[job_key(job)]


def job_key(job: Job) -> JobKey:
    """How the state names a job."""
    return job.node, job.id


@functools.lru_cache(maxsize=4096)  # the names of nodes: asked for each job at each drawing
def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Sort key that puts n2 before n10."""
    parts = re.split(r"([0-9]+)", name[:256])
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


def gpu_label(view: NodeView, gpu: Gpu) -> str:
    """The model of a GPU, short; a simulated one always says so."""
    name = re.sub(r"^(NVIDIA|Tesla)\s+", "", gpu.name).strip()
    if not view.simulated:
        return name
    model = re.sub(r"\s*\(?simulated\)?\s*", " ", name, flags=re.IGNORECASE).strip()
    return f"simulated {model}".strip()


def _freshness(age_s: float) -> Freshness:
    if age_s >= LOST_S:
        return Freshness.LOST
    return Freshness.STALE if age_s >= STALE_S else Freshness.LIVE


_FROM_LINK = {
    LinkState.CONNECTING: Freshness.CONNECTING,
    LinkState.UP: Freshness.LIVE,
    LinkState.STALE: Freshness.STALE,
    LinkState.LOST: Freshness.LOST,
}
_WORSE: tuple[Freshness, ...] = (Freshness.LIVE, Freshness.STALE, Freshness.LOST)


def _view(heard: _Heard, now: float) -> NodeView:
    """Join what the server says of its link to the node with the age of that word."""
    status, since = heard.status, max(0.0, now - heard.arrived)
    told, counted = _FROM_LINK.get(status.link, Freshness.STALE), _freshness(status.age_s + since)
    fresh = told
    if told is not Freshness.CONNECTING or since >= LOST_S:
        fresh = max(counted, told, key=lambda each: _WORSE.index(each) if each in _WORSE else 0)
    retry = None if status.retry_in_s is None else max(0.0, status.retry_in_s - since)
    return NodeView(
        name=status.name,
        freshness=fresh,
        age_s=status.age_s + since,
        reason=status.reason,
        retry_in_s=retry,
        node=status.node,
    )


def _standing(status: NodeStatus) -> object:
    """What of a node one wants to see at once when it changes; the readings can wait for the second to pass."""
    node = status.node
    if node is None:
        return status.link, status.reason
    gpus = [(gpu.uuid, gpu.state, gpu.job_ids, gpu.job_id, gpu.drain, gpu.seated) for gpu in node.gpus]
    return status.link, status.reason, node.drain, node.incidents, gpus


def _is_simulated(node: Node) -> bool:
    return node.gpu_source is GpuSource.SIMULATED


def job_order(job: Job) -> tuple[int, int, int, tuple[tuple[int, str], ...]]:
    """Sort key: what runs, what waits, what has ended."""
    if job.state.is_final:
        return 2, -(job.ended_at or job.submitted_at), -job.id, natural(job.node)
    return int(job.state is JobState.PENDING), job.submitted_at, job.id, natural(job.node)
