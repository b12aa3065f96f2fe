"""What an operator orders about seats: borrow for days, take back, let rest, adopt, pin.

Rules kept here: each order is one transaction with its audit row; what it may take is a part of the licence's seats, at
least one; a seat is free before its lease ends only where the node itself said so, or within the allowance for nodes
that can say nothing any more.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from enum import StrEnum

from licensing import plans, verify
from licensing.binding import Binding
from licensing.document import Lease, decode
from licensing.errors import OtherSiteError, ReplayError, UsageError
from licensing.exchange import Release
from licensing.leases import Terms, term_of
from licensing.moments import when
from licensing.plans import DAY_S
from licensing.seats import has_uuid
from licensing.stage import Stage
from licensing.store import Ledger

log = logging.getLogger(__name__)


class Verb(StrEnum):
    """What may be ordered; the words travel over the wire."""

    BORROW = "borrow"
    REST = "rest"
    RETURN = "return"
    RECLAIM = "reclaim"
    ADOPT = "adopt"
    RENEW = "renew"
    PIN = "pin"
    EXTEND = "extend"
    PROMOTE = "promote"
    UNPIN = "unpin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order about the seats of a node, or about a GPU."""

    verb: Verb
    subject: str = ""
    """A node's name, or a GPU's UUID."""
    days: int = 0
    """For how long it borrows."""
    release: str = ""
    """The node's own word that it gave its lease back."""


