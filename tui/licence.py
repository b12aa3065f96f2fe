"""What there is to tell of the licence: how it stands and what helps, who holds the seats, what was done. Pure.

Rules kept here: the server says why, in its own words; what is blocked and since when is told apart from it, so that
nobody has to look for it in a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from agent.api.types import Gpu, Licence, LicenceEvent, LicenceStage, LicenceUnit, LockedFeature, SeatHolder
from tui import safe, spans, units
from tui.cluster import Cluster, Freshness, NodeView
from tui.session import Clock
from tui.spans import Column, Role, Row, Span, cell
from tui.status import SIGNS, hours_left

SEAT_COLUMNS = (
    Column(title="NODE / GPU", least=10, most=24),
    Column(title="SEATS", least=9, most=14, firm=True),
    Column(title="UNTIL", least=12, most=16, firm=True, drop=1),
    Column(title="JOB", least=6, most=12),
    Column(title="USER", least=6, most=14),
    Column(title="NAME", least=4, grow=True, drop=2),
)
HISTORY_COLUMNS = (
    Column(title="WHEN", least=12, most=12, firm=True),
    Column(title="EVENT", least=9, most=10, firm=True),
    Column(title="ABOUT", least=10, most=28),
    Column(title="DETAIL", least=10, grow=True),
)
_HOLDS = (LicenceStage.PERPETUAL, LicenceStage.RESTRICTED)
_NAMES = 9
_STILL = re.compile(r"\s*(Running jobs go on [^.]*)\.")
"""The sentence by which the server says what still works; told in a line of its own."""
_WORKS = "Running jobs go on to their end; login, monitoring, logs, export, drain, stop and every licence command work"
_DETAIL = re.compile(r"(LIC-\d{3}): (.*?)(?: Run: (.+))?", re.DOTALL)

_Part = tuple[str, str, Role]


def standing(licence: Licence | None, wall: float, clock: Clock, width: int) -> list[list[Span]]:
    """The stage, what is blocked, what works, the command, why; then what was bought. Folded to `width` cells.

    The reason is the only one that may be long, so it comes last: in 80 columns and 24 lines the others are seen whole.
    """
    if licence is None:
        return [[(" not known yet", Role.DIM)]]
    glyph, role = SIGNS.get(licence.stage, ("!", Role.WARN))
    stage = f"{glyph} {licence.stage.value}" + (f" {licence.code}" if licence.code else "")
    why, works = _apart(licence.message)
    parts = [("stage", stage, role)]
    if licence.stage is not LicenceStage.ACTIVE:
        parts += [
            ("blocked", _blocked(licence, clock, wall), role),
            ("works", works or _WORKS, Role.TEXT),
            ("run", _to_run(licence.fix), Role.ACCENT),
        ]
    parts += [("why", why, Role.TEXT), *_notices(licence, clock), *_bought(licence, wall, clock)]
    return _folded(parts, width)


def _to_run(fix: str | None) -> str:
    return f"{fix} (here: I)" if fix and fix.startswith("stoker-license ") else fix or ""


def _notices(licence: Licence, clock: Clock) -> Iterable[_Part]:
    """What the chains of leases show: another hub leads, a node has the identity of another machine."""
    if licence.epoch_heard > licence.epoch:
        told = f"epoch {licence.epoch_heard} took over; this hub speaks with {licence.epoch} and gives no leases"
        yield "hub", told, Role.BAD
        yield "run", "stoker-license standby promote, if this hub is the one to lead; else stop it", Role.ACCENT
    for each in licence.forked:
        of = "another machine" if each.of == each.node else each.of
        yield "copy", f"{each.node} has the identity of {of} since {clock.moment(each.since)}; no new lease", Role.WARN
        yield "run", f"stoker-license node adopt --new {each.node}", Role.ACCENT
    for unit in licence.units:
        if unit.told:
            yield f"{unit.unit}s", unit.told, Role.WARN


def held_job(detail: str | None) -> list[_Part]:
    """What a job says that waits for the licence: code, why with since when, what still works, the command."""
    found = _DETAIL.fullmatch(detail or "")
    if found is None:
        return []
    code, message, fix = found.groups()
    why, works = _apart(message)
    return [
        ("reason", f"License {code}", Role.WARN),
        ("why", why, Role.TEXT),
        ("works", works or _WORKS, Role.TEXT),
        ("run", fix or "stoker-license status", Role.ACCENT),
    ]


def _apart(message: str) -> tuple[str, str | None]:
    found = _STILL.search(message)
    return (message, None) if found is None else ((message[: found.start()] + message[found.end() :]), found.group(1))


def _blocked(licence: Licence, clock: Clock, wall: float) -> str:
    """What is, or will be, and from when."""
    if licence.stage in _HOLDS:
        since = licence.restricted_at
        when = f" since {clock.moment(since)}, {units.countdown(wall - since)}" if since and since <= wall else ""
        return f"new jobs wait in the queue with reason License{when}; nothing else"
    ends = licence.restricted_at
    from_then = f"; new jobs from {clock.moment(ends)} on, in {units.countdown(ends - wall)}" if ends else ""
    if licence.stage is LicenceStage.GRACE:
        since = licence.expires_at or (licence.hardware.since if licence.hardware else None)
        begun = f" since {clock.moment(since)}" if since else ""
        return f"further GPUs and nodes get no seat{begun}{from_then}"
    spent = ", or a tenth beyond the prepaid hours" if licence.prepaid_gpu_seconds_left is not None else ""
    return f"nothing yet{from_then}{spent}"


def _bought(licence: Licence, wall: float, clock: Clock) -> list[_Part]:
    if licence.licence_id is None:
        return [("site key", licence.site_key or "", Role.DIM)]
    held = f"{licence.seats_used} of {licence.seats_total} GPUs"
    borrowed = sum(len(each.gpu_uuids) for each in licence.holders if each.borrowed)
    over = max(0, licence.seats_used - licence.seats_total)
    seats = held + (f", {borrowed} of them borrowed" if borrowed else "") + (f", {over} overdraft" if over else "")
    values = [
        ("licence", _identity(licence)),
        ("seats", seats),
        *((f"{each.unit}s", _unit(each)) for each in licence.units),
        ("machine", _machine(licence, wall)),
        ("ends", _ends(licence, wall, clock)),
        ("prepaid", hours_left(licence)),
        ("report", None if licence.report_by is None else f"usage report due by {clock.date(licence.report_by)}"),
        ("opens", ", ".join(licence.features)),
        ("locked", _locked(licence)),
        ("asked", _asked(licence, clock)),
    ]
    parts = [(name, value, Role.TEXT) for name, value in values if value]
    if licence.development_roots:
        parts.append(("roots", "DEVELOPMENT: anybody can sign licences for this build", Role.WARN))
    return parts


def _asked(licence: Licence, clock: Clock) -> str:
    """What waits for the vendor; what was superseded is in the history below."""
    waiting = [each for each in licence.pending if not each.superseded][:2]
    return "; ".join(f"{each.want}, answer taken until {clock.moment(each.until)}" for each in waiting)


def _unit(each: LicenceUnit) -> str:
    """`3 of 5 with an agent`; one that is beyond has a line of its own."""
    if each.told or (not each.used and each.limit is None):
        return ""
    of = f" of {each.limit}" if each.limit is not None else ""
    what = {"node": "with an agent", "admin": f"in the last 30 days: {', '.join(each.names)}" if each.names else ""}
    return f"{each.used}{of} {what.get(each.unit, '')}".rstrip()


def _locked(licence: Licence) -> str:
    """What a job would wait for, and the edition that has it."""
    return ", ".join(
        f"{each.feature}{f' ({_sold(each)})' if each.edition else ''}" for each in licence.locked if not each.planned
    )


def _sold(each: LockedFeature) -> str:
    return each.sold_with or f"edition {each.edition}"


def _identity(licence: Licence) -> str:
    """`yearly, edition pro, of ACME, lic-1 rev 2, bound to this site, sold by X`."""
    words = [licence.plan or ""]
    if licence.edition:
        words.append(f"edition {licence.edition}")
    if licence.customer:
        words.append(f"of {licence.customer}")
    words.append(f"{licence.licence_id}" + (f" rev {licence.rev}" if licence.rev is not None else ""))
    if not licence.evaluation:
        words.append("bound to this site" if licence.bound else "a voucher, bound to no site")
    sold = licence.brand or licence.reseller
    return ", ".join(word for word in (*words, f"sold by {sold}" if sold else "") if word)


def _machine(licence: Licence, wall: float) -> str:
    """What binds it to the hub's machine, and for how long that may be another one."""
    hardware = licence.hardware
    if hardware is None or (licence.evaluation and hardware.mode == "none"):
        return ""
    left = None if hardware.grace_until is None else hardware.grace_until - wall
    grace = f"; new jobs for {units.countdown(left)} more" if left is not None and left > 0 else ""
    changes = f"; it changed {hardware.drifts} times in a year" if hardware.drifts and hardware.remarks else ""
    return f"{hardware.told}{grace}{changes}"


