"""Synthetic job lists with the parameters of published traces: two columns of "A realistic workload" (design/jobs.md).

What is drawn, and how:
- run time: log-linear interpolation between the published points of the distribution; below the first from 1 s, above
  the last up to `LONGEST_S`; a failed job runs 0.3 of it, a cancelled one twice (by the column's rates);
- GPUs: the column's row, 3–4 as 4, and 5–8 and more as 8, which is all of one node;
- users: Zipf, the top twentieth submits about half; arrivals: Poisson with a day curve, in a span that makes the
  offered load (GPU-seconds of all jobs / GPU-seconds of the node in the span of the arrivals) what was asked for;
- time limits: users ask for too much. Of what they think the job needs (the drawn run time before a failure, after a
  cancel: as long as it ran) they ask for 1/u of it, u uniform in 0.1..1 (accuracies of requests are about uniform in
  the workload archive's logs: Mu'alem and Feitelson, 2001), rounded up to a customary limit. One user in five always
  asks for a day, or for the next customary limit that is enough. No job is cut by its limit.
The schedulers are told the limit, never the run time.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

HOUR, DAY = 3600, 86400
LONGEST_S = 7 * DAY
LIMITS_S = (
    HOUR // 2,
    HOUR,
    2 * HOUR,
    4 * HOUR,
    8 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    4 * DAY,
    7 * DAY,
    14 * DAY,
    28 * DAY,
)
USERS = 40
ZIPF = 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One trace's published figures."""

    name: str
    ended_within: tuple[tuple[int, float], ...]
    """Seconds, and which part of all jobs had ended by then."""
    gpus: tuple[tuple[int, float], ...]
    cancelled: float
    failed: float


HELIOS = Column(
    name="Helios",
    ended_within=((1, 0.0), (32, 0.17), (128, 0.38), (512, 0.68), (4096, 0.88), (32768, 0.96), (131072, 0.989)),
    gpus=((1, 0.72), (2, 0.03), (4, 0.06), (8, 0.19)),
    cancelled=0.22,
    failed=0.16,
)
SEREN = Column(
    name="Seren",
    ended_within=((1, 0.0), (32, 0.32), (128, 0.49), (512, 0.79), (4096, 0.96), (32768, 0.99), (131072, 0.998)),
    gpus=((1, 0.54), (2, 0.11), (4, 0.03), (8, 0.32)),
    cancelled=0.08,
    failed=0.43,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceJob:
    """One job of the list."""

    id: int
    user: str
    submitted_at: int
    gpus: int
    run_s: int
    limit_s: int


def trace(column: Column, *, jobs: int, load: float, gpus: int, seed: int) -> list[TraceJob]:
    """A list in the order of submission; the same seed gives the same jobs at every load."""
    draw = random.Random(f"{column.name} {seed}")
    asked = [_job(column, draw) for _ in range(jobs)]
    work = sum(count * run_s for _, count, run_s, _ in asked)
    span = work / (gpus * load)
    times = sorted(_arrival(draw, span) for _ in asked)
    return [
        TraceJob(id=number, user=user, submitted_at=int(at), gpus=count, run_s=run_s, limit_s=limit_s)
        for number, (at, (user, count, run_s, limit_s)) in enumerate(zip(times, asked, strict=True), start=1)
    ]


def _job(column: Column, draw: random.Random) -> tuple[str, int, int, int]:
    user = draw.choices(range(USERS), cum_weights=_ZIPF_WEIGHTS)[0]
    count = draw.choices([gpus for gpus, _ in column.gpus], weights=[part for _, part in column.gpus])[0]
    meant = run_time(column.ended_within, draw.random())
    fate = draw.random()
    run_s, thought = meant, meant
    if fate < column.failed:
        run_s = 0.3 * meant
    elif fate < column.failed + column.cancelled:
        run_s = thought = 2 * meant
    return f"user{user:02}", count, max(1, round(run_s)), _limit(thought, careless=user % 5 == 3, draw=draw)


def run_time(points: Sequence[tuple[int, float]], part: float) -> float:
    points = (*points, (LONGEST_S, 1.0))
    above = max(1, bisect_left([each for _, each in points], part))
    (low_s, low), (high_s, high) = points[above - 1], points[above]
    return math.exp(math.log(low_s) + (math.log(high_s) - math.log(low_s)) * (part - low) / (high - low))


def _limit(thought_s: float, *, careless: bool, draw: random.Random) -> int:
    asked = thought_s / draw.uniform(0.1, 1.0)
    wanted = max(thought_s, DAY) if careless else asked
    return LIMITS_S[bisect_left(LIMITS_S, wanted)] if wanted <= LIMITS_S[-1] else math.ceil(wanted)


def _arrival(draw: random.Random, span: float) -> float:
    """A moment of the span; at three in the afternoon four times as likely as at three in the morning."""
    while True:
        at = draw.uniform(0, span)
        if draw.random() < (1 - 0.6 * math.cos(2 * math.pi * (at / DAY - 0.125))) / 1.6:
            return at


_ZIPF_WEIGHTS = list(accumulate(1 / (rank + 1) ** ZIPF for rank in range(USERS)))