class Orders:
    """The orders of one site. Used from the thread that owns the ledger."""

    def __init__(self, ledger: Ledger, site_key: str, binding: Binding) -> None:
        self._ledger = ledger
        self._site_key = site_key
        self._binding = binding

    def do(self, order: Order, terms: Terms) -> None:
        """Do what is ordered.

        Raises:
            LicenceError: refused; nothing was changed.
        """
        match order.verb:
            case Verb.BORROW:
                self.borrow(order.subject, order.days, terms)
            case Verb.REST:
                self.rest(order.subject, terms)
            case Verb.RETURN:
                self.returned(order.subject, order.release, terms)
            case Verb.RECLAIM:
                self.reclaim(order.subject, terms)
            case Verb.ADOPT:
                self.adopt(order.subject, terms)
            case Verb.RENEW:
                self.renew(order.subject, terms)
            case Verb.EXTEND:
                self.extend(terms)
            case Verb.PROMOTE:
                self.promote(terms)
            case Verb.PIN | Verb.UNPIN:
                self.pin(order.subject, terms, on=order.verb is Verb.PIN)

    def borrow(self, node: str, days: int, terms: Terms) -> None:
        """Let a node keep the seats it holds for `days`, away from the hub.

        Raises:
            UsageError: too long, too many, nothing to borrow, or not the time for it.
        """
        if not 1 <= days <= plans.BORROW_S // DAY_S:
            raise UsageError(f"{node} cannot borrow for {days} days; say 1 to {plans.BORROW_S // DAY_S}")
        if terms.standing.stage not in (Stage.ACTIVE, Stage.NOTICE):
            raise UsageError(f"{node} cannot borrow while the licence is in {terms.standing.stage}; renew it first")
        seats = self._seats_of(node, terms)
        allowed = plans.part(terms.licence.seats, plans.BORROW_PERCENT)
        if seats > allowed:
            raise UsageError(
                f"{node} holds {seats} seats, and of the licence's {terms.licence.seats} at most {allowed} "
                f"({plans.BORROW_PERCENT} %) may be borrowed at a time; borrow for a node that holds no more "
                "than that, or ask the vendor for more seats"
            )
        others = self._borrowed_beside(node, terms)
        if others + seats > allowed:
            raise UsageError(
                f"{node} holds {seats} seats, and {others} are borrowed already: {plans.BORROW_PERCENT} % of the "
                f"licence's {terms.licence.seats} seats, {allowed}, may be. Wait until one comes back, or release it"
            )
        until, known = terms.at + days * DAY_S, self._ledger.borrowed().get(node, 0)
        if known > until:
            raise UsageError(f"{node} has its seats until {when(known)}; for less: stoker-license release {node}")
        with self._ledger.transaction():
            self._ledger.put_borrowed(node, terms.at, until)
            self._ledger.audit(terms.at, "borrowed", node, seats=seats, until=until)
        log.info("node=%s borrowed seats=%d until=%d", node, seats, until)

    def rest(self, node: str, terms: Terms) -> None:
        """Give a node no further lease: before it is asked to give back the one it holds.

        Raises:
            UsageError: it holds none.
        """
        self._seats_of(node, terms, none_is_fine=True)
        with self._ledger.transaction():
            self._ledger.put_resting(node, terms.at)
            self._ledger.audit(terms.at, "resting", node)

    def returned(self, node: str, text: str, terms: Terms) -> None:
        """Free a node's seats by its own signature. Twice is once.

        Raises:
            LicenceError: it is not that node's word, or about another lease than its last.
        """
        found = verify.site_paper(Release, text)
        paper, grant = found.paper, self._ledger.grant(node)
        if grant is None or found.key != grant.key or paper.site != self._site_key or paper.node != node:
            raise OtherSiteError(f"the release {paper.id} was not signed by {node} for this hub; ask that node again")
        last = decode(Lease, grant.content)
        if paper.lease != last.id:
            raise ReplayError(f"the release {paper.id} gives back {paper.lease}, and {node} was given {last.id} since")
        with self._ledger.transaction():
            seats = self._ledger.free_node(node)
            self._ledger.drop_borrowed(node)
            self._ledger.put_resting(node, terms.at)
            self._ledger.put_grant(replace(grant, taken=0, taken_head=""))  # it shows none from now on, and rightly
            self._ledger.audit(terms.at, "returned", node, release=paper.id, lease=paper.lease, seats=seats)
        log.info("node=%s gave back seats=%d", node, seats)

    def reclaim(self, node: str, terms: Terms) -> None:
        """Free the seats of a node that is gone, though its lease runs on.

        Raises:
            UsageError: it holds none, or the allowance is used up.
        """
        seats = self._seats_of(node, terms)
        allowed = plans.part(terms.licence.seats, plans.RECLAIM_PERCENT)
        spent = self._ledger.reclaimed_since(terms.mark.time - plans.RECLAIM_S)
        if spent + seats > allowed:
            until = max(hold.until for hold in self._ledger.holds(terms.mark.time) if hold.node == node)
            raise UsageError(
                f"{node} holds {seats} seats, and {spent} were taken back in the last 30 days: "
                f"{plans.RECLAIM_PERCENT} % of the licence's {terms.licence.seats} seats, {allowed}, may be. Its seats "
                f"are free {when(until)}; if it comes up before: stoker-license release {node}"
            )
        with self._ledger.transaction():
            self._ledger.free_node(node)
            self._ledger.drop_borrowed(node)
            self._ledger.put_reclaimed(terms.mark.time, node, seats)
            self._ledger.audit(terms.at, "reclaimed", node, seats=seats, of=allowed, spent=spent)
        log.warning("node=%s seats=%d taken back before its lease ended", node, seats)

    def adopt(self, node: str, terms: Terms) -> None:
        """Let a node that gave its seats back have some again.

        Raises:
            UsageError: it has seats, or is unknown.
        """
        if any(each.node == node for each in self._ledger.forked()):
            raise UsageError(
                f"{node} shows the identity of another machine and needs one of its own: stoker-license node adopt "
                f"--new {node}"
            )
        if node not in self._ledger.resting():
            raise UsageError(
                f"{node} did not give its seats back, so there is nothing to adopt; see: stoker-license status"
            )
        with self._ledger.transaction():
            self._ledger.drop_resting(node)
            self._ledger.audit(terms.at, "adopted", node)

    def renew(self, node: str, terms: Terms) -> None:
        """A node made itself another identity: what was known of a second holder under its name is over."""
        with self._ledger.transaction():
            self._ledger.drop_forked(node)
            self._ledger.audit(terms.at, "adopted", node, new=True)

    def extend(self, terms: Terms) -> None:
        """Let new jobs start for 72 h more after everything is over, once a term.

        Raises:
            UsageError: new jobs start as it is, the hours were taken before, or they would not help.
        """
        licence, standing, term = terms.licence, terms.standing, term_of(terms.licence)
        taken = self._ledger.extended_until(term)
        if taken is not None:
            raise UsageError(
                f"the licence {licence.id} had its emergency hours in this term, until {when(taken)}; ask your vendor "
                "for a renewal: stoker-license export-request"
            )
        if standing.stage is Stage.PERPETUAL:
            raise UsageError(
                "this build is newer than the licence covers, which hours do not change; install an older one"
            )
        if standing.stage is not Stage.RESTRICTED:
            raise UsageError(f"new jobs start in {standing.stage}; take the emergency hours when they are held")
        if licence.plan in (plans.Plan.TRIAL, plans.Plan.EVALUATION):
            raise UsageError(f"{licence.id} is for trying, and has no emergency hours; buy a licence")
        until = terms.at + plans.EMERGENCY_S
        with self._ledger.transaction():
            self._ledger.put_extended(term, terms.at, until)
            self._ledger.audit(terms.at, "emergency", licence.id, until=until, code=standing.code)
        log.warning("licence=%s emergency hours until=%d", licence.id, until)

    def promote(self, terms: Terms) -> None:
        """Speak with a higher epoch than the hub whose state this was: nodes take nothing of that one any more.

        With it begin the days on another machine: a hub that leads and gives no leases would help nobody.
        """
        epoch = max(self._ledger.epoch(), self._ledger.epoch_heard()) + 1
        with self._ledger.transaction():
            self._ledger.put_epoch(epoch)
            self._ledger.audit(terms.at, "epoch", self._site_key[:16], epoch=epoch)
            self._binding.take_over(terms.licence, terms.at)
        self._binding.reload()
        log.warning("this hub speaks with epoch %d from now on", epoch)

    def pin(self, gpu: str, terms: Terms, *, on: bool) -> None:
        """Let a GPU have a seat before the others of its node where seats are short. Twice is once.

        Raises:
            UsageError: it has no UUID.
        """
        if not has_uuid(gpu) or len(gpu) > 96:
            raise UsageError(f"{gpu!r} is no UUID of a GPU; see: nvidia-smi -L")
        if (gpu in self._ledger.pinned()) is on:
            return
        with self._ledger.transaction():
            if on:
                self._ledger.put_pinned(gpu)
            else:
                self._ledger.drop_pinned(gpu)
            self._ledger.audit(terms.at, "pinned" if on else "unpinned", gpu)

    def _seats_of(self, node: str, terms: Terms, *, none_is_fine: bool = False) -> int:
        held = sum(1 for hold in self._ledger.holds(terms.mark.time) if hold.node == node)
        if held == 0 and not (none_is_fine and self._ledger.grant(node)):
            raise UsageError(f"{node} holds no seats; see who does: stoker-license status")
        return held

    def _borrowed_beside(self, node: str, terms: Terms) -> int:
        away = self._ledger.borrowed().keys() - {node}
        return sum(1 for hold in self._ledger.holds(terms.mark.time) if hold.node in away)
