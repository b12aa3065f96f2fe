"""The words of the queue beyond a job: why it waits, what it used, and what an admin arranges around it.

The rules are those of `agent.api.types`. Names follow Slurm: partition, QOS, account, reservation, drain, share.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from agent.api.words import Wire, Word


class LinkGrade(IntEnum):
    """How two GPUs of a node reach each other; higher is better. `nvidia-smi topo -m` has the same order."""

    SYSTEM = 0
    """Across the sockets' interconnect (SYS)."""
    NODE = 1
    """Within a NUMA node (NODE, PHB)."""
    BRIDGE = 2
    """Below one PCIe root or switch (PXB, PIX)."""
    NVLINK = 10
    """One NVLink; each further one adds 1, so NV12 is 21."""


# --- why a job waits --------------------------------------------------------------------------------------------------


class PriorityParts(Wire, frozen=True, kw_only=True):
    """The terms of a waiting job's priority, as `sprio` names them; `total` is their sum, never below 1.

    Slurm's multifactor plugin: each factor is in 0..1 and is multiplied by its weight from the configuration.
    """

    age: int = 0
    fairshare: int = 0
    jobsize: int = 0
    partition: int = 0
    qos: int = 0
    site: int = 0
    """Set with `--priority` or `stoker top` by an admin; the total is then this alone."""
    nice: int = 0
    """Taken off."""
    total: int = 1


class JobStep(Wire, frozen=True, kw_only=True):
    """One `srun` of a job, as it told of itself."""

    id: int
    """0 is the first one of the attempt."""
    name: str
    tasks: int = 1
    cpus: int = 1
    started_at: float
    """Unix seconds."""
    ended_at: float | None = None
    """`None` while it runs, or where nobody was left to tell."""
    exit_code: int | None = None
    """The highest of its ranks; `None` where a signal ended it."""
    signal: int | None = None
    cancelled: bool = False
    """It was ended from outside."""
    max_rss_bytes: int | None = None
    """Of its largest rank, with the processes that it waited for: getrusage(2)."""
    cpu_seconds: float | None = None


# --- what a job used --------------------------------------------------------------------------------------------------


class Verdict(Word):
    """What a job made of its GPUs, in one word."""

    FINE = "fine"
    IDLE = "held-but-idle"
    """It held GPUs that did next to nothing."""
    MEMORY_BOUND = "memory-bound"
    """Busy, and the memory interface busier than the processors' power tells: bandwidth is the limit."""
    DATA_STARVED = "data-starved"
    """Work comes in bursts: the GPU waits for input between them."""
    UNKNOWN = "unknown"
    """Too short or too few samples to say."""


class GpuUsage(Wire, frozen=True, kw_only=True):
    """One GPU of one job."""

    uuid: str
    utilization_percent: float | None = None
    """Mean over the run."""
    memory_utilization_percent: float | None = None
    memory_peak_bytes: int | None = None
    energy_j: float | None = None


class JobUsage(Wire, frozen=True, kw_only=True):
    """A job's account of its resources, summed over its GPUs and its attempts."""

    samples: int = 0
    measured_s: float = 0.0
    """Seconds of the run that samples cover."""
    gpu_seconds: float = 0.0
    """GPUs held × seconds."""
    gpu_busy_seconds: float = 0.0
    """The utilisation integral."""
    utilization_percent: float | None = None
    memory_peak_bytes: int | None = None
    """Highest sum over its GPUs."""
    host_memory_peak_bytes: int | None = None
    cpu_seconds: float | None = None
    energy_kwh: float | None = None
    """From the energy counter where the GPU has one, else power × time."""
    idle_s: float = 0.0
    """How long none of its GPUs did anything, up to now and without a break."""
    verdict: Verdict = Verdict.UNKNOWN
    sentence: str | None = None
    """The verdict as advice."""
    gpus: tuple[GpuUsage, ...] = ()


class UsagePoint(Wire, frozen=True, kw_only=True):
    """One point of a job's curve: means over the time since the point before."""

    at: int
    utilization_percent: float | None = None
    memory_bytes: int | None = None
    power_w: float | None = None


class JobEvent(Wire, frozen=True, kw_only=True):
    """One line of a job's history."""

    at: int
    event: str
    state: str
    detail: str | None = None


# --- what stands around the queue -------------------------------------------------------------------------------------


class DrainOwner(Word):
    """Who drained; only the same owner's word lifts it by itself, a person may lift both."""

    PERSON = "person"
    CHECK = "check"
    """A health check of ours."""


