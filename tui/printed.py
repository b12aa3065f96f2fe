"""The lines and facts that plain commands print about nodes, GPUs, jobs and the licence. Values in, words out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.api.queue import JobEvent, JobUsage
from agent.api.types import Gpu, GpuState, Job, JobReport, JobState, Licence, LicenceStage, Plan
from tui import advice, arrays, jobrows, rows, spans, status, units
from tui.arrays import Line
from tui.cluster import NodeView, gpu_label

NODE_TITLES = ("NODE", "STATE", ">AGE", ">GPUS", ">BUSY", ">UTIL", ">MEMORY", ">POWER", ">RUN", ">PEND", "NOTE")
GPU_TITLES = ("NODE", ">GPU", "MODEL", "STATE", ">UTIL", ">MEMORY", ">TEMP", ">POWER", ">AGE", ">JOB", "USER", "NOTE")
JOB_TITLES = ("JOB", "NODE", "USER", "NAME", "STATE", "GPUS", ">TIME", ">LIMIT", ">PRIO", ">STARTS", "REASON")
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
        *(_marked(values, gpu) if live else [units.UNKNOWN] * 4),
        units.age(view.gpu_age_s(gpu)),
        gpu_job(gpu, job),
        job.user if job else units.UNKNOWN,
        "; ".join(part for part in (*(_health(gpu) if live else ()), rows.gpu_note(gpu)) if part),
    ]


def _marked(values: list[str], gpu: Gpu) -> list[str]:
    """Values of a GPU that hangs are the last ones that were seen: `~` stands before each, as before a stale node."""
    if gpu.state is GpuState.OK:
        return values
    return [value if value == units.UNKNOWN else f"~{value}" for value in values]


def gpu_job(gpu: Gpu, job: Job | None) -> str:
    """Whose GPU it is: a job's name, and how many more share it."""
    if gpu.job_id is None:
        return units.UNKNOWN
    name = arrays.label(job) if job is not None else str(gpu.job_id)
    return f"{name} +{len(gpu.job_ids) - 1}" if len(gpu.job_ids) > 1 else name


def job_line(line: Line, now: float) -> list[str]:
    """A job, or tasks of an array that are alike, under `JOB_TITLES`; `now` in Unix seconds."""
    job = line.first
    return [
        line.label,
        job.node,
        job.user,
        job.name,
        job.state.value,
        jobrows.job_gpus(job),
        units.elapsed(jobrows.run_time_s(job, now)) if len(line.jobs) == 1 else units.UNKNOWN,
        units.elapsed(job.time_limit_s),
        units.UNKNOWN if job.priority is None else str(job.priority),
        jobrows.starts_in(job, now),
        first_sentence(jobrows.job_note(job, now)),
    ]


def first_sentence(text: str) -> str:
    """As much of a reason as a list has room for; `stoker show` has all of it."""
    return re.split(r"(?<=[^\s.])\. +(?=[A-Z])", text, maxsplit=1)[0]


def job_facts(job: Job, now: float) -> list[tuple[str, str]]:
    """Everything that is known, in the order one asks for it."""
    values = [*_who(job), *_why(job, now), *_asked(job), *_ran(job, now), *usage_facts(job.usage)]
    return [(name, value) for name, value in values if value]


def report_facts(report: JobReport) -> list[tuple[str, str]]:
    """The account of one job."""
    job = report.job
    ended = job.exit_code if job.signal is None else f"signal {job.signal}"
    values: list[tuple[str, str | None]] = [
        ("Job", arrays.label(job)),
        ("Name", job.name),
        ("User", job.user),
        ("State", job.state.value),
        ("Reason", jobrows.job_why(job)),
        ("Waited", units.elapsed(report.wait_s)),
        ("Ran", units.elapsed(report.run_s)),
        ("Attempts", str(job.attempt)),
        ("Ended with", None if ended is None else str(ended)),
        *usage_facts(job.usage),
        ("GPU load", curve_line([point.utilization_percent for point in report.curve])),
    ]
    return [(name, value) for name, value in values if value]


