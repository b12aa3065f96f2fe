"""A discrete-event simulation of one node: jobs come and end, and a scheduler decides after each such moment.

What is measured:
- wait: start minus submission; bounded slowdown: (wait + run) / max(run, 10 s), at least 1, so that a job of a second
  does not count for thousands;
- utilisation: GPU-seconds held between the first and the last submission, as part of what the node has in that span,
  which is the same for every scheduler.
"""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.jobs.schedule import Decision, Demand, GpuFacts, Policy, Running, Snapshot, Start, Waiting
from tests.bench.workload import TraceJob

BOUND_S = 10
HALF_LIFE_S = 7 * 86400

Decide = Callable[[Snapshot, int], Decision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a scheduler made of a list."""

    mean_wait_s: float
    p95_wait_s: float
    max_wait_s: float
    slowdown: float
    utilisation: float


def simulate(jobs: Sequence[TraceJob], decide: Decide, *, gpus: int, policy: Policy) -> Outcome:
    """Run the whole list."""
    world = _World(jobs, gpus, policy)
    while world.step():
        world.carry_out(decide(world.snapshot(), world.now))
    return world.outcome()


class _World:
    def __init__(self, jobs: Sequence[TraceJob], gpus: int, policy: Policy) -> None:
        self._jobs = {job.id: job for job in jobs}
        self._coming = sorted(jobs, key=lambda job: (job.submitted_at, job.id), reverse=True)
        self._gpus = [GpuFacts(uuid=f"GPU-{index}", index=index, name="H100") for index in range(gpus)]
        self._demands = {count: Demand(gpus=count, cpus=0) for count in range(gpus + 1)}
        self._policy = policy
        self._waiting: dict[int, Waiting] = {}
        self._running: dict[int, Running] = {}
        self._ends: list[tuple[int, int]] = []
        self._usage: dict[tuple[str, str], float] = {}
        self._started: dict[int, int] = {}
        self.now = self._coming[-1].submitted_at if self._coming else 0

    def step(self) -> bool:
        """Go on to the next moment at which something comes or ends."""
        times = [self._coming[-1].submitted_at] if self._coming else []
        times += [self._ends[0][0]] if self._ends else []
        if not times:
            return False
        self._charge(min(times) - self.now)
        self.now = min(times)
        while self._ends and self._ends[0][0] <= self.now:
            del self._running[heapq.heappop(self._ends)[1]]
        while self._coming and self._coming[-1].submitted_at <= self.now:
            job = self._coming.pop()
            self._waiting[job.id] = Waiting(
                id=job.id,
                user=job.user,
                account="lab",
                demand=self._demands[job.gpus],
                time_limit_s=job.limit_s,
                submitted_at=job.submitted_at,
                eligible_at=job.submitted_at,
            )
        return True

    def snapshot(self) -> Snapshot:
        return Snapshot(
            waiting=list(self._waiting.values()),
            running=list(self._running.values()),
            gpus=self._gpus,
            cpu_count=64,
            usage=self._usage,
            policy=self._policy,
        )

    def carry_out(self, decision: Decision) -> None:
        for start in decision.starts:
            self._begin(start)

    def outcome(self) -> Outcome:
        if set(self._started) != set(self._jobs):
            raise AssertionError(f"{len(self._jobs) - len(self._started)} jobs never started")
        waits = sorted(self._started[job.id] - job.submitted_at for job in self._jobs.values())
        return Outcome(
            mean_wait_s=statistics.fmean(waits),
            p95_wait_s=waits[int(0.95 * (len(waits) - 1))],
            max_wait_s=waits[-1],
            slowdown=statistics.fmean(self._slowdown(job) for job in self._jobs.values()),
            utilisation=self._utilisation(),
        )

    def _slowdown(self, job: TraceJob) -> float:
        wait = self._started[job.id] - job.submitted_at
        return max(1.0, (wait + job.run_s) / max(job.run_s, BOUND_S))

    def _utilisation(self) -> float:
        first = min(job.submitted_at for job in self._jobs.values())
        last = max(job.submitted_at for job in self._jobs.values())
        held = sum(
            job.gpus * max(0, min(last, self._started[job.id] + job.run_s) - self._started[job.id])
            for job in self._jobs.values()
        )
        return held / (len(self._gpus) * max(1, last - first))

    def _begin(self, start: Start) -> None:
        waiting, job = self._waiting.pop(start.job_id), self._jobs[start.job_id]
        held = {uuid for each in self._running.values() for uuid in each.gpu_uuids}
        if held & set(start.gpu_uuids) or len(start.gpu_uuids) != job.gpus:
            raise AssertionError(f"job {job.id} cannot have {start.gpu_uuids}")
        self._started[job.id] = self.now
        self._running[job.id] = Running(
            id=job.id,
            user=job.user,
            account="lab",
            demand=waiting.demand,
            gpu_uuids=start.gpu_uuids,
            started_at=self.now,
            time_limit_s=job.limit_s,
        )
        heapq.heappush(self._ends, (self.now + job.run_s, job.id))

    def _charge(self, seconds: int) -> None:
        """Let the use of GPUs count half after each half-life, as the engine's store does."""
        kept = 0.5 ** (seconds / HALF_LIFE_S)
        self._usage = {pair: used * kept for pair, used in self._usage.items()}
        for job in self._running.values():
            pair = (job.account, job.user)
            self._usage[pair] = self._usage.get(pair, 0.0) + seconds * len(job.gpu_uuids)
