"""From the nodes' ledgers to the hub's, and to signed reports that verify: what is lost, late or told twice."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.jobs.meter import Metered
from agent.jobs.store import JobStore
from licensing.errors import LicenceError
from licensing.site import Site
from licensing.usage_file import UsageFile
from licensing.usage_rows import Row, read
from tests.fakes.usage_ledger import (
    BEGINS,
    GPUS,
    MONTH,
    SKU,
    Node,
    acknowledge,
    fetch,
    make_site,
    open_site,
    report,
    tick,
    wrong,
)
from tests.fakes.usage_ledger import node as node
from tests.fakes.usage_ledger import site as site
from tests.fakes.vendor import DAY, NOW

# --- merging ----------------------------------------------------------------------------------------------------------


class Merging(RuleBasedStateMachine):
    """A node and a hub that hear of each other in pieces; either may be put back to an older copy of its disk."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.where = Path(self.folder.name)
        self.site, self.node = make_site(self.where), Node(self.where)
        self.at, self.merged = BEGINS, 0
        self.most: dict[tuple[str, str, int], int] = {}
        """What the hub was told of each run, at most."""
        self.files: list[UsageFile] = []
        self.copied = self.pruned = False

    @rule(seconds=st.integers(0, 2 * DAY), gpu=st.sampled_from(GPUS))
    def job_runs(self, seconds: int, gpu: str) -> None:
        self.node.run(self.at, seconds, gpu)
        self.at += seconds

    @rule(limit=st.integers(1, 4))
    def page_comes(self, limit: int) -> None:
        asks = self.site.usage_wanted("n1", self.node.told(), NOW)
        if asks:
            page = self.node.store.meter_rows(*asks[0], limit)
            if self.site.usage_merge("n1", page.chain, page.first, page.before, page.rows, NOW):
                for number, text in enumerate(page.rows, page.first):
                    self.hear(read(text, number))

    @rule()
    def everything_comes(self) -> None:
        fetch(self.site, self.node, limit=3)
        for row in self.node.rows():
            self.hear(row)

    @rule(limit=st.integers(1, 5))
    def page_comes_again(self, limit: int) -> None:
        """A reply that was lost on the way is asked for again."""
        head = self.node.store.meter_head()
        known = self.site._book.branch("n1", head.chain)
        if known is None or known.seq > head.seq or self.node.store._head_at(head.chain, known.seq) != known.head:
            return
        after = max(0, known.seq - limit)
        page = self.node.store.meter_rows(head.chain, after, known.seq - after)
        self.site.usage_merge("n1", page.chain, page.first, page.before, page.rows, NOW)

    @rule()
    def node_is_copied(self) -> None:
        self.node.close()
        shutil.copy(self.node.path, self.where / "copy.db")
        self.node.store = JobStore.open(self.node.path, now=2)
        self.copied = True

    @rule(noticed=st.booleans())
    def node_is_put_back(self, noticed: bool) -> None:
        """It may know (its store was restored from the backup), or not (a snapshot of the machine)."""
        if self.copied:
            self.node.close()
            shutil.copy(self.where / "copy.db", self.node.path)
            self.node.store = JobStore.open(self.node.path, now=2)
            self.node.store.meter_adopt("n1", [], anew=noticed)

    @rule()
    def hub_restarts(self) -> None:
        self.site.close()
        self.site.open()

    @rule()
    def month_is_reported(self) -> None:
        if len(self.files) < 4:
            now = BEGINS + (len(self.files) + 1) * MONTH + DAY
            self.files.append(report(self.site, month=len(self.files), now=now))

    @rule()
    def vendor_acknowledges_and_rows_go(self) -> None:
        if self.files:
            acknowledge(self.site, self.files[-1])
            before = self.site._book.used_ms()
            self.pruned |= self.site.usage_prune(NOW + 20 * MONTH, 0) > 0
            assert self.site._book.used_ms() == before

    def hear(self, row: Row | None) -> None:
        assert row is not None
        run = (row.job, row.gpu, row.start)
        self.most[run] = max(self.most.get(run, 0), row.gpu_ms)

    @invariant()
    def each_run_is_counted_once(self) -> None:
        told, counted = sum(self.most.values()), self.site._book.used_ms()
        # What was told by two chains and began before rows went is taken for counted: never is anything billed twice.
        assert counted <= told if self.pruned else counted == told
        self.site._book.verify()
        self.site._ledger.verify_audit()

    @invariant()
    def reports_stay_as_they_are_and_hold(self) -> None:
        total = sum(each.usage.gpu_ms for each in self.files)
        assert total <= self.site._book.used_ms()
        later = max((each.usage.iat for each in self.files), default=NOW)  # the hub's time goes on by itself here
        assert [each for each in wrong(*self.files, now=later) if not each.startswith("fork")] == []
        if self.files:
            last = len(self.files) - 1
            again = report(self.site, month=last, rows=not self.pruned)
            assert dataclasses.replace(again, rows=None) == dataclasses.replace(self.files[last], rows=None)
            assert self.pruned or again.rows == self.files[last].rows

    def teardown(self) -> None:
        self.site.close()
        self.node.close()
        self.folder.cleanup()