def _ends(licence: Licence, wall: float, clock: Clock) -> str:
    if licence.expires_at is None:
        until = "" if licence.updates_until is None else f", with builds up to {clock.date(licence.updates_until)}"
        return f"never{until}"
    left = licence.expires_at - wall
    away = f"in {units.countdown(left)}" if left > 0 else f"{units.countdown(-left)} ago"
    return f"{clock.date(licence.expires_at)}, {away}"


def _folded(parts: Iterable[_Part], width: int) -> list[list[Span]]:
    lines: list[list[Span]] = []
    for name, value, role in parts:
        for turn, piece in enumerate(spans.folded(value, max(20, width - _NAMES - 2)) if value else ()):
            lines.append([(f" {name if turn == 0 else '':<{_NAMES}}", Role.DIM), (piece, role)])
    return lines


# --- seats ------------------------------------------------------------------------------------------------------------


def seat_rows(cluster: Cluster, now: float, clock: Clock) -> list[Row]:
    """Nodes, and under each its GPUs: whether they have a seat, until when, and which job and user is on them."""
    licence = cluster.licence
    holders = {each.node: each for each in licence.holders} if licence else {}
    views = {view.name: view for view in cluster.nodes(now)}
    rows: list[Row] = []
    for name in [*views, *sorted(set(holders) - set(views))]:
        holder, view = holders.get(name), views.get(name)
        rows.append(_node_row(cluster, name, holder, view, clock))
        rows += _gpu_rows(cluster, name, holder, view, clock)
    return rows


