"""How many jobs may be in the queue at once: the node's bound and each user's, for what is new and what comes back.

Rules kept here: a place that was given counts from that moment on, so that no two who ask at once share one; whoever
puts an ended job back takes a place as a submit does, and it is the place of the job's user, whoever asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from agent.api.errors import ApiError
from agent.engine.core import Core


class Room:
    """See above. Lives on the event loop."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._on_the_way: Counter[tuple[str, str | None]] = Counter()
        """(user, QOS) → jobs that were let in and are being stored."""

    @contextmanager
    def taken(self, jobs: int, user: str, qos: str | None) -> Iterator[None]:
        """Keep places for jobs while they are being stored; `check` came just before, with no wait in between."""
        self._on_the_way[user, qos] += jobs
        try:
            yield
        finally:
            self._on_the_way[user, qos] -= jobs

    def check(self, jobs: int, user: str, qos: str | None) -> None:
        """Whether there is room.

        Args:
            jobs: how many more.
            user: whose they are.
            qos: what all of them run in.

        Raises:
            ApiError: 429, naming the limit.
        """
        config, there = self._core.config, self._core.jobs
        pending = there.counts()[1] + self._on_the_way.total()
        if pending + jobs > config.jobs.max_pending:
            more = f", and these are {jobs} more" if jobs > 1 else ""
            sentence = f"{pending} jobs wait already{more}; jobs.max_pending is {config.jobs.max_pending}"
            raise ApiError(429, "queue_full", f"{sentence}; try again when some have run")
        own = there.count_of(user) + sum(count for (name, _), count in self._on_the_way.items() if name == user)
        _check_limit(own, jobs, user, config.limits.max_submit_per_user, "limits.max_submit_per_user")
        rules = next((each for each in config.qos if each.name == qos), None)
        if rules is not None and rules.max_submit_per_user is not None:
            same = sum(row.spec.qos == qos for row in there.of_user(user)) + self._on_the_way[user, qos]
            _check_limit(same, jobs, user, rules.max_submit_per_user, f"max_submit_per_user of QOS {rules.name}")


def _check_limit(have: int, more: int, user: str, most: int | None, name: str) -> None:
    if most is not None and have + more > most:
        raise ApiError(
            429,
            "user_limit",
            f"{have} jobs of {user} wait or run, and {more} more would be over {name} = {most}; try again when some "
            "have ended",
        )
