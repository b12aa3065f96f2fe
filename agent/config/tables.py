"""The tables of `stoker.toml`: what may stand in the file, and what it means."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from agent.api.queue import PartitionTerms, QosTerms


class Mode(StrEnum):
    """Whose jobs the agent runs."""

    SYSTEM = "system"
    """Root: a job runs as the user who submitted it."""
    USER = "user"
    """An ordinary account: its own jobs only."""


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's tables: a key we do not know is refused."""


class NodeTable(Table, frozen=True, kw_only=True):
    """`[node]`: this node."""

    name: str = ""
    """Defaults to the short host name."""
    mode: Mode | None = None
    """Defaults to `system` for root with the system file, else `user`."""
    state_dir: Path | None = None
    run_dir: Path | None = None
    cpus: int | None = None
    """CPUs that jobs may have at a time (Slurm's CPUs=). Defaults to all; where GPUs are simulated to at least four a
    GPU, so that a laptop can play a GPU server."""
    allow_root_jobs: bool = False
    """Let uid 0 own jobs. Only sensible in user mode inside a container, where root is the only user."""
    act_for: tuple[str, ...] = ()
    """Accounts (the hub's) whose requests may name the user they act for."""


class GpuTable(Table, frozen=True, kw_only=True):
    """`[gpu]`: where readings come from."""

    source: str = "auto"
    """`auto` (NVML, or no GPUs and why), `nvml`, `simulated` or `none`."""
    simulated_count: int = 8
    simulated_layout: str = "nvswitch"
    """`nvswitch`, `islands` (fours with NVLink) or `mig` (GPU 0 is divided)."""
    period_s: float = 1.0
    fast_s: float | None = None
    """How often power, load and throttling are looked at between two readings; `None`: only the driver's own rings are
    read, which note power 50 times and load 6 times a second."""
    library: str | None = None
    """Path of `libnvidia-ml.so.1` when it is not where the loader looks."""


class PartitionTable(PartitionTerms, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[partitions]]`: a named part of the queue. With none, there is one called `main` with no limits."""

    gpus: tuple[int, ...] | None = None
    """NVML indexes; `None`: all."""
    allow_groups: tuple[str, ...] = ()
    """Unix groups; empty: everybody."""


class QosTable(QosTerms, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[qos]]`: a quality of service. With none, `normal` is known and means nothing."""

    allow_groups: tuple[str, ...] = ()
    """Unix groups; empty: everybody."""


class AccountTable(Table, frozen=True, kw_only=True):
    """`[[accounts]]`: who shares what. With none, every account name is accepted and all users are equal."""

    name: str
    shares: int = 1
    users: dict[str, int] = {}
    """Users and their shares within the account. Empty: anybody, with one share each."""


class SchedulerTable(Table, frozen=True, kw_only=True):
    """`[scheduler]`: the order of the queue. Names and meanings of Slurm's multifactor plugin."""

    backfill: bool = True
    preempt: str = "off"
    """`off`, `qos` or `partition` (Slurm's PreemptType)."""
    preempt_mode: str = "requeue"
    """`requeue` (a job that may not run twice is no victim) or `cancel`."""
    half_life_s: int = 7 * 86400
    """After which use counts half in the fair share (PriorityDecayHalfLife)."""
    max_age_s: int = 28 * 86400
    """Wait at which the age factor is 1 (PriorityMaxAge)."""
    weight_age: int = 20000
    """The weights' defaults are those with which `python -m tests.bench sched` showed the least slowdown that costs no
    utilisation. Age is worth as much as size and fair share together: after `max_age_s` no newcomer overtakes."""
    weight_fairshare: int = 5000
    weight_jobsize: int = 15000
    weight_partition: int = 1000
    weight_qos: int = 50000
    favour_small: bool = True
    """The size factor grows as time limits get shorter, and among equal limits with the part of the node; `false`:
    with the part of the node alone (Slurm's PriorityFavorSmall=NO)."""


class LimitsTable(Table, frozen=True, kw_only=True):
    """`[limits]`: what one user may have at a time; `None`: no limit. Admins are not exempt."""

    max_running_per_user: int | None = None
    max_submit_per_user: int | None = None
    """Waiting and running together; one more is refused at submit."""
    max_gpus_per_user: int | None = None
    max_array_size: int = 10_000
    """Slurm's MaxArraySize: a task's number is below it."""


class HooksTable(Table, frozen=True, kw_only=True):
    """`[hooks]`: programs of the site's that run around a job."""

    prolog: Path | None = None
    """As root (the agent's account in user mode) before the job; a failure requeues it and holds it."""
    epilog: Path | None = None
    task_prolog: Path | None = None
    """As the user."""
    task_epilog: Path | None = None
    timeout_s: int = 60
    notify_command: Path | None = None
    """Run once a notice, which comes as JSON on its standard input."""
    notify_url: str | None = None
    """`http(s)://…` or `unix:///path`: POSTed the same JSON. The unit has no network: name a relay there."""
    notify_all: bool = False
    """Of every job and not only of those with `--mail-type`."""
    notify_incidents: str = "warning"
    """Of incidents from this severity on: `info`, `warning`, `critical`; `off`: of none."""


class ReaperTable(Table, frozen=True, kw_only=True):
    """`[reaper]`: jobs that hold GPUs and use none. Off unless `idle_s` is set."""

    idle_s: int | None = None
    """Idle for so long: the job's user is warned."""
    grace_s: int = 600
    """Idle still so long after the warning: the job is stopped."""
    below_percent: int = 5
    """Utilisation that still counts as idle."""
    exempt_qos: tuple[str, ...] = ()


