"""The ledger under any order of events."""

from __future__ import annotations

import random
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from licensing import verify
from licensing.document import Lease, decode, sign
from licensing.ed25519 import PrivateKey
from licensing.errors import LicenceError, WeakKeyError
from licensing.exchange import Release
from licensing.keys import public_hex
from licensing.leases import Ask, Outcome
from licensing.orders import Order, Verb
from licensing.paseto import split
from licensing.seats import NoSeat
from licensing.site import Site
from tests.component.test_licensing_restricted import revoking
from tests.fakes.vendor import DAY, NOW, ROOTS, VOUCHER, Boot, changed, file, seeded

SEATS = 20
OVERDRAFT, RECLAIM, BORROW = 2, 2, 4
"""The parts of twenty seats that may be given beyond, taken back early, and borrowed: a tenth, a tenth, a fifth."""
NODES = ("n1", "n2", "n3")
TWINS = ("t1", "t2")
"""Machines that begin as copies of a node's disk."""
GPUS = [f"GPU-{n}" for n in range(30)]
CROWD = tuple(f"c{n}" for n in range(8))
"""Nodes that ask in one batch."""
KEYS = {node: public_hex(seeded(node)) for node in (*NODES, *CROWD)}
WEAK = Ask(node="weak", key="01" + "00" * 31, gpus=("GPU-0",), seq=0)


@dataclass
class Machine:
    """A node as it really is: its key, the lease on its disk, the disks of its past, the cards that are in it."""

    name: str
    private: PrivateKey
    token: str | None = None
    past: list[str | None] = field(default_factory=list)
    gpus: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return public_hex(self.private)

    @property
    def lease(self) -> Lease | None:
        return None if self.token is None else decode(Lease, split(self.token).payload)

    def ask(self) -> Ask:
        lease = self.lease
        seq = lease.seq if lease else 0
        return Ask(node=self.name, key=self.key, gpus=self.gpus, seq=seq, held=self.token)

    def write(self, token: str | None) -> None:
        self.past.append(self.token)
        self.token = token