class Drain(Wire, frozen=True, kw_only=True):
    """A GPU or the node takes no new job; what runs there runs on."""

    gpu_uuid: str | None = None
    """`None`: the whole node."""
    reason: str
    by: str
    owner: DrainOwner = DrainOwner.PERSON
    at: int
    earlier: tuple[Drain, ...] = ()
    """Whose place it took, the newest first: when two drain the same, no reason is lost."""


class DrainRequest(Wire, frozen=True, kw_only=True):
    """What `POST /v1/drain` and `POST /v1/resume` take; `reason` is needed to drain."""

    gpu: str | None = None
    """UUID or index; `None` for the whole node."""
    reason: str | None = None
    tell: bool = False
    """Answer with a `DrainChange`; without it, as servers before it did, with all that is drained."""


class DrainChange(Wire, frozen=True, kw_only=True):
    """What a drain or a resume found and left. The same before and after: it was drained for that reason already."""

    before: Drain | None = None
    after: Drain | None = None
    drains: tuple[Drain, ...] = ()
    """All that takes no new job now."""


class Reservation(Wire, frozen=True, kw_only=True):
    """GPUs (or the whole node) kept for some users, or for nobody, during a time. scontrol(1), RESERVATIONS."""

    name: str
    start_at: int
    end_at: int
    users: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    gpu_uuids: tuple[str, ...] = ()
    """Empty: the whole node."""
    maintenance: bool = False
    """Nobody may use it: a maintenance window (Slurm's flag MAINT)."""
    by: str = ""
    comment: str | None = None


class ReservationRequest(Wire, frozen=True, kw_only=True):
    """What `POST /v1/reservations` takes."""

    name: str | None = None
    """Made up from the first user and a number when left out."""
    start: str = "now"
    """As `--begin` reads times."""
    duration: str | None = None
    """As `--time` reads them; either this or `end`."""
    end: str | None = None
    users: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    gpus: str | None = None
    """A number, or indexes or UUIDs joined by commas prefixed `=`: `2`, `=0,1`. `None`: the whole node."""
    maintenance: bool = False
    comment: str | None = None


class ReservationUpdate(Wire, frozen=True, kw_only=True):
    """What `POST /v1/reservations/NAME` takes; what is `None` stays as it is."""

    start: str | None = None
    """Moved, it keeps its length where neither `duration` nor `end` is said."""
    duration: str | None = None
    """`2:00:00`; `+30` and `-30` make it longer and shorter."""
    end: str | None = None
    users: tuple[str, ...] | None = None
    """In place of those before; names with `+` and `-` before them are added and taken away."""
    accounts: tuple[str, ...] | None = None
    gpus: str | None = None
    """As in `ReservationRequest`; `all`: the whole node."""
    maintenance: bool | None = None
    comment: str | None = None
    """Empty: none."""


class Reloaded(Wire, frozen=True, kw_only=True):
    """The answer to `POST /v1/reload`: the configuration was read again."""

    need_restart: tuple[str, ...] = ()
    """Settings that differ and hold only after a restart."""


class PartitionTerms(Wire, frozen=True, kw_only=True):
    """What the configuration says of a partition and everybody is told as it stands there."""

    name: str
    default: bool = False
    """The first one is when none says so."""
    default_time_s: int | None = None
    """Limit of a job that names none; in the configuration `None` is `jobs.default_time_s`."""
    max_time_s: int | None = None
    priority_tier: int = 1
    """Jobs of a higher tier are served first, and preempt lower ones where `scheduler.preempt = "partition"`."""


class Partition(PartitionTerms, frozen=True, kw_only=True):
    """A named part of the queue with its limits, from the configuration."""

    gpu_indexes: tuple[int, ...] | None = None
    """`None`: all."""
    state: str = "UP"
    """Slurm's words: UP; DOWN, DRAIN, INACTIVE by an admin's word; DRAIN also where the node is drained."""


class PartitionUpdate(Wire, frozen=True, kw_only=True):
    """What `POST /v1/partitions/NAME` takes; all else of a partition is in the configuration."""

    state: str
    """UP; DOWN: jobs are taken and do not start; DRAIN: those that wait start, no more are taken; INACTIVE: neither."""


class PartitionState(Wire, frozen=True, kw_only=True):
    """The state that an admin gave a partition, as the agent keeps it."""

    state: str
    by: str
    at: int
    """Unix seconds."""


