"""The job store where something goes wrong: a second owner, another thread, kill -9, a full disk, no folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from agent.jobs.errors import (
    StoreError,
    StoreLockedError,
)
from agent.jobs.store import JobStore
from tests.fakes.stores import add
from tests.fakes.stores import path as path
from tests.fakes.stores import store as store


class Named(msgspec.Struct):
    name: str


# --- one process, one thread ------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from agent.jobs.store import JobStore
store = JobStore.open(Path(sys.argv[1]), now=1)
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_agent_is_refused_and_told_who_holds_the_store(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin and holder.stdout
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreLockedError, match=rf"is in use by process {holder.pid}; only one process"):
            JobStore.open(path, now=2)
        holder.stdin.close()
        assert holder.wait(timeout=60) == 0
    JobStore.open(path, now=3).close()


def test_memory_is_brought_back_to_what_is_stored_after_it_is_undone(store: JobStore) -> None:
    found: list[list[str]] = []

    def look() -> None:
        found.append(sorted(store.all("note", Named)))

    with store.transaction():
        store.put("note", "kept", Named(name="kept"))
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.put("note", "inner", Named(name="inner"))
            store.if_undone(look)
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.put("note", "outer", Named(name="outer"))
        store.if_undone(look)
        raise ZeroDivisionError
    assert found == [["kept"], ["kept"]]


def test_memory_is_brought_back_though_the_store_cannot_undo(store: JobStore) -> None:
    brought_back: list[str] = []
    with pytest.raises(StoreError, match="no such savepoint"), store.transaction(), store.transaction():
        store.if_undone(lambda: brought_back.append("inner"))
        store._execute("RELEASE part_1")
        raise ZeroDivisionError
    assert brought_back == ["inner"]
    with store.transaction():
        store.put("note", "later", Named(name="later"))
    assert list(store.all("note", Named)) == ["later"]


def test_another_thread_is_refused(store: JobStore) -> None:
    caught: list[StoreError] = []

    def trespass() -> None:
        try:
            store.find()
        except StoreError as error:
            caught.append(error)

    thread = threading.Thread(target=trespass)
    thread.start()
    thread.join(timeout=60)
    assert len(caught) == 1
    assert "thread" in str(caught[0])


def test_the_file_survives_a_power_cut_by_its_settings(path: Path, store: JobStore) -> None:
    add(store)
    assert not path.with_name("agent.db-shm").exists(), "EXCLUSIVE needs no shared memory"
    assert path.with_name("agent.db-wal").exists()
    assert store._connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


# --- kill -9 and full disks -------------------------------------------------------------------------------------------

SUBMIT_FOR_EVER = """
import sys
from pathlib import Path
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore
store = JobStore.open(Path(sys.argv[1]), now=1)
assert store.damaged is None
spec = JobSpec(name="n", script_name="s", submit_dir="/", work_dir="/")
while True:
    row, _ = store.add(spec, user="ada", uid=1, key=None, digest="d", now=1)
    print(row.id, flush=True)
"""


def test_what_was_answered_survives_kill_9(path: Path) -> None:
    answered = 0
    for count in (1, 40, 7):
        with subprocess.Popen(
            [sys.executable, "-c", SUBMIT_FOR_EVER, str(path)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout
            for _ in range(count):
                answered = int(child.stdout.readline())
            os.kill(child.pid, signal.SIGKILL)
            rest = child.stdout.read().split("\n")
            answered = max([answered, *(int(line) for line in rest[:-1])])
            child.wait(timeout=60)
    store = JobStore.open(path, now=2)
    assert store.damaged is None
    ids = [row.id for row in store.pending()]
    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) - answered in (0, 1, 2), "at most the one whose answer was under way, each time"
    assert answered >= 48
    store.close()


FILL = """
import json, os, resource, signal, sys
from pathlib import Path
from agent.jobs.errors import StoreError
from agent.jobs.filters import JobFilter
from agent.jobs.machine import CancelAsked
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
store = JobStore.open(path, now=1)
spec = JobSpec(name="n", script_name="s", submit_dir="/", work_dir="/", args=("x" * 4000,))
def add():
    return store.add(spec, user="ada", uid=1, key=None, digest="d", now=1)[0].id
before = [add() for _ in range(3)]
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
wal = path.with_name(path.name + "-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (wal + 10_000, hard))
refused = None
while refused is None:
    try:
        before.append(add())
    except StoreError as error:
        refused = str(error)
reads = [row.id for row in store.pending()]
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
after = add()
store.close()
print(json.dumps({"before": before, "refused": refused, "reads": reads, "after": after}))
"""


def test_a_full_disk_refuses_and_recovers_by_itself(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    told = json.loads(done.stdout)
    assert "disk of the state folder is full" in told["refused"]
    assert told["reads"] == told["before"], "reads work, and nothing half-stored is seen"
    assert told["after"] == told["before"][-1] + 1
    store = JobStore.open(path, now=2)
    assert store.damaged is None
    assert [row.id for row in store.pending()] == [*told["before"], told["after"]]
    store.close()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot open .*/nowhere/agent\.db"):
        JobStore.open(tmp_path / "nowhere" / "agent.db", now=1)