def plan_facts(plan: Plan, now: float) -> list[tuple[str, str]]:
    """What a submit would do."""
    job = plan.job
    gpus = arrays.ranges(plan.gpu_indexes) if plan.gpu_indexes else " ".join(plan.gpu_uuids)
    starts = None
    if plan.starts_at is not None:
        away = plan.starts_at - now
        starts = f"{units.moment(plan.starts_at)}, " + (f"in {units.countdown(away)}" if away > 1 else "at once")
    values: list[tuple[str, str | None]] = [
        ("Would make", units.count(plan.tasks, "job")),
        ("Name", job.name),
        ("Node", job.node),
        ("GPUs", f"{jobrows.job_gpus(job)}{f' #{gpus}' if gpus else ''}"),
        ("CPUs", f"{job.tasks} × {job.cpus_per_task}"),
        ("Memory", units.size(job.memory_bytes) if job.memory_bytes else None),
        ("Time limit", _limit(job.time_limit_s)),
        ("Partition", job.partition),
        ("QOS", job.qos),
        ("Account", job.account),
        ("Priority", _priority(job)),
        ("Would start", starts or "cannot be told"),
        ("", plan.sentence),
    ]
    return [(name, value) for name, value in values if value]


def event_line(event: JobEvent) -> tuple[str, str]:
    """A line of a job's history: when, and what."""
    detail = f": {event.detail}" if event.detail else ""
    return units.moment(event.at) or "", f"{event.event} → {event.state}{detail}"


def usage_facts(usage: JobUsage | None) -> list[tuple[str, str | None]]:
    """What a job made of its GPUs."""
    if usage is None:
        return []
    energy = None if usage.energy_kwh is None else f"{usage.energy_kwh:.3f} kWh"
    idle = f"{units.elapsed(usage.idle_s)}, up to now" if usage.idle_s >= rows.IDLE_SHOWN_S else None
    return [
        ("GPU time", f"{usage.gpu_seconds / 3600:.2f} GPU h, {usage.gpu_busy_seconds / 3600:.2f} busy"),
        ("GPU use", units.percent(usage.utilization_percent)),
        ("GPU memory", f"{units.size(usage.memory_peak_bytes)} at most" if usage.memory_peak_bytes else None),
        (
            "Memory used",
            f"{units.size(usage.host_memory_peak_bytes)} at most" if usage.host_memory_peak_bytes else None,
        ),
        ("CPU time", None if usage.cpu_seconds is None else units.elapsed(usage.cpu_seconds)),
        ("Energy", energy),
        ("Idle", idle),
        ("Verdict", ": ".join(part for part in (usage.verdict.value, usage.sentence) if part)),
    ]