class QosTerms(Wire, frozen=True, kw_only=True):
    """What the configuration says of a quality of service and everybody is told."""

    name: str
    priority: int = 0
    """Relative to the highest of all; multiplied by `scheduler.weight_qos`."""
    preempts: tuple[str, ...] = ()
    """QOS whose jobs it may end, where `scheduler.preempt = "qos"`."""
    max_wall_s: int | None = None
    max_gpus_per_user: int | None = None
    max_jobs_per_user: int | None = None
    max_submit_per_user: int | None = None


class Qos(QosTerms, frozen=True, kw_only=True):
    """A quality of service, from the configuration."""


class Share(Wire, frozen=True, kw_only=True):
    """One user of one account in the fair share, as `sshare` shows it."""

    account: str
    user: str
    shares: int
    shares_norm: float
    """Part of the whole that is this user's due, 0..1."""
    usage_gpu_s: float
    """GPU-seconds, halved every half-life."""
    usage_norm: float
    fairshare: float
    """The factor, 0..1: 0.5 when exactly the due was used."""


class QueueRules(Wire, frozen=True, kw_only=True):
    """What `GET /v1/partitions` answers: all that a submit may name."""

    partitions: tuple[Partition, ...]
    qos: tuple[Qos, ...] = ()
    accounts: tuple[str, ...] = ()
    """Empty: any is accepted."""
    features: tuple[str, ...] = ()
    """What `--constraint` may name."""
    licenses: dict[str, int] = msgspec.field(default_factory=dict)
    """What `--licenses` may name, and how many there are."""


# --- what one asks of a job -------------------------------------------------------------------------------------------


class UpdateRequest(Wire, frozen=True, kw_only=True):
    """What `POST /v1/jobs/REF/update` takes: `scontrol update`'s words without JobId."""

    changes: dict[str, str]
    """`TimeLimit`, `Nice`, `Priority`, `Partition`, `QOS`, `Account`, `StartTime`, `Deadline`, `Dependency`,
    `Comment`, `JobName`, `Requeue`, `ReservationName`, `ArrayTaskThrottle`, in any case."""
    revision: int | None = None


class SignalRequest(Wire, frozen=True, kw_only=True):
    """What `POST /v1/jobs/REF/signal` takes: a signal for the running processes, which does not end the job.

    `POST /v1/jobs/REF/steps/N/signal` takes it for one step alone, which `KILL` ends: SIGTERM first, as a job is ended.
    """

    signal: str
    """`USR1`, `SIGUSR1` or `10`."""
    batch_only: bool = False
    """To the batch script alone."""


class StepRequest(Wire, frozen=True, kw_only=True):
    """What `POST /v1/jobs/REF/steps` takes: one more process in a running job of one's own."""

    command: tuple[str, ...]
    """Found on the job's own PATH. It gets the job's environment and none of its streams."""


class RequeueRequest(Wire, frozen=True, kw_only=True):
    """What `POST /v1/jobs/REF/requeue` takes; an empty body is the default."""

    hold: bool = False
    revision: int | None = None


# --- recurring jobs ---------------------------------------------------------------------------------------------------


class Missed(Word):
    """What becomes of a recurring job whose time passed while the node was off."""

    RUN = "run"
    """Once, as soon as the node is back, however many times were missed."""
    SKIP = "skip"


class Cron(Wire, frozen=True, kw_only=True):
    """A recurring job. Times are the node's own zone; cron(8)'s rules for daylight saving, by cronsim."""

    id: int
    schedule: str
    """Five fields as crontab(5)."""
    name: str
    user: str
    node: str
    missed: Missed = Missed.SKIP
    overlap: bool = False
    """Start although the one before still waits or runs."""
    next_at: int | None = None
    last_at: int | None = None
    last_job_id: int | None = None
    last_note: str | None = None
    """What became of the last time: `submitted job 17`, `skipped: job 16 still runs`, why it was refused."""


# --- answers ----------------------------------------------------------------------------------------------------------


class DeadLetter(Wire, frozen=True, kw_only=True):
    """A notice that its receiver has not taken: given up and kept until it is sent again or dropped, or still tried."""

    id: int
    at: int
    job_id: int | None = None
    incident_id: int | None = None
    """It is of a job or of an incident."""
    event: str
    to: str
    tries: int
    error: str
    """Of the last try; empty while there was none."""
    next_at: int | None = None
    """Unix seconds of the next try; `None`: it is given up."""
