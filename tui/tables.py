"""What plain commands print about what stands around the queue: drains, reservations, shares, and a sweep's results."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.api.health import Incident, KnownGpu
from agent.api.queue import Cron, DeadLetter, Drain, JobUsage, Partition, Qos, Reservation, Share
from agent.api.types import Job, TaskResult
from tui import arrays, jobrows, units

DRAIN_TITLES = ("NODE", ">GPU", "BY", "OWNER", "SINCE", "REASON")
RESERVATION_TITLES = ("NAME", "START", "END", "FOR", "GPUS", "BY", "COMMENT")
SHARE_TITLES = ("ACCOUNT", "USER", ">SHARES", ">DUE", ">USED", ">USE", ">FACTOR")
PARTITION_TITLES = ("PARTITION", "STATE", ">TIMELIMIT", ">DEFAULT", ">TIER", "GPUS")
QOS_TITLES = ("QOS", ">PRIORITY", "PREEMPTS", ">MAXWALL", ">GPUS/USER", ">JOBS/USER", ">QUEUED/USER")
CRON_TITLES = (">ID", "NODE", "USER", "SCHEDULE", "NAME", "NEXT", ">LAST JOB", "MISSED", "NOTE")
LETTER_TITLES = (">ID", "AT", ">JOB", "EVENT", "TO", ">TRIES", "NEXT TRY", "ERROR")
INCIDENT_TITLES = (">ID", "NODE", ">GPU", "SEVERITY", "KIND", "SINCE", ">JOB", "USER", "STATE", "WHAT")
INVENTORY_TITLES = ("NODE", ">GPU", "UUID", "MODEL", "STATE")
TASK_TITLES = ("TASK", "STATE", ">WAITED", ">RAN", ">GPUS", ">GPU TIME", ">USE", ">ENERGY", "ACCOUNT")
MOST_METRICS = 12
"""Columns of metrics that a result table has; a job may have told hundreds."""


def drain_line(node: str, gpu: int | None, drain: Drain) -> list[str]:
    """A drained GPU or node under `DRAIN_TITLES`; `gpu` is the index of one that is still there."""
    what = "all" if drain.gpu_uuid is None else str(gpu) if gpu is not None else drain.gpu_uuid
    return [node, what, drain.by, drain.owner.value, units.moment(drain.at) or "", _reasons(drain)]


def _reasons(drain: Drain) -> str:
    """Its own, and those whose place it took."""
    return "; ".join([drain.reason, *(f"before by {each.by}: {each.reason}" for each in drain.earlier)])


def incident_line(each: Incident) -> list[str]:
    """An incident under `INCIDENT_TITLES`, with what to do behind what it is."""
    seen = f"seen by {each.acknowledged_by}" if each.acknowledged_by else "open"
    times = f" ({each.count} times)" if each.count > 1 else ""
    return [
        str(each.id),
        each.node,
        units.UNKNOWN if each.gpu_index is None else str(each.gpu_index),
        each.severity.value,
        each.kind.value,
        units.moment(each.opened_at) or "",
        units.UNKNOWN if each.job_id is None else str(each.job_id),
        each.user or units.UNKNOWN,
        "over" if each.cleared_at is not None else seen,
        f"{each.what}{times}; {each.advice}",
    ]


def inventory_line(node: str, each: KnownGpu, there: frozenset[str]) -> list[str]:
    """A GPU that a node is known to have under `INVENTORY_TITLES`; `there` are the UUIDs of now."""
    return [node, str(each.index), each.uuid, each.name, "there" if each.uuid in there else "MISSING"]


def reservation_line(each: Reservation, indexes: dict[str, int]) -> list[str]:
    """A reservation under `RESERVATION_TITLES`; `indexes` of the GPUs that are known, by UUID."""
    who = ",".join((*each.users, *(f"account {account}" for account in each.accounts)))
    known = [indexes[uuid] for uuid in each.gpu_uuids if uuid in indexes]
    gpus = arrays.ranges(known) if len(known) == len(each.gpu_uuids) else f"{len(each.gpu_uuids)}"
    return [
        each.name,
        units.moment(each.start_at) or "",
        units.moment(each.end_at) or "",
        "maintenance" if each.maintenance else who,
        gpus if each.gpu_uuids else "all",
        each.by,
        each.comment or "",
    ]


def share_line(each: Share) -> list[str]:
    """A user of an account under `SHARE_TITLES`."""
    return [
        each.account,
        each.user,
        str(each.shares),
        f"{each.shares_norm:.1%}",
        f"{each.usage_gpu_s / 3600:.1f} GPU h",
        f"{each.usage_norm:.1%}",
        f"{each.fairshare:.3f}",
    ]


def partition_line(each: Partition) -> list[str]:
    """A partition under `PARTITION_TITLES`; the default one has a star, as in sinfo."""
    return [
        each.name + ("*" if each.default else ""),
        each.state,
        _limit(each.max_time_s),
        _limit(each.default_time_s),
        str(each.priority_tier),
        "all" if each.gpu_indexes is None else arrays.ranges(each.gpu_indexes),
    ]


def qos_line(each: Qos) -> list[str]:
    """A quality of service under `QOS_TITLES`."""
    most = (each.max_gpus_per_user, each.max_jobs_per_user, each.max_submit_per_user)
    numbers = [units.UNKNOWN if value is None else str(value) for value in most]
    return [each.name, str(each.priority), ",".join(each.preempts), _limit(each.max_wall_s), *numbers]


def cron_line(each: Cron) -> list[str]:
    """A recurring job under `CRON_TITLES`."""
    return [
        str(each.id),
        each.node,
        each.user,
        each.schedule,
        each.name,
        units.moment(each.next_at) or "never",
        str(each.last_job_id) if each.last_job_id is not None else units.UNKNOWN,
        each.missed.value + (", overlaps" if each.overlap else ""),
        each.last_note or "",
    ]


def letter_line(each: DeadLetter, now: float) -> list[str]:
    """A notice that is not delivered under `LETTER_TITLES`."""
    away = None if each.next_at is None else each.next_at - now
    return [
        str(each.id),
        units.moment(each.at) or "",
        units.UNKNOWN if each.job_id is None else str(each.job_id),
        each.event if each.incident_id is None else f"{each.event} {each.incident_id}",
        each.to,
        str(each.tries),
        "given up" if away is None else f"in {units.countdown(away)}" if away > 0 else "now",
        each.error,
    ]


def results(found: Sequence[TaskResult]) -> tuple[list[str], list[list[str]]]:
    """Titles and lines of a sweep: task, state, parameters, metrics, the shortest way to tell runs apart."""
    names = list(dict.fromkeys(name for each in found for name in each.job.sweep))
    metrics = [m for m in dict.fromkeys(name for each in found for name in each.metrics) if m not in names]
    metrics = metrics[:MOST_METRICS]
    titles = [">TASK", "STATE", ">TIME", ">DONE", *(f">{name}" for name in (*names, *metrics))]
    return titles, [_result_line(each, [*names, *metrics]) for each in found]


def task_line(job: Job, now: float) -> list[str]:
    """A task of an array under `TASK_TITLES`."""
    usage, ran = job.usage, jobrows.run_time_s(job, now)
    return [
        arrays.label(job),
        job.state.value,
        units.elapsed(_waited_s(job, now)),
        units.elapsed(ran),
        str(job.gpus),
        *_account([] if usage is None else [usage]),
        units.UNKNOWN if usage is None else usage.verdict.value,
    ]


def tasks_line(jobs: Sequence[Job], now: float) -> list[str]:
    """All tasks together under `TASK_TITLES`: sums, and the use of all GPU time."""
    waited = sum(_waited_s(job, now) or 0.0 for job in jobs)
    ran = sum(jobrows.run_time_s(job, now) or 0.0 for job in jobs)
    account = _account([job.usage for job in jobs if job.usage is not None])
    return ["total", "", units.elapsed(waited), units.elapsed(ran), str(sum(job.gpus for job in jobs)), *account, ""]


def _waited_s(job: Job, now: float) -> float | None:
    """From the submit, or `--begin` when later, to the start of its last attempt; of one that never ran to its end."""
    until = job.started_at or job.ended_at or now
    return max(0.0, until - max(job.submitted_at, job.begin_at or 0))


def _account(usages: Sequence[JobUsage]) -> list[str]:
    """GPU time, its use, and energy."""
    held = sum(each.gpu_seconds for each in usages)
    busy = sum(each.gpu_busy_seconds for each in usages)
    energy = [each.energy_kwh for each in usages if each.energy_kwh is not None]
    return [
        f"{held / 3600:.2f} GPU h" if usages else units.UNKNOWN,
        units.percent(100 * busy / held if held else None),
        f"{sum(energy):.3f} kWh" if energy else units.UNKNOWN,
    ]


def result_value(result: TaskResult, name: str) -> float | str | bool | None:
    """A metric of a task, or else a parameter, as a number where it is one."""
    if name in result.metrics:
        return result.metrics[name]
    text = result.job.sweep.get(name)
    return text if text is None else _number(text)


def sort_key(value: float | str | bool | None) -> tuple[bool, float, str]:
    """Numbers before words; what is not a number (NaN) after all numbers."""
    if isinstance(value, str) or value is None:
        return True, 0.0, value or ""
    number = float(value)
    return (False, number, "") if number == number else (False, float("inf"), "nan")


def _result_line(each: TaskResult, names: Sequence[str]) -> list[str]:
    job = each.job
    ran = None if job.started_at is None or job.ended_at is None else job.ended_at - job.started_at
    done = units.UNKNOWN if each.progress is None else f"{each.progress:.0%}"
    return [arrays.label(job), job.state.value, units.elapsed(ran), done, *(_written(each, name) for name in names)]


def _written(each: TaskResult, name: str) -> str:
    value = each.job.sweep.get(name) if name in each.job.sweep else each.metrics.get(name)
    if value is None:
        return units.UNKNOWN
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(text: str) -> float | str:
    plain = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text)
    return float(text) if plain else text


def _limit(seconds: int | None) -> str:
    return "unlimited" if seconds is None else units.elapsed(seconds)
