"""The node's usage ledger in a real file, whatever happens to agent, node and clock, against what truly happened."""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.api.usage import DAY_S
from agent.jobs.meter import AHEAD_S, Metered, Tick
from agent.jobs.store import JobStore
from licensing import usage_rows
from tests.fakes.stores import path as path
from tests.fakes.stores import reopened
from tests.fakes.stores import store as store

NOON = 1_763_812_800
"""2025-11-22 12:00 UTC."""


@dataclass
class Run:
    """What truly happened: true seconds and what the clocks said."""

    job_id: int
    gpus: tuple[int, ...]
    begun: int
    begun_wall: int
    claimed: int
    opened: int | None = None
    """True second at which its start was heard."""
    ended: int | None = None
    ended_wall: int = 0
    beaten: int = 0
    """True second of the last heartbeat."""
    before: int = 0
    """The same of the one before."""
    least: int | None = None
    most: int | None = None
    """Seconds that must be counted in the end."""
    slack: int = 0
    """Seconds by which clocks that tell whole ones may differ, for each time that one was moved."""
    unsure_start: bool = False
    """The wall clock was moved between its start and when that was heard."""
    beats_after_end: bool = False
    unsure_end: bool = False
    """The wall clock was moved since the last heartbeat."""
    lost: bool = False


