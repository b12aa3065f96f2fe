"""From rings to at most so many buckets: what `GET /v1/history` answers. Pure but for the reading of one range.

Rules kept here: the finest ring that reaches back far enough and is not finer than needed is read; buckets begin at
multiples of their width, so that a picture that is drawn again does not shimmer; a stretch without a measurement is
absent, never 0 and never the value before.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from agent.telemetry.bucket import Spread
from agent.telemetry.ringfile import Columns, RingFile, Tier

_NICE_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 14400, 21600, 28800, 43200)
"""Widths that a person reads off an axis; beyond them whole days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookback:
    """One metric over a time."""

    width_s: int
    begin: int
    """Unix seconds of the first bucket's beginning, a multiple of the width."""
    spreads: list[Spread | None]
    """`None`: nothing was measured then."""


def look_back(ring: RingFile, metric: str, *, since: int, until: int, points: int, now: int) -> Lookback:
    """A metric between two moments in at most `points` buckets.

    Args:
        ring: the file.
        metric: one of its metrics.
        since: Unix seconds; what is older than the longest ring is a gap.
        until: Unix seconds, above `since`; what is to come is not told of.
        points: at least 1.
        now: which rings reach back far enough.

    Raises:
        OSError: the disk refuses.
    """
    until = max(since + 1, min(until, now + 1))
    since = max(since, now - ring.tiers[-1].span_s)
    until = max(since + 1, until)
    index = choose_tier(ring.tiers, since=since, until=until, points=points, now=now)
    tier = ring.tiers[index]
    width_s = choose_width(tier.width_s, since=since, until=until, points=points)
    begin, end = since // width_s * width_s, -(-until // width_s) * width_s
    first, last = begin // tier.width_s, end // tier.width_s - 1
    newest = min(last, now // tier.width_s)
    oldest = max(
        first, newest - tier.rows + 1
    )  # `begin` may lie before the ring's, which holds the newest in its place
    columns = ring.columns(index, metric, oldest, newest, lead=oldest - first)
    per = width_s // tier.width_s
    return Lookback(width_s=width_s, begin=begin, spreads=_fold(columns, first, (end - begin) // width_s, per))


def choose_tier(tiers: Sequence[Tier], *, since: int, until: int, points: int, now: int) -> int:
    """The coarsest ring that still gives `points` buckets, of those that reach back to `since`."""
    reaching = [index for index, tier in enumerate(tiers) if now - since <= tier.span_s] or [len(tiers) - 1]
    fine = [index for index in reaching if (until - since) / tiers[index].width_s >= points]
    return max(fine, default=reaching[0])


def choose_width(tier_s: int, *, since: int, until: int, points: int) -> int:
    """The least nice multiple of a ring's width with which a range takes at most `points` buckets."""
    nice = (each for each in _NICE_S if each % tier_s == 0)
    for width_s in chain(nice, range(86400, 400 * 86400, 86400)):
        if -(-until // width_s) - since // width_s <= points:
            return width_s
    return (until // tier_s + 1) * tier_s  # one bucket from 1970 on: `points` is 1


def _fold(columns: Columns, first: int, count: int, per: int) -> list[Spread | None]:
    """Each `per` rows made one.

    A stretch that is whole is folded by C functions over slices, which is what a year in milliseconds takes.
    """
    found: list[Spread | None] = []
    for begin in range(0, count * per, per):
        part = slice(begin, begin + per)
        total, seconds = sum(columns.mean[part]), columns.seconds[part].tobytes()
        whole = columns.numbers[part] == array("I", range(first + begin, first + begin + per)) and total == total
        if whole and seconds == seconds[:4] * per:
            found.append((min(columns.least[part]), total / per, max(columns.most[part])))
        else:
            found.append(_fold_torn(columns, first, begin, min(begin + per, len(columns.numbers))))
    return found


def _fold_torn(columns: Columns, first: int, begin: int, end: int) -> Spread | None:
    """The same where rows are missing, of another lap, or stand for unlike times."""
    least, most, total, weight = float("inf"), float("-inf"), 0.0, 0.0
    for at, number in zip(range(begin, end), range(first + begin, first + end), strict=True):
        mean, seconds = columns.mean[at], columns.seconds[at]
        if columns.numbers[at] != number or mean != mean or seconds <= 0:
            continue
        least, most = min(least, columns.least[at]), max(most, columns.most[at])
        total, weight = total + mean * seconds, weight + seconds
    return (least, total / weight, most) if weight else None
