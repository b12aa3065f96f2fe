"""What a signed report tells beside its totals: the audit trail's rows of its month, each once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from licensing import keys, usage_events, usage_verify
from licensing.errors import UsageError
from licensing.hardware import Reader
from licensing.orders import Order, Verb
from licensing.site import Site
from licensing.usage_check import Grade
from licensing.usage_events import REPORTED
from tests.fakes.head import HEAD, TWIN
from tests.fakes.usage_ledger import BEGINS, MONTH, make_site, report
from tests.fakes.vendor import DAY, NOW, ROOTS, Boot


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path)
    yield made
    made.close()


def note(site: Site, event: str, at: int = NOW, subject: str = "n1", **detail: object) -> None:
    with site._ledger.transaction():
        site._ledger.audit(at, event, subject, **detail)


def test_what_was_ordered_and_overdrawn_is_in_the_report_of_its_month(site: Site, tmp_path: Path) -> None:
    gpus = [f"GPU-x{number}" for number in range(9)]
    other = keys.public_hex(keys.create(tmp_path / "n2.key"))
    assert isinstance(site.lease("n2", other, gpus, 0, NOW), str)
    site.order(Order(verb=Verb.PROMOTE), NOW + 60)
    events = {each.event: each for each in report(site).usage.events}
    assert set(events) == {"overdraft", "epoch"}
    assert (events["overdraft"].subject, events["overdraft"].at) == ("lic-test", NOW)
    assert '"seats": 9' in events["overdraft"].detail


@pytest.mark.parametrize("event", REPORTED)
def test_each_listed_event_is_told_in_its_own_month_and_once(site: Site, event: str) -> None:
    """One that a later build writes needs its name in the list, and nothing else."""
    note(site, event, groups="P,N")
    note(site, event, at=BEGINS + MONTH + DAY)
    first, second = report(site), report(site, month=1, now=BEGINS + 3 * MONTH)
    assert [(each.event, each.at, each.detail) for each in first.usage.events] == [(event, NOW, '{"groups": "P,N"}')]
    assert [each.at for each in second.usage.events] == [BEGINS + MONTH + DAY]
    found = usage_verify.check([first], None, BEGINS + 2 * MONTH)
    assert any(each.grade is Grade.NOTE and each.words.startswith(f"{event} of n1") for each in found)


def test_what_is_noted_after_its_month_was_closed_is_in_the_next_report(site: Site) -> None:
    report(site)
    note(site, "drift", at=NOW, groups="D")
    second = report(site, month=1, now=BEGINS + 3 * MONTH).usage
    assert [(each.event, each.at) for each in second.events] == [("drift", NOW)]
    third = report(site, month=2, now=BEGINS + 4 * MONTH).usage
    assert third.events == ()


def test_ordinary_rows_of_the_trail_are_not_told(site: Site) -> None:
    for event in ("granted", "expired", "requested", "crl", "receipt", "pinned", "held"):
        note(site, event)
    assert report(site).usage.events == ()


def test_of_too_many_the_grave_ones_stay_and_the_rest_is_counted(site: Site) -> None:
    for number in range(100):
        note(site, "borrowed", at=NOW + number)
    note(site, "epoch", at=NOW + 100, epoch=7)
    note(site, "drift", at=NOW + 101)
    events = report(site).usage.events
    assert len(events) == usage_events.MOST
    assert [each.event for each in events[-3:]] == ["epoch", "drift", "more"]
    assert events[-1].detail == "39 further events"


def test_a_report_full_of_totals_leaves_events_out_before_it_fails(site: Site) -> None:
    """620 totals with long names and 60 long events are more than a token holds; the totals come first."""
    rows = [
        (1, number + 1, "[]", b"0" * 32, f"{number:032x}", "GPU-0", f"{'long name ' * 4}{number}", BEGINS, 1000, 1000)
        for number in range(440)
    ]
    ledger = site._ledger
    ledger.run(
        "INSERT INTO usage_chain (node, chain, branch, seq, head, gpu_ms, began, sent)"
        " VALUES ('n1', ?, 0, 440, ?, 0, ?, 0)",
        ("a" * 32, "0" * 64, "0" * 64),
    )
    ledger.run_many(
        "INSERT INTO usage_row (chain_n, seq, line, head, job, gpu, sku, start, gpu_ms, counted)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    for number in range(60):
        note(site, "drift", at=NOW + number, words="x" * 300)
    usage = report(site, rows=False).usage
    assert len(usage.totals) == 440
    assert 1 <= len(usage.events) < 60
    assert usage.events[-1].event == "more"


def test_a_copied_node_and_another_machine_under_the_hub_are_told(site: Site, tmp_path: Path) -> None:
    key = keys.public_hex(keys.create(tmp_path / "n1.key"))
    assert isinstance(site.lease("n1", key, ["GPU-x0"], 0, NOW), str)
    site.lease("n2", key, ["GPU-x1"], 0, NOW)
    site.see(Reader(HEAD.build(tmp_path / "head")).read(), NOW)
    site.see(Reader(TWIN.build(tmp_path / "twin")).read(), NOW)
    site.order(Order(verb=Verb.PROMOTE), NOW)
    told = [(each.event, each.subject, each.detail) for each in report(site).usage.events]
    assert ("forked", "n2") in [(event, subject) for event, subject, _ in told]
    assert [detail for event, _, detail in told if event == "hardware"][
        -1
    ] == '{"taken_over": true, "verdict": "other"}'


def test_the_last_month_of_a_licence_that_was_given_back_is_reported_too(site: Site, tmp_path: Path) -> None:
    site.release(NOW)
    usage = report(site).usage
    assert (usage.licence, [each.event for each in usage.events]) == ("lic-test", ["released"])
    other = Site(tmp_path / "other", "test", ROOTS, Boot())
    other.open()
    with pytest.raises(UsageError, match="no licence is installed, and usage is reported under one"):
        report(other)
    other.close()
