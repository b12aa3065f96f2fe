"""Recurring jobs: what is kept of one, and what is due at a moment. Pure; the clock and the zone are given.

Rules kept here: a time that has been served (or skipped) is never served again, also when the clock goes back; however
many times passed while the node was off, at most one run makes up for them, and only where that was asked for. What a
time means across daylight saving is cron(8)'s rule as Debian has it (by cronsim): a fixed time that the clock jumps
over is served right after the jump, one that comes twice is served once; `*/15` and the like follow the real time.
cronsim and the zones are loaded where a recurring job is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path

import msgspec

from agent.api.queue import Missed
from agent.api.types import SubmitRequest
from agent.jobs.errors import SpecError

LATE_S = 90
"""Served this much late is on time: a busy node, a restart. Later is missed."""

_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
"""crontab(5). `@reboot` is not among them: a reboot is no time."""


class StoredCron(msgspec.Struct, frozen=True, kw_only=True):
    """A recurring job as it is kept."""

    id: int
    schedule: str
    name: str
    user: str
    uid: int
    key: str
    """Idempotency key of the request that made it."""
    request: SubmitRequest
    missed: Missed = Missed.SKIP
    overlap: bool = False
    next_at: int
    """Unix seconds of the time served next; every earlier one is done with."""
    last_at: int | None = None
    last_job_id: int | None = None
    last_note: str | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fire:
    """Submit now, for the time `slot`; then the next one is `next_at`."""

    slot: int
    next_at: int
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Times have passed that nobody serves any more; the next one is `next_at`."""

    next_at: int
    note: str


def check(schedule: str) -> str:
    """The five fields of a schedule, nicknames written out.

    Raises:
        SpecError: it is none, or never comes.
    """
    text = " ".join(schedule.split())
    fields = _NICKNAMES.get(text.lower(), text)
    if text.startswith("@") and fields == text:
        raise SpecError(f"{_shown(text)!r} is not a schedule; known names: {', '.join(_NICKNAMES)}", "$.schedule")
    if len(fields.split(" ")) != 5 or len(fields) > 200:
        raise SpecError(
            f'{_shown(text)!r} is not a schedule; write five fields as in crontab(5): "0 3 * * 1" is Mondays at 3',
            "$.schedule",
        )
    from cronsim import CronSim, CronSimError

    try:
        next(CronSim(fields, datetime(2024, 1, 1)))
    except (CronSimError, StopIteration) as error:
        why = str(error) or "it never comes"
        raise SpecError(f"{_shown(text)!r} is not a schedule: {why}; see crontab(5)", "$.schedule") from error
    return fields


def next_after(schedule: str, at: int, zone: tzinfo) -> int:
    """The first time of a checked schedule that is later than `at`; both Unix seconds."""
    from cronsim import CronSim

    moment = datetime.fromtimestamp(at, zone)
    return int(next(CronSim(schedule, moment)).timestamp())


def look(cron: StoredCron, now: int, zone: tzinfo) -> Wait | Fire | Skip:
    """What is due of `cron` at `now`."""
    if now < cron.next_at:
        return Wait()
    following = next_after(cron.schedule, max(now, cron.next_at), zone)
    if now - cron.next_at <= LATE_S:
        return Fire(slot=cron.next_at, next_at=following)
    when = datetime.fromtimestamp(cron.next_at, zone).strftime("%Y-%m-%d %H:%M")
    if cron.missed is Missed.RUN:
        return Fire(slot=cron.next_at, next_at=following, note=f"makes up for {when}, when the node was off")
    return Skip(next_at=following, note=f"skipped {when}: the node was off, or its clock was set forward")


def local_zone() -> tzinfo:
    """The node's own time zone with its rules: `$TZ`, else /etc/localtime; UTC where neither can be read."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    name = os.environ.get("TZ", "").removeprefix(":")
    try:
        if name:
            return ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file, key="localtime")
    except (ZoneInfoNotFoundError, OSError, ValueError):
        return ZoneInfo("UTC")


def _shown(text: str) -> str:
    short = text if len(text) <= 60 else f"{text[:57]}…"
    return short if short.isprintable() else repr(short)[1:-1]