class HistoryTable(Table, frozen=True, kw_only=True):
    """`[history]`: what is kept of ended jobs."""

    keep_days: int | None = None
    """Ended jobs older than this lose their row, log and folder; `None`: kept for good."""
    backup_s: int = 3600
    """How often the database is copied and the copy verified."""


class TelemetryTable(Table, frozen=True, kw_only=True):
    """`[telemetry]`: what is kept of readings."""

    history: str = "year"
    """How far back: `year` (at most 30 MB a GPU), `month` (17 MB), `days` (two, 6 MB), `hour` (1 MB), `off`."""


class MetricsTable(Table, frozen=True, kw_only=True):
    """`[metrics]`: where the page of `GET /metrics` goes besides."""

    textfile: Path | None = None
    """The agent's page is written to this file, for node_exporter's textfile collector: its name ends in `.prom`."""
    hub_textfile: Path | None = None
    """The same of the hub's page."""
    interval_s: float = 15.0
    """How often."""
    process_ids: bool = False
    """Tell of each process of a GPU by its number: a series for each that ever runs, so not by default."""


class HealthTable(Table, frozen=True, kw_only=True):
    """`[health]`: what is done about GPUs that are ill."""

    policy: dict[str, str] = {}
    """Kind of incident → what a critical one does to its GPU: `drain` until it is over, `hold` until somebody resumes
    it, `tell` nothing; of a kind that is never critical, each does it. Without an entry:
    `agent.engine.incidents.POLICY`."""
    for_s: dict[str, float] = {}
    """Kind of incident → seconds that it must be so to be one. Without an entry: `agent.telemetry.watch.PATIENCE`."""
    clear_s: dict[str, float] = {}
    """Likewise: seconds that it must not be so any more to be over."""


class JobsTable(Table, frozen=True, kw_only=True):
    """`[jobs]`: limits of the embedded engine."""

    grace_s: int = 30
    """Seconds between SIGTERM and SIGKILL when a job is cancelled or out of time."""
    default_time_s: int | None = None
    """Time limit of a job that names none; none means unlimited, as Slurm's default partition."""
    log_head_bytes: int = 16 * 1024 * 1024
    log_tail_bytes: int = 48 * 1024 * 1024
    """The log keeps its first `log_head_bytes` and a rotating tail of at most `log_tail_bytes`."""
    output_max_bytes: int = 1024 * 1024 * 1024
    """Cap of each file that `--output` or `--error` names."""
    max_pending: int = 10_000
    confine_gpus: str = "auto"
    """Cover the other GPUs' device nodes from a job: `auto` (where the agent is root), `on` (or refuse) or `off`."""
    private_tmp: bool = True
    """Give each job a folder of its own as `TMPDIR`, removed after it."""
    shards_per_gpu: int = 4
    """Into how many parts `--gres=shard:N` divides a GPU."""
    shard_memory: str = "warn"
    """A job that holds more of a shared GPU's memory than its shards: `warn`, `stop` it, or `off`."""
    features: tuple[str, ...] = ()
    """What `--constraint` may ask of this node, besides its GPUs' models."""
    licenses: dict[str, int] = {}
    """Counted resources that `--licenses=NAME:N` asks for."""
    launcher: str = "auto"
    """`auto` (a transient unit where systemd is PID 1 and we are root, else fork), `systemd` or `fork`."""


class HubNode(Table, frozen=True, kw_only=True):
    """`[[hub.nodes]]`: one node of the cluster; exactly one of `socket` and `ssh`."""

    name: str
    socket: Path | None = None
    """The agent's socket, for the hub's own node."""
    ssh: str | None = None
    """`user@host[:port]`."""
    host_key: str | None = None
    """The host's public key as in known_hosts, e.g. `ssh-ed25519 AAAA…`; required with `ssh`."""
    identity_file: Path | None = None
    """The private key; defaults to `<state_dir>/hub/ssh_key`."""
    dial: str = "stoker-agent dial-stdio"
    """Remote command that bridges to the agent's socket; ignored by a server with a forced command."""


class HubTable(Table, frozen=True, kw_only=True):
    """`[hub]`: present on the node that runs the hub."""

    cluster: str = "stoker"
    nodes: tuple[HubNode, ...] = ()
    """Empty means: this node's own agent, by its socket."""
    usage_days: int = 800
    """How long rows of the usage ledger stay whose report the vendor acknowledged."""


class PlainTables(Table, frozen=True, kw_only=True):
    """What the parts see just as the file has it."""

    accounts: tuple[AccountTable, ...] = ()
    scheduler: SchedulerTable = SchedulerTable()
    limits: LimitsTable = LimitsTable()
    hooks: HooksTable = HooksTable()
    reaper: ReaperTable = ReaperTable()
    history: HistoryTable = HistoryTable()
    telemetry: TelemetryTable = TelemetryTable()
    health: HealthTable = HealthTable()
    metrics: MetricsTable = MetricsTable()


class File(PlainTables, frozen=True, kw_only=True):
    """The whole file."""

    node: NodeTable = NodeTable()
    gpu: GpuTable = GpuTable()
    jobs: JobsTable = JobsTable()
    hub: HubTable = HubTable()
    partitions: tuple[PartitionTable, ...] = ()
    qos: tuple[QosTable, ...] = ()
