"""A job as Slurm's commands tell it: each fact as the text that they print.

Rules kept here: the words are Slurm's (`(null)`, `N/A`, `UNLIMITED`); a line is a job, or waiting tasks of one array,
which stand together as `17_[3-9%2]`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import msgspec

from agent.api.types import FINAL_STATES, Job, JobState
from tui import arrays
from tui.slurm import times
from tui.slurm.argv import Words

CODES = {
    JobState.PENDING: "PD",
    JobState.CONFIGURING: "CF",
    JobState.RUNNING: "R",
    JobState.COMPLETING: "CG",
    JobState.COMPLETED: "CD",
    JobState.FAILED: "F",
    JobState.TIMEOUT: "TO",
    JobState.CANCELLED: "CA",
    JobState.OUT_OF_MEMORY: "OOM",
    JobState.NODE_FAIL: "NF",
    JobState.PREEMPTED: "PR",
    JobState.DEADLINE: "DL",
}
NEVER = {"SUSPENDED": "S", "BOOT_FAIL": "BF", "REQUEUED": "RQ", "RESIZING": "RS", "REVOKED": "RV", "STOPPED": "ST"}
"""Slurm's states in which no job of ours ever is; asking for them finds nothing."""
ACTIVE = tuple(state for state in JobState if state not in FINAL_STATES)

_NO_USER = 4294967294
"""What Slurm shows of an account that this machine does not know: NO_VAL of slurm.h."""
_END_REASONS = {
    JobState.FAILED: "NonZeroExitCode",
    JobState.TIMEOUT: "TimeLimit",
    JobState.NODE_FAIL: "NodeDown",
    JobState.OUT_OF_MEMORY: "OutOfMemory",
    JobState.DEADLINE: "DeadLine",
    JobState.PREEMPTED: "Preempted",
}


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a job, or waiting tasks of an array."""

    jobs: tuple[Job, ...]
    now: float
    partition: str = "main"
    """The default one, for jobs that name none."""
    cluster: Callable[[], str] = str
    """Its name; asked for only where it is shown."""

    @property
    def job(self) -> Job:
        """The first one, which stands for all."""
        return self.jobs[0]

    @property
    def id(self) -> str:
        """`17`, `17_3`, `17_[3-9%2]`."""
        return f"{self.array_id}_{self._task_text()}" if self.job.array_job_id is not None else str(self.job.id)

    @property
    def array_id(self) -> int:
        """The id that the user knows: the array's, or the job's own."""
        return self.job.id if self.job.array_job_id is None else self.job.array_job_id

    @property
    def gpu_detail(self) -> str:
        """`gpu:4(IDX:0-2,6)`: its GPUs by index, where it has some."""
        return f"gpu:{self.job.gpus}(IDX:{arrays.ranges(self.job.gpu_indexes)})" if self.job.gpu_indexes else ""

    @property
    def task(self) -> str:
        """`3`, `3-9%2`, `N/A`."""
        if self.job.array_task_id is None:
            return "N/A"
        return self._task_text().strip("[]")

    @property
    def code(self) -> str:
        """`PD`."""
        return CODES.get(self.job.state, str(self.job.state.value)[:2])

    @property
    def state(self) -> str:
        """`PENDING`."""
        return str(self.job.state.value)

    @property
    def pending(self) -> bool:
        """Whether it waits."""
        return self.job.state is JobState.PENDING

    @property
    def reason(self) -> str:
        """`Resources`, `None`."""
        return self.job.reason or _END_REASONS.get(self.job.state, "None")

    @property
    def nodes(self) -> str:
        """Where it runs or ran."""
        return "" if self.job.started_at is None or self.pending else self.job.node

    @property
    def where(self) -> str:
        """NODELIST(REASON)."""
        if self.pending or (self.job.state in FINAL_STATES and self.job.state is not JobState.COMPLETED):
            return f"({self.reason})"
        return self.nodes or self.job.node

    @property
    def elapsed_s(self) -> int:
        """Of the attempt that ran last."""
        if self.job.started_at is None or self.pending:
            return 0
        end = self.job.ended_at if self.job.ended_at is not None else self.now
        return max(0, int(end) - self.job.started_at)

    @property
    def left_s(self) -> int | None:
        """Until its limit."""
        limit = self.job.time_limit_s
        return None if limit is None else max(0, limit - self.elapsed_s)

    @property
    def waited_s(self) -> int:
        """From when it might start to its start, or until now."""
        began = self.job.started_at if self.job.started_at is not None and not self.pending else int(self.now)
        return max(0, began - max(self.job.begin_at or 0, self.job.submitted_at))

    @property
    def start_at(self) -> int | None:
        """When it started, or will at the latest."""
        return (self.job.expected_start_at or self.job.begin_at) if self.pending else self.job.started_at

    @property
    def end_at(self) -> int | None:
        """When it ended, or its limit ends it."""
        if self.job.ended_at is not None and not self.pending:
            return self.job.ended_at
        if self.start_at is None or self.job.time_limit_s is None:
            return None
        return self.start_at + self.job.time_limit_s

    @property
    def cpus(self) -> int:
        """CPUs of the whole job: those it holds or held; while it waits, those it asks for."""
        return self.asked_cpus if self.job.cpus is None else self.job.cpus  # an older server does not say

    @property
    def asked_cpus(self) -> int:
        """CPUs that it asks for."""
        return self.job.tasks * self.job.cpus_per_task

    @property
    def gres(self) -> str:
        """`gres:gpu:2`, `gres:shard:1`, `N/A`."""
        if self.job.shards:
            return f"gres:shard:{self.job.shards}"
        return f"gres:gpu:{self.job.gpus}" if self.job.gpus else "N/A"

    @property
    def tres(self) -> str:
        """`cpu=2,mem=100M,node=1,billing=2,gres/gpu=2`."""
        return ",".join(f"{name}={value}" for name, value in self.tres_parts().items())

    def tres_parts(self, *, asked: bool = False) -> dict[str, str]:
        """Trackable resources in squeue's order: given, or `asked` for."""
        cpus = str(self.asked_cpus if asked else self.cpus)
        memory = {"mem": times.size(self.job.memory_bytes)} if self.job.memory_bytes else {}
        parts = {"cpu": cpus, **memory, "node": "1", "billing": cpus}
        gpus = {"gres/gpu": str(self.job.gpus)} if self.job.gpus else {}
        return parts | gpus | ({"gres/shard": str(self.job.shards)} if self.job.shards else {})

    @property
    def partition_name(self) -> str:
        """Its partition."""
        return self.job.partition or self.partition

    @property
    def exit_code(self) -> str:
        """`CODE:SIGNAL`."""
        return f"{self.job.exit_code or 0}:{self.job.signal or 0}"

    @property
    def stdout(self) -> str:
        """The file for its output."""
        return self.job.output_path or ""

    @property
    def stderr(self) -> str:
        """The file for its errors."""
        return self.job.error_path or self.stdout

    @property
    def command(self) -> str:
        """The script's path; empty where it was no file."""
        named = self.job.command or ""
        return "" if named in ("wrap", "stdin", "sbatch") else named

    @property
    def licenses(self) -> str:
        """`matlab:2`, `(null)`."""
        return ",".join(f"{name}:{count}" for name, count in self.job.licenses.items()) or "(null)"

    @property
    def features(self) -> str:
        """`h100&nvlink`, `h100|a100`, `(h100|a100)&nvlink`, `(null)`."""
        return constraint(self.job) or "(null)"

    @property
    def waits_to_count(self) -> bool:
        """Whether something else than room keeps it from counting as waiting: a hold, a dependency, `--begin`."""
        later = self.job.begin_at is not None and self.job.begin_at > self.now
        return self.pending and (self.job.held or self.job.dependency is not None or later)

    @property
    def eligible_at(self) -> int | None:
        """From when on it may start; `None` while that is not known."""
        if self.pending and (self.job.held or self.job.dependency is not None):
            return None
        return max(self.job.begin_at or 0, self.job.submitted_at)

    @property
    def dependency(self) -> str:
        """`afterok:17(unfulfilled)`; the agent says how each stands once it has judged it."""
        text = self.job.dependency
        if not text:
            return "(null)"
        joint = "?" if "?" in text else ","
        return joint.join(each if each.endswith(")") else f"{each}(unfulfilled)" for each in text.split(joint))

    def _task_text(self) -> str:
        if len(self.jobs) == 1:
            return str(self.job.array_task_id)
        inside = arrays.ranges([each.array_task_id or 0 for each in self.jobs])
        return f"[{inside}{f'%{self.throttle}' if self.throttle else ''}]"

    @property
    def throttle(self) -> str:
        """Most tasks of the array at a time, as it was said."""
        return (self.job.array_text or "").partition("%")[2]