TestMerging = Merging.TestCase
TestMerging.settings = settings(max_examples=25, stateful_step_count=25)


# --- what is noticed --------------------------------------------------------------------------------------------------


def test_what_comes_late_is_in_the_next_report_under_its_own_day(site: Site, node: Node) -> None:
    node.run(BEGINS + 10 * DAY, 3600)
    fetch(site, node)
    first = report(site)
    node.run(BEGINS + 20 * DAY, 1800)
    node.run(BEGINS + MONTH + DAY, 60)
    fetch(site, node)
    second = report(site, month=1, now=BEGINS + 3 * MONTH)
    assert (first.usage.gpu_ms, second.usage.gpu_ms) == (3_600_000, 1_860_000)
    assert [(each.day, each.gpu_ms) for each in second.usage.totals] == [
        ("2027-01-21", 1_800_000),
        ("2027-02-02", 60_000),
    ]
    assert "late" in [each.event for each in second.usage.events]
    assert second.usage.cumulative_gpu_ms == 5_460_000
    assert wrong(first, second) == []
    assert report(site) == first, "closed"


def test_rows_that_are_missing_are_noticed_and_the_rest_is_counted(site: Site, node: Node) -> None:
    for number in range(5):
        node.run(BEGINS + number * DAY, 100)
    chain = node.store.meter_head().chain
    for after, limit in ((0, 2), (3, 2)):
        page = node.store.meter_rows(chain, after, limit)
        site.usage_merge("n1", page.chain, page.first, page.before, page.rows, NOW)
    assert site._book.used_ms() == 400_000
    made = report(site)
    assert [each for each in wrong(made) if "rows 1 to 3 of its chain" in each]
    assert [each.event for each in site._book.events(0, 2**40)] == ["gap"]


def test_a_counter_that_is_ahead_of_the_rows_is_noticed(site: Site, node: Node) -> None:
    node.run(BEGINS, 100)
    fetch(site, node)
    node.store._execute("UPDATE meter_state SET gpu_ms = gpu_ms + 5000")
    fetch(site, node)
    (event,) = site._book.events(0, 2**40)
    assert (event.event, event.subject) == ("counter", "n1")
    assert "5000 GPU-ms apart" in event.detail


def test_a_node_that_is_not_heard_is_open_in_the_report(site: Site, node: Node) -> None:
    node.run(BEGINS, 100)
    fetch(site, node, now=BEGINS + MONTH - 5)
    assert report(site).usage.open_nodes == ("n1",)


def test_a_report_has_its_peak_and_continues_the_one_before(site: Site, node: Node) -> None:
    first, second = report(site), report(site, month=1, now=BEGINS + 3 * MONTH)
    assert first.usage.peak is not None
    assert (first.usage.peak.seats, first.usage.peak.at) == (2, NOW)
    assert (second.usage.begins, second.usage.number) == (first.usage.ends, 2)
    assert wrong(first, second) == []
    assert wrong(second, first) == []


def test_months_are_closed_in_order_and_when_they_are_over(site: Site) -> None:
    with pytest.raises(LicenceError, match="is not over"):
        report(site, now=BEGINS + MONTH - 1)
    report(site)
    with pytest.raises(LicenceError, match="--month 2027-02 comes first"):
        report(site, month=2, now=BEGINS + 200 * DAY)


def test_a_page_that_comes_after_a_later_one_is_no_fork(site: Site, node: Node) -> None:
    node.run(BEGINS, 60)
    late = node.store.meter_rows(node.told()[0].chain, 0, 10)
    node.run(BEGINS + 60, 60)
    fetch(site, node)
    assert site.usage_merge(node.name, late.chain, late.first, late.before, late.rows, NOW) == 0
    assert site._book.events(0, NOW + DAY) == []
    fetch(site, node)
    assert site._book.verify() == 2
    site.usage_merge(node.name, late.chain, late.first, "0" * 64, late.rows, NOW)
    assert [each.event for each in site._book.events(0, NOW + DAY)] == ["fork"], "the same rows after others are one"


def test_two_reports_with_one_parent_are_a_fork(tmp_path: Path, site: Site, node: Node) -> None:
    report(site)
    site.close()
    shutil.copytree(tmp_path / "hub", tmp_path / "twin")
    site.open()
    twin = open_site(tmp_path / "twin")
    node.run(BEGINS + MONTH, 100)
    fetch(site, node)
    here, there = (report(each, month=1, now=BEGINS + 3 * MONTH) for each in (site, twin))
    twin.close()
    assert any(each.startswith("fork") for each in wrong(here, there))


def test_gpus_without_a_seat_and_gpus_given_twice_are_noticed(site: Site, node: Node) -> None:
    node.run(BEGINS, 100, gpu="GPU-9")
    start = BEGINS + DAY
    for job in (7, 8):
        node.store.meter_open(job, [Metered(gpu="GPU-1", sku=SKU)], start, tick(start), user="eve", account="")
    for job in (7, 8):
        node.store.meter_close(job, start + 50, tick(start + 50))
    fetch(site, node)
    said = wrong(report(site))
    assert any("GPU-9 was used and had no seat" in each for each in said)
    assert any("GPU-1 was given away more than once" in each for each in said)