class World:
    """One node with three GPUs, each whole; and what truly happened on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = JobStore.open(self.path, now=1)
        self.store.meter_adopt("n1", [], anew=False)
        self.halves, self.moved, self.booted, self.boot = 2_000_000, 0, 0, 1
        self.phase = 0
        """Where uptime's seconds begin within those of the wall clock."""
        self.alive = True
        self.runs: list[Run] = []

    def tick(self) -> Tick:
        return Tick(wall=self.wall, uptime=(self.halves + self.phase) // 2 - self.booted, boot=f"boot-{self.boot}")

    @property
    def true(self) -> int:
        return self.halves // 2

    @property
    def wall(self) -> int:
        return NOON + self.true + self.moved

    def do(self, act: str, number: int) -> None:
        """One thing that happens, if it can happen now."""
        if act in ("claim", "hear_start", "heartbeat", "hear_end") and not self.alive:
            return
        getattr(self, act)(number)

    # --- what happens -------------------------------------------------------------------------------------------------

    def time_passes(self, number: int) -> None:
        self.halves += number % 400

    def days_pass(self, number: int) -> None:
        self.halves += number

    def clock_is_moved(self, number: int) -> None:
        """By some minutes or by weeks, back or ahead."""
        self.moved += (number - 3 * DAY_S) * (10 if number % 2 else 1) // (1 if number % 3 else 1000)
        for run in self.open_runs():
            run.slack += 2
            run.unsure_start |= run.opened is None
            run.unsure_end = True

    def claim(self, number: int) -> None:
        """A job is claimed, and begins a little later; the agent has not heard of that yet."""
        gpus = tuple(each for each in range(3) if (number % 7 + 1) >> each & 1)
        if {each for run in self.open_runs() for each in run.gpus} & set(gpus):
            return
        with self.store.transaction():
            self.store.meter_claim([len(self.runs) + 1], self.tick())
        claimed = self.true
        self.halves += number % 11
        self.runs.append(Run(len(self.runs) + 1, gpus, self.true, self.wall, claimed))

    def hear_start(self, number: int) -> None:
        run = self.one(number, lambda run: run.opened is None)
        if run is not None:
            gpus = [Metered(gpu=f"GPU-{each}", sku="Test GPU") for each in run.gpus]
            self.store.meter_open(run.job_id, gpus, run.begun_wall, self.tick(), user="ada", account="lab")
            run.opened, run.beaten, run.before = self.true, run.begun, run.begun

    def heartbeat(self, number: int) -> None:
        if any(run.beats_after_end for run in self.open_runs()):
            return  # an end is heard within a heartbeat
        self.store.meter_beat(self.tick())
        for run in self.open_runs():
            if run.opened is not None:
                run.before, run.beaten = run.beaten, self.true
                run.unsure_end &= run.ended is not None
                run.beats_after_end = run.ended is not None

    def end(self, number: int) -> None:
        run = self.one(number, lambda run: run.opened is not None and run.ended is None)
        if run is not None:
            run.ended, run.ended_wall = self.true, self.wall

    def hear_end(self, number: int) -> None:
        run = self.one(number, lambda run: run.ended is not None)
        if run is not None:
            self.store.meter_close(run.job_id, run.ended_wall, self.tick())
            self.close(run)

    def agent_is_killed(self, number: int) -> None:
        """SQLite's file as it is: whatever was not committed is gone, and there is nothing of that kind."""
        self.alive = False

    def agent_starts(self, number: int) -> None:
        if self.alive:
            return
        self.store = reopened(self.store, self.path)
        active = [run.job_id for run in self.open_runs()]
        known = [run.job_id for run in self.open_runs() if run.opened is not None]
        assert self.store.meter_adopt("n1", known, anew=False, active=active) == []
        self.alive = True

    def node_reboots(self, number: int) -> None:
        """Everything that ran is gone, also what had begun unheard; nobody recorded an end but who had one before."""
        self.agent_is_killed(number)
        self.halves += number
        self.booted, self.boot, self.phase = self.true, self.boot + 1, number % 2
        self.agent_starts(number)
        for run in self.open_runs():
            run.lost = True
            self.store.meter_close(run.job_id, run.ended_wall or None, self.tick())
            self.close(run)

    def one(self, number: int, fits: Callable[[Run], bool]) -> Run | None:
        found = [run for run in self.open_runs() if fits(run)]
        return found[number % len(found)] if found else None

    def open_runs(self) -> list[Run]:
        return [run for run in self.runs if run.most is None]

    # --- what must hold -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        self.rows_tell_what_happened()
        self.no_second_is_counted_twice()

    def close(self, run: Run) -> None:
        """What must be counted: all of it; of a lost one up to the last heartbeat."""
        if run.opened is None:
            run.least = run.most = 0
            return
        if run.lost:
            run.least = run.most = run.beaten - run.begun
        else:
            assert run.ended is not None
            run.least = run.most = run.ended - run.begun
        if run.unsure_end and not run.lost:  # between the heartbeat before the end, and when the end was heard
            run.least, run.most = run.before - run.begun, max(run.beaten, self.true) - run.begun
        if run.unsure_start:  # between when it was heard, and its claim
            run.least, run.most = max(0, run.least - (run.opened - run.begun)), run.most + run.begun - run.claimed

    def rows_tell_what_happened(self) -> None:
        counted: dict[str, int] = defaultdict(int)
        rows = all_rows(self.store)
        for row in rows:
            counted[row.job] += row.gpu_ms
        for run in self.runs:
            if run.most is None or run.least is None:
                continue
            found = counted[self.store._job_name(run.job_id)]
            least, most = run.least - run.slack, run.most + run.slack
            assert least * 1000 * len(run.gpus) <= found <= most * 1000 * len(run.gpus), run
        head = self.store.meter_head()
        assert sum(counted.values()) == head.gpu_ms
        assert [row.seq for row in rows] == list(range(1, head.seq + 1))
        assert all(row.end // DAY_S == row.start // DAY_S or row.end % DAY_S == 0 for row in rows)

    def no_second_is_counted_twice(self) -> None:
        spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for row in all_rows(self.store):
            spans[row.gpu].append((row.start, row.end))
        for each in spans.values():
            for (_, end), (start, _) in pairwise(each):
                assert start >= end or end - start > AHEAD_S, "only behind a clock that was days ahead"


ACTS = {
    "claim": 4,
    "hear_start": 4,
    "heartbeat": 3,
    "time_passes": 4,
    "end": 3,
    "hear_end": 3,
    "days_pass": 1,
    "clock_is_moved": 1,
    "agent_is_killed": 1,
    "agent_starts": 2,
    "node_reboots": 1,
}
"""What happens, and how often."""
STEPS = st.lists(
    st.tuples(st.sampled_from([act for act, often in ACTS.items() for _ in range(often)]), st.integers(0, 6 * DAY_S)),
    min_size=10,
    max_size=80,
)


@settings(max_examples=50)
@given(STEPS)
def test_what_is_counted_is_what_happened(steps: list[tuple[str, int]]) -> None:
    happen(steps)


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_what_is_counted_in_a_long_life_is_what_happened(seed: int) -> None:
    dice = random.Random(seed)
    acts = dice.choices(list(ACTS), weights=list(ACTS.values()), k=300)
    happen([(act, dice.randrange(6 * DAY_S)) for act in acts])


def happen(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "agent.db")
        try:
            for act, number in steps:
                world.do(act, number)
            world.check()
        finally:
            world.store.close()


def all_rows(store: JobStore) -> list[usage_rows.Row]:
    """As the hub would read them."""
    head = store.meter_head()
    told = store.meter_rows(head.chain, 0, 10**9)
    rows = usage_rows.verified(told.rows, 1, told.before, head.head)
    assert all(row is not None for row in rows)
    return [row for row in rows if row is not None]
