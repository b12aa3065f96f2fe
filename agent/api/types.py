"""The words of the wire: every value that agent, hub and client exchange.

Rules kept here: structs are frozen, unknown fields are ignored (an older reader survives a newer writer), absent is
`None`, a quantity ends with its unit, a stored time is whole Unix seconds. Names follow Slurm where Slurm has one.
A message is added sooner than changed; a field is never renamed or reused.
"""

from __future__ import annotations

import msgspec

from agent.api.gpus import Gpu as Gpu
from agent.api.gpus import GpuBus as GpuBus
from agent.api.gpus import GpuErrors as GpuErrors
from agent.api.gpus import GpuLimits as GpuLimits
from agent.api.gpus import GpuProcess as GpuProcess
from agent.api.gpus import GpuReading as GpuReading
from agent.api.gpus import GpuSource as GpuSource
from agent.api.gpus import GpuState as GpuState
from agent.api.health import Incident
from agent.api.licence import ActivateRequest as ActivateRequest
from agent.api.licence import ForkedNode as ForkedNode
from agent.api.licence import LeaseGrant as LeaseGrant
from agent.api.licence import LeaseRefusal as LeaseRefusal
from agent.api.licence import LeaseReply as LeaseReply
from agent.api.licence import Licence as Licence
from agent.api.licence import LicenceAsk as LicenceAsk
from agent.api.licence import LicenceEvent as LicenceEvent
from agent.api.licence import LicenceFile as LicenceFile
from agent.api.licence import LicenceHardware as LicenceHardware
from agent.api.licence import LicenceOrder as LicenceOrder
from agent.api.licence import LicenceRelease as LicenceRelease
from agent.api.licence import LicenceStage as LicenceStage
from agent.api.licence import LicenceUnit as LicenceUnit
from agent.api.licence import LockedFeature as LockedFeature
from agent.api.licence import NodeIdentity as NodeIdentity
from agent.api.licence import PendingRequest as PendingRequest
from agent.api.licence import SeatHolder as SeatHolder
from agent.api.queue import Drain, JobEvent, JobStep, JobUsage, Missed, PriorityParts, UsagePoint
from agent.api.words import Wire as Wire
from agent.api.words import Word as Word

API_VERSION = 1
"""Goes up only when an old client could misread a new server. Exchanged in `Hello`."""

MAX_SCRIPT_BYTES = 512 * 1024
"""Largest job script. The body cap is 1 MiB, and the environment travels beside the script."""

MAX_BODY_BYTES = 1024 * 1024

MAX_INCIDENTS = 50
"""In a node's snapshot, which travels each second."""

KEY_HEADER = "Idempotency-Key"
"""The header of a request that the server must carry out once, however often it comes."""
SUDO_HEADER = "Stoker-Sudo-User"
"""The account behind the root that asks, by its own word: for counting persons, and for nothing that is allowed."""


# --- nodes ------------------------------------------------------------------------------------------------------------


class Node(Wire, frozen=True, kw_only=True):
    """One node at one moment."""

    name: str
    version: str
    time: float
    """The node's wall clock, Unix seconds; the client shows skew, never computes ages from it."""
    boot_id: str
    mode: str
    """`system` (root, runs jobs as the submitter) or `user` (runs its own user's jobs only)."""
    key: str
    """The node's Ed25519 public key, 64 hex digits; leases are made out to it."""
    gpu_source: GpuSource
    gpu_reason: str | None = None
    """Why there are no GPUs or why the source is not NVML, in a sentence."""
    driver_version: str | None = None
    gpus: tuple[Gpu, ...] = ()
    cpu_count: int
    cpu_percent: float | None = None
    load_1m: float | None = None
    memory_total_bytes: int
    memory_available_bytes: int
    jobs_running: int = 0
    jobs_pending: int = 0
    stage: str | None = None
    """The licence stage as this node's gate sees it; a `LicenceStage` value."""
    drain: Drain | None = None
    """The whole node takes no new job."""
    incidents: tuple[Incident, ...] = ()
    """What is wrong with its GPUs now, the newest first, at most `MAX_INCIDENTS`."""
    features: tuple[str, ...] = ()
    """What `--constraint` may name here."""


class LinkState(Word):
    """How fresh what the hub knows of a node is."""

    CONNECTING = "connecting"
    UP = "up"
    STALE = "stale"
    """No heartbeat for 3 s; values are shown dimmed with their age."""
    LOST = "lost"
    """No heartbeat for 15 s, or the link failed; retried with backoff. `reason` says why."""


class NodeStatus(Wire, frozen=True, kw_only=True):
    """A node as seen through its link. An agent asked directly answers with itself, always `up`."""

    name: str
    link: LinkState
    age_s: float
    """Seconds since the last heartbeat, by the answering server's monotonic clock."""
    reason: str | None = None
    retry_in_s: float | None = None
    node: Node | None = None


# --- jobs -------------------------------------------------------------------------------------------------------------


