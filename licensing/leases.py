"""Leases made out by a site: when one is due, whom it seats, and the transaction behind it.

Rules kept here: what is granted is committed first and signed afterwards, so no lease exists without its row; the same
renewal asked twice is answered with the same lease; a renewal is never refused because too many seats are taken, it
covers what there is; seats are counted and freed by confirmed time, so a wrong clock takes nobody's.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import replace

from licensing import armour, chains, keys, moments, plans
from licensing.chains import Ask as Ask
from licensing.chains import Place
from licensing.clock import SKEW_S
from licensing.document import MAX_LEASE_S, Lease, decode, encode, footer, sign_content
from licensing.ed25519 import PrivateKey
from licensing.errors import StoreError
from licensing.seating import Overdraft, Seating, Terms, overdraft, term_of
from licensing.seats import NoSeat
from licensing.stage import Stage
from licensing.store import Forked, Grant, Ledger, LostTransactionError

__all__ = ["Ask", "Leases", "Outcome", "Overdraft", "Terms", "term_of"]

log = logging.getLogger(__name__)

RENEW_S = 8 * 3600
"""How old a lease is when its node gets the next, a tenth more or less by its id: nodes that began together spread."""
CONTACT_S = 2 * 3600
"""How old for a node that was just reached: who can tell when it will be the next time."""
Outcome = str | NoSeat | Exception | None
"""A lease, none and why, an error that touched nobody else's, or nothing due."""


