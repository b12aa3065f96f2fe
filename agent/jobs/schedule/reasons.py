"""Why a job waits: Slurm's word (squeue(1), JOB REASON CODES) and a sentence with numbers, holders and what helps.

An *obstacle* is what no waiting helps against: the job steps aside and holds up nobody, and keeps its place for when a
person has mended that. A *shortage* is what ends by itself, as others end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.jobs.schedule.facts import Demand, ReservationFacts, Running, Snapshot, Waiting
from agent.jobs.schedule.node import Node, places
from agent.jobs.schedule.timeline import Ask, Room
from agent.jobs.schedule.words import clock_span, gib, jobs, many, moment

Reason = tuple[str, str]

MAINTENANCE = "ReqNodeNotAvail, Reserved for maintenance"


class Reasons:
    """Says why, with the names of those who hold what is missing."""

    def __init__(self, node: Node, snapshot: Snapshot, now: int) -> None:
        self._node, self._snapshot, self._now = node, snapshot, now
        self._holders: dict[int, list[int]] = {}
        for job in snapshot.running:
            self._hold(job.id, node.mask_of(job.gpu_uuids))
        self._reservations = {each.name: each for each in snapshot.reservations}

    def started(self, job_id: int, gpus: int) -> None:
        """These GPUs have a holder more."""
        self._hold(job_id, gpus)

    def _hold(self, job_id: int, gpus: int) -> None:
        for place in places(gpus):
            self._holders.setdefault(place, []).append(job_id)

    def closed(self) -> Reason | None:
        """Why nothing starts at all."""
        if self._snapshot.licence_hold is not None:
            return "License", self._snapshot.licence_hold
        if self._snapshot.node_drained is not None:
            return "ReqNodeNotAvail", f"the node is drained: {self._snapshot.node_drained}"
        return None

    def locked(self, job: Waiting) -> Reason | None:
        """Why the licence keeps it from starting, and not others."""
        return lacking(job.needs, self._snapshot.locked)

    def partition(self, name: str) -> Reason | None:
        """Why nothing starts in a partition."""
        found = self._snapshot.policy.partitions.get(name)
        if found is None or found.closed is None:
            return None
        word = "PartitionInactive" if found.closed == "INACTIVE" else "PartitionDown"
        return word, f"partition {name} is {found.closed}: an admin took it out of use, and nothing starts in it"

    def obstacle(self, demand: Demand, suited: int) -> Reason | None:
        """What no waiting helps against; `suited`: GPUs of the kind asked for."""
        node = self._node
        unknown = node.unknown_features(demand)
        if unknown:
            return "BadConstraints", f"asks for {', '.join(unknown)}, which neither the node nor a GPU of it has"
        for name, count in demand.licenses:
            total = self._snapshot.licenses.get(name, 0)
            if count > total:
                return "Licenses", f"asks for {count} of licence {name}, and the node has {total}"
        if node.memory_bytes and demand.memory_bytes > node.memory_bytes:
            has, asked = gib(node.memory_bytes), gib(demand.memory_bytes)
            return "ReqNodeNotAvail", f"asks for {asked} of memory, and the node has {has}"
        return self._gpu_obstacle(demand, suited) if demand.gpus or demand.shards else None

    def _gpu_obstacle(self, demand: Demand, suited: int) -> Reason | None:
        node, asked, count = self._node, self._asked(demand), demand.gpus or 1
        if demand.shards:
            suited = sum(1 << place for place in places(suited) if node.shards[place] >= demand.shards)
        usable = suited & node.healthy & ~node.drained
        if usable.bit_count() < count:
            has = "none that" if demand.shards else f"{usable.bit_count()} that"
            also = "; ".join(["", *self._out_of_use(suited & ~usable)])
            return "ReqNodeNotAvail", f"{asked}, and the node has {has} can be used{also}"
        seated = (usable & node.seated).bit_count()
        if seated < count:
            return "License", f"{asked}, and seats cover {seated} of {usable.bit_count()}; see: stoker-license status"
        return None

    def _out_of_use(self, mask: int) -> list[str]:
        ill = mask & ~self._node.healthy
        indexes = ", ".join(str(gpu.index) for gpu in self._node.in_mask(ill))
        needy = f"GPUs {indexes} need attention" if ill.bit_count() > 1 else f"GPU {indexes} needs attention"
        said = [needy] if ill else []
        drained = self._node.in_mask(mask & self._node.healthy)
        return said + [f"GPU {gpu.index} is drained: {gpu.drained}" for gpu in drained]

    def reservation(self, job: Waiting) -> Reason | None:
        """Why the reservation that it names is not for it."""
        found = self._reservations.get(job.reservation or "")
        if job.reservation is None:
            return None
        if found is None:
            return (
                "ReservationDeleted",
                f"reservation {job.reservation} is over or was removed; update or cancel the job",
            )
        if found.maintenance:
            return MAINTENANCE, f"reservation {found.name} is a maintenance window, in which nothing starts"
        if found.is_for(job.user, job.account):
            return None
        return "Reservation", f"reservation {found.name} is not for {job.user}; ask who made it"

    def reserved(self, job: Waiting, ask: Ask, room: Room, stuck_at: int) -> Reason:
        """Why it waits for a time, and not for others to end.

        Args:
            job: who waits.
            ask: what for.
            room: what is free now.
            stuck_at: until when it would fit if it started now.
        """
        own = self._reservations.get(job.reservation or "")
        limit = "without a time limit" if job.time_limit_s is None else f"for {clock_span(job.time_limit_s)}"
        if own is not None:
            if own.start_at > self._now:
                return "Reservation", f"reservation {own.name} starts at {moment(own.start_at)}"
            left = clock_span(max(0, own.end_at - self._now) // 60 * 60)
            return "Reservation", f"would run {limit}, and reservation {own.name} ends in {left}"
        ahead = [each for each in self._snapshot.reservations if self._touches(each, ask)]
        if not ahead:
            return "Reservation", f"would run {limit}, and no time is free for that"
        first = self._blocking(ahead, ask, room, stuck_at)
        span = f"from {moment(first.start_at)} to {moment(first.end_at)}"
        if first.maintenance:
            return MAINTENANCE, f"would run {limit} into the maintenance {first.name}, {span}"
        return "ReqNodeNotAvail, Reserved", f"would run {limit} into the reservation {first.name}, {span}"

    def _blocking(self, ahead: Sequence[ReservationFacts], ask: Ask, room: Room, stuck_at: int) -> ReservationFacts:
        """The one that keeps it from starting: there may be others, sooner ones too, that would leave it enough."""
        if room.fits(ask):
            met = [each for each in ahead if each.start_at == stuck_at] or ahead
            return min(met, key=lambda each: (each.start_at, each.name))
        lasting = [each for each in ahead if each.start_at <= self._now] or ahead
        closed = [each for each in lasting if each.gpu_uuids is None] or lasting
        held = self._node.foreign | sum(1 << place for place in self._holders)
        free = room.gpus & ask.mask

        def without(each: ReservationFacts) -> int:
            """GPUs that would be free."""
            uuids = each.gpu_uuids
            given = self._node.all if uuids is None else self._node.mask_of(uuids)
            return (free | (given & ask.mask & ~held)).bit_count()

        # Of those without which it could start the first to end; else the one that takes most.
        return min(
            closed,
            key=lambda each: (
                (0, each.end_at, each.name) if without(each) >= ask.gpus else (1, -without(each), each.name)
            ),
        )

    def in_the_way(self, ask: Ask, room: Room, stuck_at: int, own: str | None) -> bool:
        """Whether a reservation is what it waits for, and nobody who runs: `stuck_at` is until when it would fit."""
        touching = [each for each in self._snapshot.reservations if self._touches(each, ask)]
        if any(self._closes_now(each, own) for each in touching):
            return True
        if room.fits(ask):
            return any(stuck_at in (each.start_at, each.end_at) for each in touching)
        held = self._node.foreign | sum(1 << place for place in self._holders)
        unheld = (ask.mask & ~held).bit_count()
        return bool(touching) and (room.gpus & ask.mask).bit_count() < ask.gpus <= unheld

    def _closes_now(self, reservation: ReservationFacts, own: str | None) -> bool:
        """Whether the whole node is closed to jobs that name the reservation `own`, or none."""
        if reservation.name == own:
            return reservation.start_at > self._now
        return reservation.start_at <= self._now and reservation.gpu_uuids is None

    def _touches(self, reservation: ReservationFacts, ask: Ask) -> bool:
        if reservation.end_at <= self._now:
            return False
        return reservation.gpu_uuids is None or bool(self._node.mask_of(reservation.gpu_uuids) & ask.mask)

    def shortage(self, demand: Demand, ask: Ask, room: Room) -> Reason:
        """What the first in line waits for; `room`: what is free now."""
        lacking = self._lacking_licences(ask, room)
        parts = [*self._short_of_gpus(demand, ask, room), *self._short_of_host(ask, room)]
        if lacking and not parts:
            return "Licenses", lacking
        if not parts:
            parts = [self._alone(demand)]
        return "Resources", ", ".join([*parts, *([lacking] if lacking else [])])

    def _short_of_gpus(self, demand: Demand, ask: Ask, room: Room) -> list[str]:
        if not (ask.gpus or ask.shards):
            return []
        free = room.gpus & ask.mask
        enough = bool(room.with_shards(ask)) if ask.shards else free.bit_count() >= ask.gpus
        if enough:
            return []
        said = f"{free.bit_count()} of {ask.mask.bit_count()} free"
        if ask.shards:
            said = f"no GPU has as many free, of {ask.mask.bit_count()}"
        foreign = self._node.in_mask(ask.mask & self._node.foreign & ~room.gpus)
        return [
            f"{self._asked(demand)}; {said}",
            *self._held(ask.mask & ~free),
            *(f"GPU {gpu.index} is used outside the queue by {gpu.foreign}" for gpu in foreign),
        ]

    def _held(self, mask: int) -> list[str]:
        holders = list(dict.fromkeys(sorted(job for place in places(mask) for job in self._holders.get(place, ()))))
        return [f"held by {jobs(holders)}"] if holders else []

    def _short_of_host(self, ask: Ask, room: Room) -> list[str]:
        said = []
        if ask.cpus and room.cpus < ask.cpus:
            said.append(f"asks for {many(ask.cpus, 'CPU')}; {max(0, room.cpus)} of {self._node.cpus} free")
        if ask.memory_bytes and room.memory_bytes < ask.memory_bytes:
            free, total = gib(max(0, room.memory_bytes)), gib(self._node.memory_bytes)
            said.append(f"asks for {gib(ask.memory_bytes)} of memory; {free} of {total} free")
        return said

    def _lacking_licences(self, ask: Ask, room: Room) -> str:
        return ", ".join(
            f"asks for {asked} of licence {name}; {max(0, free)} of {total} free"
            for name, asked, free, total in zip(
                self._node.licence_names if ask.licenses else (),
                ask.licenses,
                room.licenses,
                self._node.licenses,
                strict=False,
            )
            if free < asked > 0
        )

    def _alone(self, demand: Demand) -> str:
        running: Sequence[Running] = self._snapshot.running
        if demand.exclusive:
            return f"asks for the whole node; {many(len(running), 'job')} on it: {jobs([job.id for job in running])}"
        alone = [job.id for job in running if job.demand.exclusive]
        return f"the node is held by {jobs(alone)} alone" if alone else "what it asks for is planned for another job"

    def _asked(self, demand: Demand) -> str:
        what = f"{many(demand.shards, 'shard')} of a GPU" if demand.shards else many(demand.gpus, "GPU")
        if demand.exclusive and not demand.gpus and not demand.shards:
            what = "the whole node"
        return f"asks for {what}{f' of type {demand.gpu_type}' if demand.gpu_type else ''}"


def lacking(needs: Sequence[str], locked: Mapping[str, str]) -> Reason | None:
    """What a job is told that needs a feature of the licence which is locked."""
    return next((("License", locked[each]) for each in needs if each in locked), None)


def behind(job_id: int) -> Reason:
    """What those are told who wait for their turn."""
    return "Priority", f"behind job {job_id} in the queue"


def in_none(refusals: Sequence[tuple[str, Reason]]) -> Reason:
    """What a job is told that may start in none of the partitions it names: the first one's word."""
    (_, (word, sentence)), *others = refusals
    if all(each == sentence for _, (_, each) in others):
        return word, sentence
    if len({name for name, _ in refusals}) == 1:  # one partition, and a reason for each choice of features
        return word, "; ".join(dict.fromkeys(said for _, (_, said) in refusals))
    return word, "; ".join(f"in partition {name} it {said}" for name, (_, said) in refusals)


def planned_in(reason: Reason, partition: str) -> Reason:
    """What a job is told that waits in several partitions: where it comes first."""
    return reason[0], f"{reason[1]}; partition {partition} comes first"


def sooner(start_in_s: int, length_s: int) -> str:
    """What would let it start sooner: a time limit with which it fits in before the others."""
    when = "at once" if start_in_s <= 0 else f"within {-(-start_in_s // 300) * 5} minutes"
    return f"; it could start {when} with --time={clock_span(length_s)} or less"