class JobState(Word):
    """Slurm's job states (squeue(1), JOB STATE CODES)."""

    PENDING = "PENDING"
    CONFIGURING = "CONFIGURING"
    """Claimed and being started: the claim is stored, `started` is not yet seen."""
    RUNNING = "RUNNING"
    COMPLETING = "COMPLETING"
    """Asked to end (cancel); waiting for the exit record."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NODE_FAIL = "NODE_FAIL"
    """The node rebooted or the record of the run was lost; never a guess at success."""
    PREEMPTED = "PREEMPTED"
    DEADLINE = "DEADLINE"
    """It could not have ended before its `--deadline`, and was taken out of the queue."""

    @property
    def is_final(self) -> bool:
        """Whether a job in this state will not change again (unless requeued by its user)."""
        return self in FINAL_STATES


FINAL_STATES = frozenset(
    {
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.TIMEOUT,
        JobState.CANCELLED,
        JobState.OUT_OF_MEMORY,
        JobState.NODE_FAIL,
        JobState.PREEMPTED,
        JobState.DEADLINE,
    }
)


class Job(Wire, frozen=True, kw_only=True):
    """A job as its users see it. `reason` is a Slurm word (`Resources`, `License`, …), `detail` the sentence."""

    id: int
    node: str
    name: str
    user: str
    state: JobState
    reason: str | None = None
    detail: str | None = None
    """What happened or what is awaited, and what to do about it."""
    gpus: int = 0
    """GPUs asked for."""
    gpu_uuids: tuple[str, ...] = ()
    """GPUs held, or held last when the job has ended."""
    gpu_indexes: tuple[int, ...] = ()
    cpus_per_task: int = 1
    cpus: int | None = None
    """CPUs in all: those asked for, and of a job that has run with `--exclusive` all that its node has."""
    memory_bytes: int | None = None
    memory_per_cpu_bytes: int | None = None
    """As said with `--mem-per-cpu`; `memory_bytes` has it in it."""
    time_limit_s: int | None = None
    submitted_at: int
    started_at: int | None = None
    ended_at: int | None = None
    exit_code: int | None = None
    """As waitpid(2) gives it: 0–255, `None` when ended by a signal or unknown."""
    signal: int | None = None
    attempt: int = 0
    """Runs begun so far; 0 while never started."""
    requeue: bool = False
    work_dir: str
    output_path: str | None = None
    """The file that `--output` named, patterns filled in."""
    error_path: str | None = None
    log_bytes: int | None = None
    simulated: bool = False
    """The GPUs held are simulated ones."""
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    comment: str | None = None
    tasks: int = 1
    """`--ntasks`: ranks that `srun` starts."""
    shards: int = 0
    """Parts of one GPU asked for with `--gres=shard:N`."""
    exclusive: bool = False
    array_job_id: int | None = None
    """Id of the array's first task, which names the array: `17` in `17_3`. `None` for a job that is no array."""
    array_task_id: int | None = None
    array_text: str | None = None
    """The tasks as asked for, `0-9:3%2`; the same on every task."""
    sweep: dict[str, str] = msgspec.field(default_factory=dict)
    """Values of the named parameters that this task of a sweep runs with."""
    dependency: str | None = None
    """What is still awaited, in Slurm's words: `afterok:17`. `None` once fulfilled."""
    reservation: str | None = None
    begin_at: int | None = None
    deadline_at: int | None = None
    held: bool = False
    nice: int = 0
    priority: int | None = None
    """Slurm's sum of factors: higher starts first; 0 while held; of a job that runs, what it was at its start."""
    priority_parts: PriorityParts | None = None
    expected_start_at: int | None = None
    """When it should start at the latest if every job runs to its limit; `None` when that cannot be told."""
    cron_id: int | None = None
    """The recurring job that made it."""
    command: str | None = None
    """The script: its path, or a name where it was no file."""
    args: tuple[str, ...] = ()
    """The script's own words."""
    submit_dir: str | None = None
    mail_types: tuple[str, ...] = ()
    mail_user: str | None = None
    features: tuple[str, ...] = ()
    """`--constraint`: all of them are needed; of `h100|a100` one."""
    licenses: dict[str, int] = msgspec.field(default_factory=dict)
    ntasks_per_node: int | None = None
    input_path: str | None = None
    """The file that `--input` named; `None`: /dev/null."""
    kill_on_invalid_dep: bool = False
    wckey: str | None = None
    steps: tuple[JobStep, ...] = ()
    """What `srun` started in the last attempt; told only where it is asked for."""
    revision: int = 0
    """Goes up with every change; a request may name it, and is refused (409) when it is another by then."""
    usage: JobUsage | None = None
    """What it made of its GPUs, up to now; `None` before it starts or where nothing was measured."""
    warning: str | None = None
    """Of a running job: what it is stopped for unless that changes."""
    stops_at: int | None = None
    """Unix seconds at which that is; `None` without a warning."""
    again: str | None = None
    """Of a job that ran and waits again: why, in Slurm's word and a sentence: `Preempted: makes way for job 9; …`."""
    as_of: int | None = None
    """Unix seconds: its node does not answer the hub, which knows it from then; `None`: its node tells of it."""


