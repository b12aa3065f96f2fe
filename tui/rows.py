"""What the screens write about nodes and GPUs: rows of cells, as values. Those of jobs are in `jobrows`.

Rules kept here: colour is never the only sign, a glyph or a word stands beside it; a stale row is faded and says its
age, a lost one shows dashes and never an old number; simulated GPUs say so on every line. Pure: `now` and the wall
clock are parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from agent.api.health import Incident, Severity
from agent.api.queue import Drain
from agent.api.types import Gpu, GpuState
from tui import arrays, units
from tui.cluster import Cluster, Freshness, NodeView, gpu_label
from tui.jobrows import simulated
from tui.spans import Cell, Column, Role, Row, bar, cell, spark

IDLE_SHOWN_S = 60
"""From how long on a job that does nothing is called idle."""
_SLOWED = (
    (frozenset({"thermal_sw", "thermal_hw"}), "slowed by heat"),
    (frozenset({"power_brake"}), "slowed by the power brake"),
    (frozenset({"hw_slowdown"}), "slowed by its hardware"),
)
"""Reasons of throttling that are faults, the most telling first."""
HOT_C, TOO_HOT_C = 80, 88
"""Where a data-centre GPU is warm, and where it is about to throttle (NVIDIA's slowdown thresholds start at 90)."""

GPU_COLUMNS = (
    Column(title="NODE / GPU", least=10, most=27),
    Column(title="UTIL", least=12),
    Column(title="MEMORY", least=8, most=13, firm=True),
    Column(title="TEMP", least=5, right=True),
    Column(title="POWER", least=6, most=7, right=True, firm=True),
    Column(title="JOB", least=8, grow=True),
    Column(title="AGE", least=4, most=6, right=True, firm=True),
)
NODE_COLUMNS = (
    Column(title="NODE", least=6, most=24),
    Column(title="STATE", least=7, most=12, firm=True),
    Column(title="HEALTH", least=6, most=12, firm=True),
    Column(title="AGE", least=4, most=6, right=True, firm=True),
    Column(title="GPUS", least=4, most=12, firm=True),
    Column(title="UTIL", least=4, right=True),
    Column(title="EACH", least=8, most=16, firm=True),
    Column(title="LAST 5 MIN", least=10, drop=7),
    Column(title="MEMORY", least=8, most=10, right=True, firm=True, drop=2),
    Column(title="MAX", least=5, right=True, drop=1),
    Column(title="POWER", least=6, most=7, right=True, firm=True, drop=3),
    Column(title="RUN", least=3, right=True, drop=4),
    Column(title="CPU", least=4, right=True, drop=5),
    Column(title="RAM", least=9, most=11, right=True, firm=True, drop=6),
    Column(title="LOAD", least=5, right=True, drop=8),
    Column(title="NOTE", least=12, grow=True),
)

_FRESH = {
    Freshness.LIVE: ("●", Role.OK),
    Freshness.STALE: ("~", Role.WARN),
    Freshness.LOST: ("x", Role.BAD),
    Freshness.CONNECTING: ("…", Role.DIM),
}


def overview_rows(cluster: Cluster, now: float, room: int, *, short: bool = False) -> list[Row]:
    """Nodes with their GPUs under them where all fit into `room` lines, else one line a node."""
    views = cluster.nodes(now)
    if sum(1 + len(view.gpus) for view in views) > room:
        return [summary_row(view) for view in views]
    return [row for view in views for row in (summary_row(view), *gpu_rows(cluster, view, short=short))]


def summary_row(view: NodeView) -> Row:
    """A node in the columns of its GPUs: mean load, all memory, the hottest, all power."""
    glyph, role = _FRESH[view.freshness]
    name: Cell = ((f"{glyph} ", role), (view.name, Role.STRONG))
    if view.freshness in (Freshness.LOST, Freshness.CONNECTING) or not view.node:
        dash = cell(units.UNKNOWN, Role.DIM)
        note = cell(node_note(view), Role.WARN)
        return Row(key=(view.name, None), cells=(name, dash, dash, dash, dash, note, _age(view.age_s)), faded=False)
    gpus = view.gpus
    cells = (
        name,
        (
            *((spark_of(gpu), _load_role(gpu)) for gpu in gpus[:10]),
            (f"{units.percent(mean_load(gpus)):>4}", Role.TEXT),
        ),
        cell(units.gib_of(total(g.memory_used_bytes for g in gpus), total(g.memory_total_bytes for g in gpus))),
        _temperature(max((g.temperature_c for g in gpus if g.temperature_c is not None), default=None)),
        cell(units.watts(total(g.power_mw for g in gpus))),
        _summary(view),
        _age(view.age_s),
    )
    return Row(key=(view.name, None), cells=cells, faded=view.freshness is Freshness.STALE)


def gpu_rows(cluster: Cluster, view: NodeView, *, short: bool = False) -> list[Row]:
    """One line for each GPU of a node; `short` says only that it is simulated, and not which model."""
    return [_gpu_row(cluster, view, gpu, short=short) for gpu in view.gpus]


def node_rows(views: Iterable[NodeView], trace: Callable[[str], str], *, short: bool = False) -> list[Row]:
    """The list of nodes; `trace` draws the last minutes of one."""
    return [_node_row(view, trace(view.name), short) for view in views]


def spark_of(gpu: Gpu) -> str:
    """One GPU in one cell: its load as a height, `!` when it hangs, `x` when it is lost."""
    if gpu.state is GpuState.LOST:
        return "x"
    if gpu.state is GpuState.HUNG:
        return "!"
    return spark(None if gpu.utilization_percent is None else gpu.utilization_percent / 100)


def freshness(view: NodeView) -> Cell:
    """Glyph and word of a node's state."""
    glyph, role = _FRESH[view.freshness]
    if view.freshness is Freshness.LIVE and view.node is not None and view.node.drain is not None:
        return (("* drained", Role.WARN),)
    return ((f"{glyph} {view.freshness.value}", role),)


def _gpu_row(cluster: Cluster, view: NodeView, gpu: Gpu, *, short: bool) -> Row:
    bad = gpu.state is not GpuState.OK
    glyph = {GpuState.OK: " ", GpuState.HUNG: "!", GpuState.LOST: "x"}.get(gpu.state, "?")
    name: Cell = (
        (f" {glyph}", Role.BAD),
        (f"{gpu.index:>2} ", Role.TEXT),
        (simulated(short) if short and view.simulated else gpu_label(view, gpu), Role.DIM),
    )
    age = _age(view.gpu_age_s(gpu))
    if view.freshness is Freshness.LOST or gpu.state is GpuState.LOST:
        dash = cell(units.UNKNOWN, Role.DIM)
        return Row(key=(view.name, gpu.uuid), cells=(name, dash, dash, dash, dash, owner(cluster, view, gpu), age))
    load, used = gpu.utilization_percent, gpu.memory_used_bytes
    share = None if used is None or not gpu.memory_total_bytes else used / gpu.memory_total_bytes
    cells = (
        name,
        (*bar(None if load is None else load / 100, 7), (f" {units.percent(load):>4}", Role.TEXT)),
        (*bar(share, 4, Role.MEMORY), (f" {units.gib_of(used, gpu.memory_total_bytes):>8}", Role.TEXT)),
        _temperature(gpu.temperature_c),
        cell(units.watts(gpu.power_mw)),
        owner(cluster, view, gpu),
        age,
    )
    return Row(key=(view.name, gpu.uuid), cells=cells, faded=bad or view.freshness is Freshness.STALE)


def gpu_note(gpu: Gpu) -> str:
    """Why a GPU is not free although no job holds it; empty when there is nothing to say."""
    if gpu.state is not GpuState.OK:
        return gpu.reason or f"the GPU is {gpu.state.value}"
    if gpu.drain is not None:
        return drain_note(gpu.drain)
    if gpu.job_id is None and (strangers := gpu.computing()):
        return f"not a job: {strangers[0].user or '?'} pid {strangers[0].pid}"
    return "" if gpu.seated else "no seat"


def gpu_health(gpu: Gpu) -> list[str]:
    """What is wrong with a GPU that answers, a few words each: what slows it, then the worst that speaks against it.

    That it is at its power limit is no fault: a busy one is there most of the time.
    """
    found = [words for reasons, words in _SLOWED if reasons.intersection(gpu.throttle or ())][:1]
    if gpu.ill:
        more = f" (+{len(gpu.ill) - 1})" if len(gpu.ill) > 1 else ""
        found.append(gpu.ill[0].partition(";")[0] + more)
    return found


def drain_note(drain: Drain) -> str:
    """Who drained it, and why."""
    return f"drained by {drain.by}: {drain.reason}"


def incident_note(incidents: Sequence[Incident]) -> str:
    """What is wrong, the worst first, and how much more; empty when nothing is that somebody must see."""
    grave = [each for each in incidents if each.severity is not Severity.INFO and each.acknowledged_at is None]
    if not grave:
        return ""
    worst = min(grave, key=lambda each: (each.severity is not Severity.CRITICAL, -each.id))
    more = f" and {units.count(len(grave) - 1, 'more incident')}" if len(grave) > 1 else ""
    return f"! {worst.what}{more}"


def is_heard(view: NodeView) -> bool:
    """Whether a node's values may be shown at all."""
    return view.freshness in (Freshness.LIVE, Freshness.STALE)


def owner(cluster: Cluster, view: NodeView, gpu: Gpu) -> Cell:
    """Who uses a GPU, or why nobody can."""
    if gpu.state is not GpuState.OK:
        held = f"{_job_label(cluster, view, gpu)} " if gpu.job_id is not None else ""
        return ((held, Role.STRONG), (gpu_note(gpu), Role.BAD)) if held else cell(gpu_note(gpu), Role.BAD)
    drained: Cell = ((f"* {drain_note(gpu.drain)}", Role.WARN),) if gpu.drain is not None else ()
    if gpu.job_id is not None:
        job = cluster.job_on(view.name, gpu.job_id)
        sign: Cell = (("* ", Role.WARN),) if drained else ()
        name = _job_label(cluster, view, gpu)
        return (*sign, (name, Role.STRONG), (f" {job.user} {job.name}" if job else "", Role.TEXT))
    if drained:
        return drained
    if gpu.computing():
        return cell(f"! {gpu_note(gpu)}", Role.WARN)
    if view.node is not None and view.node.drain is not None:
        return cell("* node drained", Role.WARN)
    return cell("free" if gpu.seated else "free, no seat", Role.DIM)


def health(view: NodeView, *, short: bool = False) -> Cell:
    """The worst of what is wrong and nobody has seen, and how much more there is: `!1 crit +2`."""
    if view.node is None or not is_heard(view):
        return cell(units.UNKNOWN, Role.DIM)
    unseen = [each.severity for each in view.incidents if each.acknowledged_at is None]
    bad = sum(gpu.state is not GpuState.OK for gpu in view.gpus)
    critical, warnings = unseen.count(Severity.CRITICAL), unseen.count(Severity.WARNING)
    if critical:
        worst, role, more = f"!{critical} crit", Role.BAD, warnings
    elif bad:
        worst, role, more = f"!{bad} GPU", Role.BAD, warnings
    elif warnings:
        worst, role, more = f"~{warnings} warn", Role.WARN, 0
    else:
        seen = len(view.incidents) - len(unseen)
        return cell(f"{seen} seen" if seen else "ok", Role.TEXT if seen else Role.DIM)
    return cell(worst + (f" +{more}" if more and not short else ""), role)


def _job_label(cluster: Cluster, view: NodeView, gpu: Gpu) -> str:
    """The job that holds a GPU, and how many more: `17_3 +1`."""
    job = cluster.job_on(view.name, gpu.job_id)
    name = arrays.label(job) if job else str(gpu.job_id)
    return name + (f" +{len(gpu.job_ids) - 1}" if len(gpu.job_ids) > 1 else "")


def _node_row(view: NodeView, trace: str, short: bool) -> Row:
    name, age = cell(view.name, Role.STRONG), _age(view.age_s)
    note = cell(node_note(view), Role.WARN)
    node = view.node
    if node is None or view.freshness is Freshness.LOST:
        dash = cell(units.UNKNOWN, Role.DIM)
        return Row(key=view.name, cells=(name, freshness(view), dash, age, *[dash] * 11, note))
    gpus = node.gpus
    used = node.memory_total_bytes - node.memory_available_bytes
    cells = (
        name,
        freshness(view),
        health(view, short=short),
        age,
        cell(f"{len(gpus)} {simulated(short)}" if view.simulated else str(len(gpus))),
        cell(units.percent(mean_load(gpus))),
        tuple((spark_of(gpu), _load_role(gpu)) for gpu in gpus[:16]),
        cell(trace, Role.LOAD),
        cell(units.gib_of(total(g.memory_used_bytes for g in gpus), total(g.memory_total_bytes for g in gpus))),
        _temperature(max((g.temperature_c for g in gpus if g.temperature_c is not None), default=None)),
        cell(units.watts(total(g.power_mw for g in gpus))),
        cell(str(node.jobs_running)),
        cell(units.percent(node.cpu_percent)),
        cell(units.gib_of(used, node.memory_total_bytes)),
        cell(units.UNKNOWN if node.load_1m is None else f"{node.load_1m:.1f}"),
        note if node_note(view) else cell(f"{node.jobs_pending} pending" if node.jobs_pending else "", Role.DIM),
    )
    return Row(key=view.name, cells=cells, faded=view.freshness is Freshness.STALE)


def node_note(view: NodeView) -> str:
    """What an operator must know of a node, first things first."""
    retry = f"; {units.next_try(view.retry_in_s)}" if view.retry_in_s is not None else ""
    if view.freshness is Freshness.LOST:
        return (view.reason or "not heard of") + retry
    if view.freshness is Freshness.STALE:
        return f"last heard {units.age(view.age_s)} ago"
    if view.node is None:
        return (view.reason or "connecting") + retry
    if not view.node.gpus:
        return f"no GPUs: {view.node.gpu_reason or 'no reason given'}"
    bad = sum(gpu.state is not GpuState.OK for gpu in view.node.gpus)
    drained = sum(gpu.drain is not None for gpu in view.node.gpus)
    notes = [
        drain_note(view.node.drain) if view.node.drain else "",
        incident_note(view.node.incidents),
        f"{units.count(bad, 'GPU')} not working" if bad else "",
        f"{units.count(drained, 'GPU')} drained" if drained else "",
    ]
    return "; ".join(note for note in notes if note)


def _summary(view: NodeView) -> Cell:
    """What stands in the place of a GPU's job on the line of its node."""
    simulated: Cell = (("simulated, ", Role.DIM),) if view.simulated else ()
    if note := node_note(view):
        return (*simulated, (note, Role.WARN))
    busy = sum(gpu.job_id is not None for gpu in view.gpus)
    return (*simulated, (f"{busy} of {len(view.gpus)} busy", Role.DIM))


def _temperature(value: int | None) -> Cell:
    if value is not None and value >= TOO_HOT_C:
        return cell(f"!{value}°C", Role.BAD)
    return cell(units.celsius(value), Role.WARN if value is not None and value >= HOT_C else Role.TEXT)


def _age(seconds: float) -> Cell:
    return cell(units.age(seconds), Role.WARN if seconds >= 3 else Role.DIM)


def _load_role(gpu: Gpu) -> Role:
    return Role.BAD if gpu.state is not GpuState.OK else Role.LOAD


def mean_load(gpus: Collection[Gpu]) -> float | None:
    """Mean utilisation of the GPUs that answer."""
    known = [g.utilization_percent for g in gpus if g.state is GpuState.OK and g.utilization_percent is not None]
    return sum(known) / len(known) if known else None


def total(values: Iterable[int | None]) -> int | None:
    """Sum of what is known; unknown when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