class LedgerMachine(RuleBasedStateMachine):
    """Checkout, lost reply, release, borrow, reclaim, copy, restore, time, crash, in any order: seats never exceeded.

    Two exceptions are known, and as large as they may be: seats that an operator took from a node which runs on
    (`RECLAIM` in 30 days), and what a disk put back from a backup still has of a lease that was given up, to its end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="stoker-ledger-"))
        self.now = NOW
        self.machines = {name: Machine(name, seeded(name)) for name in (*NODES, *TWINS)}
        self.copied = set[str]()
        """Keys of disks that were copied or put back: only these may look like a copy."""
        self.is_restored = False
        self.chains: dict[str, tuple[str, int, tuple[str, ...]]] = {}
        """Of each key: who got a lease last, its number, and the cards that were in it."""
        self.reclaims: list[tuple[int, int]] = []
        self.known: list[tuple[int, int]] = []
        """Those that the ledger remembers."""
        self.lists = 10
        """The number of the vendor's newest revocation list."""
        self.excess = 0
        """Seats beyond the licence's that are out because of them, when nodes told a restored ledger."""
        self.old: list[tuple[frozenset[str], int]] = []
        """What disks of the past still have, and until when."""
        self.boot = Boot()
        self.open()
        self.site.activate(file(changed(VOUCHER, site=self.site.key_hex, seats=SEATS)), NOW)
        self.back_up()

    def open(self) -> None:
        self.site = Site(self.folder / "hub", "test", ROOTS, self.boot)
        self.site.open()

    @rule(
        names=st.lists(st.sampled_from((*NODES, *TWINS)), min_size=1, max_size=4, unique=True),
        gpus=st.lists(st.sampled_from(GPUS), unique=True, max_size=12),
        lost=st.booleans(),
        weak=st.none() | st.integers(0, 4),
    )
    def checkout(self, names: list[str], gpus: list[str], lost: bool, weak: int | None = None) -> None:
        """Some ask at once, the first with the GPUs it has now, maybe with one among them that cannot be answered.

        The answers may get lost.
        """
        asking = [self.machines[name] for name in names]
        for other in self.machines.values():  # a card is in one machine
            other.gpus = tuple(gpu for gpu in other.gpus if gpu not in gpus)
        asking[0].gpus = tuple(gpus)
        asks = [each.ask() for each in asking]
        for machine, ask, answer in zip(asking, asks, self.leases(asks, weak), strict=True):
            self.take(machine, ask, answer, lost=lost)

    def leases(self, asks: list[Ask], weak: int | None) -> list[Outcome]:
        """The answers, though there is one between the asks whose key is none: it alone gets nothing."""
        if weak is None:
            return self.site.leases(asks, self.now)
        place = min(weak, len(asks))
        found = self.site.leases([*asks[:place], WEAK, *asks[place:]], self.now)
        assert isinstance(found.pop(place), WeakKeyError | NoSeat)
        return found

    def take(self, machine: Machine, ask: Ask, answer: Outcome, *, lost: bool) -> None:
        if isinstance(answer, NoSeat):
            report = self.site.report(self.now)
            if report.standing.stage.holds:
                assert answer.code == report.standing.code == "LIC-430"
            elif answer.code == "LIC-423":
                assert machine.key in self.copied or self.is_restored, "an honest node never looks like a copy"
                assert machine.name in {each.node for each in report.forked}
            else:
                assert (answer.code, machine.name in report.resting) == ("LIC-422", True)
            return
        if answer is None:
            return
        assert isinstance(answer, str), answer
        lease = verify.lease_chain(answer, ROOTS, machine.key).lease
        assert (lease.held is not None) is self.site.report(self.now).standing.stage.holds
        assert lease.held is not None or set(lease.gpus) <= set(machine.gpus)
        assert lease.seq > ask.seq
        self.follow(machine, lease)
        if not lost:
            machine.write(answer.rsplit("~", 1)[-1])

    def follow(self, machine: Machine, lease: Lease) -> None:
        """An identity goes on with one machine: it moves to another name only with a card that moved along."""
        name, seq, gpus = self.chains.get(machine.key, (machine.name, 0, ()))
        moved = not set(gpus).isdisjoint(machine.gpus) or not (gpus or machine.gpus)
        assert name == machine.name or lease.seq <= seq or moved
        if lease.seq != seq:
            self.chains[machine.key] = (machine.name, lease.seq, machine.gpus)

    @rule(name=st.sampled_from((*NODES, *TWINS)))
    def ask_again(self, name: str) -> None:
        """What was asked twice is answered with the same lease, or with none."""
        ask = self.machines[name].ask()
        first, again = (self.site.leases([ask], self.now)[0] for _ in range(2))
        assert first == again
        self.take(self.machines[name], ask, again, lost=True)

    @rule(origin=st.sampled_from(NODES), twin=st.sampled_from(TWINS))
    def copy(self, origin: str, twin: str) -> None:
        """A disk is copied to another machine, which has cards of its own."""
        whose = self.machines[origin]
        self.machines[twin] = Machine(twin, whose.private, whose.token, gpus=self.machines[twin].gpus)
        self.copied.add(whose.key)

    @rule(name=st.sampled_from((*NODES, *TWINS)), back=st.integers(1, 5))
    def restore_node(self, name: str, back: int) -> None:
        """A node's disk is put back from a backup."""
        machine = self.machines[name]
        if len(machine.past) < back:
            return
        machine.write(machine.past[-back])
        self.copied.add(machine.key)
        lease = machine.lease
        held = {hold.gpu for hold in self.site.report(self.now).holds if hold.node == name}
        if lease is not None:
            self.old.append((frozenset(lease.gpus) - held, lease.exp))

    @rule(name=st.sampled_from((*NODES, *TWINS)))
    def adopt_new(self, name: str) -> None:
        """A copy makes itself an identity of its own."""
        machine = self.machines[name]
        report = self.site.report(self.now)
        if report.licence is not None and name in {each.node for each in report.forked}:
            self.machines[name] = Machine(name, PrivateKey.generate(), gpus=machine.gpus)
            assert self.order(Verb.RENEW, name)

    @rule()
    def back_up(self) -> None:
        """The hub's folder is kept."""
        self.site.close()
        shutil.rmtree(self.folder / "backup", ignore_errors=True)
        shutil.copytree(self.folder / "hub", self.folder / "backup")
        self.kept = list(self.known)
        self.open()

    @rule(order=st.randoms(use_true_random=False))
    def restore_hub(self, order: random.Random) -> None:
        """It is put back; the nodes tell what they hold before anybody gets more."""
        self.site.close()
        shutil.rmtree(self.folder / "hub")
        shutil.copytree(self.folder / "backup", self.folder / "hub")
        self.open()
        self.is_restored, self.chains = True, {}
        self.known = list(self.kept)
        machines = list(self.machines.values())
        order.shuffle(machines)
        for machine in machines:
            self.site.hear(machine.ask(), self.now)
        self.excess = max(0, len(self.site.report(self.now).holds) - SEATS - OVERDRAFT)

    @rule(
        first=st.sampled_from(NODES),
        then=st.sampled_from(NODES),
        gpus=st.lists(st.sampled_from(GPUS), unique=True, min_size=4, max_size=16),
        more=st.lists(st.sampled_from(GPUS), unique=True, min_size=4, max_size=16),
        order=st.randoms(use_true_random=False),
    )
    def forget(self, first: str, then: str, gpus: list[str], more: list[str], order: random.Random) -> None:
        """The hub forgets what it granted just now, and another asks for as much."""
        self.back_up()
        self.checkout([first], gpus, lost=False)
        self.restore_hub(order)
        self.checkout([then], more, lost=False)

    @rule(node=st.sampled_from(NODES), days=st.integers(1, 30))
    def borrow(self, node: str, days: int) -> None:
        """A node is to be away for days; it hears of it with its next lease."""
        self.order(Verb.BORROW, node, days=days)

    @rule(node=st.sampled_from((*NODES, *TWINS)), gpus=st.lists(st.sampled_from(GPUS), min_size=1, max_size=2))
    def reclaim(self, node: str, gpus: list[str]) -> None:
        """A node is given up, and may run on all the same; a small one, so that the allowance lets it be."""
        self.checkout([node], list(dict.fromkeys(gpus)), lost=False)
        report = self.site.report(self.now)
        held = sum(1 for hold in report.holds if hold.node == node)
        done = self.order(Verb.RECLAIM, node)
        assert done is (report.licence is not None and 0 < held <= RECLAIM - recent(self.known, self.now))
        if done:
            self.reclaims.append((self.now, held))
            self.known.append((self.now, held))

    @rule(node=st.sampled_from(NODES), lost=st.booleans())
    def give_back(self, node: str, lost: bool) -> None:
        """A node ends its lease by its own word, which may get lost; then it is asked for nothing and has its seats."""
        machine = self.machines[node]
        held = machine.lease
        if held is None or not self.order(Verb.REST, node):
            return
        machine.write(None)
        word = Release(
            id="rel-1", iat=self.now, licence=held.licence, rev=held.rev, site=held.site, node=node, key=machine.key,
            lease=held.id,
        )  # fmt: skip
        if lost or not self.order(Verb.RETURN, node, release=sign(machine.private, word)):
            self.order(Verb.ADOPT, node)
            self.copied.add(machine.key)  # a node without its lease, to a hub that knows it had one

    @rule(node=st.sampled_from(NODES))
    def adopt(self, node: str) -> None:
        """A node that gave its seats back may have some again."""
        self.order(Verb.ADOPT, node)

    @rule(gpu=st.sampled_from(GPUS), on=st.booleans())
    def pin(self, gpu: str, on: bool) -> None:
        """A GPU comes first."""
        self.order(Verb.PIN if on else Verb.UNPIN, gpu)

    def order(self, verb: Verb, subject: str, **more: Any) -> bool:
        """Whether it was done; refused, nothing changed."""
        before = self.site.report(self.now).holds
        try:
            self.site.order(Order(verb=verb, subject=subject, **more), self.now)
        except LicenceError:
            assert self.site.report(self.now).holds == before
            return False
        return True

    @rule(node=st.sampled_from(NODES))
    def release(self, node: str) -> None:
        """All GPUs of a node are taken out."""
        self.checkout([node], [], lost=False)

    @rule(hours=st.integers(1, 30))
    def pass_time(self, hours: int) -> None:
        """Time passes; leases end."""
        self.now = self.boot.at(self.now + hours * 3600)

    @rule(on=st.booleans())
    def revoke(self, on: bool) -> None:
        """All new jobs are held by a list of the vendor's, and start again by a newer one."""
        self.lists += 1
        self.site.activate(revoking(number=self.lists, **({} if on else {"licences": ()})), self.now)

    @rule()
    def crash(self) -> None:
        """The hub is gone and comes back."""
        self.site.close()
        self.open()

    @rule(days=st.integers(1, 3))
    def clock_set_back(self, days: int) -> None:
        """Somebody tries; nothing is freed or gained by it."""
        before = self.site.report(self.now).holds
        assert self.site.report(self.now - days * DAY).holds == before

    @invariant()
    def seats_are_never_exceeded(self) -> None:
        holds = self.site.report(self.now).holds
        assert len(holds) <= SEATS + OVERDRAFT + self.excess
        assert len({hold.gpu for hold in holds}) == len(holds)

    @invariant()
    def no_more_is_taken_back_than_may_be(self) -> None:
        assert recent(self.known, self.now) <= RECLAIM

    @invariant()
    def nor_by_the_leases_that_are_out(self) -> None:
        """What nodes really may start on: but for seats taken from a node that runs on, and disks of the past."""
        out = {
            gpu
            for machine in self.machines.values()
            if (lease := machine.lease) is not None
            and lease.exp > self.now
            and lease.key == machine.key
            and not lease.held
            for gpu in lease.gpus
            if gpu in machine.gpus
        }
        out -= {gpu for gpus, until in self.old if until > self.now for gpu in gpus}
        assert len(out) <= SEATS + OVERDRAFT + recent(self.reclaims, self.now)

    @invariant()
    def few_are_away(self) -> None:
        report = self.site.report(self.now)
        away = sum(1 for hold in report.holds if hold.node in report.borrowed)
        assert away <= BORROW or self.is_restored, "a restored ledger counts what is away already"

    def teardown(self) -> None:
        self.site._ledger.verify_audit()
        self.site.close()
        shutil.rmtree(self.folder)


def recent(reclaims: list[tuple[int, int]], now: int) -> int:
    """Seats that were taken back in the last 30 days."""
    return sum(count for at, count in reclaims if at > now - 30 * DAY)


PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""Without shrinking, which takes minutes: each step is on disk. The steps of a failure are printed as they are. Health
checks measure time, which a busy machine has none of."""
TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(
    max_examples=25, stateful_step_count=30, phases=PHASES, suppress_health_check=list(HealthCheck)
)
