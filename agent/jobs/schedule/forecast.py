"""When the jobs that stay can expect to start, and what would let one start sooner.

Rules kept here: jobs are planned in the order of the queue, each at the first time at which it delays nobody planned
before it, with begin times and reservations counted in; nobody is promised a start behind a job that never ends. A
window is offered only if it opens within `SOON_S` and lasts `WINDOW_S` at least.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.jobs.schedule.book import Book, demand_claim
from agent.jobs.schedule.facts import Waiting
from agent.jobs.schedule.kinds import Kind
from agent.jobs.schedule.node import Node
from agent.jobs.schedule.place import Placer
from agent.jobs.schedule.timeline import FOREVER, LASTING, Room

SOON_S = 900
WINDOW_S = 300
LONGEST_S = 7 * 86400
"""Nobody is offered more."""


def duration_of(job: Waiting) -> int:
    """How long it may run."""
    return LASTING if job.time_limit_s is None else max(1, job.time_limit_s)


class Forecast:
    """Plans into a book."""

    def __init__(self, node: Node, book: Book, placer: Placer, now: int) -> None:
        self._node, self._book, self._placer, self._now = node, book, placer, now

    def soonest(self, job: Waiting, kinds: Sequence[Kind]) -> Sequence[Kind]:
        """The kinds in the order of the job's earliest start in each; equally early ones as it named them."""
        if len(kinds) == 1:
            return kinds
        starts = {id(kind): self.start(job, kind) for kind in kinds}
        return sorted(kinds, key=lambda kind: _or_never(starts[id(kind)]))

    def start(self, job: Waiting, kind: Kind) -> int | None:
        """The earliest start, with nothing kept for it; `None`: it can never start as things are."""
        found = self._earliest(job, kind)
        return None if found is None else found[0]

    def plan(self, job: Waiting, kind: Kind) -> int | None:
        """The job's start, with all it needs kept for it from then on; `None`: it can never start as things are."""
        duration, found = duration_of(job), self._earliest(job, kind)
        if found is None:
            return None
        start, room = found
        if job.begin_at is None or job.begin_at <= self._now:
            kind.planned[duration] = start
        end = FOREVER * 2 if job.time_limit_s is None else start + duration
        gpus = self._placer.reserve(kind.ask, room, self._better_left(kind, start))
        # Behind a job that never ends it may start any time, so it is kept what is free beside such jobs.
        self._book.claim(min(start, FOREVER - 1), end, demand_claim(self._node, kind.demand, gpus))
        return start

    def _earliest(self, job: Waiting, kind: Kind) -> tuple[int, Room] | None:
        duration = duration_of(job)
        after = max(self._now, job.begin_at or 0, kind.planned.get(duration, 0))
        return self._book.view(kind.view).earliest(kind.ask, duration, after)

    def _better_left(self, kind: Kind, start: int) -> int:
        """GPUs that a plan closes only where it must: those free now, or those that jobs without a limit hold."""
        view = self._book.view(kind.view)
        return view.now.gpus if start < FOREVER else self._node.all & ~view.at(FOREVER - 1).gpus

    def window(self, kinds: Iterable[Kind], shorter_than_s: int) -> tuple[int, int] | None:
        """In how many seconds a shorter job of one of the kinds could start, and how long it could run, in round
        numbers.
        """
        found = [window for kind in kinds if (window := self._window(kind, shorter_than_s)) is not None]
        return min(found, key=lambda window: (window[0], -window[1]), default=None)

    def _window(self, kind: Kind, shorter_than_s: int) -> tuple[int, int] | None:
        view = self._book.view(kind.view)
        for start in view.starts():
            if start > self._now + SOON_S:
                break
            end, room = view.reach(kind.ask, start, FOREVER)
            length = _rounded(min(LONGEST_S, end - start))
            if room is not None and WINDOW_S <= length < shorter_than_s:
                return start - self._now, length
        return None

    def room(self, kind: Kind) -> Room:
        """What is free now for that kind."""
        return self._book.view(kind.view).now


def _or_never(start: int | None) -> int:
    return LASTING if start is None else start


def _rounded(seconds: int) -> int:
    """Down to what a person would ask for, so that the sentence does not change with every look."""
    grain = 300 if seconds < 3600 else 900 if seconds < 86400 else 3600
    return seconds // grain * grain
