"""The ledger under any order of events, under kill -9, and under a hand that edits it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from licensing import verify
from licensing.document import Lease, sign
from licensing.errors import LicenceError, StoreError
from licensing.exchange import Release
from licensing.keys import public_hex
from licensing.orders import Order, Verb
from licensing.seats import NoSeat
from licensing.site import Site
from licensing.store import Ledger
from tests.fakes.vendor import DAY, NOW, ROOTS, VOUCHER, Boot, changed, file, seeded

SEATS = 5
OVERDRAFT, RECLAIM, BORROW = 1, 1, 1
"""The parts of five seats that may be given beyond, taken back early, and borrowed: at least one each."""
NODES = ("n1", "n2", "n3")
GPUS = [f"GPU-{n}" for n in range(15)]
KEYS = {node: public_hex(seeded(node)) for node in NODES}
PROJECT = Path(__file__).parent.parent.parent


class LedgerMachine(RuleBasedStateMachine):
    """Checkout, lost reply, release, borrow, reclaim, time, crash, in any order: seats are never exceeded."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="stoker-ledger-"))
        self.now = NOW
        self.seq = dict.fromkeys(NODES, 0)
        self.wanted: dict[str, tuple[str, ...]] = dict.fromkeys(NODES, ())
        self.running: dict[str, Lease | None] = dict.fromkeys(NODES)
        """The lease that each node really holds: what it heard of last."""
        self.boot = Boot()
        self.site = Site(self.folder, "test", ROOTS, self.boot)
        self.site.open()
        self.site.activate(file(changed(VOUCHER, site=self.site.key_hex, seats=SEATS)), NOW)

    @rule(
        node=st.sampled_from(NODES), gpus=st.lists(st.sampled_from(GPUS), unique=True, max_size=6), lost=st.booleans()
    )
    def checkout(self, node: str, gpus: list[str], lost: bool) -> None:
        """A node asks with the GPUs it has now; its answer may get lost."""
        for other in NODES:  # a card is in one machine
            self.wanted[other] = tuple(gpu for gpu in self.wanted[other] if gpu not in gpus)
        self.wanted[node] = tuple(gpus)
        answer = self.site.lease(node, KEYS[node], gpus, self.seq[node], self.now)
        if isinstance(answer, NoSeat):
            assert answer.code == "LIC-422"
            assert node in self.site.report(self.now).resting
            return
        if answer is None:
            return
        assert self.site.lease(node, KEYS[node], gpus, self.seq[node], self.now) == answer
        lease = verify.lease_chain(answer, ROOTS, KEYS[node]).lease
        assert set(lease.gpus) <= set(gpus)
        assert lease.seq > self.seq[node]
        if not lost:
            self.seq[node], self.running[node] = lease.seq, lease

    @rule(node=st.sampled_from(NODES), days=st.integers(1, 30))
    def borrow(self, node: str, days: int) -> None:
        """A node is to be away for days; it hears of it with its next lease."""
        self.order(Verb.BORROW, node, days=days)

    @rule(node=st.sampled_from(NODES))
    def reclaim(self, node: str) -> None:
        """A node is given up, and may run on all the same."""
        self.order(Verb.RECLAIM, node)

    @rule(node=st.sampled_from(NODES), lost=st.booleans())
    def give_back(self, node: str, lost: bool) -> None:
        """A node ends its lease by its own word, which may get lost; then it is asked for nothing and has its seats."""
        held = self.running[node]
        if held is None or not self.order(Verb.REST, node):
            return
        self.running[node], self.seq[node] = None, 0
        word = Release(
            id="rel-1", iat=self.now, licence=held.licence, rev=held.rev, site=held.site, node=node, key=KEYS[node],
            lease=held.id,
        )  # fmt: skip
        if lost or not self.order(Verb.RETURN, node, release=sign(seeded(node), word)):
            self.order(Verb.ADOPT, node)

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
        self.checkout(node, [], lost=False)

    @rule(hours=st.integers(1, 30))
    def pass_time(self, hours: int) -> None:
        """Time passes; leases end."""
        self.now = self.boot.at(self.now + hours * 3600)

    @rule()
    def crash(self) -> None:
        """The hub is gone and comes back."""
        self.site.close()
        self.site = Site(self.folder, "test", ROOTS, self.boot)
        self.site.open()

    @rule(days=st.integers(1, 3))
    def clock_set_back(self, days: int) -> None:
        """Somebody tries; nothing is freed or gained by it."""
        before = self.site.report(self.now).holds
        assert self.site.report(self.now - days * DAY).holds == before

    @invariant()
    def seats_are_never_exceeded(self) -> None:
        holds = self.site.report(self.now).holds
        assert len(holds) <= SEATS + OVERDRAFT
        assert len({hold.gpu for hold in holds}) == len(holds)

    @invariant()
    def nor_by_the_leases_that_are_out(self) -> None:
        """What nodes really may start on: but for the seat that may be taken from a node that runs on."""
        out = {
            gpu
            for node, lease in self.running.items()
            if lease is not None and lease.exp > self.now
            for gpu in lease.gpus
            if gpu in self.wanted[node]
        }
        assert len(out) <= SEATS + OVERDRAFT + RECLAIM

    @invariant()
    def few_are_away(self) -> None:
        report = self.site.report(self.now)
        assert sum(1 for hold in report.holds if hold.node in report.borrowed) <= BORROW

    def teardown(self) -> None:
        self.site._ledger.verify_audit()
        self.site.close()
        shutil.rmtree(self.folder)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


