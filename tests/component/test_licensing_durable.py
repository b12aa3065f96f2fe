"""The hub's ledger as a file: kill -9 in the middle, a trail that a hand edits, what stands or falls together."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licensing import trail, verify
from licensing.errors import StoreError
from licensing.keys import public_hex
from licensing.orders import Verb
from licensing.site import Site
from licensing.store import Ledger
from tests.fakes.vendor import DAY, NOW, ROOTS, VOUCHER, Boot, changed, file, seeded

SEATS, OVERDRAFT = 20, 2
CROWD = tuple(f"c{n}" for n in range(8))
"""Nodes that ask in one batch."""
KEYS = {node: public_hex(seeded(node)) for node in CROWD}
PROJECT = Path(__file__).parent.parent.parent

NURSERY = """
import os, sys
from pathlib import Path
from licensing import store_schema, usage_schema  # once, and not in each child
from licensing.leases import Ask
from licensing.site import Site
from tests.component.test_licensing_durable import CROWD, KEYS
from tests.fakes.vendor import NOW, ROOTS, Boot

def lease(folder, turn):
    site = Site(folder, "test", ROOTS, Boot())
    site.open()
    for n in range(100_000):
        seq = 10_000_000 * turn + n
        asks = [Ask(node=node, key=KEYS[node], gpus=(f"GPU-{node}-{n % 7}",), seq=seq) for node in CROWD]
        for node, token in zip(CROWD, site.leases(asks, NOW)):
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
"""Each turn is one batch, whose nodes ask with another GPU and a higher number, so that each gets a lease. Children are
forked: a new interpreter for each of 200 would take minutes."""


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
                rows = granted_rows(tmp_path)
                assert shown <= rows
                assert len(rows) % len(CROWD) == 0, "a batch is granted as a whole or not at all"
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
        "DELETE FROM audit WHERE n = 4",
        "DELETE FROM audit",
        "UPDATE meta SET value = '4 " + "0" * 64 + "' WHERE name = 'trail'",
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
    for _ in range(2):
        with pytest.raises(StoreError, match=r"missing .*or w[a-z]+ changed"):
            ledger.verify_audit()
        with ledger.transaction():
            ledger.audit(NOW, "granted", "later")  # which hides nothing
    ledger.close()


def test_a_trail_without_a_noted_end_or_with_one_of_an_older_row_goes_on(tmp_path: Path) -> None:
    """As the version before wrote it, alone or in between."""
    ledger = Ledger(tmp_path / "licence.db")
    ledger.open()
    for forget in ("DELETE FROM meta", "UPDATE meta SET value = ? WHERE name = 'trail'"):
        with ledger.transaction():
            ledger.audit(NOW, "granted", "n1")
        older = ledger.one("SELECT value FROM meta WHERE name = 'trail'")
        with ledger.transaction():
            ledger.audit(NOW, "granted", "n2")
        ledger.run(forget, older or () if "?" in forget else ())
        ledger.close()
        ledger.open()
        with ledger.transaction():
            ledger.audit(NOW, "granted", "n3")
    assert ledger.verify_audit() == 6
    ledger.close()


@given(
    detail=st.dictionaries(
        st.text(),
        st.recursive(
            st.text() | st.integers() | st.booleans() | st.none() | st.sampled_from(Verb),
            lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ),
    ),
    row=st.tuples(st.integers(), st.integers(), st.text(), st.text()),
)
def test_a_trail_of_before_is_read_the_same(detail: dict[str, object], row: tuple[int, int, str, str]) -> None:
    text = json.dumps(detail, sort_keys=True)
    assert trail.detail(detail) == text
    whole = (*row, text)
    assert trail.digest("ab" * 32, whole) == hashlib.sha256(("ab" * 32 + json.dumps(whole)).encode()).hexdigest()


def test_no_row_of_the_trail_stands_without_a_transaction(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "licence.db")
    ledger.open()
    with pytest.raises(StoreError, match="given up"):
        ledger.audit(NOW, "granted", "n1")
    with pytest.raises(StoreError, match="given up"), ledger.transaction():
        ledger.audit(NOW, "granted", "n1")
        ledger._run("ROLLBACK")  # as SQLite does by itself when the disk is full
    assert ledger.verify_audit() == 0
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


def test_a_file_that_has_all_tables_says_so_and_is_opened_without_the_database_tools(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "licence.db")
    ledger.open()
    assert ledger._run("PRAGMA user_version")[0][0] > 0
    ledger.close()
    again = (
        "import sys; from pathlib import Path; from licensing.store import Ledger\n"
        f"ledger = Ledger(Path({str(tmp_path / 'licence.db')!r}))\n"
        "ledger.open(); ledger.verify_audit(); ledger.close()\n"
        "sys.exit('sqlite_utils' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", again], check=True, timeout=60)


def test_the_file_is_as_durable_as_promised(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "licence.db")
    ledger.open()
    pragmas = ("journal_mode", "synchronous", "locking_mode")
    assert [ledger._run(f"PRAGMA {name}")[0][0] for name in pragmas] == ["wal", 2, "exclusive"]
    ledger.close()