class Leases:
    """The grants of one site. Used from the thread that owns the ledger."""

    def __init__(self, ledger: Ledger, key: PrivateKey, cluster: str) -> None:
        self._ledger = ledger
        self._key = key
        self._site = keys.public_hex(key)
        self._cluster = cluster
        self._footer = footer(key, Lease)

    def answer(self, ask: Ask, terms: Terms) -> str | NoSeat | None:
        """The lease to hand over now; `None` when the one the node has will do.

        Raises:
            WeakKeyError: the node's key is no sound key.
            StoreError: the ledger cannot be written; nothing was granted.
        """
        (outcome,) = self.answer_all([ask], terms)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def answer_all(self, asks: Sequence[Ask], terms: Terms) -> list[Outcome]:
        """Answer up to `seats.MAX_BATCH` at once: one transaction, one flush of the disk, and only then the signatures.

        Each stands for itself: one that fails is undone alone. Where the ledger cannot be written nothing was granted
        to anybody, and each is told so.
        """
        standing = terms.standing
        if standing.stage.holds:
            return [NoSeat(code=standing.code or "LIC-404", message=standing.message) for _ in asks]
        try:
            with self._ledger.transaction():
                seating = Seating(self._ledger, terms)
                found = self._together(asks, terms, seating)
                if seating.is_changed:
                    self._ledger.put_clock(terms.mark)
        except StoreError as error:
            return [error for _ in asks]
        _log(seating)
        return [self._signed(each, terms) if isinstance(each, Grant) else each for each in found]

    def hear(self, ask: Ask, terms: Terms) -> None:
        """Count what a node holds and this ledger does not remember, before anybody else is granted more.

        Raises:
            StoreError: the ledger cannot be written.
        """
        _, chain = chains.place(ask, self._ledger.grants(ask.node, ask.key))
        if _is_unknown(ask, chain):
            with self._ledger.transaction():
                seating = Seating(self._ledger, terms)
                self._learn(ask, chain, terms, seating)
                seating.write()
            _log(seating)

    def overdraft(self, terms: Terms) -> Overdraft | None:
        """What may be, or was, given beyond the licence's seats in this term; `None` where it has no overdraft."""
        return overdraft(self._ledger, terms)

    # --- one of a batch ---

    def _together(self, asks: Sequence[Ask], terms: Terms, seating: Seating) -> list[Grant | NoSeat | Exception | None]:
        """As if none could fail, and where one does, each apart: to stand for oneself costs as much as the answer."""
        if len(asks) > 1:
            try:
                with self._ledger.part():
                    seating.look(asks)
                    found: list[Grant | NoSeat | Exception | None] = [self._decide(ask, terms, seating) for ask in asks]
                    seating.write()
                    return found
            except LostTransactionError:
                raise
            except Exception:  # noqa: BLE001 - whose it is, is found below
                seating.undo(is_changed=False, said=0)
        return [self._apart(ask, terms, seating) for ask in asks]

    def _apart(self, ask: Ask, terms: Terms, seating: Seating) -> Grant | NoSeat | Exception | None:
        was_changed, said = seating.is_changed, len(seating.said)
        try:
            with self._ledger.part():
                found = self._decide(ask, terms, seating)
                seating.write()
                return found
        except LostTransactionError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one node must not cost the others theirs
            seating.undo(is_changed=was_changed, said=said)
            return error

    def _decide(self, ask: Ask, terms: Terms, seating: Seating) -> Grant | NoSeat | None:
        """The grant to sign, be it new or the last one again; `None` when the node has it."""
        resting = seating.resting.get(ask.node)
        if resting is not None:
            return _resting(ask.node, resting)
        grants = seating.grants(ask)
        place, chain = chains.place(ask, grants)
        if _is_unknown(ask, chain):
            self._learn(ask, chain, terms, seating)
        if seating.epoch_heard > seating.epoch:
            return superseded(seating.epoch_heard, seating.epoch)
        if chain is not None and place is Place.FORKED:
            return self._refuse_fork(ask, chain, terms, seating)
        if ask.node in seating.forked:
            self._ledger.drop_forked(ask.node)
            seating.forked.discard(ask.node)
        if chain is None:
            if terms.standing.stage is Stage.GRACE and all(each.node != ask.node for each in grants):
                message = f"{terms.standing.message} {ask.node} had no lease before, so it gets none now."
                return NoSeat(code="LIC-421", message=message, fix=terms.standing.fix)
            keys.public_key(ask.key)
        if chain is not None and place is Place.BACK:
            chain = self._note_back(ask, chain, terms, seating)
        if chain is None or place in (Place.AHEAD, Place.RENAMED) or self._is_due(ask, chain, terms, seating):
            return self._checkout(ask, chain, grants[0] if grants else None, terms, seating)
        if place is not Place.AT_END:
            return chain
        if chain.taken != chain.seq:
            seating.put_grant(replace(chain, taken=chain.seq, taken_head=chain.head, back=-1))
        return None

    def _is_due(self, ask: Ask, last: Grant, terms: Terms, seating: Seating) -> bool:
        """The node changed, the licence changed, seats became free, or the lease is old or not of now."""
        if ask.gpus != last.wanted:
            return True
        lease = decode(Lease, last.content)
        if lease.held is not None:
            return True
        then = (lease.licence, lease.rev, lease.report_by, lease.extended_until)
        if then != (terms.licence.id, terms.licence.rev, terms.report_by, terms.extended_until):
            return True
        if (lease.resets, lease.epoch) != (seating.resets, seating.epoch):
            return True
        if seating.share(ask) != lease.gpus or seating.is_unheld(lease):
            return True
        until, borrowed = seating.until(ask.node)
        if borrowed != lease.borrowed or (borrowed and until > lease.exp):
            return True
        if lease.iat > terms.at + SKEW_S:  # made out while the clock was wrong
            return True
        return terms.at >= lease.iat + _renewed_after(lease, terms, ask) and terms.lease_until > lease.exp

    def _checkout(self, ask: Ask, chain: Grant | None, last: Grant | None, terms: Terms, seating: Seating) -> Grant:
        """Expire → count → hold → audit; the time and the commit are the batch's. `last` is the one to count on from.

        A node ahead of the ledger means that the ledger was restored from a backup.
        """
        if not seating.is_expired:
            seating.write()
            if self._expire(terms):
                seating.freed()
            seating.is_expired = True
        known = last.seq if last else 0
        if ask.seq > known:
            self._ledger.audit(terms.at, "restored", ask.node, node_seq=ask.seq, ledger_seq=known)
        elif chain is not None and chain.node != ask.node:
            self._ledger.audit(terms.at, "renamed", ask.node, was=chain.node, key=ask.key[:16])
        lease = self._make_lease(ask, last, terms, seating)
        taken, head = (chain.taken, chain.taken_head) if chain else (0, "")
        if chain is not None and ask.seq > taken:
            taken, head = ask.seq, ask.head or ""
        grant = Grant(
            node=ask.node, key=ask.key, seq=lease.seq, wanted=ask.gpus, content=encode(lease),
            taken=taken, taken_head=head,
        )  # fmt: skip
        seating.hold(ask.node, lease.gpus, since=terms.at, until=lease.exp, gen=lease.seq)
        seating.put_grant(grant)
        self._draw(terms, seating)
        row = {"lease": lease.id, "gpus": lease.gpus, "asked": len(ask.gpus), "until": lease.exp}
        self._ledger.audit(terms.at, "granted", ask.node, **row)
        text = "node=%s leased seq=%d gpus=%d/%d"
        seating.say(logging.INFO, text, ask.node, lease.seq, len(lease.gpus), len(ask.gpus))
        return grant

    def _draw(self, terms: Terms, seating: Seating) -> None:
        """Date the moment from which more seats are held than were bought."""
        held, beyond = len(seating.holds), seating.beyond
        if beyond is None or beyond.since is not None or held <= terms.licence.seats:
            return
        at, until = terms.mark.time, terms.mark.time + plans.OVERDRAFT_S
        self._ledger.put_overdraft(term_of(terms.licence), at)
        seating.beyond = replace(beyond, since=at)
        self._ledger.audit(
            terms.at, "overdraft", terms.licence.id, seats=held, of=terms.licence.seats, since=at, until=until
        )
        text = "licence=%s overdraft seats=%d/%d until=%d"
        seating.say(logging.WARNING, text, terms.licence.id, held, terms.licence.seats, until)

    def _expire(self, terms: Terms) -> bool:
        """Free what is over; gives whether anything was.

        A seat that ends later than any lease can was taken under a wrong clock: it ends soon.
        """
        expired = self._ledger.expire(terms.mark.time)
        for freed in expired:
            self._ledger.audit(terms.at, "expired", freed.gpu, node=freed.node, until=freed.until)
        ended = self._ledger.end_borrows(terms.mark.time, terms.at + plans.BORROW_S + SKEW_S)
        for node in ended:
            self._ledger.audit(terms.at, "borrow_ended", node)
        until = terms.at + terms.licence.lease_s
        corrected = self._ledger.pull_in(terms.at + MAX_LEASE_S + SKEW_S, until)
        for held in corrected:
            self._ledger.audit(terms.at, "corrected", held.gpu, node=held.node, until=held.until)
        return bool(expired or ended or corrected)

    def _make_lease(self, ask: Ask, last: Grant | None, terms: Terms, seating: Seating) -> Lease:
        """Numbered one above both sides."""
        seq = max(ask.seq, last.seq if last else 0) + 1
        until, borrowed = seating.until(ask.node)
        return Lease(
            id=f"lease-{ask.node}-{seating.epoch}-{seq}",
            iat=terms.at,
            exp=until,
            cluster=self._cluster,
            node=ask.node,
            key=ask.key,
            site=self._site,
            licence=terms.licence.id,
            rev=terms.licence.rev,
            activated_at=terms.activated_at,
            gpus=seating.share(ask),
            report_by=terms.report_by,
            epoch=seating.epoch,
            seq=seq,
            prev=last.head if last else "",
            extended_until=terms.extended_until,
            resets=seating.resets,
            borrowed=borrowed,
        )

    # --- chains ---

    def _learn(self, ask: Ask, chain: Grant | None, terms: Terms, seating: Seating) -> None:
        """A node shows a lease of this site that is not in the ledger: the ledger is old, or another hub leads."""
        lease = chains.shown(ask, self._key)
        if lease is None:
            return
        if lease.epoch > max(seating.epoch, seating.epoch_heard):
            self._ledger.put_epoch_heard(lease.epoch)
            self._ledger.audit(terms.at, "superseded", ask.node, epoch=lease.epoch, own=seating.epoch)
            seating.say(logging.ERROR, "%s", superseded(lease.epoch, seating.epoch).message)
            seating.epoch_heard, seating.is_changed = lease.epoch, True
        newer = lease.seq > (chain.seq if chain else 0) and lease.exp > terms.mark.time
        holds = seating.holds
        mine = {gpu: each.until for gpu, each in holds.items() if each.node == ask.node}
        # A card that is another's in the ledger counts here only where it really is: it is in one machine.
        gpus = tuple(gpu for gpu in lease.gpus if gpu not in holds or holds[gpu].node == ask.node or gpu in ask.gpus)
        if newer and mine != dict.fromkeys(gpus, lease.exp):
            if lease.borrowed:
                self._ledger.put_borrowed(ask.node, lease.iat, lease.exp)
                seating.borrowed[ask.node] = lease.exp
            seating.hold(ask.node, gpus, since=lease.iat, until=lease.exp, gen=lease.seq)
            self._ledger.audit(terms.at, "recalled", ask.node, lease=lease.id, gpus=gpus, until=lease.exp)
            text = "node=%s has %s, which this ledger does not remember: it was restored"
            seating.say(logging.WARNING, text, ask.node, lease.id)

    def _refuse_fork(self, ask: Ask, chain: Grant, terms: Terms, seating: Seating) -> NoSeat:
        if ask.node not in seating.forked:
            each = Forked(node=ask.node, key=ask.key, of=chain.node, seq=ask.seq, since=terms.at)
            self._ledger.put_forked(each)
            row = {"of": chain.node, "key": ask.key[:16], "shown": ask.seq, "known": chain.taken}
            self._ledger.audit(terms.at, "forked", ask.node, **row)
            seating.forked.add(ask.node)
            seating.is_changed = True
            text = "node=%s shows lease %d of %s, which is at %d"
            seating.say(logging.WARNING, text, ask.node, ask.seq, chain.node, chain.taken)
        return NoSeat(code=FORK_CODE, message=fork_message(ask.node, chain.node))

    def _note_back(self, ask: Ask, chain: Grant, terms: Terms, seating: Seating) -> Grant:
        """The same machine shows an older lease than before; said once for each."""
        if chain.back == ask.seq:
            return chain
        self._ledger.audit(terms.at, "went_back", ask.node, shown=ask.seq, known=chain.taken)
        noted = replace(chain, back=ask.seq)
        seating.put_grant(noted)
        text = "node=%s shows lease %d, and had %d: its disk was restored"
        seating.say(logging.WARNING, text, ask.node, ask.seq, chain.taken)
        return noted

    def _signed(self, grant: Grant, terms: Terms) -> str:
        """The token of a committed grant, behind the chain that proves it. Signing twice gives the same text."""
        return armour.LINK.join((terms.chain.text, sign_content(self._key, Lease, grant.content, self._footer)))


