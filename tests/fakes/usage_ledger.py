"""A hub's usage ledger and a node's, both real, over a clock that a test moves.

from tests.fakes.usage_ledger import Node, fetch, make_site, node as node, report, site as site
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.jobs.meter import Metered, Tick
from agent.jobs.store import JobStore
from licensing import usage_file, usage_verify
from licensing.clock import HighWater
from licensing.paseto import split
from licensing.site import Site
from licensing.timekeeper import Timekeeper
from licensing.usage_check import Grade
from licensing.usage_file import UsageFile
from licensing.usage_rows import Row, Told, read
from tests.fakes import papers
from tests.fakes.vendor import DAY, NOW, ROOTS, VOUCHER, Boot, changed, file

BEGINS = NOW - NOW % DAY - 14 * DAY
"""2027-01-01 00:00 UTC."""
MONTH = 31 * DAY
GPUS = ("GPU-0", "GPU-1")
SKU = "Test GPU"


class Node:
    """A node's real ledger, with a clock that a test moves."""

    def __init__(self, folder: Path, name: str = "n1") -> None:
        self.name, self.path, self.jobs = name, folder / f"{name}.db", 0
        self.store = JobStore.open(self.path, now=1)
        self.store.meter_adopt(name, [], anew=False)

    def run(self, begun: int, seconds: int, gpu: str = "GPU-0", sku: str = SKU) -> None:
        """A job, from its start to its end."""
        self.jobs += 1
        metered = [Metered(gpu=gpu, sku=sku)]
        with self.store.transaction():
            self.store.meter_claim([self.jobs], tick(begun))
            self.store.meter_open(self.jobs, metered, begun, tick(begun), user="ada", account="lab")
            self.store.meter_close(self.jobs, begun + seconds, tick(begun + seconds))

    def told(self) -> list[Told]:
        return [
            Told(chain=each.chain, seq=each.seq, head=each.head, gpu_ms=each.gpu_ms, open_gpu_ms=each.open_gpu_ms)
            for each in self.store.meter_heads()
        ]

    def rows(self) -> list[Row]:
        rows = []
        for head in self.store.meter_heads():
            told = self.store.meter_rows(head.chain, 0, 10**9)
            rows += [read(text, number) for number, text in enumerate(told.rows, told.first)]
        return [row for row in rows if row is not None]

    def close(self) -> None:
        self.store.close()


def tick(at: int) -> Tick:
    return Tick(wall=at, uptime=at - BEGINS + DAY, boot="boot-1")


def fetch(site: Site, node: Node, *, now: int = NOW, limit: int = 5000) -> None:
    """As `agent.hub.metering` does."""
    for _ in range(1000):
        asks = site.usage_wanted(node.name, node.told(), now)
        if not asks:
            return
        page = node.store.meter_rows(*asks[0], limit)
        site.usage_merge(node.name, page.chain, page.first, page.before, page.rows, now)
    raise AssertionError("the hub and the node never agree")


def report(site: Site, *, month: int = 0, now: int = BEGINS + MONTH + DAY, rows: bool = True) -> UsageFile:
    """The signed report of a month, as its reader has it."""
    begins = BEGINS + month * MONTH
    _, text = site.usage_export(begins, begins + MONTH, now, rows=rows)
    return usage_file.read(text)


def wrong(*files: UsageFile, now: int = BEGINS + 400 * DAY) -> list[str]:
    """What a reader would object to."""
    found = usage_verify.check(files, None, now)
    return [f"{each.grade}: {each.words}" for each in found if each.grade is not Grade.NOTE]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path)
    yield made
    made.close()


class AtTime(Timekeeper):
    """Time whose uptime goes with a clock that is right."""

    def advance(self, now: int) -> HighWater:
        assert isinstance(self._uptime, Boot)
        self._uptime.at(now)
        return super().advance(now)


def open_site(folder: Path) -> Site:
    site = Site(folder, "test", ROOTS)
    site._time = AtTime(site._ledger, site._in_use, Boot())
    site.open()
    return site


def make_site(folder: Path) -> Site:
    site = open_site(folder / "hub")
    site.activate(file(changed(VOUCHER, site=site.key_hex)), NOW)
    answer = site.lease("n1", site.key_hex, GPUS, 0, NOW)
    assert isinstance(answer, str)
    site.usage_seats(NOW)
    return site


def acknowledge(site: Site, made: UsageFile, **fields: object) -> None:
    """The vendor's receipt of a report comes."""
    digest = hashlib.sha256(split(made.token.text).payload).hexdigest()
    terms = {"site": site.key_hex, "usage": made.usage.id, "number": made.usage.number, "digest": digest, **fields}
    site.activate(papers.receipt(changed(papers.RECEIPT, **terms)), NOW)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()