def views(
    jobs: Sequence[Job],
    now: float,
    partition: str,
    *,
    one_each: bool = False,
    gather: Sequence[JobState] = (),
    cluster: Callable[[], str] = str,
) -> list[View]:
    """Lines of jobs; waiting tasks of an array that wait for the same thing stand together."""
    gathered: dict[object, list[Job]] = {}
    for job in sorted(jobs, key=lambda each: each.id):
        alone = one_each or job.array_job_id is None or job.state not in (gather or (JobState.PENDING,))
        same = (job.node, job.id) if alone else (job.node, job.array_job_id, job.state, job.reason, job.attempt > 0)
        gathered.setdefault(same, []).append(job)
    return [View(jobs=tuple(group), now=now, partition=partition, cluster=cluster) for group in gathered.values()]


def constraint(job: Job) -> str:
    """What it asked for with `--constraint`; empty when nothing."""
    grouped = [f"({name})" if "|" in name and len(job.features) > 1 else name for name in job.features]
    return "&".join(grouped)


def all_listed(words: Words, facts: Mapping[str, str]) -> bool:
    """Whether a job with these facts is among those that the options name; waiting in several partitions, it is in
    each of them.
    """
    return all(
        any(each in words.listed(name) for each in (fact.split(",") if name == "partition" else (fact,)))
        for name, fact in facts.items()
        if name in words
    )


@functools.cache
def uid(user: str) -> int:
    """The account's number on this machine."""
    import pwd

    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return _NO_USER


@functools.cache
def group(user: str) -> tuple[str, int]:
    """The account's first group and its number."""
    import grp
    import pwd

    try:
        number = pwd.getpwnam(user).pw_gid
    except KeyError:
        return "nobody", _NO_USER
    try:
        return grp.getgrgid(number).gr_name, number
    except KeyError:
        return str(number), number


def user_name(text: str) -> str | None:
    """An account by its name or number; a name is believed, since the jobs may be another machine's."""
    import pwd

    if text.isascii() and text.isdigit():
        try:
            return pwd.getpwuid(int(text)).pw_name
        except (KeyError, OverflowError):
            return None
    return text
