"""Who holds what at a moment: the ledger read once for a batch of leases, and kept in step with what the batch grants.

Reading it anew for each lease took five times as long as all the rest of a checkout, and writing lease by lease as long
as all the rest. It lives for one transaction of the ledger's only writer, so nothing else can change in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from licensing import plans, stage, verify
from licensing.chains import Ask
from licensing.clock import HighWater
from licensing.document import Lease, Licence, decode
from licensing.seats import Hold, share
from licensing.stage import EMERGENCY_CODE, Stage, Standing
from licensing.store import Grant, Ledger
from licensing.store_seats import refuse_nameless


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
    """The seats of one site during one transaction. What it is told is in the ledger after `write`."""

    def __init__(self, ledger: Ledger, terms: Terms) -> None:
        self._ledger = ledger
        self._terms = terms
        self._ends_at, self._lease_until = terms.ends_at, terms.lease_until
        self.is_changed = False
        """Whether anything was granted or noted, so that the time belongs to it."""
        self.said: list[tuple[int, str, tuple[object, ...]]] = []
        """For the log, once it is committed: level, text, values."""
        self.read()

    def undo(self, *, is_changed: bool, said: int) -> None:
        """A part of the transaction was undone, before which this was so."""
        self.is_changed = is_changed
        del self.said[said:]
        self.read()

    def read(self) -> None:
        """As the ledger has it."""
        ledger = self._ledger
        self.borrowed = ledger.borrowed()
        self.pinned = ledger.pinned()
        self.resting = ledger.resting()
        self.forked = {each.node for each in ledger.forked()}
        self.epoch, self.epoch_heard = ledger.epoch(), ledger.epoch_heard()
        self.resets = ledger.clock_resets()
        self.beyond = overdraft(ledger, self._terms)
        self.is_expired = False
        """Whether what is over was freed in this transaction."""
        self._read_holds()
        self._grants: dict[str, Grant] = {}
        """Of nodes and keys that were looked for, and not since changed by another than us."""
        self._under: dict[str, set[str]] = {}
        """The nodes of these grants by key."""
        self._looked: set[tuple[str, str]] = set()
        self._new: dict[str, Grant] = {}

    def _read_holds(self) -> None:
        self.holds: dict[str, Hold] = {}
        self._of: dict[str, set[str]] = {}
        """The GPUs that each node holds."""
        for each in self._ledger.holds(self._terms.mark.time):
            self.holds[each.gpu] = each
            self._of.setdefault(each.node, set()).add(each.gpu)
        self._gens: dict[str, int] = {}
        """Generations of the GPUs whose holder changed, or holds them longer."""
        self._freed: set[str] = set()

    def freed(self) -> None:
        """The ledger freed seats or borrows by itself, with nothing left to write: they are read anew."""
        self._read_holds()
        self.borrowed = self._ledger.borrowed()

    def write(self) -> None:
        """Everything that was granted, into the ledger."""
        self._ledger.put_holds([(self.holds[gpu], gen) for gpu, gen in self._gens.items()], [*self._freed])
        self._ledger.put_grants([*self._new.values()])
        self._gens, self._freed, self._new = {}, set(), {}

    # --- grants ---

    def look(self, asks: Sequence[Ask]) -> None:
        """Read the grants that these ask about with one statement."""
        new = [each for each in asks if (each.node, each.key) not in self._looked]
        if not new:
            return
        for grant in self._ledger.grants_of([each.node for each in new], [each.key for each in new]):
            if grant.node not in self._grants:
                self._know(grant)
        self._looked.update((each.node, each.key) for each in new)

    def grants(self, ask: Ask) -> list[Grant]:
        """The last grant of this node, and those that other nodes had under the same key; the newest first.

        Of two with one number the chain of the key comes first: the lease that the node shows is in it.
        """
        self.look((ask,))
        nodes = {ask.node, *self._under.get(ask.key, ())}
        found = [self._grants[node] for node in nodes if node in self._grants]
        if len(found) < 2:
            return found
        return sorted(found, key=lambda grant: (grant.seq, grant.key == ask.key, grant.node), reverse=True)

    def put_grant(self, grant: Grant) -> None:
        """It is the last of its node."""
        old = self._grants.get(grant.node)
        if old is not None and old.key != grant.key:
            self._under[old.key].discard(grant.node)
        self._know(grant)
        self._new[grant.node] = grant
        self.is_changed = True

    def _know(self, grant: Grant) -> None:
        self._grants[grant.node] = grant
        self._under.setdefault(grant.key, set()).add(grant.node)

    # --- seats ---

    def share(self, ask: Ask) -> tuple[str, ...]:
        """A borrowed node keeps what it borrowed, and gets no more: what is away is bounded by the order."""
        wanted, terms, holds = ask.gpus, self._terms, self.holds
        if ask.node in self.borrowed:
            wanted = tuple(gpu for gpu in wanted if gpu in holds and holds[gpu].node == ask.node)
        # What was held ended with the licence; the emergency hours are for what was there.
        may_grow = terms.standing.stage is not Stage.GRACE or terms.standing.code == EMERGENCY_CODE
        return share(
            wanted,
            holds if may_grow else {**self._lapsed(ask), **holds},
            node=ask.node,
            elsewhere=len(holds) - len(self._of.get(ask.node, ())),
            seats=terms.licence.seats + (self.beyond.seats if self.beyond and not self.beyond.over else 0),
            may_grow=may_grow,
            pinned=self.pinned,
        )

    def _lapsed(self, ask: Ask) -> dict[str, Hold]:
        """What a node had last and nobody has now: a hub that was down for a day in grace takes no seat by that."""
        last = next((each for each in self.grants(ask) if each.node == ask.node), None)
        had = decode(Lease, last.content) if last is not None else None
        if had is None or had.exp > self._terms.mark.time:
            return {}
        return {gpu: Hold(gpu=gpu, node=ask.node, since=had.iat, until=had.exp) for gpu in had.gpus}

    def until(self, node: str) -> tuple[int, bool]:
        """When a lease made out now ends, and whether that is because the node borrowed it."""
        plain, borrowed = self._lease_until, min(self.borrowed.get(node, 0), self._ends_at)
        return (borrowed, True) if borrowed > plain else (plain, False)

    def is_unheld(self, lease: Lease) -> bool:
        """Whether a seat of it is nobody's any more, having been taken back: the lease must not be handed out again."""
        return lease.exp > self._terms.at and not self.holds.keys() >= set(lease.gpus)

    def hold(self, node: str, gpus: tuple[str, ...], *, since: int, until: int, gen: int) -> None:
        """Let a node hold exactly these GPUs: what it held besides is free, what another held is now its own.

        Raises:
            StoreError: one of them is no GPU with a UUID of its own, so it could not be counted once.
        """
        refuse_nameless(node, gpus)
        mine = self._of.setdefault(node, set())
        for gpu in mine.difference(gpus):
            mine.discard(gpu)
            del self.holds[gpu]
            self._gens.pop(gpu, None)
            self._freed.add(gpu)
        for gpu in gpus:
            before = self.holds.get(gpu)
            if before is not None and before.node != node:
                self._of[before.node].discard(gpu)
                before = None
            self.holds[gpu] = Hold(gpu=gpu, node=node, since=before.since if before else since, until=until)
            self._gens[gpu] = gen
            self._freed.discard(gpu)
        mine.update(gpus)
        self.is_changed = True

    def say(self, level: int, text: str, *values: object) -> None:
        """A line of the log, for when what it tells of is committed."""
        self.said.append((level, text, values))
