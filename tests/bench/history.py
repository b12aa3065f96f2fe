"""The job store with a long history: 100,000 ended jobs and 10,000 waiting ones. Row 46 of the fault matrix."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.api.types import JobState
from agent.jobs import apart
from agent.jobs.filters import JobFilter
from agent.jobs.spec import ArraySpec, JobSpec
from agent.jobs.store import JobStore
from tests.bench.table import Row, cpu_s, row_of, wall_s

ENDED, WAITING, PAGE, REPEATS = 100_000, 10_000, 100, 7
_USERS = [f"user{number}" for number in range(40)]

FILTERS = {
    "all": JobFilter(limit=PAGE),
    "one user": JobFilter(users=["user7"], limit=PAGE),
    "a user that has no job": JobFilter(users=["nobody"], limit=PAGE),
    "a state and a user": JobFilter(states=[JobState.FAILED], users=["user7"], limit=PAGE),
    "a name that is rare": JobFilter(names=["rare"], limit=PAGE),
    "the oldest page": JobFilter(before=PAGE, limit=PAGE),
    "ended since": JobFilter(since=ENDED - 50, until=ENDED, states=[JobState.COMPLETED], limit=PAGE),
}


def rows() -> list[Row]:
    """Pages, the start, an array's submit, and the longest wait of the store while it is backed up."""
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder:
        path = Path(folder) / "agent.db"
        submit = list(_arrays(Path(folder)))
        store = JobStore.open(path, now=1)
        _fill(store)
        found = [
            row_of(f"{WAITING:,} tasks in one array", [wall for wall, _ in submit], "s", "≤ 1"),
            row_of(f"{WAITING:,} tasks in one array", [cpu for _, cpu in submit], "CPU s"),
        ]
        for name, wanted in FILTERS.items():
            pairs = [_wall_and_cpu(lambda wanted=wanted: store.find(wanted)) for _ in range(REPEATS)]  # type: ignore[misc]
            what = f"page of {PAGE} among {ENDED:,}: {name}"
            found.append(row_of(what, [wall * 1e3 for wall, _ in pairs], "ms", "≤ 50"))
            found.append(row_of(what, [cpu * 1e3 for _, cpu in pairs], "CPU ms"))
        found += _commits("a commit, nothing else at work", [_commit_s(store) for _ in range(1000)], "")
        runs = [_backed_up(store) for _ in range(3)]  # each but the first replaces one
        found += _commits("a commit while it is backed up", [wait for waits, _ in runs for wait in waits], "≤ 50")
        found.append(row_of("backup, verified", [whole for _, whole in runs], "s"))
        store.close()
        starts = [wall_s(lambda: JobStore.open(path, now=2).close()) for _ in range(3)]
        size = path.stat().st_size / 2**20
    found.append(row_of(f"open and check, {size:.0f} MiB", starts, "s", "≤ 1"))
    return found


def _wall_and_cpu(act: Callable[[], object]) -> tuple[float, float]:
    walls: list[float] = []
    cpu = cpu_s(lambda: walls.append(wall_s(act)))
    return walls[0], cpu


def _arrays(folder: Path) -> Iterator[tuple[float, float]]:
    for number in range(3):
        store = JobStore.open(folder / f"array-{number}.db", now=1)
        array = ArraySpec(tasks=tuple(range(WAITING)), text=f"0-{WAITING - 1}")
        spec = JobSpec(name="sweep", script_name="s.sh", submit_dir="/h", work_dir="/h", array=array)
        yield _wall_and_cpu(lambda: store.add(spec, user="ada", uid=1, key=None, digest="d", now=1))  # noqa: B023
        store.close()


def _fill(store: JobStore) -> None:
    with store.transaction():
        for number in range(ENDED + WAITING):
            spec = JobSpec(
                name="rare" if number == 777 else f"train-{number % 500}",
                script_name="train.sh",
                submit_dir="/home/ada/project",
                work_dir="/home/ada/project",
                args=("--seed", str(number), "x" * 200),
                account=f"account{number % 9}",
            )
            user = _USERS[number % len(_USERS)]
            store.add(spec, user=user, uid=1, key=f"k{number}", digest="d" * 64, now=number)
        store._execute(
            "UPDATE jobs SET attempt = 1, started_at = id, ended_at = id, exit_code = 0, state ="
            " CASE id % 7 WHEN 0 THEN 'FAILED' ELSE 'COMPLETED' END WHERE id <= ?",
            (ENDED,),
        )


def _backed_up(store: JobStore) -> tuple[list[float], float]:
    ended = threading.Event()
    took: list[float] = []

    def run() -> None:
        took.append(
            wall_s(lambda: store.back_up(verify=lambda copy: apart.verify(copy, lambda: False)))
        )  # as the agent
        ended.set()

    threading.Thread(target=run, name="job-backup").start()
    waits: list[float] = []
    while not ended.is_set():
        waits.append(_commit_s(store))
    return waits, took[0]


def _commit_s(store: JobStore) -> float:
    time.sleep(0.002)
    return wall_s(lambda: store.charge("a", "ada", 1.0, 1))


def _commits(name: str, waits: list[float], aim: str) -> list[Row]:
    ms = sorted(wait * 1e3 for wait in waits)
    return [
        Row(name=f"{name}: 99 of 100 within", value=ms[int(len(ms) * 0.99)], unit="ms"),
        Row(name=f"{name}: the longest of {len(ms):,}", value=ms[-1], unit="ms", aim=aim),
    ]
