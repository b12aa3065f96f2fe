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
    development_roots: bool = False
    """This build trusts development keys, under which anybody can sign; shown so that nobody ships it."""


class ActivateRequest(Wire, frozen=True, kw_only=True):
    """What `POST /v1/licence` takes: the text of a voucher or licence file."""

    document: str


class LeaseGrant(Wire, frozen=True, kw_only=True):
    """What the hub puts to `PUT /v1/lease` of a node."""

    token: str


class LeaseReply(Wire, frozen=True, kw_only=True):
    """What the node holds now; the hub continues its chain from `seq`."""

    seq: int
    expires_at: int | None
    stage: LicenceStage
    usage: UsageHead | None = None
    """Where the node's usage ledger stands; `None` where it cannot be read."""