def curve_line(values: Sequence[float | None], cells: int = 60) -> str | None:
    """A run's load as a row of heights, each the mean of its part."""
    if not values:
        return None
    parts = [values[len(values) * cell // cells : max(len(values) * (cell + 1) // cells, 1)] for cell in range(cells)]
    if len(values) < cells:
        parts = [[value] for value in values]
    means = [[value for value in part if value is not None] for part in parts if part]
    return "".join(spans.spark(sum(known) / len(known) / 100 if known else None) for known in means)


def counted(jobs: Sequence[Job]) -> str:
    """`these 3 jobs`, `job 17`."""
    return f"job {arrays.label(jobs[0])}" if len(jobs) == 1 else f"these {len(jobs)} jobs"


def _who(job: Job) -> list[tuple[str, str | None]]:
    array = f"{job.array_job_id}, tasks {job.array_text}" if job.array_text else None
    sweep = "  ".join(f"{name}={value}" for name, value in job.sweep.items())
    return [
        ("Job", arrays.label(job)),
        ("Array", array),
        ("Sweep", sweep),
        ("Name", job.name),
        ("User", job.user),
        ("Account", job.account),
        ("Partition", job.partition),
        ("QOS", job.qos),
        ("Node", job.node),
        ("State", job.state.value),
        ("Reason", jobrows.job_why(job)),
    ]


def _why(job: Job, now: float) -> list[tuple[str, str | None]]:
    """What keeps it waiting."""
    starts = None
    stops = None if job.stops_at is None else f"{units.moment(job.stops_at)}, {jobrows.stops_in(job, now)}"
    if job.expected_start_at is not None and job.state is JobState.PENDING:
        starts = f"{units.moment(job.expected_start_at)}, in {jobrows.starts_in(job, now)} at the latest"
    return [
        ("Warning", job.warning),
        ("Stops", stops),
        ("Ran before", job.again),
        ("Expected start", starts),
        ("What helps", advice.what_helps(job)),
        ("Priority", _priority(job)),
        ("Waits for", job.dependency),
        ("Begins", units.moment(job.begin_at)),
        ("Deadline", units.moment(job.deadline_at)),
        ("Held", "yes" if job.held else None),
        ("Reservation", job.reservation),
    ]


def _asked(job: Job) -> list[tuple[str, str | None]]:
    """What it was submitted with."""
    held = f" #{arrays.ranges(job.gpu_indexes)}" if job.gpu_indexes else ""
    return [
        ("GPUs", f"{jobrows.job_gpus(job)}{held}"),
        ("GPU UUIDs", " ".join(job.gpu_uuids)),
        ("Tasks", str(job.tasks) if job.tasks > 1 else None),
        ("CPUs per task", str(job.cpus_per_task)),
        ("Memory", units.size(job.memory_bytes) if job.memory_bytes else None),
        ("Exclusive", "yes" if job.exclusive else None),
        ("Time limit", _limit(job.time_limit_s)),
        ("Requeue", "yes" if job.requeue else "no"),
        ("Nice", str(job.nice) if job.nice else None),
        ("Notices", ",".join(job.mail_types)),
        ("Comment", job.comment),
        ("Recurring job", None if job.cron_id is None else str(job.cron_id)),
    ]


def _ran(job: Job, now: float) -> list[tuple[str, str | None]]:
    """What became of it."""
    return [
        ("Submitted", units.moment(job.submitted_at)),
        ("Started", units.moment(job.started_at)),
        ("Ended", units.moment(job.ended_at)),
        ("Run time", units.elapsed(jobrows.run_time_s(job, now)) if job.started_at else None),
        ("Exit code", None if job.exit_code is None else str(job.exit_code)),
        ("Signal", None if job.signal is None else str(job.signal)),
        ("Attempt", str(job.attempt)),
        ("Command", job.command),
        ("Folder", job.work_dir),
        ("Output", job.output_path),
        ("Error", job.error_path),
        ("Log", units.size(job.log_bytes) if job.log_bytes is not None else None),
    ]


def _priority(job: Job) -> str | None:
    """`1520 = age 20 + fairshare 1000 + qos 500`."""
    if job.priority is None or job.state is not JobState.PENDING:
        return None
    parts = jobrows.priority_parts(job)
    return f"{job.priority} = {parts}" if parts else str(job.priority)


def _limit(seconds: int | None) -> str:
    return "unlimited" if seconds is None else units.elapsed(seconds)


def licence_lines(licence: Licence, now: float, width: int) -> list[str]:
    """The licence with its countdown and the seats; what is wrong, and the command that helps, on lines of their own.

    Args:
        licence: as the server tells it.
        now: Unix seconds.
        width: cells of a line; a command is never folded, so that it can be copied.
    """
    glyph, _ = status.SIGNS.get(licence.stage, ("!", None))
    seats = f"seats {licence.seats_used}/{licence.seats_total}"
    lines = [f"{glyph} Licence {status.terms(licence, now)}   {seats}"]
    told = [each.told for each in licence.units if each.told]
    if licence.stage is not LicenceStage.ACTIVE:
        code = f" {licence.code}" if licence.code else ""
        told.insert(0, f"{licence.stage.value}{code}: {licence.message}")
    lines += [f"  {piece}" for each in told for piece in spans.folded(each, max(20, width - 2))]
    if licence.stage is not LicenceStage.ACTIVE and licence.fix:
        lines.append(f"  run: {licence.fix}")
    return lines


def _health(gpu: Gpu) -> list[str]:
    return ["too hot"] * _is_too_hot(gpu) + (rows.gpu_health(gpu) if gpu.state is GpuState.OK else [])


def _is_too_hot(gpu: Gpu) -> bool:
    return gpu.temperature_c is not None and gpu.temperature_c >= rows.TOO_HOT_C
