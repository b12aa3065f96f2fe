"""`kill -9` at any moment of the usage ledger's writes: what was answered for is there once, and no second twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from agent.jobs.store import JobStore
from licensing import usage_rows
from tests.component.test_meter import NOON

KILLS = 40
LENGTH_S = 100
WRITER = """
import sys
from pathlib import Path
from agent.jobs.meter import Metered, Tick
from agent.jobs.store import JobStore

store, job = JobStore.open(Path(sys.argv[1]), now=1), int(sys.argv[2])
store.meter_adopt("n1", [], anew=False)
gpus = [Metered(gpu=f"GPU-{each}", sku="Test GPU") for each in range(2)]

def tick(at):
    return Tick(wall=NOON + at, uptime=at, boot="boot-1")

def told(word):
    print(word, job, flush=True)

while True:
    at = LENGTH * job
    with store.transaction():
        store.meter_claim([job], tick(at))
    with store.transaction():
        store.meter_open(job, gpus, NOON + at, tick(at), user="ada", account="")
    told("opened")
    store.meter_beat(tick(at + LENGTH // 2))
    with store.transaction():
        store.meter_close(job, NOON + at + LENGTH, tick(at + LENGTH))
    told("closed")
    job += 1
"""


def test_what_was_answered_for_is_there_once_whenever_the_writer_is_killed(tmp_path: Path) -> None:
    path, dice = tmp_path / "agent.db", random.Random(7)
    code = WRITER.replace("NOON", str(NOON)).replace("LENGTH", str(LENGTH_S))
    closed: set[int] = set()
    first = 1
    for _ in range(KILLS):
        child = subprocess.Popen([sys.executable, "-c", code, str(path), str(first)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(dice.randrange(1, 12)):
            word, job = child.stdout.readline().split()
            if word == "closed":
                closed.add(int(job))
        os.kill(child.pid, signal.SIGKILL)
        for line in child.stdout.read().splitlines():
            if line.startswith("closed"):
                closed.add(int(line.split()[1]))
        child.wait()
        child.stdout.close()
        first = check(path, closed)


def check(path: Path, closed: set[int]) -> int:
    """What the file says after the kill; the number of the next job."""
    store = JobStore.open(path, now=2)
    assert store.damaged is None
    head = store.meter_head()
    told = store.meter_rows(head.chain, 0, 10**6)
    rows = usage_rows.verified(told.rows, 1, told.before, head.head)
    counted: dict[str, int] = {}
    seen = set()
    for row in rows:
        assert row is not None
        assert (row.job, row.gpu, row.start) not in seen, "a row twice"
        seen.add((row.job, row.gpu, row.start))
        counted[row.job] = counted.get(row.job, 0) + row.gpu_ms
    for job in closed:
        assert counted[store._job_name(job)] == 2 * LENGTH_S * 1000, f"job {job} was answered for"
    assert all(each <= 2 * LENGTH_S * 1000 for each in counted.values())
    assert sum(counted.values()) == head.gpu_ms
    last = store._execute("SELECT coalesce(max(job_id), 0) FROM meter").fetchone()[0]
    running = store._execute("SELECT coalesce(max(job_id), 0) FROM meter_open").fetchone()[0]
    assert max(closed, default=0) <= last <= max(closed, default=0) + 2
    store.close()
    return int(max(last, running)) + 1
