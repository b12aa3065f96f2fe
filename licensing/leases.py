"""Leases made out by a site: when one is due, whom it seats, and the transaction behind it.

Rules kept here: what is granted is committed first and signed afterwards, so no lease exists without its row; the same
renewal asked twice is answered with the same lease; a renewal is never refused because too many seats are taken, it
covers what there is; seats are counted and freed by confirmed time, so a wrong clock takes nobody's.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from licensing import armour, keys, plans, stage, verify
from licensing.clock import SKEW_S, HighWater
from licensing.document import MAX_LEASE_S, Lease, Licence, decode, encode, sign_content
from licensing.seats import Hold, NoSeat, share
from licensing.stage import EMERGENCY_CODE, Stage, Standing
from licensing.store import Grant, Ledger

log = logging.getLogger(__name__)

RENEW_S = 8 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a node says of itself."""

    node: str
    key: str
    """Its public key, 64 hex digits."""
    gpus: tuple[str, ...]
    """Every schedulable GPU it has."""
    seq: int
    """The number of the lease it holds, 0 for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What may be given at a moment: the licence, verified, and how it stands then."""

    chain: verify.LicenceChain
    activated_at: int
    standing: Standing
    at: int
    """The time to sign: `clock.believed`."""
    mark: HighWater
    """Its `time` is confirmed, and what seats are counted and freed by; stored with each grant."""
    report_by: int | None = None
    """What the last receipt said."""
    extended_until: int | None = None
    """Until when the emergency hours of this term run."""

    @property
    def licence(self) -> Licence:
        """The licence itself."""
        return self.chain.licence

    @property
    def lease_until(self) -> int:
        """A lease never outlives what its licence allows."""
        return min(self.at + self.licence.lease_s, self.ends_at)

    @property
    def ends_at(self) -> int:
        """When new jobs stop starting under it."""
        end = stage.ends(self.licence, self.activated_at, report_by=self.report_by).restricted_at
        return max(end, self.extended_until or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdraft:
    """Seats beyond those that were bought."""

    seats: int
    since: int | None
    """When the first of them was given in this term; `None` while none was."""
    over: bool
    """Its 30 days are over: none is given until the next term."""


class Leases:
    """The grants of one site. Used from the thread that owns the ledger."""

    def __init__(self, ledger: Ledger, key: Ed25519PrivateKey, cluster: str) -> None:
        self._ledger = ledger
        self._key = key
        self._cluster = cluster

    def answer(self, ask: Ask, terms: Terms) -> str | NoSeat | None:
        """The lease to hand over now; `None` when the one the node has will do.

        Raises:
            WeakKeyError: the node's key is no sound key.
            StoreError: the ledger cannot be written; nothing was granted.
        """
        standing = terms.standing
        if standing.stage.holds:
            return NoSeat(code=standing.code or "LIC-404", message=standing.message)
        resting = self._ledger.resting().get(ask.node)
        if resting is not None:
            return _resting(ask.node, resting)
        last = self._ledger.grant(ask.node)
        if last is not None and last.key == ask.key:
            if self._is_due(ask, last, terms):
                return self._signed(self._checkout(ask, terms), terms)
            return None if ask.seq == last.seq else self._signed(last, terms)
        if standing.stage is Stage.GRACE and last is None:
            message = f"{standing.message} {ask.node} had no lease before, so it gets none now."
            return NoSeat(code="LIC-421", message=message)
        keys.public_key(ask.key)
        return self._signed(self._checkout(ask, terms), terms)

    def _is_due(self, ask: Ask, last: Grant, terms: Terms) -> bool:
        """The node is ahead or changed, the licence changed, seats became free, or the lease is old or not of now."""
        lease = decode(Lease, last.content)
        if ask.seq > last.seq or ask.gpus != last.wanted or lease.held is not None:
            return True
        then = (lease.licence, lease.rev, lease.report_by, lease.extended_until)
        if then != (terms.licence.id, terms.licence.rev, terms.report_by, terms.extended_until):
            return True
        if (lease.resets, lease.epoch) != (self._ledger.clock_resets(), self._ledger.epoch()):
            return True
        if self._share(ask, terms) != lease.gpus or self._is_unheld(lease, terms):
            return True
        until, borrowed = self._until(ask.node, terms)
        if borrowed != lease.borrowed or (borrowed and until > lease.exp):
            return True
        if lease.iat > terms.at + SKEW_S:  # made out while the clock was wrong
            return True
        old = terms.at >= lease.iat + min(RENEW_S, terms.licence.lease_s // 3)
        return old and terms.lease_until > lease.exp

    def overdraft(self, terms: Terms) -> Overdraft | None:
        """What may be, or was, given beyond the licence's seats in this term; `None` where it has no overdraft."""
        seats = plans.overdraft(terms.licence)
        if seats == 0:
            return None
        since = self._ledger.overdraft_since(term_of(terms.licence))
        over = since is not None and terms.mark.time >= since + plans.OVERDRAFT_S
        return Overdraft(seats=seats, since=since, over=over)

    def _share(self, ask: Ask, terms: Terms) -> tuple[str, ...]:
        """A borrowed node keeps what it borrowed, and gets no more: what is away is bounded by the order."""
        holds, wanted = self._ledger.holds(terms.mark.time), ask.gpus
        if ask.node in self._ledger.borrowed():
            mine = {hold.gpu for hold in holds if hold.node == ask.node}
            wanted = tuple(gpu for gpu in wanted if gpu in mine)
        # What was held ended with the licence; the emergency hours are for what was there.
        may_grow = terms.standing.stage is not Stage.GRACE or terms.standing.code == EMERGENCY_CODE
        if not may_grow:
            holds += self._lapsed(ask.node, holds)
        beyond = self.overdraft(terms)
        return share(
            wanted,
            holds,
            node=ask.node,
            seats=terms.licence.seats + (beyond.seats if beyond and not beyond.over else 0),
            may_grow=may_grow,
            pinned=self._ledger.pinned(),
        )

    def _lapsed(self, node: str, holds: list[Hold]) -> list[Hold]:
        """What a node had last and nobody has now: a hub that was down for a day in grace takes no seat by that."""
        last, taken = self._ledger.grant(node), {hold.gpu for hold in holds}
        had = decode(Lease, last.content) if last is not None else None
        mine = had.gpus if had is not None else ()
        return [Hold(gpu=gpu, node=node, since=had.iat, until=had.exp) for gpu in mine if had and gpu not in taken]

    def _until(self, node: str, terms: Terms) -> tuple[int, bool]:
        """When a lease made out now ends, and whether that is because the node borrowed it."""
        plain, borrowed = terms.lease_until, min(self._ledger.borrowed().get(node, 0), terms.ends_at)
        return (borrowed, True) if borrowed > plain else (plain, False)

    def _is_unheld(self, lease: Lease, terms: Terms) -> bool:
        """Whether a seat of it is nobody's any more, having been taken back: the lease must not be handed out again."""
        held = {hold.gpu for hold in self._ledger.holds(terms.mark.time)}
        return lease.exp > terms.at and not held.issuperset(lease.gpus)

    def _draw(self, terms: Terms) -> None:
        """Date the moment from which more seats are held than were bought."""
        held = len(self._ledger.holds(terms.mark.time))
        beyond = self.overdraft(terms)
        if beyond is None or beyond.since is not None or held <= terms.licence.seats:
            return
        at, until = terms.mark.time, terms.mark.time + plans.OVERDRAFT_S
        self._ledger.put_overdraft(term_of(terms.licence), at)
        self._ledger.audit(
            terms.at, "overdraft", terms.licence.id, seats=held, of=terms.licence.seats, since=at, until=until
        )
        log.warning("licence=%s overdraft seats=%d/%d until=%d", terms.licence.id, held, terms.licence.seats, until)

    def _checkout(self, ask: Ask, terms: Terms) -> Grant:
        """One transaction: expire → count → hold → audit → time. Signing comes after the commit."""
        at = terms.at
        with self._ledger.transaction():
            self._expire(terms)
            lease = self._make_lease(ask, terms, self._share(ask, terms))
            self._ledger.hold(ask.node, lease.gpus, since=at, until=lease.exp, gen=lease.seq)
            grant = Grant(node=ask.node, key=ask.key, seq=lease.seq, wanted=ask.gpus, content=encode(lease))
            self._ledger.put_grant(grant)
            self._draw(terms)
            row = {"lease": lease.id, "gpus": lease.gpus, "asked": len(ask.gpus), "until": lease.exp}
            self._ledger.audit(at, "granted", ask.node, **row)
            self._ledger.put_clock(terms.mark)
        log.info("node=%s leased seq=%d gpus=%d/%d", ask.node, lease.seq, len(lease.gpus), len(ask.gpus))
        return grant

    def _expire(self, terms: Terms) -> None:
        """Free what is over. A seat that ends later than any lease can was taken under a wrong clock: it ends soon."""
        for freed in self._ledger.expire(terms.mark.time):
            self._ledger.audit(terms.at, "expired", freed.gpu, node=freed.node, until=freed.until)
        for node in self._ledger.end_borrows(terms.mark.time, terms.at + plans.BORROW_S + SKEW_S):
            self._ledger.audit(terms.at, "borrow_ended", node)
        until = terms.at + terms.licence.lease_s
        for held in self._ledger.pull_in(terms.at + MAX_LEASE_S + SKEW_S, until):
            self._ledger.audit(terms.at, "corrected", held.gpu, node=held.node, until=held.until)

    def _make_lease(self, ask: Ask, terms: Terms, gpus: tuple[str, ...]) -> Lease:
        """Numbered one above both sides. A node ahead of the ledger means that it was restored from a backup."""
        last = self._ledger.grant(ask.node)
        known = last.seq if last else 0
        if ask.seq > known:
            self._ledger.audit(terms.at, "restored", ask.node, node_seq=ask.seq, ledger_seq=known)
        seq, epoch = max(ask.seq, known) + 1, self._ledger.epoch()
        until, borrowed = self._until(ask.node, terms)
        return Lease(
            id=f"lease-{ask.node}-{epoch}-{seq}",
            iat=terms.at,
            exp=until,
            cluster=self._cluster,
            node=ask.node,
            key=ask.key,
            site=keys.public_hex(self._key),
            licence=terms.licence.id,
            rev=terms.licence.rev,
            activated_at=terms.activated_at,
            gpus=gpus,
            report_by=terms.report_by,
            epoch=epoch,
            seq=seq,
            prev=hashlib.sha256(last.content).hexdigest() if last else "",
            extended_until=terms.extended_until,
            resets=self._ledger.clock_resets(),
            borrowed=borrowed,
        )

    def _signed(self, grant: Grant, terms: Terms) -> str:
        """The token of a committed grant, behind the chain that proves it. Signing twice gives the same text."""
        return armour.LINK.join((terms.chain.text, sign_content(self._key, Lease, grant.content)))


def term_of(licence: Licence) -> str:
    """Names the term of a licence: amending it leaves the term, renewing it begins another."""
    return f"{licence.id} {licence.exp}"


def _resting(node: str, since: int) -> NoSeat:
    message = (
        f"{node} gave its seats back {stage.when(since)}, and gets none until it is adopted. Run: stoker-license node "
        f"adopt {node}"
    )
    return NoSeat(code="LIC-422", message=message)
