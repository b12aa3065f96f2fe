"""All that is spoken for: running jobs, foreign processes and reservations, entered into timelines.

Rules kept here:
- there is one timeline for jobs without a reservation, to which every reservation is closed while it lasts, and one
  for each reservation that waiting jobs name, which is open for its GPUs and its time only;
- a running job holds what it has until its limit; past it, `OVERDUE_S` more; while it is being ended, `ENDING_S` more
  (or what it needs to stop well); without a limit it never ends;
- a foreign process is thought to stay for `FOREIGN_S` more, whenever one looks: the next in line is planned then, and
  only what is shorter goes before it. For ever would let jobs of any length delay the next in line by their own
  length because of what a job left behind for two seconds; a minute would let nobody go before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from agent.jobs.schedule.facts import Demand, ReservationFacts, Running, Snapshot
from agent.jobs.schedule.node import Node
from agent.jobs.schedule.timeline import FOREVER, Claim, Room, Timeline

OVERDUE_S = 60
ENDING_S = 30
FOREIGN_S = 3600


class Book:
    """The timelines of one pass."""

    def __init__(
        self,
        node: Node,
        snapshot: Snapshot,
        now: int,
        *,
        without: Collection[int] = (),
        ending: Collection[int] = (),
    ) -> None:
        """`without`: running jobs to leave out; `ending`: those that this very pass asks to stop."""
        self._node, self._snapshot, self._now = node, snapshot, now
        self._ending = ending
        self._added: list[tuple[int, int, Claim]] = []
        self._shared = any(job.demand.shards for jobs in (snapshot.waiting, snapshot.running) for job in jobs)
        names = {job.reservation for job in snapshot.waiting if job.reservation is not None}
        self._views: dict[str | None, Timeline] = {name: self._view(name) for name in (None, *sorted(names))}
        running = [job for job in snapshot.running if job.id not in without]
        self._claim(now, now + FOREIGN_S, Claim(gpus=node.foreign & ~self._held(running), jobs=0))
        for job in running:
            self._claim(now, end_of(job, now, ending=job.id in ending), self._claim_of(job))

    def rebuilt(self, *, without: Collection[int] = (), ending: Collection[int] = ()) -> Book:
        """The same with other running jobs; what was claimed since stays claimed."""
        book = Book(self._node, self._snapshot, self._now, without=without, ending={*self._ending, *ending})
        for start, end, claim in self._added:
            book.claim(start, end, claim)
        return book

    def view(self, reservation: str | None) -> Timeline:
        """What jobs see that name this reservation, or none."""
        return self._views[reservation]

    def claim(self, start: int, end: int, claim: Claim) -> None:
        """Take that in every view."""
        self._added.append((start, end, claim))
        self._claim(start, end, claim)

    def _claim(self, start: int, end: int, claim: Claim) -> None:
        for view in self._views.values():
            view.claim(start, end, claim)

    def _view(self, name: str | None) -> Timeline:
        view = Timeline(self._everything())
        for reservation in self._snapshot.reservations:
            self._enter_reservation(view, reservation, name)
        return view

    def _claim_of(self, job: Running) -> Claim:
        return demand_claim(self._node, job.demand, self._node.mask_of(job.gpu_uuids))

    def _everything(self) -> Room:
        node = self._node
        shards = node.shards.copy() if self._shared else None
        return Room(self._now, node.all, shards, node.cpus, node.memory_bytes, node.licenses)

    def _held(self, running: Iterable[Running]) -> int:
        return self._node.mask_of(uuid for job in running for uuid in job.gpu_uuids)

    def _enter_reservation(self, view: Timeline, reservation: ReservationFacts, viewer: str | None) -> None:
        kept = self._node.all if reservation.gpu_uuids is None else self._node.mask_of(reservation.gpu_uuids)
        if viewer == reservation.name and not reservation.maintenance:
            closed = Claim(gpus=self._node.all, exclusive=True, jobs=0)
            view.claim(self._now, reservation.start_at, closed)
            view.claim(reservation.end_at, FOREVER * 4, closed)
            view.claim(reservation.start_at, reservation.end_at, Claim(gpus=self._node.all & ~kept, jobs=0))
            return
        whole = reservation.gpu_uuids is None
        view.claim(reservation.start_at, reservation.end_at, Claim(gpus=kept, exclusive=whole, jobs=0))


def demand_claim(node: Node, demand: Demand, gpus: int) -> Claim:
    """What a job takes that is given these GPUs."""
    shared = bool(demand.shards)
    return Claim(
        gpus=0 if shared else gpus,
        shared=gpus if shared else 0,
        shards=demand.shards,
        cpus=min(demand.cpus, node.cpus),
        memory_bytes=demand.memory_bytes,
        licenses=licence_counts(node, demand),
        exclusive=demand.exclusive,
    )


def licence_counts(node: Node, demand: Demand) -> tuple[int, ...]:
    """How many of each of the node's licences a job takes; empty when none."""
    if not demand.licenses:
        return ()
    asked: dict[str, int] = {}
    for name, count in demand.licenses:
        asked[name] = asked.get(name, 0) + count
    return tuple(asked.get(name, 0) for name in node.licence_names)


def end_of(job: Running, now: int, *, ending: bool = False) -> int:
    """When what it holds comes back."""
    if job.ending or ending:
        return now + max(ENDING_S, -int(-job.stop_s // 1))
    if job.time_limit_s is None:
        return FOREVER
    end = job.started_at + job.time_limit_s
    return end if end > now else now + OVERDUE_S
