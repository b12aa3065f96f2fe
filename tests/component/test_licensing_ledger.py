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
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from licensing import verify
from licensing.errors import StoreError
from licensing.keys import public_hex
from licensing.seats import NoSeat
from licensing.site import Site
from licensing.store import Ledger
from tests.fakes.vendor import DAY, NOW, ROOTS, VOUCHER, Boot, changed, file, seeded

SEATS = 5
NODES = ("n1", "n2", "n3")
GPUS = [f"GPU-{n}" for n in range(9)]
KEYS = {node: public_hex(seeded(node)) for node in NODES}
PROJECT = Path(__file__).parent.parent.parent


class LedgerMachine(RuleBasedStateMachine):
    """Checkout, lost reply, release, time, crash, in any order: seats are never exceeded, the trail holds."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="stoker-ledger-"))
        self.now = NOW
        self.seq = dict.fromkeys(NODES, 0)
        self.wanted: dict[str, tuple[str, ...]] = dict.fromkeys(NODES, ())
        self.boot = Boot()
        self.site = Site(self.folder, "test", ROOTS, self.boot)
        self.site.open()
        self.site.activate(file(changed(VOUCHER, site=self.site.key_hex, seats=SEATS)), NOW)

    @rule(
        node=st.sampled_from(NODES), gpus=st.lists(st.sampled_from(GPUS), unique=True, max_size=6), lost=st.booleans()
    )
    def checkout(self, node: str, gpus: list[str], lost: bool) -> None:
        """A node asks with the GPUs it has now; its answer may get lost."""
        self.wanted[node] = tuple(gpus)
        answer = self.site.lease(node, KEYS[node], gpus, self.seq[node], self.now)
        assert not isinstance(answer, NoSeat)
        if answer is None:
            return
        assert self.site.lease(node, KEYS[node], gpus, self.seq[node], self.now) == answer
        lease = verify.lease_chain(answer, ROOTS, KEYS[node]).lease
        assert set(lease.gpus) <= set(gpus)
        assert lease.seq > self.seq[node]
        if not lost:
            self.seq[node] = lease.seq

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
        assert len(holds) <= SEATS
        assert len({hold.gpu for hold in holds}) == len(holds)

    def teardown(self) -> None:
        self.site._ledger.verify_audit()
        self.site.close()
        shutil.rmtree(self.folder)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


CHILD = """
import sys
from pathlib import Path
from licensing.site import Site
from tests.component.test_licensing_ledger import KEYS, NODES
from tests.fakes.vendor import NOW, ROOTS, Boot
site = Site(Path(sys.argv[1]), "test", ROOTS, Boot())
site.open()
for turn in range(100_000):
    node = NODES[turn % len(NODES)]
    token = site.lease(node, KEYS[node], [f"GPU-{node}-{turn % 7}"], 10_000_000 * int(sys.argv[2]) + turn, NOW)
    print(node, token, flush=True)
"""
"""Each turn asks with another GPU and a higher number, so that every turn is a transaction."""


def test_kill_9_in_the_middle_leaves_no_lease_without_its_row(tmp_path: Path) -> None:
    site = Site(tmp_path, "test", ROOTS, Boot())
    site.open()
    site.activate(file(changed(VOUCHER, site=site.key_hex, seats=SEATS)), NOW)
    site.close()
    dice = random.Random(5)
    for turn in range(10):
        leases = kill_after(tmp_path, turn, lines=dice.randrange(1, 40))
        granted = granted_rows(tmp_path)
        assert leases
        assert leases <= granted
        ledger = Ledger(tmp_path / "licence.db")
        ledger.open()
        assert ledger.verify_audit() >= len(granted)
        assert len(ledger.holds(NOW)) <= SEATS
        ledger.close()


def kill_after(folder: Path, turn: int, lines: int) -> set[str]:
    """Let a child lease until it has shown so many leases, kill it in its tracks; gives the ids of all it showed."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(turn)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    shown = [child.stdout.readline() for _ in range(lines)]
    os.kill(child.pid, signal.SIGKILL)
    shown += child.stdout.readlines()
    child.stdout.close()
    assert child.wait(timeout=30) == -signal.SIGKILL
    pairs = (line.split() for line in shown if line.endswith("\n"))
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
