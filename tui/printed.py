"""The lines and facts that plain commands print about nodes, GPUs, jobs and the licence. Values in, words out."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from agent.api.types import Gpu, GpuState, Job, Licence
from tui import rows, status, units
from tui.cluster import Cluster, NodeView, gpu_label

NODE_TITLES = ("NODE", "STATE", ">AGE", ">GPUS", ">BUSY", ">UTIL", ">MEMORY", ">POWER", ">RUN", ">PEND", "NOTE")
GPU_TITLES = ("NODE", ">GPU", "MODEL", "STATE", ">UTIL", ">MEMORY", ">TEMP", ">POWER", ">AGE", ">JOB", "USER", "NOTE")
JOB_TITLES = (">JOB", "NODE", "USER", "NAME", "STATE", "GPUS", ">TIME", ">LIMIT", "REASON")
"""`>` sets a column to the right."""


def node_line(view: NodeView) -> list[str]:
    """A node under `NODE_TITLES`."""
    state, age, note = view.freshness.value, units.age(view.age_s), rows.node_note(view)
    if view.node is None or not rows.is_heard(view):
        return [view.name, state, age, *[units.UNKNOWN] * 7, note]
    gpus = view.gpus
    return [
        view.name,
        state,
        age,
        f"{len(gpus)} simulated" if view.simulated else str(len(gpus)),
        str(sum(gpu.job_id is not None for gpu in gpus)),
        units.percent(rows.mean_load(gpus)),
        units.gib_of(rows.total(g.memory_used_bytes for g in gpus), rows.total(g.memory_total_bytes for g in gpus)),
        units.watts(rows.total(gpu.power_mw for gpu in gpus)),
        str(view.node.jobs_running),
        str(view.node.jobs_pending),
        note,
    ]


def gpu_line(view: NodeView, gpu: Gpu, jobs: dict[tuple[str, int], Job]) -> list[str]:
    """A GPU under `GPU_TITLES`; `jobs` are those that hold GPUs, by node and id."""
    job = jobs.get((view.name, gpu.job_id)) if gpu.job_id is not None else None
    live = rows.is_heard(view) and gpu.state is not GpuState.LOST
    values = [
        units.percent(gpu.utilization_percent),
        units.gib_of(gpu.memory_used_bytes, gpu.memory_total_bytes),
        f"!{units.celsius(gpu.temperature_c)}" if _is_too_hot(gpu) else units.celsius(gpu.temperature_c),
        units.watts(gpu.power_mw),
    ]
    return [
        view.name,
        str(gpu.index),
        gpu_label(view, gpu),
        gpu.state.value if rows.is_heard(view) else view.freshness.value,
        *(values if live else [units.UNKNOWN] * 4),
        units.age(view.gpu_age_s(gpu)),
        str(gpu.job_id) if gpu.job_id is not None else units.UNKNOWN,
        job.user if job else units.UNKNOWN,
        "; ".join(part for part in ("too hot" if live and _is_too_hot(gpu) else "", rows.gpu_note(gpu)) if part),
    ]


def job_line(job: Job, now: float) -> list[str]:
    """A job under `JOB_TITLES`; `now` in Unix seconds."""
    return [
        str(job.id),
        job.node,
        job.user,
        job.name,
        job.state.value,
        rows.job_gpus(job),
        units.elapsed(rows.run_time_s(job, now)),
        units.elapsed(job.time_limit_s),
        first_sentence(rows.job_why(job)),
    ]


def first_sentence(text: str) -> str:
    """As much of a reason as a list has room for; `stoker show` has all of it."""
    return re.split(r"(?<=[^\s.])\. +(?=[A-Z])", text, maxsplit=1)[0]


def job_facts(job: Job) -> list[tuple[str, str]]:
    """Everything that is known, in the order one asks for it."""
    held = f" #{rows.ranges(job.gpu_indexes)}" if job.gpu_indexes else ""
    values: list[tuple[str, str | None]] = [
        ("Job", str(job.id)),
        ("Name", job.name),
        ("User", job.user),
        ("Node", job.node),
        ("State", job.state.value),
        ("Reason", rows.job_why(job)),
        ("GPUs", f"{rows.job_gpus(job)}{held}"),
        ("GPU UUIDs", " ".join(job.gpu_uuids)),
        ("CPUs per task", str(job.cpus_per_task)),
        ("Memory", units.size(job.memory_bytes) if job.memory_bytes else None),
        ("Submitted", _moment(job.submitted_at)),
        ("Started", _moment(job.started_at)),
        ("Ended", _moment(job.ended_at)),
        ("Run time", units.elapsed(rows.run_time_s(job, time.time())) if job.started_at else None),
        ("Time limit", units.elapsed(job.time_limit_s) if job.time_limit_s is not None else "unlimited"),
        ("Exit code", None if job.exit_code is None else str(job.exit_code)),
        ("Signal", None if job.signal is None else str(job.signal)),
        ("Attempt", str(job.attempt)),
        ("Requeue", "yes" if job.requeue else "no"),
        ("Folder", job.work_dir),
        ("Output", job.output_path),
        ("Error", job.error_path),
        ("Log", units.size(job.log_bytes) if job.log_bytes is not None else None),
    ]
    return [(name, value) for name, value in values if value]


def licence_line(licence: Licence, now: float) -> str:
    """The licence with its countdown; `now` in Unix seconds."""
    cluster = Cluster()
    cluster.licence = licence
    left, right = status.licence_line(cluster, now)
    return f"{_plain(left)}   {_plain(right)}"


def _is_too_hot(gpu: Gpu) -> bool:
    return gpu.temperature_c is not None and gpu.temperature_c >= rows.TOO_HOT_C


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))


def _plain(spans: Sequence[tuple[str, object]]) -> str:
    return "".join(text for text, _ in spans).strip()
