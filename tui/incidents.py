"""What the screens write about incidents: which there are, in which order, a row and a page for each. Pure.

Rules kept here: how bad is said by a word and a sign, never by colour alone; the newest comes first; what a node told
before it was lost stays, faded, and says how old it is; what is over by the stream is not shown as open because an
older answer said so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from agent.api.health import Incident, IncidentKind, Severity
from agent.api.types import MAX_INCIDENTS
from tui import arrays, rows, units
from tui.cluster import Cluster, Freshness, NodeView
from tui.session import Clock
from tui.spans import Cell, Column, Role, Row, Span, cell, folded

IncidentKey = tuple[str, int]
"""Node and number: two nodes may both have a 3."""

COLUMNS = (
    Column(title="SEVERITY", least=10, most=11, firm=True),
    Column(title="SINCE", least=8, most=12, firm=True),
    Column(title="NODE", least=6, most=16),
    Column(title="GPU", least=3, most=4, right=True, firm=True),
    Column(title="JOB", least=4, most=12, right=True, firm=True),
    Column(title="PID", least=5, most=8, right=True, firm=True, drop=3),
    Column(title="USER", least=5, most=12, drop=4),
    Column(title="STATE", least=5, most=16, firm=True),
    Column(title="WHAT", least=16, grow=True),
)
_SEVERITY = {
    Severity.CRITICAL: ("!", Role.BAD),
    Severity.WARNING: ("~", Role.WARN),
    Severity.INFO: ("i", Role.ACCENT),
}
_INVENTORY = frozenset({IncidentKind.GPU_MISSING, IncidentKind.GPU_EXCHANGED, IncidentKind.LINK_DEGRADED})
"""Those that are over when somebody accepts what is there."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """An incident, and the node that told of it as it is now."""

    incident: Incident
    view: NodeView

    @property
    def key(self) -> IncidentKey:
        """How the list names it; by the node that was asked, whatever that node calls itself."""
        return self.view.name, self.incident.id

    @property
    def is_open(self) -> bool:
        """Whether it goes on, for all that is known."""
        return self.incident.cleared_at is None

    @property
    def is_old(self) -> bool:
        """Whether the node is not heard of any more."""
        return is_lost(self.view)


def is_lost(view: NodeView) -> bool:
    """Whether a node can tell nothing now."""
    return view.freshness in (Freshness.LOST, Freshness.CONNECTING)


def told(views: Iterable[NodeView], asked: Mapping[str, Sequence[Incident]], *, over: bool) -> list[Told]:
    """All incidents, the newest first.

    Args:
        views: the nodes, with what is open as the stream tells it.
        asked: what nodes answered when asked for more; of an incident that is in both, the stream's word counts.
        over: those that are over as well.
    """
    found: list[Told] = []
    for view in views:
        now = {each.id: each for each in (view.node.incidents if view.node is not None else ())}
        whole = len(now) < MAX_INCIDENTS
        for each in asked.get(view.name, ()):
            # Open by an older answer, and not in a stream that tells of all: it has cleared meanwhile.
            if each.id not in now and (over if each.cleared_at is not None else not whole):
                now[each.id] = each
        found += [Told(incident=each, view=view) for each in now.values()]
    return sorted(found, key=lambda each: (-each.incident.opened_at, each.view.name, -each.incident.id))


def table_rows(
    found: Iterable[Told], clock: Clock, marked: Collection[IncidentKey] = (), *, short: bool = False
) -> list[Row]:
    """The list, under `COLUMNS`; `short` leaves out by whom one was seen."""
    return [_row(each, clock, each.key in marked, short) for each in found]


def severity(incident: Incident) -> Cell:
    """Sign and word; of one that is over only the word is left."""
    sign, role = _SEVERITY.get(incident.severity, ("?", Role.WARN))
    if incident.cleared_at is not None:
        return cell(f"  {incident.severity.value}", Role.DIM)
    return cell(f"{sign} {incident.severity.value}", role)


def state(incident: Incident) -> str:
    """`open`, `seen by root`, `over`."""
    if incident.cleared_at is not None:
        return "over"
    if incident.acknowledged_at is None:
        return "open"
    return f"seen by {incident.acknowledged_by}" if incident.acknowledged_by else "seen"


def counts(found: Sequence[Told]) -> str:
    """`2 critical, 1 warning, 3 seen`: what of the open ones wants somebody."""
    opened = [each.incident for each in found if each.is_open]
    unseen = [each for each in opened if each.acknowledged_at is None]
    numbers = {word.value: sum(each.severity is word for each in unseen) for word in reversed(Severity)}
    numbers["seen"] = len(opened) - len(unseen)
    numbers["over"] = len(found) - len(opened)
    return ", ".join(f"{number} {word}" for word, number in numbers.items() if number) or "none is open"


def brief(found: Iterable[Told], clock: Clock) -> list[list[Span]]:
    """A line for each, where there is little room: sign, time, node, what."""
    lines: list[list[Span]] = []
    for each in found:
        sign, role = _SEVERITY.get(each.incident.severity, ("?", Role.WARN))
        words = f"{clock.moment(each.incident.opened_at)[:-3]} {each.view.name} {each.incident.what}"
        lines.append([(f" {sign} ", role), (words, Role.TEXT)])
    return lines or [[(" none is open", Role.DIM)]]


def concerns_inventory(incident: Incident) -> bool:
    """Whether to look at the inventory is the next thing to do."""
    return incident.kind in _INVENTORY


def facts(each: Told, cluster: Cluster, clock: Clock, wall: float, width: int) -> list[list[Span]]:
    """All there is to say about an incident, in lines of at most `width` cells where it is long."""
    incident, view = each.incident, each.view
    lines: list[list[Span]] = [[(" ", Role.TEXT), *severity(incident), (f"  {_place(each)}", Role.STRONG)]]
    lines[0].append((f"   {incident.kind.value}, number {incident.id}", Role.DIM))
    lines += [[(f" {line}", Role.STRONG)] for line in folded(incident.what, width - 2)]
    if incident.advice:
        lines += _advised(incident.advice, width)
    lines.append([(f" {_times(incident, clock, wall)}", Role.DIM)])
    if incident.drained_at is not None:
        lines.append([(f" its GPU was drained for it {clock.moment(incident.drained_at)}", Role.DIM)])
    if whom := _whom(each, cluster):
        lines.append([(f" {whom}", Role.TEXT)])
    gpu = next((gpu for gpu in view.gpus if gpu.uuid == incident.gpu_uuid), None)
    if gpu is not None and gpu.drain is not None and each.is_open:
        lines += [
            [(f" {line}", Role.WARN)]
            for line in folded(f"* the GPU is {rows.drain_note(gpu.drain)}; U resumes it", width - 2)[:2]
        ]
    if each.is_old:
        lines.append([(f" x the node is lost since {units.age(view.age_s)}: this is what it told last", Role.BAD)])
    return lines


def _row(each: Told, clock: Clock, marked: bool, short: bool) -> Row:
    incident = each.incident
    said = state(incident)
    times = f" (×{incident.count})" if incident.count > 1 else ""
    lost = "node lost; " if each.is_old and each.is_open else ""
    cells = (
        severity(incident),
        cell(clock.moment(incident.opened_at)),
        cell(("*" if marked else "") + each.view.name, Role.WARN if marked else Role.STRONG),
        cell(units.UNKNOWN if incident.gpu_index is None else str(incident.gpu_index)),
        cell(units.UNKNOWN if incident.job_id is None else str(incident.job_id)),
        cell(units.UNKNOWN if incident.pid is None else str(incident.pid)),
        cell(incident.user or units.UNKNOWN),
        cell(
            said.partition(" ")[0] if short else said,
            Role.TEXT if incident.acknowledged_at is None and each.is_open else Role.DIM,
        ),
        cell(f"{lost}{incident.what}{times}"),
    )
    return Row(key=each.key, cells=cells, faded=not each.is_open or each.view.freshness is not Freshness.LIVE)


def _place(each: Told) -> str:
    index = each.incident.gpu_index
    return each.view.name if index is None else f"GPU {index} of {each.view.name}"


def _advised(advice: str, width: int) -> list[list[Span]]:
    first, *rest = folded(advice, width - 10)
    return [[(" to do:  ", Role.ACCENT), (first, Role.TEXT)], *([(f"         {line}", Role.TEXT)] for line in rest)]


def _times(incident: Incident, clock: Clock, wall: float) -> str:
    words = [f"since {clock.moment(incident.opened_at)}"]
    if incident.cleared_at is None:
        words.append(f"open for {units.age(wall - incident.opened_at)}")
    else:
        by = f", said by {incident.cleared_by}" if incident.cleared_by else ""
        words.append(f"over since {clock.moment(incident.cleared_at)}{by}")
    if incident.count > 1:
        words.append(f"{incident.count} times, the last {clock.moment(incident.seen_at)}")
    if incident.acknowledged_at is not None:
        words.append(f"seen by {incident.acknowledged_by or '?'} {clock.moment(incident.acknowledged_at)}")
    return "   ".join(words)


def _whom(each: Told, cluster: Cluster) -> str:
    """Whom it hit: job, user, process, and the code of an XID."""
    incident = each.incident
    job = cluster.job_on(each.view.name, incident.job_id)
    words = []
    if incident.job_id is not None:
        named = f"{arrays.label(job)} {job.name} of {job.user}" if job is not None else str(incident.job_id)
        words.append(f"job {named}")
    elif incident.user:
        words.append(f"user {incident.user}")
    words += [f"pid {incident.pid}"] if incident.pid is not None else []
    words += [f"XID {incident.code}"] if incident.code is not None else []
    return "   ".join(words)
