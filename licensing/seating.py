"""Who holds what at a moment: the ledger read once for a batch of leases, and kept in step with what the batch grants.

Reading it anew for each lease took five times as long as all the rest of a checkout. It lives for one transaction of
the ledger's only writer, so nothing else can change in between.
"""

from __future__ import annotations

from dataclasses import dataclass

from licensing import plans, stage, verify
from licensing.chains import Ask
from licensing.clock import HighWater
from licensing.document import Lease, Licence, decode
from licensing.seats import Hold, share
from licensing.stage import EMERGENCY_CODE, Stage, Standing
from licensing.store import Ledger


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


def overdraft(ledger: Ledger, terms: Terms) -> Overdraft | None:
    """What may be, or was, given beyond the licence's seats in this term; `None` where it has no overdraft."""
    seats = plans.overdraft(terms.licence)
    if seats == 0:
        return None
    since = ledger.overdraft_since(term_of(terms.licence))
    over = since is not None and terms.mark.time >= since + plans.OVERDRAFT_S
    return Overdraft(seats=seats, since=since, over=over)


def term_of(licence: Licence) -> str:
    """Names the term of a licence: amending it leaves the term, renewing it begins another."""
    return f"{licence.id} {licence.exp}"


class Seating:
    """The seats of one site during one transaction."""

    def __init__(self, ledger: Ledger, terms: Terms) -> None:
        self._ledger = ledger
        self._terms = terms
        self.read()

    def read(self) -> None:
        """As the ledger has it: at first, and after a part of the transaction was undone."""
        ledger, terms = self._ledger, self._terms
        self.holds = {each.gpu: each for each in ledger.holds(terms.mark.time)}
        self.borrowed = ledger.borrowed()
        self.pinned = ledger.pinned()
        self.resting = ledger.resting()
        self.forked = {each.node for each in ledger.forked()}
        self.epoch, self.epoch_heard = ledger.epoch(), ledger.epoch_heard()
        self.resets = ledger.clock_resets()
        self.beyond = overdraft(ledger, terms)
        self._ends_at, self._lease_until = terms.ends_at, terms.lease_until
        self.is_expired = False
        """Whether what is over was freed in this transaction."""
        self.is_changed = False
        """Whether anything was granted or noted, so that the time belongs to it."""

    def share(self, ask: Ask) -> tuple[str, ...]:
        """A borrowed node keeps what it borrowed, and gets no more: what is away is bounded by the order."""
        wanted, terms = ask.gpus, self._terms
        if ask.node in self.borrowed:
            wanted = tuple(gpu for gpu in wanted if gpu in self.holds and self.holds[gpu].node == ask.node)
        # What was held ended with the licence; the emergency hours are for what was there.
        may_grow = terms.standing.stage is not Stage.GRACE or terms.standing.code == EMERGENCY_CODE
        holds = [*self.holds.values(), *(() if may_grow else self._lapsed(ask.node))]
        return share(
            wanted,
            holds,
            node=ask.node,
            seats=terms.licence.seats + (self.beyond.seats if self.beyond and not self.beyond.over else 0),
            may_grow=may_grow,
            pinned=self.pinned,
        )

    def _lapsed(self, node: str) -> list[Hold]:
        """What a node had last and nobody has now: a hub that was down for a day in grace takes no seat by that."""
        last = self._ledger.grant(node)
        had = decode(Lease, last.content) if last is not None else None
        if had is None or had.exp > self._terms.mark.time:
            return []
        return [Hold(gpu=gpu, node=node, since=had.iat, until=had.exp) for gpu in had.gpus if gpu not in self.holds]

    def until(self, node: str) -> tuple[int, bool]:
        """When a lease made out now ends, and whether that is because the node borrowed it."""
        plain, borrowed = self._lease_until, min(self.borrowed.get(node, 0), self._ends_at)
        return (borrowed, True) if borrowed > plain else (plain, False)

    def is_unheld(self, lease: Lease) -> bool:
        """Whether a seat of it is nobody's any more, having been taken back: the lease must not be handed out again."""
        return lease.exp > self._terms.at and not self.holds.keys() >= set(lease.gpus)

    def hold(self, node: str, gpus: tuple[str, ...], *, since: int, until: int, gen: int) -> None:
        """Let a node hold exactly these GPUs, here and in the ledger."""
        self._ledger.hold(node, gpus, since=since, until=until, gen=gen)
        before = {gpu: self.holds.pop(gpu) for gpu in [gpu for gpu, each in self.holds.items() if each.node == node]}
        for gpu in gpus:
            begun = before[gpu].since if gpu in before else since
            self.holds[gpu] = Hold(gpu=gpu, node=node, since=begun, until=until)
        self.is_changed = True
