"""The node's history: what a second costs, what a year takes, how soon it is told, and sixty deaths in the middle.

The year of eight GPUs is written second by second where seconds are kept, and coarser before, as the rings hold it;
then a real agent is asked for it over its socket.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from agent.api.telemetry import GPU_METRICS
from agent.gpu.simulated import simulated_uuid
from agent.telemetry.host import read_boot_id
from agent.telemetry.lookback import look_back
from agent.telemetry.ringfile import TIERS, RingFile, file_bytes
from tests.bench.table import Row, row_of
from tests.fakes.daemons import Box

GPUS, YEAR_S, END = 8, 366 * 86400, 1_800_000_000
METRICS = tuple(f"metric_{number}" for number in range(20))
POINTS, REPEATS, DEATHS = 500, 25, 60

_WRITER = """
import sys, time
from pathlib import Path
from agent.telemetry.ringfile import RingFile
metrics = tuple(f"metric_{number}" for number in range(20))
rings = [RingFile.open(Path(sys.argv[1]) / f"GPU-{n}.ring", metrics, "boot") for n in range(int(sys.argv[2]))]
second = int(sys.argv[3])
while True:
    for ring in rings:
        ring.add(second, [(second % 100, second % 100 + 1, second % 100 + 2)] * 20)
    second += 1
"""


def rows() -> list[Row]:
    """All of it on files of the real size; the year's coarsest ring is full, in steps of its width."""
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder:
        place = Path(folder)
        made = time.perf_counter()
        rings = [RingFile.open(place / f"GPU-{number}.ring", METRICS, "boot") for number in range(GPUS)]
        making = time.perf_counter() - made
        seconds = list(_seconds(rings))
        _fill_year(rings[0])
        found = [
            row_of(f"a second of {GPUS} GPUs, {len(METRICS)} metrics, all rings", seconds, "CPU ms"),
            row_of(f"making {GPUS} files", [making * 1e3], "ms"),
        ]
        for name, span_s in (("hour", 3600), ("6 hours", 6 * 3600), ("30 days", 30 * 86400), ("year", YEAR_S)):
            found.append(
                row_of(f"one metric over a {name} in {POINTS} buckets", _asked(rings[0], span_s), "ms", "≤ 50")
            )
        for ring in rings:
            ring.close()
        found += list(_deaths(place))
        size = sum(path.stat().st_blocks * 512 for path in place.iterdir()) / GPUS / 1e6
        found.append(row_of("size on disk a GPU, at the beginning and after all of it", [size], "MB", "≤ 30"))
    return [*found, *_year()]


def _year() -> Iterator[Row]:
    """A year of all GPUs behind a real agent."""
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder:
        lab = Box(Path(folder), gpus=GPUS, history="year")
        place = lab.state_dir / "history"
        place.mkdir(parents=True)
        uuids, now, added = [simulated_uuid(lab.name, index) for index in range(GPUS)], int(time.time()), 0
        for uuid in uuids:
            ring = RingFile.open(place / f"{uuid}.ring", tuple(GPU_METRICS), read_boot_id())
            for at, width_s in _moments(now):
                ring.add(at, [(at % 97 / 2, at % 97, 97.0)] * len(GPU_METRICS), float(width_s))
                added += 1
            ring.sync()
            ring.close()
        size = sum(path.stat().st_blocks * 512 for path in place.iterdir())
        stated = GPUS * file_bytes(len(GPU_METRICS)) / 1e6
        yield row_of(
            f"a year of {GPUS} GPUs, {len(GPU_METRICS)} metrics, {added} samples", [size / 1e6], "MB", f"≤ {stated:.0f}"
        )
        try:
            lab.agent.start()
            with lab.agent.client() as client:
                times, agent = [], psutil.Process(lab.agent.pid)
                before = sum(agent.cpu_times()[:2])
                for number in range(REPEATS):
                    gpu, metric = uuids[number % GPUS], tuple(GPU_METRICS)[number % len(GPU_METRICS)]
                    begin = time.perf_counter()
                    found = client.history(metric, gpu=gpu, since=now - YEAR_S, until=now, points=POINTS)
                    times.append((time.perf_counter() - begin) * 1e3)
                    assert 0 < len(found.mean) <= POINTS
                spent = (sum(agent.cpu_times()[:2]) - before) * 1e3 / REPEATS
                yield row_of(f"GET /v1/history of a year in {POINTS} buckets, over the socket", times, "ms", "≤ 50")
                yield row_of("… the agent's CPU time for one", [spent], "CPU ms")
        finally:
            lab.close()


def _moments(now: int) -> Iterator[tuple[int, int]]:
    """(second, seconds it stands for), each as fine as it is kept, oldest first."""
    begins = [now - tier.width_s * tier.rows for tier in TIERS]
    for tier, begin, end in reversed(list(zip(TIERS, begins, [now, *begins], strict=False))):
        for at in range(begin - begin % tier.width_s, end - end % tier.width_s, tier.width_s):
            yield at, tier.width_s


def _seconds(rings: list[RingFile]) -> Iterator[float]:
    spreads = [(float(number), number + 1.0, number + 2.0) for number in range(len(METRICS))]
    for block in range(REPEATS):
        begin = time.thread_time()
        for second in range(20):
            for ring in rings:
                ring.add(END - 1000 + block * 20 + second, spreads)
        yield (time.thread_time() - begin) / 20 * 1e3


def _fill_year(ring: RingFile) -> None:
    for at in range(END - YEAR_S, END, TIERS[-1].width_s):
        ring.add(at, [(1.0, at % 97, 100.0)] * len(METRICS), 600.0)
    ring.sync()


def _asked(ring: RingFile, span_s: int) -> list[float]:
    times = []
    for number in range(REPEATS):
        metric, begin = METRICS[number % len(METRICS)], time.perf_counter()
        found = look_back(ring, metric, since=END - span_s, until=END, points=POINTS, now=END)
        times.append((time.perf_counter() - begin) * 1e3)
        assert len(found.spreads) <= POINTS
    return times


def _deaths(place: Path) -> Iterator[Row]:
    """A writer is killed each second for a minute; every row is proved afterwards, and the rings still take rows."""
    chance = random.Random(20260101)
    for number in range(DEATHS):
        command = [sys.executable, "-c", _WRITER, str(place), str(GPUS), str(END + 100_000 * number)]
        with subprocess.Popen(command) as child:
            time.sleep(chance.uniform(0.5, 1.0))  # the random moment is the point
            child.send_signal(signal.SIGKILL)
    rings = [RingFile.open(path, METRICS, "boot") for path in sorted(place.glob("*.ring"))]
    torn = sum(len(ring.torn()) for ring in rings)
    yield row_of(f"rows torn by {DEATHS} kill -9 in a minute, of {GPUS} files", [float(torn)], "rows", "0")
    for ring in rings:
        ring.close()
