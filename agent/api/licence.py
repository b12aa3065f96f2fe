"""The words of the licence on the wire: stages, seats, leases. The rules are those of `agent.api.types`."""

from __future__ import annotations

from agent.api.usage import UsageHead
from agent.api.words import Wire, Word


class LicenceStage(Word):
    """`design`: what new jobs may do. Running jobs are never touched in any stage."""

    ACTIVE = "ACTIVE"
    NOTICE = "NOTICE"
    GRACE = "GRACE"
    PERPETUAL = "PERPETUAL"
    """This build is newer than a perpetual licence covers, and holds new jobs; an older build does not."""
    RESTRICTED = "RESTRICTED"
    """New jobs are held in the queue with reason `License`; everything else works."""


class SeatHolder(Wire, frozen=True, kw_only=True):
    """The seats one node holds now."""

    node: str
    gpu_uuids: tuple[str, ...]
    until: int
    """Unix seconds at which the lease ends unless renewed."""
    borrowed: bool = False
    """It has them until then without its hub."""


class ForkedNode(Wire, frozen=True, kw_only=True):
    """A node with an old lease and the identity of another machine: a copy of it, or its disk of another day."""

    node: str
    of: str
    """The node whose chain of leases goes on; its own name where another machine answered under it."""
    seq: int
    """The lease that it shows."""
    since: int


class LockedFeature(Wire, frozen=True, kw_only=True):
    """Something that a job can need and the licence does not open."""

    feature: str
    edition: str | None = None
    """The lowest edition that has it."""
    sold_with: str = ""
    """The same in words: `edition team and above`."""
    planned: bool = False
    """It keeps nothing from starting yet, because what it stands for is not built."""


class PendingRequest(Wire, frozen=True, kw_only=True):
    """A request to the vendor that was not answered yet."""

    id: str
    want: str
    made_at: int
    until: int
    """Unix seconds until which its answer is taken."""
    superseded: bool = False
    """A newer one asks for the same, or a licence was signed since: nobody waits for its answer any more."""


class LicenceHardware(Wire, frozen=True, kw_only=True):
    """How the hub's machine stands to the licence: names of groups of marks, and none of the marks."""

    mode: str
    """hardware; key: the site's key alone, which is weaker; none: a voucher is bound to nothing."""
    verdict: str
    """match; short: two groups, which is too few; other: none or one; unmarked: too few to begin with."""
    told: str = ""
    """Both in words, one line."""
    seen: tuple[str, ...] = ()
    """Of platform, network, gpus, disk, machine-id."""
    enrolled: tuple[str, ...] = ()
    matching: tuple[str, ...] = ()
    needed: int = 0
    """How many of the enrolled must match."""
    since: int | None = None
    """Unix seconds at which it was noticed that the machine is not the enrolled one."""
    grace_until: int | None = None
    """Unix seconds until which new jobs start all the same."""
    drifts: int = 0
    """How often a part of the machine changed in the last 365 days."""
    platform_changes: int = 0
    """How often its platform did in the last 90 days."""
    remarks: tuple[str, ...] = ()
    """What is reported of all this, and never refused."""


class LicenceUnit(Wire, frozen=True, kw_only=True):
    """What is counted beside GPUs: machines with an agent, and persons who used an admin verb in the last 30 days."""

    unit: str
    """node or admin."""
    used: int
    limit: int | None = None
    """`None`: any number. Beyond it nothing is refused."""
    names: tuple[str, ...] = ()
    """What was counted: names of nodes, or accounts."""
    told: str | None = None
    """What is said while there are more than the limit."""


