"""What there is to tell of a month's GPU time: totals, and who used it, by user, account and model. Pure.

Hours are those of the ledger: of GPUs given to jobs, whole ones and parts; months are UTC's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from agent.api.types import Licence
from agent.api.usage import UsageBy, UsageMonth, UsageSum
from tui import safe, spans, status, units
from tui.session import Clock
from tui.spans import Column, Role, Row, Span, cell

HOUR_MS = 3_600_000
TITLES = {UsageBy.USER: "Users", UsageBy.ACCOUNT: "Accounts", UsageBy.MODEL: "Models"}
_BAR = 8
_NAMES = 9


def columns(by: UsageBy) -> tuple[Column, ...]:
    """Of a table of sums."""
    return (
        Column(title=by.value.upper(), least=8, grow=True),
        Column(title="GPU-HOURS", least=9, most=12, firm=True, right=True),
        Column(title="SHARE", least=5, most=6, firm=True, right=True),
        Column(title="", least=_BAR, most=_BAR, drop=1),
        Column(title="JOBS", least=4, most=7, firm=True, right=True),
    )


def month_of(wall: float, back: int = 0) -> str:
    """`2026-11`: so many months before the present one."""
    day = datetime.fromtimestamp(wall, UTC)
    months = day.year * 12 + day.month - 1 - back
    return f"{months // 12}-{months % 12 + 1:02}"


def table_rows(sums: Sequence[UsageSum]) -> list[Row]:
    """One for each user, account or model, the most first as the server has them."""
    total = sum(each.gpu_ms for each in sums)
    most = max((each.gpu_ms for each in sums), default=0)
    rows = []
    for each in sums:
        name = cell(safe.text(each.name), Role.STRONG) if each.name else cell("(none)", Role.DIM)
        cells = (
            name,
            cell(hours_of(each.gpu_ms)),
            cell(f"{100 * each.gpu_ms / total:.0f} %" if total else units.UNKNOWN, Role.DIM),
            spans.bar(each.gpu_ms / most if most else 0.0, _BAR),
            cell(str(each.jobs)),
        )
        rows.append(Row(key=each.name, cells=cells))
    return rows


def summary(
    told: Mapping[UsageBy, UsageMonth],
    licence: Licence | None,
    month: str,
    *,
    current: bool,
    clock: Clock,
    wall: float,
    width: int,
) -> list[list[Span]]:
    """The month's total, what of it the licence counts, and who is missing. Folded to `width` cells."""
    parts = [("month", f"{month} (UTC){', up to now' if current else ''}", Role.TEXT)]
    users = told.get(UsageBy.USER)
    if users is not None:
        total = sum(each.gpu_ms for each in users.sums)
        nodes, many = units.count(len(users.nodes), "node"), units.count(len(users.sums), "user")
        parts.append(("used", f"{hours_of(total)} GPU-hours on {nodes}, by {many}", Role.STRONG))
        if users.silent:
            names = ", ".join(safe.text(each) for each in users.silent)
            parts.append(("missing", f"{names} did not answer, and {_is(len(users.silent))} not counted in", Role.WARN))
    parts += _of_licence(licence, clock, wall)
    lines: list[list[Span]] = []
    for name, value, role in parts:
        for turn, piece in enumerate(spans.folded(value, max(20, width - _NAMES - 2))):
            lines.append([(f" {name if turn == 0 else '':<{_NAMES}}", Role.DIM), (piece, role)])
    return lines


def hours_of(gpu_ms: int) -> str:
    """`1234.5`; below ten with two digits, so that a short test is not nothing."""
    value = gpu_ms / HOUR_MS
    return f"{value:.2f}" if 0 < value < 10 else f"{value:.1f}"


def _of_licence(licence: Licence | None, clock: Clock, wall: float) -> list[tuple[str, str, Role]]:
    if licence is None:
        return []
    parts = []
    if hours := status.hours_left(licence):
        spent = (licence.prepaid_gpu_seconds_left or 0) <= 0
        parts.append(("prepaid", hours, Role.BAD if spent else Role.TEXT))
    if licence.report_by is not None:
        away = licence.report_by - wall
        when = f"in {units.countdown(away)}" if away > 0 else f"{units.countdown(-away)} ago"
        words = f"usage report due by {clock.date(licence.report_by)}, {when}: stoker-license usage export"
        parts.append(("report", words, Role.TEXT if away > 0 else Role.BAD))
    return parts


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
