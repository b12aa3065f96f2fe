"""The lines that every screen has: the top line, the licence, the trouble with the link, the keys. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from agent.api.types import Licence, LicenceStage
from tui import safe, units
from tui.cluster import Cluster, Freshness, LinkView, Totals
from tui.spans import Role, Span

SIGNS = {
    LicenceStage.ACTIVE: ("●", Role.OK),
    LicenceStage.NOTICE: ("!", Role.WARN),
    LicenceStage.GRACE: ("!", Role.BAD),
    LicenceStage.PERPETUAL: ("x", Role.BAD),
    LicenceStage.RESTRICTED: ("x", Role.BAD),
}

_LINK = {
    Freshness.LIVE: ("●", Role.OK),
    Freshness.STALE: ("~", Role.WARN),
    Freshness.LOST: ("x", Role.BAD),
    Freshness.CONNECTING: ("…", Role.WARN),
}


def place(cluster: Cluster, trail: Sequence[str]) -> list[Span]:
    """Cluster and screen: ` acme ▸ Jobs ▸ 17`."""
    name = cluster.hello.cluster if cluster.hello else "stoker"
    spans: list[Span] = [(f" {name}", Role.STRONG)]
    for step in trail:
        spans += [(" ▸ ", Role.DIM), (step, Role.ACCENT)]
    return spans


def top_line(cluster: Cluster, now: float, trail: Sequence[str], right: Sequence[Span], width: int) -> list[Span]:
    """The left part of the top line: place and counts, in the longest form that leaves room for `right`."""
    where = place(cluster, trail)
    room = width - _cells(right)
    totals = cluster.totals(now)
    forms = (
        _counts(totals, wide=True) + _critical(totals, wide=True),
        _counts(totals, wide=False) + _critical(totals, wide=True),
        _counts(totals, wide=False) + _critical(totals, wide=False),
        _nodes(totals, wide=False) + _critical(totals, wide=False),
        _critical(totals, wide=False),
    )
    return next((where + form for form in forms if _cells(where + form) <= room), where)


def _critical(totals: Totals, *, wide: bool) -> list[Span]:
    """The critical incidents that are open; those that somebody has seen do not shout."""
    if not totals.critical:
        return []
    words = " critical" if wide else " crit"
    if totals.critical_unseen:
        return [(f"  !{totals.critical_unseen}{words}", Role.BAD)]
    return [(f"  {totals.critical}{words}, seen", Role.WARN)]


def _counts(totals: Totals, *, wide: bool) -> list[Span]:
    """What there is and how much of it works."""
    if not totals.nodes:
        return []
    spans = _nodes(totals, wide=wide)
    spans += [("  GPUs ", Role.DIM), (f"{totals.gpus_busy}/{totals.gpus}", Role.STRONG)]
    spans.append((" busy" if wide else "", Role.DIM))
    if totals.gpus_bad:
        spans.append((f" !{totals.gpus_bad}" + (" not working" if wide else ""), Role.BAD))
    return spans


def _nodes(totals: Totals, *, wide: bool) -> list[Span]:
    spans: list[Span] = [("  ", Role.TEXT), (f"{totals.nodes_up}/{totals.nodes}", Role.STRONG)]
    spans.append((" nodes up" if wide else " up", Role.DIM))
    if totals.nodes_stale:
        spans.append((f" ~{totals.nodes_stale}" + (" stale" if wide else ""), Role.WARN))
    if totals.nodes_lost:
        spans.append((f" x{totals.nodes_lost}" + (" lost" if wide else ""), Role.BAD))
    return spans


def _cells(spans: Sequence[Span]) -> int:
    return sum(safe.width(text) for text, _ in spans)


def queue_words(cluster: Cluster, now: float) -> str:
    """`3 running, 2 pending`."""
    totals = cluster.totals(now)
    warned = sum(job.warning is not None for job in cluster.jobs())
    return f"{totals.running} running, {totals.pending} pending" + (f", {warned} warned" if warned else "")


def link_words(cluster: Cluster, link: LinkView, time_of_day: str) -> list[Span]:
    """The right end of the top line."""
    glyph, role = _LINK[link.freshness]
    server = cluster.hello.server if cluster.hello else "server"
    words = server if link.freshness is Freshness.LIVE else f"{server} {link.freshness.value}"
    if link.freshness in (Freshness.STALE, Freshness.LOST) and link.age_s is not None:
        words += f" {units.age(link.age_s)}"
    simulated: list[Span] = [("simulated  ", Role.WARN)] if cluster.simulated else []
    return [(" ", Role.TEXT), *simulated, (f"{glyph} {words}", role), (f"  {time_of_day} ", Role.DIM)]


def trouble(link: LinkView, where: str) -> list[Span]:
    """Why nothing new comes, in a line; empty while all is well."""
    if link.freshness is Freshness.LIVE:
        return []
    if link.freshness is Freshness.CONNECTING and link.reason is None:
        return [(f" … connecting to {where}", Role.WARN)]
    heard = f"last heard {units.age(link.age_s)} ago" if link.age_s is not None else f"no connection to {where}"
    again = f" · {units.next_try(link.retry_in_s)}" if link.retry_in_s is not None else ""
    again += ", r tries now" if link.retry_in_s else ""
    said = f" · {link.reason}" if link.reason else ""
    return [(f" x {heard}{again}{said}", Role.BAD)]


def licence_line(cluster: Cluster, wall: float, width: int | None = None) -> tuple[list[Span], list[Span]]:
    """The licence with its countdown: left what holds, right the seats. In `width` cells, what matters comes first."""
    licence = cluster.licence
    if licence is None:
        return [(" … Licence not known yet", Role.DIM)], []
    glyph, role = SIGNS.get(licence.stage, ("!", Role.WARN))
    left: list[Span] = [(f" {glyph} ", role), ("Licence ", Role.DIM), (terms(licence, wall), Role.TEXT)]
    if licence.stage is not LicenceStage.ACTIVE:
        code = f" {licence.code}" if licence.code else ""
        fix = f" · run: {licence.fix}" if licence.fix else ""
        left.append((f"  {licence.stage.value}{code}: {licence.message}{fix}", role))
    beyond = [
        (f"  ! {each.unit}s {each.used} of {each.limit}", Role.WARN)  # its sentence is on the licence screen
        for each in licence.units
        if each.told
    ]
    seats: list[Span] = [*beyond, ("  seats ", Role.DIM), (f"{licence.seats_used}/{licence.seats_total} ", Role.STRONG)]
    if width is not None and _cells(left) + _cells(seats) > width:
        code = f" {licence.code}" if licence.code else ""
        left = [(f" {glyph} {licence.stage.value}{code}", role), (f" {_short(licence, wall)} ", Role.TEXT)]
        left += [(" 6", Role.ACCENT), (" says what to do", Role.TEXT)]
        run: list[Span] = [(f", or run: {licence.fix}", Role.TEXT)] if licence.fix else []
        left += run if _cells(left + run) + _cells(seats) <= width else []
    return left, seats


def _short(licence: Licence, wall: float) -> str:
    """What the stage means, where there is no room for the server's sentence."""
    if licence.stage in (LicenceStage.PERPETUAL, LicenceStage.RESTRICTED):
        return "new jobs are held"
    if hours := hours_left(licence):
        return hours
    ends = licence.restricted_at if licence.stage is LicenceStage.GRACE else licence.expires_at
    return "is about to end" if ends is None else f"{units.countdown(max(0.0, ends - wall))} left"