class SubmitRequest(Wire, frozen=True, kw_only=True):
    """What `POST /v1/jobs` takes. The server parses script and flags; a client only finds the script in its words."""

    script: str
    script_name: str
    """Shown as the job's name unless the script or a flag names it."""
    flags: tuple[str, ...] = ()
    """sbatch flags as typed, e.g. `("--gres=gpu:2", "-t", "10")`; they win over `env`, which wins over the script."""
    args: tuple[str, ...] = ()
    """The script's own arguments."""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    """The submitter's environment; `--export` decides what the job sees. SBATCH_* of it are options."""
    work_dir: str
    umask: int = 0o022
    node: str | None = None
    """The node to run on; `None` lets the hub place it. An agent accepts only its own name."""
    sweep: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Named parameters and their values: makes an array with one task for each combination, the last name fastest."""


class SubmitReply(Wire, frozen=True, kw_only=True):
    """Sent once the job is on disk: accepted means stored."""

    job: Job
    created: bool
    """False when the idempotency key was seen before and `job` is the one made then."""


class CancelRequest(Wire, frozen=True, kw_only=True):
    """What `POST /v1/jobs/REF/cancel` takes; an empty body is the default."""

    reason: str | None = None
    revision: int | None = None
    """Only while the job is still as it was when looked at; else 409 with how it is now."""


class Plan(Wire, frozen=True, kw_only=True):
    """What `POST /v1/jobs/plan` answers: what a submit would do. Nothing is stored."""

    job: Job
    """As it would be; its id is 0."""
    tasks: int = 1
    """Jobs it would make: more than one for an array or a sweep."""
    starts_at: int | None = None
    """Unix seconds; at the latest, as `Job.expected_start_at`. `None`: cannot be told, `sentence` says why."""
    gpu_uuids: tuple[str, ...] = ()
    """The GPUs it would get if it started as things stand."""
    gpu_indexes: tuple[int, ...] = ()
    next_id: int | None = None
    """The number that it would get now."""
    sentence: str


class JobReport(Wire, frozen=True, kw_only=True):
    """What `GET /v1/jobs/REF/report` answers: the whole story of one job; `job.usage` has the account."""

    job: Job
    wait_s: float
    """From the submit (or `--begin`, when later) to the first start, or until now."""
    run_s: float
    """Of the attempt that ran last."""
    events: tuple[JobEvent, ...] = ()
    curve: tuple[UsagePoint, ...] = ()
    """At most some hundred points over the run."""
    script: str | None = None


class TaskResult(Wire, frozen=True, kw_only=True):
    """One line of `GET /v1/jobs/REF/results`: a task and the last numbers it told."""

    job: Job
    metrics: dict[str, float | str | bool | None] = msgspec.field(default_factory=dict)
    """`result.json`'s `metrics` if it wrote any, else the last line of `metrics.jsonl`."""
    progress: float | None = None
    """0..1, from `progress.json`."""


class CronRequest(Wire, frozen=True, kw_only=True):
    """What `POST /v1/cron` takes."""

    schedule: str
    request: SubmitRequest
    missed: Missed = Missed.SKIP
    overlap: bool = False


# --- streams ----------------------------------------------------------------------------------------------------------


class Hello(Wire, frozen=True, kw_only=True, tag="hello"):
    """First line of every stream."""

    api: int
    version: str
    server: str
    """`agent` or `hub`."""
    cluster: str


class Heartbeat(Wire, frozen=True, kw_only=True, tag="heartbeat"):
    """At least one line a second while nothing else is said. 3 s of silence is stale, 15 s is lost."""

    time: float


class NodeUpdate(Wire, frozen=True, kw_only=True, tag="node"):
    """A node's new snapshot or link state."""

    status: NodeStatus


class JobUpdate(Wire, frozen=True, kw_only=True, tag="job"):
    """A job was added or changed; the whole job, so that one missed line is healed by the next."""

    job: Job


class LicenceUpdate(Wire, frozen=True, kw_only=True, tag="licence"):
    """The licence line changed."""

    licence: Licence


class LogChunk(Wire, frozen=True, kw_only=True, tag="log"):
    """Bytes of a job's log as the job wrote them: unsafe text. Base64 in JSON."""

    offset: int
    """Position of the first byte in everything the job wrote; a jump means that bytes between were cut by the cap."""
    data: bytes


class LogEnd(Wire, frozen=True, kw_only=True, tag="end"):
    """The job has ended and the whole log has been sent."""

    job: Job


WatchMessage = Hello | Heartbeat | NodeUpdate | JobUpdate | LicenceUpdate
"""Lines of `GET /v1/watch`: Hello, then the full state, then changes; each line is one JSON object."""

LogMessage = Hello | Heartbeat | LogChunk | LogEnd
"""Lines of `GET /v1/jobs/ID/log?follow=1`."""


class ErrorBody(Wire, frozen=True, kw_only=True):
    """The body of every answer of 400 and above."""

    code: str
    """Stable, for programs: `bad_option`, `not_found`, `forbidden`, …"""
    message: str
    """For people: what failed, on what, what to do next."""
    field: str | None = None
    """Path of the offending value, e.g. `$.flags[2]` or `train.sh:7`."""
