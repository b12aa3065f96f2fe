"""The node's usage ledger in a real file, whatever happens to agent, node and clock, against what truly happened."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from agent.api.usage import DAY_S
from agent.jobs.meter import AHEAD_S, Metered, Tick
from agent.jobs.store import JobStore
from licensing import usage_rows
from tests.fakes.stores import path as path
from tests.fakes.stores import reopened
from tests.fakes.stores import store as store

NOON = 1_763_812_800
"""2025-11-22 12:00 UTC."""
SHORT = st.integers(0, 400)
LONG = st.integers(0, 3 * DAY_S)


@dataclass
class Run:
    """What truly happened: true seconds and what the clocks said."""

    job_id: int
    gpus: tuple[int, ...]
    begun: int
    begun_wall: int
    claimed: int
    opened_at: int = 0
    """True second at which its start was heard."""
    ended: int | None = None
    ended_wall: int = 0
    opened: int | None = None
    """True second up to which it is not to be counted, once the agent heard of it."""
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
    unsure_end: bool = False
    """The wall clock was moved since the last heartbeat."""
    lost: bool = False


class Metering(RuleBasedStateMachine):
    """One node with three GPUs, each whole."""

    waiting = Bundle("waiting")
    running = Bundle("running")
    ended = Bundle("ended")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "agent.db"
        self.store = JobStore.open(self.path, now=1)
        self.store.meter_adopt("n1", [], anew=False)
        self.halves, self.moved, self.booted, self.boot = 2_000_000, 0, 0, 1
        self.phase = 0
        """Where uptime's seconds begin within those of the wall clock."""
        self.alive = True
        self.runs: list[Run] = []
        self.marked = 0

    def tick(self) -> Tick:
        return Tick(wall=self.wall, uptime=(self.halves + self.phase) // 2 - self.booted, boot=f"boot-{self.boot}")

    @property
    def true(self) -> int:
        return self.halves // 2

    @property
    def wall(self) -> int:
        return NOON + self.true + self.moved

    # --- what happens -------------------------------------------------------------------------------------------------

    @initialize(start=LONG)
    def begin(self, start: int) -> None:
        self.halves += start

    @rule(seconds=st.one_of(SHORT, LONG))
    def time_passes(self, seconds: int) -> None:
        self.halves += seconds

    @rule(by=st.integers(-40 * DAY_S, 40 * DAY_S))
    def clock_is_moved(self, by: int) -> None:
        self.moved += by
        for run in self.open_runs():
            run.slack += 2
            run.unsure_start |= run.opened is None
            run.unsure_end |= run.ended is None or run.before == run.beaten

    @precondition(lambda self: self.alive)
    @rule(target=waiting, gpu=st.sets(st.integers(0, 2), min_size=1), late=SHORT)
    def job_starts(self, gpu: set[int], late: int) -> Run | object:
        """Claimed and begun; the agent has not heard of it yet."""
        busy = {each for run in self.open_runs() for each in run.gpus}
        if busy & gpu:
            return multiple()
        with self.store.transaction():
            self.store.meter_mark(self.tick())
        self.marked = self.true
        self.halves += late
        run = Run(
            job_id=len(self.runs) + 1,
            gpus=tuple(sorted(gpu)),
            begun=self.true,
            begun_wall=self.wall,
            claimed=self.marked,
        )
        self.runs.append(run)
        return run

    @precondition(lambda self: self.alive)
    @rule(target=running, run=consumes(waiting), late=SHORT)
    def start_is_heard(self, run: Run, late: int) -> Run | object:
        if run.lost:
            return multiple()
        self.halves += late
        gpus = [Metered(gpu=f"GPU-{each}", sku="Test GPU") for each in run.gpus]
        self.store.meter_open(run.job_id, gpus, run.begun_wall, self.tick(), user="ada", account="lab")
        run.opened = run.beaten = run.before = run.begun
        run.opened_at = self.true
        return run

    @precondition(lambda self: self.alive)
    @rule()
    def heartbeat(self) -> None:
        if any(run.ended is not None and run.before != run.beaten for run in self.open_runs()):
            return  # an end is heard within a heartbeat
        self.store.meter_beat(self.tick())
        for run in self.open_runs():
            if run.opened is not None:
                run.before, run.beaten = run.beaten, self.true
                run.unsure_end = run.ended is not None

    @rule(target=ended, run=consumes(running), late=SHORT)
    def job_ends(self, run: Run, late: int) -> Run | object:
        if run.lost:
            return multiple()
        run.ended, run.ended_wall = self.true, self.wall
        self.halves += late
        return run

    @precondition(lambda self: self.alive)
    @rule(run=consumes(ended))
    def end_is_heard(self, run: Run) -> None:
        if run.lost:
            return
        self.store.meter_close(run.job_id, run.ended_wall, self.tick())
        self.close(run)

    @rule()
    def agent_is_killed(self) -> None:
        """SQLite's file as it is: whatever was not committed is gone, and there is nothing of that kind."""
        self.alive = False

    @precondition(lambda self: not self.alive)
    @rule()
    def agent_starts(self) -> None:
        self.store = reopened(self.store, self.path)
        known = [run.job_id for run in self.open_runs() if run.opened is not None]
        assert self.store.meter_adopt("n1", known, anew=False) == []
        self.alive = True

    @rule(off=LONG, phase=st.integers(0, 1))
    def node_reboots(self, off: int, phase: int) -> None:
        """Everything that ran is gone, also what had begun unheard; nobody recorded an end."""
        self.agent_is_killed()
        lost = self.open_runs()
        self.halves += 2 * off
        self.booted, self.boot, self.phase = self.true, self.boot + 1, phase
        self.agent_starts()
        for run in lost:
            run.lost = True
            self.store.meter_close(run.job_id, None, self.tick())
            self.close(run)

    # --- what must hold -----------------------------------------------------------------------------------------------

    def open_runs(self) -> list[Run]:
        return [run for run in self.runs if run.most is None or run.least is None]

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
            run.least, run.most = max(0, run.least - (run.opened_at - run.begun)), run.most + run.begun - run.claimed

    @invariant()
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

    @invariant()
    def no_second_is_counted_twice(self) -> None:
        spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for row in all_rows(self.store):
            spans[row.gpu].append((row.start, row.end))
        for each in spans.values():
            for (_, end), (start, _) in pairwise(each):
                assert start >= end or end - start > AHEAD_S, "only behind a clock that was days ahead"

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


TestMetering = Metering.TestCase
TestMetering.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def all_rows(store: JobStore) -> list[usage_rows.Row]:
    """As the hub would read them."""
    head = store.meter_head()
    told = store.meter_rows(head.chain, 0, 10**9)
    rows = usage_rows.verified(told.rows, 1, told.before, head.head)
    assert all(row is not None for row in rows)
    return [row for row in rows if row is not None]
