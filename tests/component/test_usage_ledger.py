"""From the nodes' ledgers to the hub's, and to signed reports that verify: what is lost, told twice, or changed."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.jobs.meter import Metered, Tick
from agent.jobs.store import JobStore
from licensing import usage_file, usage_verify
from licensing.clock import HighWater
from licensing.errors import LicenceError
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


# --- what was changed -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("exported")
    site, node = make_site(folder), Node(folder)
    for number in range(4):
        node.run(BEGINS + number * DAY, 100 + number)
    fetch(site, node)
    yield site.usage_export(BEGINS, BEGINS + MONTH, BEGINS + MONTH + DAY, rows=True)[1]
    site.close()
    node.close()


@settings(max_examples=300)
@given(data=st.data())
def test_any_changed_byte_of_a_report_is_found(exported: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(exported) - 1))
    byte = data.draw(st.integers(0, 127).filter(lambda each: each != ord(exported[at])))
    with pytest.raises(LicenceError):
        usage_file.read(exported[:at] + chr(byte) + exported[at + 1 :])


@settings(max_examples=60)
@given(data=st.data())
def test_a_report_that_is_cut_is_found(exported: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(exported) - 1))
    rows = exported.index("rows\n")
    cut = exported[:at]
    if cut == exported[:rows]:
        return  # a report without its rows is one
    with pytest.raises(LicenceError):
        usage_file.read(cut)


def test_line_ends_of_another_system_change_nothing(exported: str) -> None:
    assert usage_file.read(exported.replace("\n", "\r\n")) == usage_file.read(exported)


@settings(max_examples=60)
@given(data=st.data())
def test_any_changed_byte_of_a_stored_row_is_found(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        site, node = make_site(Path(folder)), Node(Path(folder))
        try:
            for number in range(3):
                node.run(BEGINS + number * DAY, 100)
            fetch(site, node)
            ledger, number = site._ledger, data.draw(st.integers(1, 3))
            text = ledger.run("SELECT line FROM usage_row WHERE n = ?", (number,))[0][0]
            at = data.draw(st.integers(0, len(text) - 1))
            byte = data.draw(st.integers(1, 127).filter(lambda each: each != ord(text[at])))
            changed_text = text[:at] + chr(byte) + text[at + 1 :]
            ledger.run("UPDATE usage_row SET line = ? WHERE n = ?", (changed_text, number))
            with pytest.raises(ValueError, match="changed"):
                site._book.verify()
            said = wrong(report(site))
            assert any("do not lead to the head" in each or "its nodes tell of" in each for each in said)

            node.store._execute("UPDATE meter SET line = ? WHERE seq = ?", (changed_text, number))
            other = make_site(Path(folder) / "other")
            fetch_once(other, node)
            assert other.usage_wanted("n1", node.told(), NOW), "its head is not the one that the node tells"
            other.close()
        finally:
            site.close()
            node.close()


def fetch_once(site: Site, node: Node) -> None:
    page = node.store.meter_rows(*site.usage_wanted("n1", node.told(), NOW)[0], 5000)
    site.usage_merge("n1", page.chain, page.first, page.before, page.rows, NOW)


def test_a_row_that_names_a_user_or_a_path_is_none(node: Node) -> None:
    """Nothing that leaves the site has a name in it but the node's."""
    node.run(BEGINS, 100)
    (text,) = node.store.meter_rows(node.store.meter_head().chain, 0, 9).rows
    assert "ada" not in text
    assert "lab" not in text
    assert read(text.replace('["n1",1,"', '["n1",1,"/home/'), 1) is None
