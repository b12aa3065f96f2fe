"""When a job that holds GPUs and uses none is warned, and when it is stopped. Pure; off unless `reaper.idle_s` is set.

What is judged is the allocation, not a process: a job whose program ended, hangs or never touched its GPUs is as idle
as one that waits in a debugger. A short burst does not clear a job: the mean over the whole window counts, so a script
that touches its GPU for a second now and then is seen through. Neither does a window that was mostly idle condemn one
that has set to work: since the warning (or for the last `grace_s`) it must have been idle as well. Time in which the
GPUs could not be read counts for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.config import ReaperTable
from agent.telemetry.activity import Activity

_COVER = 0.95
"""Of the window that must have been measured before anything is said."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """Leave it alone."""


@dataclass(frozen=True, slots=True)
class Lift:
    """It was warned and works again: forget the warning."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Warn:
    """Tell its user, and remember when."""

    sentence: str

    @property
    def lasting(self) -> str:
        """The sentence without the time that is left, which passes."""
        return self.sentence.rpartition(" in ")[0]


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop it, as a cancel does."""

    sentence: str


def judge(
    activity: Activity | None, policy: ReaperTable, *, qos: str, warned_at: float | None, now: float
) -> Nothing | Lift | Warn | Stop:
    """What to do about one running job.

    Args:
        activity: of its GPUs, see `JobUsageKeeper.activity`; `None` for a job that holds none.
        policy: the site's.
        qos: the job's.
        warned_at: Unix seconds of the warning that holds; `None` without one.
        now: Unix seconds.
    """
    if policy.idle_s is None or activity is None or qos in policy.exempt_qos:
        return Nothing()
    if not _is_idle(activity, policy, warned_at, now):
        return Nothing() if warned_at is None else Lift("its GPUs work again; the warning is lifted")
    idle = f"its GPUs were at most {policy.below_percent} % busy over the last {_words(policy.idle_s)}"
    if warned_at is None:
        return Warn(f"{idle}; unless they are used, the job is stopped in {_words(policy.grace_s)}")
    if now - warned_at < policy.grace_s:
        return Nothing()
    return Stop(f"{idle}, and still after the warning {_words(int(now - warned_at))} ago")


def _is_idle(activity: Activity, policy: ReaperTable, warned_at: float | None, now: float) -> bool:
    """Idle over the window and, once warned, since the warning too."""
    assert policy.idle_s is not None
    if activity.covered_s() < _COVER * policy.idle_s:
        return False
    spans = [float(policy.idle_s)]
    if warned_at is not None and now > warned_at:
        spans.append(min(now - warned_at, policy.grace_s, policy.idle_s))
    return all(_busy(activity, span) <= policy.below_percent for span in spans)


def _busy(activity: Activity, span_s: float) -> float:
    busy = activity.busy_percent(span_s)
    return 100.0 if busy is None else busy


def _words(seconds: int) -> str:
    """`30 min`, `45 s`, `2 h`: round figures as in the configuration."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
