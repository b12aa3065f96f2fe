"""The stage table of the design, at its edges."""

from __future__ import annotations

import re

import pytest

from licensing import moments, stage
from licensing.document import Licence
from licensing.stage import Stage
from licensing.vendor import end_of_day
from tests.fakes.vendor import BOUND, DAY, LEASE, NOW, VOUCHER, changed

END = NOW + 300 * DAY
YEARLY = changed(BOUND, exp=END)
MONTHLY = changed(BOUND, plan="monthly", exp=NOW + 30 * DAY)
EVALUATION = changed(VOUCHER, plan="evaluation", term_s=14 * DAY)


@pytest.mark.parametrize(
    ("licence", "at", "expected", "code"),
    [
        (YEARLY, NOW, Stage.ACTIVE, None),
        (YEARLY, END - 30 * DAY - 1, Stage.ACTIVE, None),
        (YEARLY, END - 30 * DAY, Stage.NOTICE, "LIC-402"),
        (YEARLY, END - 1, Stage.NOTICE, "LIC-402"),
        (YEARLY, END, Stage.GRACE, "LIC-403"),
        (YEARLY, END + 14 * DAY - 1, Stage.GRACE, "LIC-403"),
        (YEARLY, END + 14 * DAY, Stage.RESTRICTED, "LIC-404"),
        (MONTHLY, NOW + 14 * DAY, Stage.ACTIVE, None),
        (MONTHLY, NOW + 15 * DAY, Stage.NOTICE, "LIC-402"),
        (MONTHLY, NOW + 37 * DAY - 1, Stage.GRACE, "LIC-403"),
        (MONTHLY, NOW + 37 * DAY, Stage.RESTRICTED, "LIC-404"),
        (EVALUATION, NOW, Stage.ACTIVE, None),
        (EVALUATION, NOW + 7 * DAY, Stage.NOTICE, "LIC-402"),
        (EVALUATION, NOW + 14 * DAY - 1, Stage.NOTICE, "LIC-402"),
        (EVALUATION, NOW + 14 * DAY, Stage.RESTRICTED, "LIC-405"),
        (VOUCHER, NOW + 14 * DAY - 1, Stage.NOTICE, "LIC-402"),
        (VOUCHER, NOW + 14 * DAY, Stage.RESTRICTED, "LIC-406"),
    ],
)
def test_the_table(licence: Licence, at: int, expected: Stage, code: str | None) -> None:
    standing = stage.of_licence(licence, NOW, at)
    assert (standing.stage, standing.code) == (expected, code)


def test_a_held_job_is_told_everything() -> None:
    detail = stage.of_licence(YEARLY, NOW, END + 20 * DAY).detail
    assert detail.startswith("LIC-404: ")
    assert f"held in the queue since {moments.when(END + 14 * DAY)}" in detail
    assert "Running jobs go on to their end" in detail
    assert detail.endswith("Run: stoker-license activate FILE")


def test_the_evaluation_counts_down() -> None:
    left = [stage.of_licence(EVALUATION, NOW, NOW + day * DAY + 1).message for day in range(14)]
    assert [re.findall(r": (\d+ \w+) left", text)[0] for text in left[:13]] == [
        f"{13 - day} day{'s' * (day != 12)}" for day in range(13)
    ]
    assert "23 hours left" in left[13]


def test_no_licence_says_what_to_run() -> None:
    standing = stage.no_licence()
    assert (standing.stage, standing.code, standing.fix) == (
        Stage.RESTRICTED,
        "LIC-401",
        "stoker-license activate FILE",
    )


@pytest.mark.parametrize(
    ("after_lease_s", "expected", "code"),
    [
        (-1, Stage.ACTIVE, None),
        (0, Stage.GRACE, "LIC-411"),
        (72 * 3600, Stage.GRACE, "LIC-411"),
        (72 * 3600 + 1, Stage.RESTRICTED, "LIC-412"),
    ],
)
def test_a_silent_hub_is_borne_for_72_hours(after_lease_s: int, expected: Stage, code: str | None) -> None:
    standing = stage.of_lease(YEARLY, LEASE, NOW, LEASE.exp + after_lease_s)
    assert (standing.stage, standing.code) == (expected, code)


def test_the_end_of_the_licence_ends_the_72_hours_too() -> None:
    short = changed(VOUCHER, exp=NOW + DAY)
    standing = stage.of_lease(short, changed(LEASE, exp=NOW + DAY), NOW, NOW + DAY)
    assert (standing.stage, standing.code) == (Stage.RESTRICTED, "LIC-406")


def test_a_last_day_ends_nowhere_early() -> None:
    """2027-01-15 is over at UTC-12 when it is 12:00 UTC on the 16th."""
    assert moments.when(end_of_day("2027-01-15")) == "2027-01-16 12:00 UTC"
