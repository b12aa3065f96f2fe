"""Seat checkouts through the hub's own door: its queue, its one writer, FULL, audit row, time and signature.

Each client is a node whose GPUs change with every question, so that each question is a checkout; a client asks again as
soon as it has its lease. Left out is only the way to the node and back.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from agent.gate import Ask, HubLicence
from agent.hub.checkouts import Answer, Checkouts
from licensing import keys
from tests.bench.table import Row, row_of
from tests.fakes.vendor import NOW, ROOTS, VOUCHER, Boot, changed, file, seeded

REPEATS = 5
SPAN_S = 3.0
CLIENTS = 32


@dataclass
class Node:
    """One client: what it holds, and how long it waited for each lease."""

    name: str
    key: str = ""
    seq: int = 0
    held: str | None = None
    waits_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    """What the whole run took of the CPU, clients too; said by the first."""

    def __post_init__(self) -> None:
        self.key = keys.public_hex(seeded(self.name))

    async def run(self, checkouts: Checkouts, until: float) -> None:
        """Ask for one GPU and for two, in turn."""
        while (begin := time.perf_counter()) < until:
            gpus = (f"GPU-{self.name}-0", f"GPU-{self.name}-1")[: 1 + self.seq % 2]
            token = await checkouts.lease(Ask(node=self.name, key=self.key, gpus=gpus, seq=self.seq, held=self.held))
            assert isinstance(token, str)
            self.waits_s.append(time.perf_counter() - begin)
            self.seq, self.held = self.seq + 1, token.rsplit("~", 1)[-1]


def rows() -> list[Row]:
    """One in flight, then `CLIENTS`; each repeat on a ledger of its own."""
    alone = [_run(1) for _ in range(REPEATS)]
    many = [_run(CLIENTS) for _ in range(REPEATS)]
    flush = [_flush_ms() for _ in range(REPEATS)]
    return [
        row_of("the disk: 4 KiB written and fdatasync", flush, "ms"),
        row_of("checkouts, 1 in flight", [_rate(run) for run in alone], "/s", "≥ 400"),
        row_of("checkouts, 1 in flight: p99", [_p99_ms(run) for run in alone], "ms"),
        row_of(f"checkouts, {CLIENTS} in flight", [_rate(run) for run in many], "/s", "≥ 3000"),
        row_of(f"checkouts, {CLIENTS} in flight: CPU of one", [_cpu_us(run) for run in many], "µs"),
        row_of(f"checkouts, {CLIENTS} in flight: p99", [_p99_ms(run) for run in many], "ms", "≤ 50"),
        row_of(f"checkouts, {CLIENTS} in flight: worst wait", [_worst_ms(run) for run in many], "ms"),
        row_of(f"checkouts, {CLIENTS} in flight: most to least served", [_spread(run) for run in many], "×", "≤ 1.5"),
    ]


def _run(clients: int) -> list[Node]:
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder:
        thread = ThreadPoolExecutor(1, thread_name_prefix="seats")
        hub = HubLicence(Path(folder), "bench", ROOTS, Boot())
        thread.submit(_open, hub).result()
        nodes = [Node(f"n{number}") for number in range(clients)]
        try:
            begin = time.process_time()
            asyncio.run(_serve(hub, thread, nodes))
            nodes[0].cpu_s = time.process_time() - begin
        finally:
            thread.submit(hub.close).result()
            thread.shutdown()
    return nodes


def _open(hub: HubLicence) -> None:
    hub.open()
    hub.activate(file(changed(VOUCHER, site=hub.status(NOW).site_key, seats=64)), NOW)


async def _serve(hub: HubLicence, thread: ThreadPoolExecutor, nodes: list[Node]) -> None:
    loop = asyncio.get_running_loop()

    async def answer(asks: Sequence[Ask], now: int) -> Sequence[Answer | Exception]:
        return await loop.run_in_executor(thread, hub.leases, asks, now)

    checkouts = Checkouts(answer, lambda: NOW)
    until = time.perf_counter() + SPAN_S
    await asyncio.gather(*(node.run(checkouts, until) for node in nodes))


def _rate(nodes: Sequence[Node]) -> float:
    return sum(len(node.waits_s) for node in nodes) / SPAN_S


def _cpu_us(nodes: Sequence[Node]) -> float:
    return nodes[0].cpu_s / sum(len(node.waits_s) for node in nodes) * 1e6


def _p99_ms(nodes: Sequence[Node]) -> float:
    return statistics.quantiles((wait for node in nodes for wait in node.waits_s), n=100)[98] * 1000


def _worst_ms(nodes: Sequence[Node]) -> float:
    return max(wait for node in nodes for wait in node.waits_s) * 1000


def _spread(nodes: Sequence[Node]) -> float:
    served = [len(node.waits_s) for node in nodes]
    return max(served) / min(served)


def _flush_ms() -> float:
    """What the same disk takes without us: the median of fifty."""
    with tempfile.NamedTemporaryFile() as scratch:
        times = []
        for _ in range(50):
            begin = time.perf_counter()
            scratch.write(bytes(4096))
            scratch.flush()
            os.fdatasync(scratch.fileno())
            times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times)