def keys_line(forms: Sequence[Sequence[tuple[str, str]]], width: int) -> list[Span]:
    """The keys of a screen in the first form that fits, else in the last."""
    spans: list[Span] = []
    for keys in forms:
        spans = [span for written, label in keys for span in ((f" {written}", Role.ACCENT), (f" {label}", Role.TEXT))]
        if _cells(spans) <= width:
            break
    return spans


def hours_left(licence: Licence) -> str | None:
    """`58.4 GPU-hours left`, of a prepaid licence."""
    left = licence.prepaid_gpu_seconds_left
    if left is None:
        return None
    return f"{abs(left) / 3600:.1f} GPU-hours {'left' if left >= 0 else 'beyond what was paid'}"


def terms(licence: Licence, wall: float) -> str:
    """`evaluation, 13 d 23 h left`."""
    who = "evaluation" if licence.evaluation else licence.customer or licence.plan or ""
    if licence.licence_id is None and not who:
        return "none"
    if hours := hours_left(licence):
        return f"{who}, {hours}" if who else hours
    if licence.expires_at is None:
        return f"{who}, no end" if who else "no end"
    left = licence.expires_at - wall
    term = f"{units.countdown(left)} left" if left > 0 else f"ended {units.countdown(-left)} ago"
    return f"{who}, {term}" if who else term
