"""Usage rows that the vendor acknowledged long ago go, and all that was said of them still holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.jobs.store import JobStore
from licensing import usage_prune
from licensing.errors import UsageError
from licensing.site import Site
from licensing.usage_rows import genesis, read
from tests.fakes.usage_ledger import BEGINS, MONTH, Node, acknowledge, fetch, make_site, report, wrong
from tests.fakes.vendor import DAY, NOW, VOUCHER, changed, file

YEARS = BEGINS + 900 * DAY
KEPT_S = 800 * DAY


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


@pytest.fixture
def site(tmp_path: Path, node: Node) -> Iterator[Site]:
    """Three rows a month, of which two months are reported."""
    made = make_site(tmp_path)
    for day in (1, 5, 30, 32, 40, 60, 63, 70, 80):
        node.run(BEGINS + day * DAY, 3600)
    fetch(made, node)
    made._book.note_seats([("n1", "GPU-0")], BEGINS + 200 * DAY)
    yield made
    made._ledger.verify_audit()
    made.close()


def rows(site: Site) -> list[int]:
    return [n for (n,) in site._ledger.run("SELECT n FROM usage_row ORDER BY n")]


def test_what_the_vendor_has_goes_and_everything_holds(site: Site, node: Node) -> None:
    first, second = report(site), report(site, month=1, now=BEGINS + 3 * MONTH)
    used = site._book.used_ms()
    acknowledge(site, first)
    assert site._pruning.prune(YEARS, KEPT_S) == 3
    assert rows(site) == [4, 5, 6, 7, 8, 9], "the second month has no receipt"
    assert (site._book.verify(), site._book.used_ms()) == (9, used)
    (trail,) = [each.detail for each in site.history(50) if each.event == "usage-pruned"]
    assert (trail["rows"], trail["report"]) == (3, 1)

    assert report(site, rows=False).usage == first.usage, "a closed month is the same report"
    with pytest.raises(UsageError, match=r"not kept any more.*without --rows"):
        report(site)
    assert report(site, month=1) == second
    site.close()
    site.open()
    node.run(BEGINS + 85 * DAY, 60)
    fetch(site, node)
    third = report(site, month=2, now=BEGINS + 4 * MONTH)
    assert wrong(first, second, third, now=third.usage.iat) == []
    assert third.usage.cumulative_gpu_ms == used + 60_000
    assert site._book.verify() == 10
    acknowledge(site, third)
    assert site._pruning.prune(YEARS, KEPT_S) == 0, "the vendor never said that it has the second"
    acknowledge(site, third, first=2)
    assert site._pruning.prune(YEARS, KEPT_S) == 7
    assert (rows(site), site._book.verify()) == ([], 10)
    node.run(BEGINS + 100 * DAY, 60)
    fetch(site, node)
    assert site._book.verify() == 11
    fourth = report(site, month=3, now=BEGINS + 5 * MONTH)
    assert wrong(first, second, third, fourth, now=fourth.usage.iat) == []


def test_nothing_goes_before_its_time_or_without_a_receipt(site: Site) -> None:
    first = report(site)
    assert site._pruning.prune(YEARS, KEPT_S) == 0
    acknowledge(site, first, digest="ab" * 32)
    assert site._pruning.prune(YEARS, KEPT_S) == 0, "the receipt of another report with its number"
    acknowledge(site, first)
    assert site._pruning.prune(BEGINS + MONTH + KEPT_S - 1, KEPT_S) == 0
    assert site._pruning.prune(BEGINS + MONTH + KEPT_S, KEPT_S) == 3


def test_a_report_that_the_vendor_has_later_lets_go_what_came_after_it(site: Site, node: Node) -> None:
    first, second = report(site), report(site, month=1, now=BEGINS + 3 * MONTH)
    acknowledge(site, second)
    assert site._pruning.prune(YEARS, KEPT_S) == 0
    acknowledge(site, first)
    assert site._pruning.prune(YEARS, KEPT_S) == 6
    assert (rows(site), site._book.verify()) == ([7, 8, 9], 9)


def test_a_report_of_a_licence_that_is_no_longer_in_use_goes_with_the_next(site: Site) -> None:
    """No receipt for it would be taken any more, and its rows would stay for ever, with all that came after."""
    report(site)
    site.activate(file(changed(VOUCHER, id="lic-next", site=site.key_hex)), NOW)
    second = report(site, month=1, now=BEGINS + 3 * MONTH)
    assert second.usage.licence == "lic-next"
    acknowledge(site, second, licence="lic-next")
    assert site._pruning.prune(YEARS, KEPT_S) == 6


def test_it_goes_on_where_it_ended(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_prune, "AT_ONCE", 2)
    acknowledge(site, report(site))
    assert [site.usage_prune(YEARS, KEPT_S) for _ in range(3)] == [2, 1, 0]
    assert site._book.verify() == 9


def test_what_is_told_again_is_not_counted_again(tmp_path: Path, site: Site, node: Node) -> None:
    """The node's store was made anew: another chain tells all of it, and by its rows alone nobody could know."""
    acknowledge(site, report(site))
    site.usage_prune(YEARS, KEPT_S)
    used = site._book.used_ms()
    node.close()
    texts = JobStore.open(Path(shutil.copy(node.path, tmp_path / "copy.db")), now=2)
    head = texts.meter_head()
    old = texts.meter_rows(head.chain, 0, 99).rows
    texts.close()
    assert all(read(text, number) for number, text in enumerate(old, 1))
    other = "0" * 32
    before = genesis(other)
    assert site.usage_merge("n1", other, 1, before, old, YEARS) == 9
    assert site._book.used_ms() == used
    assert site._book.verify() == 18
    node.store = JobStore.open(node.path, now=2)


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE usage_state SET pruned = 2",
        "UPDATE usage_state SET pruned_head = hex(zeroblob(32))",
        "UPDATE usage_chain SET pruned_head = hex(zeroblob(32))",
        "DELETE FROM usage_row WHERE n = 4",
    ],
)
def test_an_edited_checkpoint_is_noticed(site: Site, edit: str) -> None:
    acknowledge(site, report(site))
    site.usage_prune(YEARS, KEPT_S)
    site._ledger.run(edit)
    with pytest.raises(ValueError, match=r"not what the trail has|changed"):
        site._book.verify()


def test_a_failed_step_leaves_all_rows(site: Site) -> None:
    acknowledge(site, report(site))
    site._ledger.run("CREATE TRIGGER no BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(Exception, match="no"):
        site.usage_prune(YEARS, KEPT_S)
    site._ledger.run("DROP TRIGGER no")
    assert (len(rows(site)), site._book.verify()) == (9, 9)
    assert json.dumps([each.event for each in site.history(50)]).count("usage-pruned") == 0
