"""Which waiting jobs start now, on which GPUs, and why the others wait. Pure: facts in, decision out.

Rules kept here, besides those of the modules that are named:
0. While the licence allows no new job, or the node is drained, none starts: all keep their places.
1. Jobs are served in the order of `priority`. The first one that must wait for others to end (`Resources`) is the head
   of its line: it is planned at the earliest time at which the running jobs' limits let it start, and what it will
   need is kept for it from then on. Who comes behind starts only on what is left (`Priority` otherwise), so the head
   is never delayed by them (EASY backfill). A line is all jobs that could be given the same GPUs (`Kind.line`), so
   that one type or partition does not wait without a plan behind the head of another.
2. A job that no waiting helps steps aside and holds up nobody: `reasons` (obstacles), `limits`, holds, times. One that
   would run into a reservation steps aside too, and is planned behind it.
3. Jobs without GPUs wait for no GPU. CPUs and memory are counted for all alike: whoever makes the `Demand` decides
   whether a GPU job that asked for no CPUs is charged for any.
4. A job that names several partitions starts in the first of them that has room, and one that takes one of several
   features on GPUs of the first that has. Where none has, it is planned in the one with the earliest start, of those
   whose line has no head yet. Of partitions of different tiers it stands in the
   line of each: it is planned in a lower one as well if it would start sooner there.
5. With backfill off nothing starts behind a head of its partition; jobs without GPUs are a line of their own.
6. A head that may end others (`preempt`) does so only if it could not start otherwise, and as soon. What they hold is
   kept for it while they end; while it is there, no job behind it in its line ends anybody.
7. The first `policy.plan_depth` jobs are planned (`forecast`). Plans rest on time limits: jobs mostly start earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice

from agent.jobs.schedule import preempt
from agent.jobs.schedule.book import ENDING_S, Book, demand_claim, end_of
from agent.jobs.schedule.facts import Decision, Preempt, Running, Snapshot, Start, Waiting
from agent.jobs.schedule.forecast import Forecast, duration_of
from agent.jobs.schedule.kinds import Kind, Kinds
from agent.jobs.schedule.limits import Limits
from agent.jobs.schedule.node import Node
from agent.jobs.schedule.place import Placer
from agent.jobs.schedule.priority import Group, Ranking, qos_levels
from agent.jobs.schedule.reasons import Reason, Reasons, behind, in_none, planned_in, sooner
from agent.jobs.schedule.timeline import FOREVER, Room
from agent.jobs.schedule.words import jobs as job_list
from agent.jobs.schedule.words import moment

MAX_TESTS = 1000
"""Kinds of jobs that are tried behind a head; the rest waits for the next pass (Slurm's bf_max_job_test)."""
MAX_ASIDE = 20
"""Jobs that are given a place behind a reservation."""


def decide(snapshot: Snapshot, now: int) -> Decision:
    """One pass over the queue. The same facts always give the same decision."""
    return _Pass(snapshot, now).decision()


class _Pass:
    """What is known and done so far."""

    def __init__(self, snapshot: Snapshot, now: int) -> None:
        self._snapshot, self._now, self._policy = snapshot, now, snapshot.policy
        self._ranking = Ranking(snapshot, now)
        self._node = Node(snapshot)
        self._placer = Placer(self._node.gpus)
        self._book = Book(self._node, snapshot, now)
        self._forecast = Forecast(self._node, self._book, self._placer, now)
        self._limits = Limits(snapshot)
        self._reasons = Reasons(self._node, snapshot, now)
        self._kinds = Kinds(self._node, snapshot, self._reasons)
        self._closed = self._reasons.closed()
        self._heads: dict[tuple[object, ...], Reason] = {}
        self._tests = self._aside = 0
        self._starts: list[Start] = []
        self._preempts: list[Preempt] = []
        self._expired: list[int] = []
        self._told: dict[int, Reason] = {}
        self._expected: dict[int, int] = {}
        self._looks: list[int] = []
        self._left: list[tuple[Waiting, Group]] = []
        """Who stays for the reason of its group."""
        self._later: list[Waiting] = []
        """Whose begin time has not come."""
        self._settled: set[int] = set()
        """Who is not looked at again in another tier: it starts, others are asked to stop for it, or it stood aside."""

    def decision(self) -> Decision:
        """Serve all, then tell those that stay."""
        self._serve_all()
        if self._closed is None:
            if self._policy.backfill:
                self._offer_windows()
            self._plan()
        left = {job.id: group.reason for job, group in reversed(self._left) if group.reason is not None}
        self._told = {**left, **self._told}
        return Decision(
            starts=tuple(self._starts),
            preempts=tuple(self._preempts),
            expired=tuple(self._expired),
            reasons=self._told,
            priorities=self._ranking.parts,
            expected=self._expected,
            look_again_at=self._look_again_at(),
        )

    # --- who starts ---------------------------------------------------------------------------------------------------

    def _serve_all(self) -> None:
        """Go through the queue."""
        for pair in self._ranking.ordered():
            job, group = pair
            if job.id in self._settled:
                continue
            told = job.hold is not None or job.begin_at is not None or job.deadline_at is not None or job.needs
            if told and self._stands_aside(job):
                self._settled.add(job.id)
                continue
            if group.reason is None and self._serve(job, group):
                continue
            self._left.append(pair)
        self._left = [pair for pair in self._left if pair[0].id not in self._settled]

    def _stands_aside(self, job: Waiting) -> bool:
        """Whether a hold or a time keeps it from being served at all."""
        if job.deadline_at is not None:
            last = job.deadline_at - (job.time_limit_s or 1)
            if self._now > last:
                self._expired.append(job.id)
                return True
            self._looks.append(last + 1)
        held = job.hold or self._reasons.locked(job)
        if held is not None:
            self._told[job.id] = held
            return True
        if job.begin_at is not None and job.begin_at > self._now:
            self._told[job.id] = ("BeginTime", f"may start from {moment(job.begin_at)} on")
            self._looks.append(job.begin_at)
            self._later.append(job)
            return True
        return False

    def _serve(self, job: Waiting, group: Group) -> bool:
        """Start the job, or make it the head of its line, or let its whole group wait: then the answer is `False`."""
        kind, *others = self._kinds.of(job)
        known = kind.head is not None and not others and not self._limits.concern(job)
        if known and duration_of(job) > kind.bound_s:
            group.reason, group.in_line = kind.head, True  # as one of its kind before it, which is most of a long queue
            return False
        return self._serve_first(job, group)

    def _serve_first(self, job: Waiting, group: Group) -> bool:
        """The same, with nothing known."""
        group.reason = self._closed or (self._reasons.reservation(job) if job.reservation is not None else None)
        if group.reason is not None:
            return False
        kinds, group.reason = self._open_to(job)
        if group.reason is not None:
            return False
        for kind in kinds:
            behind_head = kind.line in self._heads
            room = None if behind_head and not self._policy.backfill else self._room_now(job, kind, behind_head)
            if room is not None:
                self._start(job, kind, room)
                return True
        first = [kind for kind in kinds if kind.line not in self._heads]
        if first:
            return self._wait_first(job, group, self._forecast.soonest(job, first))
        group.reason, group.in_line = self._heads[kinds[0].line], True
        if job.reservation is None and len(self._kinds.of(job)) == 1:
            kinds[0].head = group.reason
        return False

    def _open_to(self, job: Waiting) -> tuple[Sequence[Kind], Reason | None]:
        """The kinds in whose partitions it may start once there is room; why not, if in none."""
        found, refusals = [], []
        for kind in self._kinds.of(job):
            reason = kind.obstacle or self._limits.against(job, kind.partition, kind.ask.gpus)
            if reason is None:
                found.append(kind)
            else:
                refusals.append((kind.partition, reason))
        return found, None if found else in_none(refusals)

    def _room_now(self, job: Waiting, kind: Kind, behind_head: bool) -> Room | None:
        """What is free for it from now until its limit; `None` when that is too little."""
        duration = duration_of(job)
        if duration > kind.bound_s or (behind_head and self._tests >= MAX_TESTS):
            return None
        self._tests += behind_head
        end, room = self._book.view(kind.view).reach(kind.ask, self._now, self._now + duration)
        if end < self._now + duration:
            kind.bound_s = end - self._now
            return None
        return room

    def _start(self, job: Waiting, kind: Kind, room: Room) -> None:
        gpus = self._placer.assign(kind.ask, room)
        end = FOREVER if job.time_limit_s is None else self._now + duration_of(job)
        self._book.claim(self._now, end, demand_claim(self._node, kind.demand, gpus))
        self._limits.started(job, gpus.bit_count())
        self._reasons.started(job.id, gpus)
        self._starts.append(Start(job_id=job.id, gpu_uuids=self._node.uuids(gpus), partition=kind.partition))
        self._settled.add(job.id)
        if job.id in self._ranking.places:  # it may be first in line in a higher tier
            self._told.pop(job.id, None)
            self._expected.pop(job.id, None)

    # --- who waits first ----------------------------------------------------------------------------------------------

    def _wait_first(self, job: Waiting, group: Group, kinds: Sequence[Kind]) -> bool:
        """The first of its line that must wait: plan it, or end others for it. `kinds`: the earliest start first."""
        kind, room = kinds[0], self._forecast.room(kinds[0])
        if self._reasons.in_the_way(kind.ask, room, self._now + kind.bound_s, kind.view):
            return self._wait_aside(job, group, kind)
        if any(self._preempt_for(job, group, each) for each in kinds):
            return True
        if not self._sooner_than_planned(job, kind):
            return True
        reason = next(iter(self._heads.values()), None) if room.fits(kind.ask) else None
        reason = reason or self._reasons.shortage(kind.demand, kind.ask, room)
        start = self._forecast.plan(job, kind)
        if start is None:
            group.reason = self._reasons.reserved(job, kind.ask, room, self._now + kind.bound_s)
            return False
        several = len({each.partition for each in kinds}) > 1
        self._lead(job, group, kind, planned_in(reason, kind.partition) if several else reason)
        self._expect(job, start)
        return True

    def _sooner_than_planned(self, job: Waiting, kind: Kind) -> bool:
        """Whether it would start before the time that is kept for it in another partition, if any is."""
        planned = self._expected.get(job.id)
        if planned is None:
            return True
        start = self._forecast.start(job, kind)
        return start is not None and start < planned

    def _wait_aside(self, job: Waiting, group: Group, kind: Kind) -> bool:
        """It holds up nobody, and the first such jobs are given a place behind the reservation."""
        room = self._forecast.room(kind)
        group.reason = self._reasons.reserved(job, kind.ask, room, self._now + kind.bound_s)
        if self._aside < MAX_ASIDE:
            self._aside += 1
            self._offer_window(job, group)
            self._expect(job, self._forecast.plan(job, kind))
        return False

    def _lead(self, job: Waiting, group: Group, kind: Kind, reason: Reason) -> None:
        """Make it the head of its line."""
        self._told[job.id] = reason
        group.reason = self._heads[kind.line] = behind(job.id)
        group.in_line = True

    def _preempt_for(self, job: Waiting, group: Group, kind: Kind) -> bool:
        """Ask others to stop, if the job may, needs it, and can start then."""
        if self._policy.preempt not in ("qos", "partition") or self._comes_anyway(job):
            return False
        asked = [victim for each in self._preempts for victim in each.victims]
        levels = qos_levels(self._policy.qos)
        found = preempt.candidates(job, kind.partition, self._snapshot.running, self._policy, levels, asked)
        victims = self._victims(job, kind, found) if found else None
        if victims is None:
            return False
        ids = tuple(victim.id for victim in victims.jobs)
        self._preempts.append(Preempt(victims=ids, job_id=job.id))
        self._settled.add(job.id)
        self._rebuild(self._book.rebuilt(ending=ids))
        gpus = self._placer.assign(kind.ask, victims.room)
        end = FOREVER if job.time_limit_s is None else self._now + ENDING_S + duration_of(job)
        self._book.claim(self._now, end, demand_claim(self._node, kind.demand, gpus))
        self._lead(
            job,
            group,
            kind,
            ("Resources", f"{job_list(ids)} {'was' if len(ids) == 1 else 'were'} asked to stop for it"),
        )
        self._expect(job, max(end_of(victim, self._now, ending=True) for victim in victims.jobs))
        return True

    def _comes_anyway(self, job: Waiting) -> bool:
        """Whether it can start, in any partition, as soon as those are gone that are ending already."""
        gone = max((end_of(each, self._now) for each in self._snapshot.running if each.ending), default=self._now)
        places = self._ranking.places.get(job.id, (job,))
        for kind in (kind for place in places for kind in self._kinds.of(place) if kind.obstacle is None):
            found = self._book.view(kind.view).earliest(kind.ask, duration_of(job), self._now)
            if found is not None and found[0] <= gone:
                return True
        return False

    def _victims(self, job: Waiting, kind: Kind, found: list[tuple[int, Running]]) -> preempt.Victims | None:
        start = self._now + ENDING_S
        end = start + duration_of(job)
        view = self._book.rebuilt(without={each.id for _, each in found}).view(kind.view)
        reached, room = view.reach(kind.ask, start, end)
        if reached < end or room is None:
            return None
        return preempt.choose(found, kind.ask, room, self._node, self._now)

    def _rebuild(self, book: Book) -> None:
        self._book = book
        self._forecast = Forecast(self._node, book, self._placer, self._now)

    # --- what the others are told -------------------------------------------------------------------------------------

    def _offer_windows(self) -> None:
        """Say to the first of those that wait for their turn with which limit they could start."""
        seen: set[int] = set()
        for job, group in islice(self._left, self._policy.plan_depth):
            if group.in_line and id(group) not in seen:
                seen.add(id(group))
                self._offer_window(job, group)

    def _offer_window(self, job: Waiting, group: Group) -> None:
        window = self._forecast.window(self._kinds.of(job), duration_of(job))
        if window is not None and group.reason is not None:
            word, sentence = group.reason
            group.reason = (word, sentence + sooner(*window))

    def _plan(self) -> None:
        """Plan the first of those that stay, in their order, and behind them those whose time has not come."""
        in_line = (job for job, group in self._left if group.in_line)
        for job in islice(chain(in_line, self._later), max(0, self._policy.plan_depth - len(self._expected))):
            kinds = [kind for kind in self._kinds.of(job) if kind.obstacle is None]
            if kinds and self._reasons.reservation(job) is None:
                kind = self._forecast.soonest(job, kinds)[0]
                if self._sooner_than_planned(job, kind):
                    self._expect(job, self._forecast.plan(job, kind))

    def _expect(self, job: Waiting, start: int | None) -> None:
        if start is not None and start < FOREVER:
            self._expected[job.id] = start

    def _look_again_at(self) -> int | None:
        times = [time for each in self._snapshot.reservations for time in (each.start_at, each.end_at)]
        return min((time for time in [*times, *self._looks] if time > self._now), default=None)