class Licence(Wire, frozen=True, kw_only=True):
    """The licence as the hub sees it; what the licence line and `stoker-license status` print."""

    stage: LicenceStage
    code: str | None = None
    """`LIC-4xx` while something is blocked or about to be."""
    message: str
    """One sentence: what holds, until when."""
    fix: str | None = None
    """The exact command that helps."""
    licence_id: str | None = None
    customer: str | None = None
    plan: str | None = None
    evaluation: bool = False
    seats_total: int = 0
    seats_used: int = 0
    expires_at: int | None = None
    restricted_at: int | None = None
    """Unix seconds at which new jobs stop starting if nothing is done."""
    holders: tuple[SeatHolder, ...] = ()
    site_key: str | None = None
    """The hub's Ed25519 public key, 64 hex digits: what the vendor binds a licence to."""
    bound: bool = False
    """Made out to this site; a voucher is not, and works for 14 days."""
    rev: int | None = None
    edition: str | None = None
    features: tuple[str, ...] = ()
    """What the licence opens beside the basis."""
    locked: tuple[LockedFeature, ...] = ()
    """What it does not: a new job that needs it waits, with reason `License` and LIC-450."""
    issuer: str | None = None
    reseller: str | None = None
    brand: str | None = None
    updates_until: int | None = None
    """Of a perpetual licence: builds up to this date run for ever."""
    report_by: int | None = None
    """Of a pay-per-use licence: until when the next usage report must be acknowledged."""
    prepaid_gpu_seconds_left: int | None = None
    """Of a prepaid licence; below 0 in its grace."""
    pending: tuple[PendingRequest, ...] = ()
    """Requests that the vendor may still answer, newest first."""
    crl: int = 0
    """The highest number of a revocation list known here."""
    at: int | None = None
    """The hub's own time, Unix seconds: what licences go by, and never runs back."""
    seats_borrowed: int = 0
    seats_overdraft: int = 0
    """Seats that are held beyond the licence's."""
    overdraft_since: int | None = None
    overdraft_until: int | None = None
    """Unix seconds until which this term has seats beyond the licence's; `None` while none was used."""
    resting: tuple[str, ...] = ()
    """Nodes that gave their seats back, and get none until they are adopted."""
    pinned: tuple[str, ...] = ()
    """UUIDs of GPUs that get a seat before others of their node."""
    hardware: LicenceHardware | None = None
    """`None` where the machine was never looked at: on a node, and with an older hub."""
    forked: tuple[ForkedNode, ...] = ()
    """Nodes that show the identity of another machine; they get nothing new."""
    epoch_heard: int = 0
    """The highest epoch of which a node had a lease; above `epoch`, another hub took over and this one gives none."""
    epoch: int = 1
    """Which hub of the site this is; a standby that took over has a higher one."""
    confirmed_at: int | None = None
    """The same without what the hub's clock says beyond what uptime explains."""
    clock_rollbacks: int = 0
    """How often since its start the hub saw its clock behind what was signed and seen."""
    units: tuple[LicenceUnit, ...] = ()
    """Nodes and admins; empty on a node, and with an older hub."""
    development_roots: bool = False
    """This build trusts development keys, under which anybody can sign; shown so that nobody ships it."""


class ActivateRequest(Wire, frozen=True, kw_only=True):
    """What `POST /v1/licence` takes: the text of a vendor's file, be it a voucher, licence, answer, receipt or list."""

    document: str


class LicenceAsk(Wire, frozen=True, kw_only=True):
    """What `POST /v1/licence/request` takes."""

    want: str
    """activate, renew, transfer or usage."""


class LicenceRelease(Wire, frozen=True, kw_only=True):
    """What `POST /v1/licence/release` takes: the licence is given back."""

    to: str | None = None
    """The request of the site that it goes to."""


class LicenceOrder(Wire, frozen=True, kw_only=True):
    """What `POST /v1/licence/order` takes: what an operator orders about seats."""

    order: str
    """borrow, release, adopt, pin, unpin, extend, promote or clock-confirm."""
    subject: str = ""
    """A node's name, or a GPU's UUID."""
    days: int = 0
    """For how long a node borrows."""
    force: bool = False
    """For a release: the node can say nothing any more. For the clock: it is certainly right. For adopt: the node makes
    itself a new identity, because it shows that of another machine. For pin: the GPU is
    pinned though no node shows it."""


class LicenceFile(Wire, frozen=True, kw_only=True):
    """Something to send to the vendor."""

    id: str
    token: str
    """Bare, as a QR code carries it."""
    document: str
    """The text of the file."""
    until: int | None = None
    """Unix seconds until which its answer is taken."""
    qr: tuple[str, ...] = ()
    """The token as a QR code, a row of half blocks an item, light modules drawn; empty where it is too long for one."""


class LicenceEvent(Wire, frozen=True, kw_only=True):
    """One row of the licence's trail: something that was done, by the hub's own time."""

    number: int
    """Counts from 1 without a gap."""
    at: int
    event: str
    subject: str
    """What it is about: a licence, a request, a node or a GPU."""
    detail: dict[str, str | int | bool | list[str] | None]


class LeaseGrant(Wire, frozen=True, kw_only=True):
    """A lease, as the hub puts it to a node; and a node's word that it gave its own back."""

    token: str


class LeaseReply(Wire, frozen=True, kw_only=True):
    """What the node holds now; the hub continues its chain from `seq`."""

    seq: int
    expires_at: int | None
    stage: LicenceStage
    lease: str | None = None
    """The token of that lease, which proves what the node holds to the hub that signed it."""
    usage: UsageHead | None = None
    """Where the node's usage ledger stands; `None` where it cannot be read."""
    refused: str = ""
    """The code of what a hub said last of why it gives no further lease; empty where that is over."""


class LeaseRefusal(Wire, frozen=True, kw_only=True):
    """Why the hub gives a node no further lease; shown there, and changes nothing that the node may start."""

    code: str
    """Empty: it gives leases again, and what was said before is over."""
    message: str
    fix: str | None = None
    """The command that helps, where the message does not have it."""


class NodeIdentity(Wire, frozen=True, kw_only=True):
    """The identity that a node made itself in place of one that another machine has."""

    key: str
    """Its public key, 64 hex digits."""
