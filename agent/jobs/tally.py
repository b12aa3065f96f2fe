"""The waiting jobs counted: why they wait, and since when the oldest could have started. From rows in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.jobs.row import JobRow


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTally:
    """What waits."""

    reasons: Mapping[str, int] = field(default_factory=dict)
    """Slurm's word → how many wait for it; `None` is a word too, of those of which nothing is said yet."""
    oldest_at: int | None = None
    """Unix seconds from which on the one that waits longest, and is not held, could have started."""


def tally(waiting: Iterable[JobRow], reasons: Mapping[int, tuple[str, str]]) -> QueueTally:
    """Count ten thousand in some milliseconds.

    Args:
        waiting: their rows.
        reasons: the scheduler's last word and sentence of each, by id; one that is left out says what its row does.
    """
    words: Counter[str] = Counter()
    oldest: int | None = None
    for row in waiting:
        told = reasons.get(row.id)
        words[told[0] if told is not None else row.status.reason or "None"] += 1
        if row.spec.held is None:
            eligible_at = max(row.submitted_at, row.spec.begin_at or 0)
            oldest = eligible_at if oldest is None else min(oldest, eligible_at)
    return QueueTally(reasons=words, oldest_at=oldest)