NURSERY = """
import os, sys
from pathlib import Path
from licensing.site import Site
from tests.component.test_licensing_ledger import KEYS, NODES
from tests.fakes.vendor import NOW, ROOTS, Boot

def lease(folder, turn):
    site = Site(folder, "test", ROOTS, Boot())
    site.open()
    for n in range(100_000):
        node = NODES[n % len(NODES)]
        token = site.lease(node, KEYS[node], [f"GPU-{node}-{n % 7}"], 10_000_000 * turn + n, NOW)
        print(node, token, flush=True)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            print("pid", os.getpid(), flush=True)
            lease(Path(sys.argv[1]), int(line))
        finally:
            os._exit(1)
    print("end", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Each turn asks with another GPU and a higher number, so that every turn is a transaction. Children are forked: a new
interpreter for each of 200 would take minutes."""


def test_kill_9_in_the_middle_200_times_leaves_no_lease_without_its_row(tmp_path: Path) -> None:
    site = Site(tmp_path, "test", ROOTS, Boot())
    site.open()
    site.activate(file(changed(VOUCHER, site=site.key_hex, seats=SEATS)), NOW)
    site.close()
    dice, shown = random.Random(5), set[str]()
    with nursery(tmp_path) as mother:
        for turn in range(200):
            leases = kill_after(mother, turn, lines=dice.randrange(1, 12), pause_s=dice.random() / 500)
            assert leases
            shown |= leases
            if turn % 20 == 19:
                assert shown <= granted_rows(tmp_path)
    ledger = Ledger(tmp_path / "licence.db")
    ledger.open()
    assert ledger.verify_audit() >= len(shown)
    assert len(ledger.holds(NOW)) <= SEATS + OVERDRAFT
    ledger.close()


@contextmanager
def nursery(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that forks a child for each line it is told."""
    pipe = subprocess.PIPE
    mother = subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(folder)], cwd=PROJECT, stdin=pipe, stdout=pipe, text=True
    )
    try:
        yield mother
    finally:
        mother.communicate(timeout=30)


def kill_after(mother: subprocess.Popen[str], turn: int, lines: int, pause_s: float) -> set[str]:
    """Let a child lease until it has shown so many leases, kill it in its tracks; gives the ids of all it showed."""
    assert mother.stdin is not None
    assert mother.stdout is not None
    mother.stdin.write(f"{turn}\n")
    mother.stdin.flush()
    word, pid = mother.stdout.readline().split()
    assert word == "pid"
    pairs = [mother.stdout.readline().split() for _ in range(lines)]
    time.sleep(pause_s)  # anywhere in a transaction, not only right after one
    os.kill(int(pid), signal.SIGKILL)
    while True:
        *whole, last = mother.stdout.readline().rpartition("end ")
        if whole[1]:
            assert int(last) == -signal.SIGKILL
            break
        pairs.append(last.split())
    return {verify.lease_chain(token, ROOTS, KEYS[node]).lease.id for node, token in pairs}


def granted_rows(folder: Path) -> set[str]:
    """The lease ids that the trail knows, read past the ledger's own code."""
    conn = sqlite3.connect(folder / "licence.db")
    rows = conn.execute("SELECT detail FROM audit WHERE event = 'granted'").fetchall()
    conn.close()
    return {json.loads(detail)["lease"] for (detail,) in rows}


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE audit SET detail = '{}' WHERE n = 2",
        "DELETE FROM audit WHERE n = 2",
        "UPDATE audit SET hash = '" + "0" * 64 + "' WHERE n = 2",
        "DELETE FROM audit WHERE n = 1",
    ],
)
def test_an_edited_trail_is_noticed(tmp_path: Path, edit: str) -> None:
    ledger = Ledger(tmp_path / "licence.db")
    ledger.open()
    with ledger.transaction():
        for n in range(4):
            ledger.audit(NOW, "granted", f"n{n}", asked=n)
    assert ledger.verify_audit() == 4
    ledger.close()
    conn = sqlite3.connect(tmp_path / "licence.db")
    conn.execute(edit)
    conn.commit()
    conn.close()
    ledger.open()
    with pytest.raises(StoreError, match="missing or was changed"):
        ledger.verify_audit()
    ledger.close()


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "licence.db")
    ledger.open()
    with pytest.raises(RuntimeError), ledger.transaction():
        ledger.hold("n1", ["GPU-0"], since=NOW, until=NOW + DAY, gen=1)
        ledger.audit(NOW, "granted", "n1")
        raise RuntimeError
    assert ledger.holds(NOW) == []
    assert ledger.verify_audit() == 0
    ledger.close()


def test_the_file_is_as_durable_as_promised(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "licence.db")
    ledger.open()
    pragmas = ("journal_mode", "synchronous", "locking_mode")
    assert [ledger._run(f"PRAGMA {name}")[0][0] for name in pragmas] == ["wal", 2, "exclusive"]
    ledger.close()
