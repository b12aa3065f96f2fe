"""Who uses the GPUs: every process of all nodes with its job, in the order asked for. Pure.

Rules kept here: a process is a job's where the job holds the GPU and both have one user; any other that computes there
is no job's, and says so. A GPU that a job holds and no process is seen on is a line too: that is what one looks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from agent.api.gpus import GRAPHICS
from agent.api.types import Gpu, GpuProcess, Job
from tui import arrays, units
from tui.cluster import Cluster, Freshness, JobKey, NodeView, natural
from tui.session import Clock
from tui.spans import Cell, Column, Role, Row, cell

ProcessKey = tuple[str, str, int]
"""Node, GPU's UUID, and pid; 0 where a job holds a GPU on which no process is seen."""

COLUMNS = (
    Column(title="PID", least=7, most=8, right=True, firm=True),
    Column(title="USER", least=5, most=12),
    Column(title="NODE", least=5, most=16),
    Column(title="GPU", least=3, most=4, right=True, firm=True),
    Column(title="SM", least=4, right=True, firm=True),
    Column(title="MEMORY", least=8, most=9, right=True, firm=True),
    Column(title="KIND", least=7, most=16, drop=3),
    Column(title="SINCE", least=8, most=12, drop=2),
    Column(title="JOB", least=8, most=28),
    Column(title="COMMAND", least=10, grow=True),
)


class Using(msgspec.Struct, frozen=True, kw_only=True):
    """A process on a GPU, or a job that holds one without any."""

    view: NodeView
    gpu: Gpu
    process: GpuProcess | None
    job: Job | None

    @property
    def key(self) -> ProcessKey:
        """How the list names it."""
        return self.view.name, self.gpu.uuid, self.process.pid if self.process is not None else 0

    @property
    def user(self) -> str:
        """Whose it is; empty where that is not known."""
        said = self.process.user if self.process is not None else None
        return said or (self.job.user if self.job is not None else "")

    @property
    def job_key(self) -> JobKey | None:
        """Its job."""
        return (self.job.node, self.job.id) if self.job is not None else None

    @property
    def is_stranger(self) -> bool:
        """Whether it computes, and is no job's."""
        return self.process is not None and self.job is None and self.process.kind != GRAPHICS


ORDERS: tuple[str, ...] = ("memory", "SM", "user", "node", "job", "since", "pid")
"""What the list may be sorted by; numbers begin with the largest."""


def all_of(cluster: Cluster, views: Iterable[NodeView]) -> list[Using]:
    """Every process of nodes that are heard of, and every GPU held without one."""
    heard = [view for view in views if view.freshness in (Freshness.LIVE, Freshness.STALE)]
    return [each for view in heard for gpu in view.gpus for each in _on(cluster, view, gpu)]


def in_order(found: Iterable[Using], order: str, *, turned: bool) -> list[Using]:
    """Sorted by one of `ORDERS`; of equals the order of nodes, GPUs and pids."""
    stable = sorted(found, key=lambda each: (natural(each.view.name), each.gpu.index, each.key[2]))
    return sorted(stable, key=lambda each: _rank(each, order), reverse=turned)


def table_rows(found: Iterable[Using], clock: Clock) -> list[Row]:
    """The list, under `COLUMNS`."""
    return [_row(each, clock) for each in found]


def summary(found: Iterable[Using]) -> str:
    """`3 processes of 2 users, 1 of no job`."""
    listed = [each for each in found if each.process is not None]
    strangers = sum(each.is_stranger for each in listed)
    noun = "process" if len(listed) == 1 else "processes"
    users = units.count(len({each.user for each in listed}), "user")
    return f"{len(listed)} {noun} of {users}" + (f", {strangers} of no job" if strangers else "")


def _on(cluster: Cluster, view: NodeView, gpu: Gpu) -> Iterator[Using]:
    jobs = [job for each in gpu.job_ids or _one(gpu.job_id) if (job := cluster.job_on(view.name, each)) is not None]
    for process in gpu.processes:
        yield Using(view=view, gpu=gpu, process=process, job=_job_of(process, jobs))
    users = {process.user for process in gpu.processes}
    for job in jobs:
        if job.user not in users:
            yield Using(view=view, gpu=gpu, process=None, job=job)


def _one(job_id: int | None) -> tuple[int, ...]:
    return () if job_id is None else (job_id,)


def _job_of(process: GpuProcess, jobs: list[Job]) -> Job | None:
    """The job that the node says it is of; where it does not say, the one on that GPU of the same user."""
    if process.job_id is not None:
        return next((job for job in jobs if job.id == process.job_id), None)
    return next((job for job in jobs if process.user in (None, job.user)), None)


def _rank(each: Using, order: str) -> tuple[bool, float, tuple[tuple[int, str], ...]]:
    """Whether it is unknown, the number, the words: unknown last."""
    process = each.process
    numbers: dict[str, float | None] = {
        "memory": process.memory_used_bytes if process is not None else None,
        "SM": process.sm_percent if process is not None else None,
        "since": process.started_at if process is not None else None,
        "pid": process.pid if process is not None else None,
        "job": -each.job.id if each.job is not None else None,
    }
    if order in numbers:
        value = numbers[order]
        return value is None, 0.0 if value is None else -value, ()
    words = {"user": each.user, "node": each.view.name}.get(order, "")
    return not words, 0.0, natural(words)


def _row(each: Using, clock: Clock) -> Row:
    process = each.process
    started = process.started_at if process is not None else None
    memory = process.memory_used_bytes if process is not None else None
    load = process.sm_percent if process is not None else None
    cells = (
        cell(units.UNKNOWN if process is None else str(process.pid), Role.STRONG),
        cell(each.user or units.UNKNOWN),
        cell(each.view.name),
        cell(str(each.gpu.index)),
        cell(units.percent(load)),
        cell(units.size(memory)),
        cell(units.UNKNOWN if process is None else process.kind, Role.DIM),
        cell(units.UNKNOWN if started is None else clock.moment(started), Role.DIM),
        _job_cell(each),
        cell(process.command or "?") if process is not None else cell("no process is seen on it", Role.DIM),
    )
    return Row(key=each.key, cells=cells, faded=each.view.freshness is not Freshness.LIVE)


def _job_cell(each: Using) -> Cell:
    if each.job is not None:
        return ((f"{arrays.label(each.job)} ", Role.STRONG), (each.job.name, Role.TEXT))
    return cell("! no job", Role.WARN) if each.is_stranger else cell(units.UNKNOWN, Role.DIM)