def _node_row(cluster: Cluster, name: str, holder: SeatHolder | None, view: NodeView | None, clock: Clock) -> Row:
    held = len(holder.gpu_uuids) if holder else 0
    there = len(_whole(view)) if view else 0
    short = held < there
    users = sorted({job.user for gpu in (view.gpus if view else ()) if (job := cluster.job_on(name, gpu.job_id))})
    note = "" if view is None or view.freshness is Freshness.LIVE else f"node {view.freshness.value}"
    return Row(
        key=name,
        cells=(
            cell(name, Role.STRONG),
            cell(f"{held} of {there}" if view else f"{held}", Role.WARN if short else Role.TEXT),
            cell(_until(holder, clock), Role.DIM),
            cell(""),
            cell(", ".join(users), Role.DIM),
            cell(note, Role.WARN),
        ),
    )


def _gpu_rows(cluster: Cluster, name: str, holder: SeatHolder | None, view: NodeView | None, clock: Clock) -> list[Row]:
    held = set(holder.gpu_uuids) if holder else set()
    gpus = _whole(view)
    rows = []
    for gpu in gpus:
        job = cluster.job_on(name, gpu.job_id)
        seat = ("borrowed" if holder and holder.borrowed else "seat") if gpu.uuid in held else "no seat"
        rows.append(
            Row(
                key=(name, gpu.uuid),
                cells=(
                    cell(f"  {gpu.index}"),
                    cell(seat, Role.OK if gpu.uuid in held else Role.WARN),
                    cell(_until(holder, clock) if gpu.uuid in held else "", Role.DIM),
                    cell(str(job.id) if job else ""),
                    cell(job.user if job else ""),
                    cell(job.name if job else "", Role.DIM),
                ),
            )
        )
    unseen = sorted(held - {gpu.uuid for gpu in gpus})
    blank = cell("")
    rows += [
        Row(key=(name, uuid), cells=(cell(f"  {uuid}"), cell("seat"), cell(_until(holder, clock)), *[blank] * 3))
        for uuid in unseen
    ]
    return rows


def _whole(view: NodeView | None) -> list[Gpu]:
    """A MIG instance has its GPU's seat."""
    return [gpu for gpu in view.gpus if gpu.mig_parent is None] if view else []


def _until(holder: SeatHolder | None, clock: Clock) -> str:
    return clock.moment(holder.until) if holder else ""


# --- history ----------------------------------------------------------------------------------------------------------


def history_rows(events: Sequence[LicenceEvent], clock: Clock) -> list[Row]:
    """What was done, newest first."""
    return [
        Row(
            key=each.number,
            cells=(
                cell(clock.moment(each.at), Role.DIM),
                cell(each.event, Role.STRONG),
                cell(safe.truncate(each.subject, 40)),
                cell(_said(each, clock), Role.DIM),
            ),
        )
        for each in events
    ]


_MOMENTS = ("until", "since", "report_by", "begins", "ends", "was", "wall")
"""Fields of the trail that are Unix seconds."""


def _said(event: LicenceEvent, clock: Clock) -> str:
    words = []
    for name, value in event.detail.items():
        if name in _MOMENTS and isinstance(value, int) and value > 0:
            words.append(f"{name.replace('_', ' ')} {clock.moment(value)}")
        elif name == "gpus" and isinstance(value, list):
            words.append(units.count(len(value), "GPU"))
        elif value is not None and value != "":
            shown = ", ".join(value) if isinstance(value, list) else str(value)
            words.append(f"{name.replace('_', ' ')} {shown}")
    return ", ".join(words)
