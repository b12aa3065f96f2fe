"""What a scheduling decision is made of, and what it says. Values only: no clock, no disk, no configuration file.

The engine keeps one `Waiting` per job and makes it anew only when the job changes, so a pass over ten thousand waiting
jobs builds nothing but its answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from agent.api.queue import PriorityParts

MAX_WAYS = 16
"""Ways in which one job may be given its GPUs: choices of features, each tried in each of its partitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a job needs of the node, waiting or running."""

    gpus: int = 0
    gpu_type: str | None = None
    shards: int = 0
    """Parts of one GPU; `gpus` is 0 then."""
    cpus: int = 1
    memory_bytes: int = 0
    """0: it did not say, and is not counted."""
    exclusive: bool = False
    """Alone on the node, and given all its GPUs."""
    licenses: tuple[tuple[str, int], ...] = ()
    features: tuple[str, ...] = ()
    """All are needed; of `h100|a100` one, the same for all its GPUs."""


_DEMAND = attrgetter("gpus", "gpu_type", "shards", "cpus", "memory_bytes", "exclusive", "licenses", "features")
_KIND = attrgetter("partition", "reservation")
_ALIKE = attrgetter("user", "account", "qos", "time_limit_s", "priority", "nice", "array_id", "array_limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A job in the queue."""

    id: int
    user: str = ""
    account: str = ""
    partition: str = ""
    """Several with commas between, as Slurm writes them: it may start in any of them."""
    qos: str = ""
    demand: Demand = field(default_factory=Demand)
    time_limit_s: int | None = None
    """With the partition's default filled in; `None`: unlimited."""
    submitted_at: int = 0
    eligible_at: int = 0
    """From when on it ages: the later of submit, `--begin` and the fulfilment of its dependency."""
    begin_at: int | None = None
    deadline_at: int | None = None
    hold: tuple[str, str] | None = None
    """Slurm's word and the sentence, when no decision of the scheduler's could start it: `JobHeldUser`, `JobHeldAdmin`,
    `Dependency`, `DependencyNeverSatisfied`, …"""
    needs: tuple[str, ...] = ()
    """Features of the licence that it needs at its start; most jobs need none."""
    priority: int | None = None
    """Set by hand: stands in place of the factors."""
    nice: int = 0
    reservation: str | None = None
    array_id: int | None = None
    array_limit: int | None = None
    """Most tasks of the array at a time."""
    partitions: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """`partition` apart."""
    kind: str = field(init=False, repr=False, compare=False)
    """The demand and what it is asked of, and …"""
    like: str = field(init=False, repr=False, compare=False)
    """… all but the id and the times: jobs that are equal in it are served alike. Made once a job, not once a pass, and
    text, which is hashed but once."""

    def __post_init__(self) -> None:
        kind = repr((_DEMAND(self.demand), _KIND(self)))
        object.__setattr__(self, "partitions", tuple(self.partition.split(",")))
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "like", kind + repr(_ALIKE(self)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A job that holds what it was given: it starts, runs or ends."""

    id: int
    user: str = ""
    account: str = ""
    partition: str = ""
    qos: str = ""
    demand: Demand = field(default_factory=Demand)
    gpu_uuids: tuple[str, ...] = ()
    started_at: int = 0
    """The claim's time while it has not begun."""
    time_limit_s: int | None = None
    ending: bool = False
    """Asked to stop already: it is nobody's victim, and its GPUs come soon."""
    may_requeue: bool = False
    saved_at: int | None = None
    """When its last checkpoint was complete, from `progress.json`; `None`: it never told of one."""
    stop_s: float = 0.0
    """Seconds it needs to stop well: measured step + save time."""
    array_id: int | None = None
    reservation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """What counts about one GPU, or one MIG instance."""

    uuid: str
    index: int
    name: str
    healthy: bool = True
    seated: bool = True
    foreign: str | None = None
    """Who uses it outside the queue: `pid 4711 of ada`."""
    drained: str | None = None
    """Why it takes no new job."""
    shards: int = 1
    """Into how many parts it may be divided."""
    memory_total_bytes: int = 0
    numa_node: int | None = None
    links: Mapping[str, int] = field(default_factory=dict)
    """UUID of another → `LinkGrade`."""
    features: tuple[str, ...] = ()
    ill: int = 0
    """Warnings short of a drain (retired pages, replays): the least ill is taken first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationFacts:
    """A reservation that is not over."""

    name: str
    start_at: int
    end_at: int
    users: frozenset[str] = frozenset()
    accounts: frozenset[str] = frozenset()
    gpu_uuids: frozenset[str] | None = None
    """`None`: the whole node, CPUs included."""
    maintenance: bool = False

    def is_for(self, user: str, account: str) -> bool:
        """Whether a user's job on an account (empty: none) may run in it."""
        return not self.maintenance and (user in self.users or account in self.accounts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFacts:
    """A partition's rules."""

    name: str
    max_time_s: int | None = None
    tier: int = 1
    gpu_uuids: frozenset[str] | None = None
    """`None`: all."""
    closed: str | None = None
    """Its state where nothing starts in it: DOWN or INACTIVE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QosFacts:
    """A QOS's rules."""

    name: str
    factor: float = 0.0
    """0..1: its priority in relation to the highest."""
    preempts: frozenset[str] = frozenset()
    max_wall_s: int | None = None
    max_gpus_per_user: int | None = None
    max_jobs_per_user: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The site's rules; the same object until the configuration is read again."""

    backfill: bool = True
    preempt: str = "off"
    """`off`, `qos` or `partition`."""
    preempt_cancels: bool = False
    max_age_s: int = 28 * 86400
    weight_age: int = 20000
    weight_fairshare: int = 5000
    weight_jobsize: int = 15000
    weight_partition: int = 1000
    weight_qos: int = 50000
    favour_small: bool = True
    partitions: Mapping[str, PartitionFacts] = field(default_factory=dict)
    qos: Mapping[str, QosFacts] = field(default_factory=dict)
    max_running_per_user: int | None = None
    max_gpus_per_user: int | None = None
    plan_depth: int = 100
    """How many of the first waiting jobs are told when to expect their start."""
    shares: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(account, user) → part of the whole that is its due; (account, "") → an account's part, which its users
    that have none of their own share equally. Pairs that are missing altogether share the rest equally."""

    def tier(self, partition: str) -> int:
        """Of a partition; 1 where it is not configured."""
        facts = self.partitions.get(partition)
        return 1 if facts is None else facts.tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that a decision is made of."""

    waiting: Sequence[Waiting]
    """In any order; the decision makes its own."""
    running: Sequence[Running] = ()
    gpus: Sequence[GpuFacts] = ()
    cpu_count: int = 1
    memory_bytes: int = 0
    licenses: Mapping[str, int] = field(default_factory=dict)
    features: frozenset[str] = frozenset()
    reservations: Sequence[ReservationFacts] = ()
    usage: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(account, user) → decayed GPU-seconds, as of `now`."""
    policy: Policy = field(default_factory=Policy)
    licence_hold: str | None = None
    """Why no new job may start at all, with the command that helps; `None` while the licence allows it."""
    locked: Mapping[str, str] = field(default_factory=dict)
    """Feature → why a job that needs it may not start, with the command that helps."""
    node_drained: str | None = None
    """Why the node takes no new job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Claim these GPUs for this job and launch it."""

    job_id: int
    gpu_uuids: tuple[str, ...] = ()
    partition: str = ""
    """In which it starts: the one it named, or one of those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preempt:
    """Ask these jobs to stop, so that another can start."""

    victims: tuple[int, ...]
    job_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do now."""

    starts: tuple[Start, ...] = ()
    preempts: tuple[Preempt, ...] = ()
    expired: tuple[int, ...] = ()
    """Jobs that can no longer end before their deadline."""
    reasons: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    """For every job that stays: Slurm's word, and the sentence."""
    priorities: Mapping[int, PriorityParts] = field(default_factory=dict)
    """For every waiting job."""
    expected: Mapping[int, int] = field(default_factory=dict)
    """Unix seconds of the start, of the jobs that were planned: the first ones of the queue."""
    look_again_at: int | None = None
    """When a look without any event is due: a `--begin`, the start or end of a reservation, a deadline."""