FORK_CODE = "LIC-423"


def fork_message(node: str, of: str) -> str:
    """Why a node gets no further lease, and what helps."""
    whose = "of a machine that goes on under this name" if node == of else f"of {of}, which goes on with it"
    return (
        f"{node} shows an old lease and the identity (node.key) {whose}: it is a copy, or its disk was put back on "
        "other GPUs. It gets no new lease; what runs there goes on, and new jobs start until the lease it has is over. "
        f"Give it an identity of its own: stoker-license node adopt --new {node}. Nodes that were made from one image: "
        "take node.key out of the image, and do so for each but one"
    )


def superseded(heard: int, own: int) -> NoSeat:
    """Another hub of this site took over."""
    message = (
        f"A node has a lease of epoch {heard}, and this hub speaks with epoch {own}: a standby took over, or this "
        "hub's state was restored from before it did. It gives no leases. Stop this hub; if it is the one to lead: "
        "stoker-license standby promote"
    )
    return NoSeat(code="LIC-424", message=message)


def _is_unknown(ask: Ask, chain: Grant | None) -> bool:
    """It shows a lease that is neither the last of its chain nor the newest that was shown before."""
    head = ask.head
    return head is not None and (chain is None or head not in (chain.head, chain.taken_head))


def _log(seating: Seating) -> None:
    for level, text, values in seating.said:
        log.log(level, text, *values)


def _resting(node: str, since: int) -> NoSeat:
    message = (
        f"{node} gave its seats back {moments.when(since)}, and gets none until it is adopted. "
        f"Run: stoker-license node adopt {node}"
    )
    return NoSeat(code="LIC-422", message=message)


def _renewed_after(lease: Lease, terms: Terms, ask: Ask) -> int:
    """Seconds of age; of a licence whose leases are shorter than a day in proportion."""
    if ask.contact:
        return min(CONTACT_S, terms.licence.lease_s // 12)
    whole = min(RENEW_S, terms.licence.lease_s // 3)
    return whole + whole * (zlib.crc32(lease.id.encode()) % 2001 - 1000) // 10_000
