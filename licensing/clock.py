"""Time that does not run back: the higher of the wall clock and what was known, plus uptime since.

`HighWater` is the highest time that was trusted, with the uptime at that moment. Rolling the clock back gains nothing,
and locks nobody out. A wall clock that jumps ahead further than uptime can explain is not kept either: it becomes
trusted after a day of uptime, so a broken clock battery cannot poison a site. Until then it counts only where the
machine may have been off (see `believed`). Signed times of the vendor are trusted as they come. Pure, except for
`read_uptime`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from licensing.moments import when

SKEW_S = 600
"""How far two clocks may differ and still be called the same."""
JUMP_S = 48 * 3600
"""How far a clock may have moved on between two boots without a doubt."""
BEHIND_S = 3600
"""How far a clock may be behind what is known before it is told."""
CONFIRM_S = 24 * 3600
"""Uptime after which a doubtful clock is trusted."""
_WRITE_S = 600
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Moment = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]
"""Unix seconds that a calendar can show: to the end of the year 9999."""


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

    time: Moment
    boot_id: str
    uptime: int
    ahead_since: int | None = None
    """Uptime of this boot at which the wall clock was first seen implausibly far ahead."""
    ahead_by: int = 0
    """How far it was ahead then; much further ahead is another doubt."""
    settled: bool = False
    """The wall clock of this boot agreed once with what was known: from then on uptime explains every later jump."""
    behind: bool = False
    """The wall clock is behind by so much that it is told (`is_behind`): kept, so that no restart tells it anew."""


def advance(mark: HighWater | None, wall: int, uptime: Uptime) -> HighWater:
    """Note what the wall clock says, as far as it can be trusted; `time` of the result is the confirmed time."""
    new = _advanced(mark, wall, uptime)
    return msgspec.structs.replace(new, behind=True) if is_behind(new, wall) else new


def _advanced(mark: HighWater | None, wall: int, uptime: Uptime) -> HighWater:
    if mark is None:
        return HighWater(time=wall, boot_id=uptime.boot_id, uptime=uptime.seconds)
    known = _known(mark, uptime)
    same_boot, ahead = mark.boot_id == uptime.boot_id, wall - known
    settled = mark.settled if same_boot else abs(ahead) <= JUMP_S
    if ahead <= (SKEW_S if same_boot and settled else JUMP_S):
        return _mark(max(wall, known), uptime, settled=settled)
    if not same_boot or mark.ahead_since is None or ahead > mark.ahead_by + JUMP_S:
        mark = msgspec.structs.replace(mark, ahead_since=uptime.seconds, ahead_by=ahead)
    if uptime.seconds - (mark.ahead_since or 0) >= CONFIRM_S:
        return _mark(wall, uptime, settled=True)
    return msgspec.structs.replace(
        mark, time=known, boot_id=uptime.boot_id, uptime=uptime.seconds, settled=settled, behind=False
    )


def believed(mark: HighWater, wall: int) -> int:
    """The time to decide and to sign by; `mark` comes fresh from `advance`.

    That is the confirmed time. Where this boot began with a doubt, the machine may have been off for long, so a wall
    clock ahead of what is known counts meanwhile, and leaves no mark behind.
    """
    return mark.time if mark.settled else max(mark.time, wall)


def trust(mark: HighWater, signed: int, wall: int) -> HighWater:
    """Note a time that the vendor signed: it has certainly come. `mark` comes fresh from `advance` of the same `wall`.

    A wall clock past that time, and in agreement with what is known, is no dead clock: the boot is settled.
    """
    if signed > mark.time:
        return msgspec.structs.replace(mark, time=signed, settled=False)
    is_near = mark.ahead_since is None and signed <= wall and mark.time - wall <= JUMP_S
    return msgspec.structs.replace(mark, settled=mark.settled or is_near)


def confirm(mark: HighWater, wall: int) -> HighWater:
    """Somebody vouches for the wall clock, which is ahead of what is known. `mark` comes fresh from `advance`."""
    return msgspec.structs.replace(mark, time=max(mark.time, wall), ahead_since=None, ahead_by=0, settled=True)


def put_back(mark: HighWater, moment: int) -> HighWater:
    """What was known is proven wrong, and it is `moment`: the only way back. `mark` comes fresh from `advance`."""
    return msgspec.structs.replace(mark, time=moment, ahead_since=None, ahead_by=0, settled=True, behind=False)


def proven(mark: HighWater, wall: int, *, asked: int, at: int, signed: int) -> int | None:
    """The time that the vendor's answer proves, where what is known is too far ahead of it; `None` where it is not.

    Args:
        mark: comes fresh from `advance`.
        wall: what the clock says.
        asked: when the request was made, by the site's own time.
        at: the site's own time now.
        signed: when the vendor signed the answer, which was after `asked` and before now.
    """
    latest = signed + max(0, at - asked)
    return min(max(wall, signed), latest) if mark.time - latest > JUMP_S else None


def lift(mark: HighWater, moment: int) -> HighWater:
    """Raise a mark fresh from `advance` to a time that another machine vouches for, if that is within `SKEW_S`."""
    return msgspec.structs.replace(mark, time=moment) if 0 < moment - mark.time <= SKEW_S else mark


def jump(before: HighWater, after: HighWater, uptime: Uptime) -> int:
    """How far the confirmed time jumped from `before` to `after`, beyond what uptime explains; seconds.

    0 where it moved on no further than a machine that was off may have: then nothing was wrong with its clock.
    """
    moved = after.time - _known(before, uptime)
    return moved if moved > JUMP_S else 0


def is_doubtful(certain: int, wall: int) -> bool:
    """Whether the wall clock shows a time long before a moment that has certainly come."""
    return certain - wall > JUMP_S


def is_right(certain: int, mark: HighWater, wall: int) -> bool:
    """Whether a clock that was doubtful is so no more: past what is certain, and in agreement with the confirmed."""
    return not is_doubtful(certain, wall) and abs(wall - mark.time) <= JUMP_S


def is_news(mark: HighWater | None, written: HighWater | None) -> bool:
    """Whether the mark is worth a write to disk: ten minutes on, another boot, or another opinion of the wall clock."""
    if mark is None or written is None:
        return mark is not written
    return _opinion(mark) != _opinion(written) or mark.time - written.time >= _WRITE_S


def _opinion(mark: HighWater) -> tuple[object, ...]:
    return mark.boot_id, mark.ahead_since, mark.settled, mark.behind


def doubt(mark: HighWater, wall: int) -> str:
    """Why the wall clock is not trusted, in words for the log."""
    return (
        f"the clock says {when(wall)}, and by the uptime it is {when(mark.time)}. It is believed after 24 h of "
        "uptime; if it is wrong run: timedatectl set-ntp true"
    )


def is_behind(mark: HighWater, wall: int) -> bool:
    """Whether the wall clock shows a time that has certainly passed, by more than what clocks differ and are set."""
    return mark.time - wall > BEHIND_S


def agrees(mark: HighWater, wall: int) -> bool:
    """Whether the wall clock is what is known; `mark` comes fresh from `advance`."""
    return abs(wall - mark.time) <= SKEW_S


def lag(mark: HighWater, wall: int) -> str:
    """What is wrong with a wall clock that is behind, in words for the log."""
    return (
        f"the clock says {when(wall)}, and it is at least {when(mark.time)}, by what was signed and seen. "
        "Leases and licences go by the later time. If the clock is wrong run: timedatectl set-ntp true; if it is right,"
        " it was ahead before, and there is nothing to do"
    )


def _known(mark: HighWater, uptime: Uptime) -> int:
    """The mark plus the uptime since; after a reboot at least this boot's whole uptime has passed."""
    elapsed = uptime.seconds - mark.uptime if mark.boot_id == uptime.boot_id else uptime.seconds
    return mark.time + max(0, elapsed)


def _mark(moment: int, uptime: Uptime, *, settled: bool) -> HighWater:
    return HighWater(time=moment, boot_id=uptime.boot_id, uptime=uptime.seconds, settled=settled)
