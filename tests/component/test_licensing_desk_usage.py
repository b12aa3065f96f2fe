"""Reports of usage at the vendor's desk: which are acknowledged, and why others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from licensing import armour, cli, keys, usage_check, verify
from licensing.armour import Label
from tests.fakes import papers
from tests.fakes.desk import Vendor
from tests.fakes.desk import clock as clock
from tests.fakes.desk import vendor as vendor
from tests.fakes.nohub import NoHub
from tests.fakes.papers import USAGE
from tests.fakes.vendor import DAY, NOW, SITE, changed

SITE_KEY = keys.public_hex(SITE)


def second(**fields: object) -> Any:
    """A report that continues `USAGE`."""
    first = usage_check.digest(usage_check.read(papers.usage()))
    terms: dict[str, object] = {
        "id": "use-2",
        "number": 2,
        "prev": first,
        "begins": USAGE.ends,
        "ends": USAGE.ends + 30 * DAY,
        "iat": USAGE.ends + 31 * DAY,
        "totals": (changed(USAGE.totals[0], day="2027-02-20"),),
        "gpu_ms": 3_600_000,
        "cumulative_gpu_ms": 9_000_000,
    }
    return changed(USAGE, **{**terms, **fields})


@pytest.fixture
def billed(vendor: Vendor, clock: list[int], tmp_path: Path) -> Vendor:
    """A desk whose licence `lic-test` is bound to the site that signs the reports."""
    vendor.file("issue", "--site", SITE_KEY, "--customer", "X", "--plan", "pay-per-use", "--seats", 8, "--days", 365,
                "--id", "lic-test")  # fmt: skip
    clock[0] = NOW + 70 * DAY
    (tmp_path / "u1").write_text(papers.usage())
    (tmp_path / "u2").write_text(papers.usage(second()))
    return vendor


def test_reports_that_hold_are_accepted_and_acknowledged(billed: Vendor, tmp_path: Path) -> None:
    told = billed.run("verify-usage", tmp_path / "u1", tmp_path / "u2", desk=True)
    assert told.count("GPU-hours") == 2
    assert "wrong" not in told
    path = billed.file("receipt", tmp_path / "u1")
    receipt = verify.receipt_chain(armour.unwrap(Label.RECEIPT, path.read_text()), billed.roots).receipt
    assert (receipt.site, receipt.number, receipt.report_by) == (SITE_KEY, 1, USAGE.ends + 65 * DAY)
    assert billed.file("receipt", tmp_path / "u1").read_text() == path.read_text()
    path = billed.file("receipt", tmp_path / "u2")
    receipt = verify.receipt_chain(armour.unwrap(Label.RECEIPT, path.read_text()), billed.roots).receipt
    assert (receipt.number, receipt.first) == (2, 1), "it is for the first, too: the desk has it"
    assert billed.err == ""


def test_a_receipt_is_not_for_reports_that_the_desk_never_saw(billed: Vendor, tmp_path: Path) -> None:
    path = billed.file("receipt", tmp_path / "u2")
    receipt = verify.receipt_chain(armour.unwrap(Label.RECEIPT, path.read_text()), billed.roots).receipt
    assert (receipt.number, receipt.first) == (2, 2)
    assert "not for report number 1" in billed.err and "write its receipt too" in billed.err


def test_a_report_of_the_licence_before_is_not_missing(billed: Vendor, clock: list[int], tmp_path: Path) -> None:
    billed.file("receipt", tmp_path / "u1")
    billed.file("issue", "--site", SITE_KEY, "--customer", "X", "--plan", "pay-per-use", "--seats", 8, "--days", 365,
                "--id", "lic-two")  # fmt: skip
    (tmp_path / "u2").write_text(papers.usage(second(licence="lic-two")))
    path = billed.file("receipt", tmp_path / "u2")
    receipt = verify.receipt_chain(armour.unwrap(Label.RECEIPT, path.read_text()), billed.roots).receipt
    assert (receipt.licence, receipt.number, receipt.first) == ("lic-two", 2, 1)
    assert billed.err == ""


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"prev": "ab" * 32}, 7, "does not continue the report number 1"),
        ({"begins": USAGE.ends + 5}, 5, "and the one before ended"),
        ({"cumulative_gpu_ms": 9_000_001}, 5, "another sum over all periods"),
        ({"iat": USAGE.ends + 10 * DAY}, 5, "before its period ended"),
        ({"iat": NOW + 80 * DAY}, 5, "and here it is"),
        ({"totals": (changed(USAGE.totals[0], day="2027-04-01"),)}, 5, "after its last day, 2027-03-16"),
        (
            {
                "totals": (changed(USAGE.totals[0], day="2027-02-20", gpu_ms=10 * DAY * 1000),),
                "gpu_ms": 10 * DAY * 1000,
                "cumulative_gpu_ms": 10 * DAY * 1000 + 5_400_000,
            },
            5,
            "more GPU-seconds on 2027-02-20 than 9 GPUs can give",
        ),
    ],
)  # fmt: skip
def test_a_report_that_does_not_hold_gets_no_receipt(
    billed: Vendor, tmp_path: Path, fields: dict[str, object], code: int, words: str
) -> None:
    billed.file("receipt", tmp_path / "u1")
    (tmp_path / "bad").write_text(papers.usage(second(**fields)))
    told = billed.run("verify-usage", tmp_path / "bad", desk=True, code=code)
    assert words in told
    billed.file("receipt", tmp_path / "bad", code=code)
    assert words in billed.err


def test_two_reports_with_one_number_are_a_fork(billed: Vendor, tmp_path: Path) -> None:
    billed.file("receipt", tmp_path / "u1")
    (tmp_path / "other").write_text(papers.usage(changed(USAGE, id="use-1b", peak=None)))
    assert "another report number 1" in billed.run("verify-usage", tmp_path / "other", desk=True, code=7)


def test_a_report_that_cannot_be_read_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_text("x")
    for path in (tmp_path / "missing", damaged):
        assert cli.main(["usage", "verify", str(path)], NoHub()) == 5
        assert capsys.readouterr().err.count(str(path)) == 1
