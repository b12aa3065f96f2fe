"""Which waiting jobs watchers are told of after a pass: ten thousand that wait are not ten thousand messages a pass.

The head of the queue is told in full whenever its sentence or its expected start changes; further down only a new word
is told (`behind job 17` becoming `behind job 18` is no news), so many at a time; the rest is told by later passes.
Whoever asks for one job gets it as it is then.
"""

from __future__ import annotations

from agent.engine.core import TOLD_IN_FULL, Core
from agent.jobs.schedule import Decision

_Place = tuple[tuple[str, str], int | None, int | None]
"""Word and sentence, expected start, priority."""

_AT_A_TIME = 200
"""New words told in one pass below the head of the queue."""


class Telling:
    """Remembers what was told."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._words: dict[int, str] = {}
        """Job → the word that was told last."""
        self._head: dict[int, _Place] = {}
        """What was told of the jobs at the head."""

    def tell(self, decision: Decision) -> bool:
        """Tell what is new; whether some is left to tell."""
        resources = self._core.view.resources()
        told, left = 0, False
        head: dict[int, _Place] = {}
        words: dict[int, str] = {}
        for place, (job_id, why) in enumerate(decision.reasons.items()):
            was = self._words.get(job_id)
            if place < TOLD_IN_FULL or job_id in decision.expected:  # those are the first ones of the queue
                parts = decision.priorities.get(job_id)
                head[job_id] = (why, decision.expected.get(job_id), parts.total if parts else None)
                news = self._head.get(job_id) != head[job_id]
            elif was == why[0] or told >= _AT_A_TIME:
                left = left or was != why[0]
                if was is not None:
                    words[job_id] = was
                continue
            else:
                told, news = told + 1, True
            words[job_id] = why[0]
            row = self._core.jobs.get(job_id) if news else None
            if row is not None:
                self._core.announce(row, resources)
        self._words, self._head = words, head
        return left
