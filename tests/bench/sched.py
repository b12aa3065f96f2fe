"""The scheduler: what one pass costs, and what its order makes of a realistic queue beside FIFO and plain EASY.

The simulation prints a table of its own: for each column, load and scheduler the means over the seeds. The number of
jobs a list may be set with STOKER_BENCH_JOBS; the seeds are fixed, so the same number gives the same table.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

from agent.jobs.schedule import Demand, GpuFacts, Policy, Running, Snapshot, Waiting, decide
from tests.bench.peers import easy, fifo
from tests.bench.simulate import Outcome, simulate
from tests.bench.table import Row, print_wide, row_of
from tests.bench.workload import HELIOS, SEREN, trace

NOW = 1_800_000_000
GIB = 2**30
GPUS = 8
REPEATS = 9

JOBS = int(os.environ.get("STOKER_BENCH_JOBS", "1500"))
COLUMNS = {column.name: column for column in (HELIOS, SEREN)}
LOADS = (0.6, 0.9, 1.2)
SEEDS = (1, 2, 3)
SCHEDULERS = {"FIFO": fifo, "EASY": easy, "Stoker": decide}
POLICY = Policy(plan_depth=0)
"""As configured by default, but nobody is told when to expect a start: nobody reads it here."""

Cell = tuple[str, float, int, str]


def rows() -> list[Row]:
    """CPU time of a pass; then, of the simulation, Stoker's share of EASY's slowdown, and the utilisation it adds."""
    return [*_pass_rows(), *_simulation_rows()]


# --- one pass ---------------------------------------------------------------------------------------------------------


def _pass_rows() -> list[Row]:
    found = []
    for count in (1_000, 10_000, 50_000):
        aim = "≤ 50" if count == 10_000 else ""
        for words, users in (("in arrays and sweeps", 400), ("each unlike the others", None)):
            facts = _queue(count, users)
            values = [_cpu_ms(facts) for _ in range(REPEATS)]
            found.append(row_of(f"pass, {count:,} waiting {words}, 64 running", values, "CPU ms", aim))
    return found


def _queue(count: int, kinds: int | None) -> Snapshot:
    """A full node of 8 GPUs, and a queue of so many jobs in so many groups that ask for the same."""
    draw = random.Random(count)
    drawn = [_drawn(draw, number) for number in range(kinds or count)]
    waiting = [
        replace(drawn[number * len(drawn) // count], id=1000 + number, eligible_at=NOW - (count - number))
        for number in range(count)
    ]
    whole = [_running(number, number, time_limit_s=3600 * (1 + number)) for number in range(GPUS - 1)]
    shared = [_running(10 + each, GPUS - 1, shards=1, time_limit_s=7200) for each in range(4)]
    others = [_running(100 + number, None, time_limit_s=1800 * (1 + number)) for number in range(53)]
    gpus = [GpuFacts(uuid=f"GPU-{index}", index=index, name="NVIDIA H100", shards=4) for index in range(GPUS)]
    usage = {("lab", f"user{number:02}"): 1e6 / (1 + number) for number in range(40)}
    node = {"gpus": gpus, "cpu_count": 128, "memory_bytes": 1024 * GIB, "usage": usage}
    return Snapshot(waiting=waiting, running=[*whole, *shared, *others], **node)  # type: ignore[arg-type]


def _drawn(draw: random.Random, number: int) -> Waiting:
    gpus = draw.choice((1, 1, 1, 2, 4, 8))
    memory = draw.choice((0, 16, 32, 64)) * GIB
    return Waiting(
        id=number,
        user=f"user{min(draw.randrange(40), draw.randrange(40)):02}",
        account="lab",
        demand=Demand(gpus=gpus, cpus=gpus * draw.choice((1, 4, 8)), memory_bytes=memory),
        time_limit_s=draw.choice((1800, 3600, 14400, 86400, None)),
        nice=number % 7,
    )


def _running(number: int, gpu: int | None, *, shards: int = 0, time_limit_s: int) -> Running:
    gpus = 1 if gpu is not None and not shards else 0
    return Running(
        id=number + 1,
        user="user01",
        account="lab",
        demand=Demand(gpus=gpus, shards=shards, cpus=1),
        gpu_uuids=() if gpu is None else (f"GPU-{gpu}",),
        started_at=NOW - 600,
        time_limit_s=time_limit_s,
    )


def _cpu_ms(facts: Snapshot) -> float:
    begin = time.process_time()
    decide(facts, NOW)
    return (time.process_time() - begin) * 1000


# --- the simulation ---------------------------------------------------------------------------------------------------


def _simulation_rows() -> list[Row]:
    outcomes = _simulate_all()
    print_wide(
        ("trace", "load", "scheduler", "wait mean h", "wait p95 h", "wait most h", "slowdown", "GPUs in use"),
        [_line(column, load, name, outcomes) for column in COLUMNS for load in LOADS for name in SCHEDULERS],
    )
    print(f"\n{JOBS} jobs a list, seeds {', '.join(map(str, SEEDS))}; slowdown bounded at 10 s.\n")
    found = []
    for column in COLUMNS:
        for load in LOADS:
            ours, theirs, first = (_of(outcomes, column, load, name) for name in ("Stoker", "EASY", "FIFO"))
            best = [min(peer.slowdown for peer in pair) for pair in zip(theirs, first, strict=True)]
            share = [one.slowdown / least for one, least in zip(ours, best, strict=True)]
            most = [max(peer.utilisation for peer in pair) for pair in zip(theirs, first, strict=True)]
            more = [100 * (one.utilisation - use) for one, use in zip(ours, most, strict=True)]
            found += [
                row_of(f"{column}, load {load}: slowdown to the better peer's", share, "×", "< 1"),
                row_of(f"{column}, load {load}: GPUs in use above the better peer", more, "points", "≥ 0"),
            ]
    return found


def _simulate_all() -> dict[Cell, Outcome]:
    cells = [
        (column, load, seed, name) for column in COLUMNS for load in LOADS for seed in SEEDS for name in SCHEDULERS
    ]
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        return dict(zip(cells, pool.map(_simulate, cells), strict=True))


def _simulate(cell: Cell) -> Outcome:
    column, load, seed, name = cell
    jobs = trace(COLUMNS[column], jobs=JOBS, load=load, gpus=GPUS, seed=seed)
    return simulate(jobs, SCHEDULERS[name], gpus=GPUS, policy=POLICY)


def _of(outcomes: dict[Cell, Outcome], column: str, load: float, name: str) -> list[Outcome]:
    return [outcomes[column, load, seed, name] for seed in SEEDS]


def _line(column: str, load: float, name: str, outcomes: dict[Cell, Outcome]) -> Sequence[str]:
    found = _of(outcomes, column, load, name)
    return (
        column,
        f"{load}",
        name,
        f"{statistics.fmean(each.mean_wait_s for each in found) / 3600:.1f}",
        f"{statistics.fmean(each.p95_wait_s for each in found) / 3600:.1f}",
        f"{max(each.max_wait_s for each in found) / 3600:.0f}",
        f"{statistics.fmean(each.slowdown for each in found):.0f}",
        f"{100 * statistics.fmean(each.utilisation for each in found):.1f} %",
    )
