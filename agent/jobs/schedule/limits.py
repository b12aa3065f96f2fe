"""What a user, a QOS, a partition or an array may have: the limits that let a job step aside and hold up nobody."""

from __future__ import annotations

from collections import Counter

from agent.jobs.schedule.facts import Demand, PartitionFacts, Policy, QosFacts, Running, Snapshot, Waiting
from agent.jobs.schedule.words import clock_span, many

Reason = tuple[str, str]


class Limits:
    """Counts what runs; told of each start of the pass."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._policy = snapshot.policy
        self._parts_per_gpu = max((gpu.shards for gpu in snapshot.gpus), default=1)
        self._any = _sets_any(self._policy)
        self._jobs: Counter[str] = Counter()
        self._gpus: Counter[str] = Counter()
        self._qos_jobs: Counter[tuple[str, str]] = Counter()
        self._qos_gpus: Counter[tuple[str, str]] = Counter()
        self._tasks: Counter[int] = Counter()
        for job in snapshot.running:
            self.started(job, len(job.gpu_uuids))

    def started(self, job: Waiting | Running, gpus: int) -> None:
        """One more runs, on so many GPUs."""
        held = self._count(job.demand, gpus)
        self._jobs[job.user] += 1
        self._gpus[job.user] += held
        self._qos_jobs[job.user, job.qos] += 1
        self._qos_gpus[job.user, job.qos] += held
        if job.array_id is not None:
            self._tasks[job.array_id] += 1

    def concern(self, job: Waiting) -> bool:
        """Whether any may hold it."""
        return self._any or job.array_id is not None

    def against(self, job: Waiting, partition: str, gpus: int) -> Reason | None:
        """What it must wait for in that partition, whoever else runs; `gpus` is what it would be given."""
        if not self.concern(job):
            return None
        qos = self._policy.qos.get(job.qos)
        return (
            time_limit(job, self._policy.partitions.get(partition), qos)
            or self._array(job)
            or (None if qos is None else self._of_qos(job, qos, gpus))
            or self._of_user(job, gpus)
        )

    def _array(self, job: Waiting) -> Reason | None:
        if job.array_id is None or job.array_limit is None or self._tasks[job.array_id] < job.array_limit:
            return None
        limit = many(job.array_limit, "task")
        return "JobArrayTaskLimit", f"{limit} of array {job.array_id} may run at a time, and as many do"

    def _of_qos(self, job: Waiting, qos: QosFacts, gpus: int) -> Reason | None:
        running = self._qos_jobs[job.user, qos.name]
        if qos.max_jobs_per_user is not None and running >= qos.max_jobs_per_user:
            allows = f"QOS {qos.name}, which allows {qos.max_jobs_per_user}"
            return "QOSMaxJobsPerUserLimit", f"{job.user} has {many(running, 'running job')} with {allows}"
        return self._gpus_over(
            "QOSMaxGRESPerUser",
            f"QOS {qos.name} allows",
            job,
            self._qos_gpus[job.user, qos.name],
            gpus,
            qos.max_gpus_per_user,
        )

    def _of_user(self, job: Waiting, gpus: int) -> Reason | None:
        most = self._policy.max_running_per_user
        if most is not None and self._jobs[job.user] >= most:
            running = many(self._jobs[job.user], "running job")
            return "AssocMaxJobsLimit", f"{job.user} has {running}; a user may have {most} at a time"
        return self._gpus_over(
            "AssocGrpGRES",
            "a user may have",
            job,
            self._gpus[job.user],
            gpus,
            self._policy.max_gpus_per_user,
        )

    def _gpus_over(self, word: str, allows: str, job: Waiting, held: int, gpus: int, most: int | None) -> Reason | None:
        asked = self._count(job.demand, gpus)
        if most is None or not asked or held + asked <= most * self._parts_per_gpu:
            return None
        has, asks = self._gpus_said(held), self._gpus_said(asked)
        return word, f"asks for {asks} while {job.user} holds {has}; {allows} {many(most, 'GPU')}"

    def _count(self, demand: Demand, gpus: int) -> int:
        """GPUs in parts of one, so that shards count exactly."""
        return demand.shards if demand.shards else gpus * self._parts_per_gpu

    def _gpus_said(self, parts: int) -> str:
        number = parts / self._parts_per_gpu
        return f"{number:g} GPU{'' if number == 1 else 's'}"


def _sets_any(policy: Policy) -> bool:
    limits: list[int | None] = [policy.max_running_per_user, policy.max_gpus_per_user]
    limits += [each.max_time_s for each in policy.partitions.values()]
    for qos in policy.qos.values():
        limits += [qos.max_wall_s, qos.max_gpus_per_user, qos.max_jobs_per_user]
    return any(limit is not None for limit in limits)


def time_limit(job: Waiting, partition: PartitionFacts | None, qos: QosFacts | None) -> Reason | None:
    """Whether its limit is longer than its partition or QOS allow."""
    if partition is not None and _longer(job.time_limit_s, partition.max_time_s):
        return "PartitionTimeLimit", _too_long(job, f"partition {partition.name}", partition.max_time_s)
    if qos is not None and _longer(job.time_limit_s, qos.max_wall_s):
        return "QOSMaxWallDurationPerJobLimit", _too_long(job, f"QOS {qos.name}", qos.max_wall_s)
    return None


def _longer(limit_s: int | None, most_s: int | None) -> bool:
    return most_s is not None and (limit_s is None or limit_s > most_s)


def _too_long(job: Waiting, who: str, most_s: int | None) -> str:
    asked = "no time limit" if job.time_limit_s is None else clock_span(job.time_limit_s)
    return f"asks for {asked}; {who} allows {clock_span(most_s or 0)}"
