"""Time that does not run back: the higher of the wall clock and what was known, plus uptime since.

`HighWater` is the highest time that was trusted, with the uptime at that moment. Rolling the clock back gains nothing,
and locks nobody out. A wall clock that jumps ahead further than uptime can explain counts at once but is not kept:
it becomes trusted after a day of uptime, so a broken clock battery cannot poison a site. Signed times are trusted
as they come. Pure, except for `Uptime`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

JUMP_S = 48 * 3600
CONFIRM_S = 24 * 3600
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Uptime:
    """A reading that no one sets: seconds since boot (asleep ones too), and which boot."""

    boot_id: str
    seconds: int


UptimeReader = Callable[[], Uptime]


def read_uptime() -> Uptime:
    """CLOCK_BOOTTIME of clock_gettime(2) and the kernel's boot id."""
    return Uptime(
        boot_id=_BOOT_ID.read_text(encoding="ascii").strip(), seconds=int(time.clock_gettime(time.CLOCK_BOOTTIME))
    )


class HighWater(msgspec.Struct, frozen=True, kw_only=True):
    """The highest trusted time, and the uptime when it was noted. All in seconds."""

    time: int
    boot_id: str
    uptime: int
    ahead_since: int | None = None
    """Uptime of this boot at which the wall clock was first seen implausibly far ahead."""


def effective(mark: HighWater | None, wall: int, uptime: Uptime) -> int:
    """The time to decide by."""
    return wall if mark is None else max(wall, _known(mark, uptime))


def advance(mark: HighWater | None, wall: int, uptime: Uptime) -> HighWater:
    """Note what the wall clock says, as far as it can be believed."""
    if mark is None:
        return _mark(wall, uptime)
    known = _known(mark, uptime)
    if wall - known <= JUMP_S:
        return _mark(max(wall, known), uptime)
    same_boot = mark.boot_id == uptime.boot_id
    since = mark.ahead_since if same_boot and mark.ahead_since is not None else uptime.seconds
    if uptime.seconds - since >= CONFIRM_S:
        return _mark(wall, uptime)
    return msgspec.structs.replace(_mark(known, uptime), ahead_since=since)


def trust(mark: HighWater, signed: int, uptime: Uptime) -> HighWater:
    """Note a time that somebody signed: it has certainly come."""
    known = _known(mark, uptime)
    return mark if signed <= known else _mark(signed, uptime)


def _known(mark: HighWater, uptime: Uptime) -> int:
    """The mark plus the uptime since; after a reboot at least this boot's whole uptime has passed."""
    elapsed = uptime.seconds - mark.uptime if mark.boot_id == uptime.boot_id else uptime.seconds
    return mark.time + max(0, elapsed)


def _mark(moment: int, uptime: Uptime) -> HighWater:
    return HighWater(time=moment, boot_id=uptime.boot_id, uptime=uptime.seconds)
