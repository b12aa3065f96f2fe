"""What there is to tell of one job beside its log: why it waits, what it used, how far it is, and its history. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from agent.api.queue import JobUsage
from agent.api.types import Job, JobReport, JobState, TaskResult
from tui import advice, jobrows, licence, rows, spans, units
from tui.session import Clock
from tui.spans import Role, Span

_NAMES = 14
"""Cells of the names at the left."""


def lines(
    job: Job, report: JobReport | None, result: TaskResult | None, *, wall: float, clock: Clock, width: int
) -> list[list[Span]]:
    """All of it, folded to `width` cells."""
    parts = [
        *_section("Warned", _warned(job, wall, clock)),
        *_section("Waiting", _waiting(job, wall, clock)),
        *_section("Progress", _progress(result)),
        *_section("Use of its GPUs", _used(job.usage or (report.job.usage if report else None))),
        *_section("Asked for", _asked(job, clock)),
        *_section("History", _history(report, clock)),
    ]
    room = max(20, width - _NAMES - 3)
    found: list[list[Span]] = []
    for name, value, role in parts:
        if role is Role.HEAD:
            found += [[], [(f" {name}", Role.HEAD)]] if found else [[(f" {name}", Role.HEAD)]]
            continue
        for turn, piece in enumerate(spans.folded(value, room)):
            found.append([(f"   {name if turn == 0 else '':<{_NAMES}}", Role.DIM), (piece, role)])
    return found or [[(" nothing is known yet", Role.DIM)]]


_Part = tuple[str, str, Role]


def _section(title: str, parts: Sequence[_Part]) -> list[_Part]:
    return [(title, "", Role.HEAD), *parts] if parts else []


def _warned(job: Job, wall: float, clock: Clock) -> list[_Part]:
    if job.warning is None or job.stops_at is None:
        return []
    return [
        ("reason", job.warning, Role.WARN),
        ("stops", f"{clock.moment(job.stops_at)}, {jobrows.stops_in(job, wall)}", Role.STRONG),
        ("what helps", advice.what_helps(job) or "", Role.ACCENT),
    ]


def _waiting(job: Job, wall: float, clock: Clock) -> list[_Part]:
    if job.state is not JobState.PENDING:
        return []
    starts = None
    if job.expected_start_at is not None:
        starts = f"{clock.moment(job.expected_start_at)} at the latest, in {jobrows.starts_in(job, wall)}"
    parts = jobrows.priority_parts(job)
    held = licence.held_job(job.detail) if job.reason == "License" else []
    values = [
        *(held or [("reason", jobrows.job_why(job), Role.WARN)]),
        ("ran before", job.again, Role.TEXT),
        (
            "starts",
            starts or ("once the licence lets it" if held else "cannot be told"),
            Role.STRONG if starts else Role.DIM,
        ),
        ("what helps", None if held else advice.what_helps(job), Role.ACCENT),
        ("waits for", job.dependency, Role.TEXT),
        ("begins", clock.moment(job.begin_at) if job.begin_at is not None else None, Role.TEXT),
        ("reservation", job.reservation, Role.TEXT),
        ("priority", None if job.priority is None else str(job.priority), Role.TEXT),
        ("", f"= {parts}" if parts else None, Role.DIM),
    ]
    return [(name, value, role) for name, value, role in values if value]


def _progress(result: TaskResult | None) -> list[_Part]:
    if result is None:
        return []
    found: list[_Part] = []
    if result.progress is not None:
        done = max(0.0, min(1.0, result.progress))
        found.append(("done", f"{spans.plain(spans.bar(done, 24))} {done:.0%}", Role.LOAD))
    told = ", ".join(f"{name} {_number(value)}" for name, value in list(result.metrics.items())[:12])
    return [*found, ("told", told, Role.TEXT)] if told else found


def _used(usage: JobUsage | None) -> list[_Part]:
    if usage is None:
        return []
    fine = usage.verdict.value in ("fine", "unknown")
    verdict = ": ".join(part for part in (usage.verdict.value, usage.sentence) if part)
    energy = "" if usage.energy_kwh is None else f", energy {usage.energy_kwh:.2f} kWh"
    memory = "" if usage.memory_peak_bytes is None else f", memory at most {units.size(usage.memory_peak_bytes)}"
    hours = f"{usage.gpu_seconds / 3600:.1f} GPU h, {usage.gpu_busy_seconds / 3600:.1f} of them busy"
    found: list[_Part] = [
        ("verdict", verdict, Role.OK if fine else Role.WARN),
        ("load", f"{units.percent(usage.utilization_percent)} on average{memory}{energy}", Role.TEXT),
        ("time", hours, Role.TEXT),
    ]
    idle = ("idle", f"for {units.age(usage.idle_s)}, up to now", Role.WARN)
    return [*found, idle] if usage.idle_s >= rows.IDLE_SHOWN_S else found


def _asked(job: Job, clock: Clock) -> list[_Part]:
    sweep = ", ".join(f"{name}={value}" for name, value in job.sweep.items())
    place = [("partition", job.partition), ("account", job.account), ("QOS", job.qos)]
    values = [
        ("sweep", sweep),
        ("array", f"tasks {job.array_text}" if job.array_text else None),
        ("queue", ", ".join(f"{name} {value}" for name, value in place if value)),
        ("ranks", str(job.tasks) if job.tasks > 1 else None),
        ("deadline", clock.moment(job.deadline_at) if job.deadline_at is not None else None),
        ("requeue", "yes, after a failure of the node" if job.requeue else None),
        ("recurring", f"made by stoker cron {job.cron_id}" if job.cron_id is not None else None),
        ("comment", job.comment),
        ("script", job.command),
    ]
    return [(name, value, Role.TEXT) for name, value in values if value]


def _history(report: JobReport | None, clock: Clock) -> list[_Part]:
    if report is None:
        return []
    found: list[_Part] = []
    if report.job.attempt > 1:
        found.append(("attempts", str(report.job.attempt), Role.TEXT))
    for event in report.events:
        detail = f": {event.detail}" if event.detail else ""
        found.append((clock.moment(event.at), f"{event.event} → {event.state}{detail}", Role.TEXT))
    return found


def _number(value: float | str | bool | None) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
