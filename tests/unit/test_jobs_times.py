"""Moments, as `--begin` and `--deadline` name them; what real sbatch made of them is held in test_jobs_golden."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jobs import times
from agent.jobs.grammar import GrammarError

BERLIN = ZoneInfo("Europe/Berlin")
NOW = int(datetime(2026, 11, 22, 5, 44, 38, tzinfo=UTC).timestamp())


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", "2026-11-22T05:44:38"),
        ("now+90", "2026-11-22T05:46:08"),
        ("now+1minute", "2026-11-22T05:45:38"),
        ("NOW + 2 Hours", "2026-11-22T07:44:38"),
        ("now+1day", "2026-11-23T05:44:38"),
        ("now+2weeks", "2026-12-06T05:44:38"),
        ("now-1hour", "2026-11-22T04:44:38"),
        ("today", "2026-11-22T00:00:00"),
        ("tomorrow", "2026-11-23T00:00:00"),
        ("midnight", "2026-11-23T00:00:00"),
        ("elevenses", "2026-11-22T11:00:00"),
        ("noon", "2026-11-22T12:00:00"),
        ("fika", "2026-11-22T15:00:00"),
        ("teatime", "2026-11-22T16:00:00"),
        ("noon tomorrow", "2026-11-23T12:00:00"),
        ("tomorrow 8:30", "2026-11-23T08:30:00"),
        ("16:00", "2026-11-22T16:00:00"),
        ("05:44", "2026-11-23T05:44:00"),  # this minute is over, as for sbatch
        ("05:45", "2026-11-22T05:45:00"),
        ("4:30pm", "2026-11-22T16:30:00"),
        ("12:00am", "2026-11-23T00:00:00"),
        ("12:00 PM", "2026-11-22T12:00:00"),
        ("12/24", "2026-12-24T00:00:00"),
        ("1224", "2026-12-24T00:00:00"),
        ("11/22", "2027-11-22T00:00:00"),  # today's midnight is over
        ("11/22 6:00", "2026-11-22T06:00:00"),
        ("12/24/27", "2027-12-24T00:00:00"),
        ("12.24.27-16:00", "2027-12-24T16:00:00"),
        ("122427", "2027-12-24T00:00:00"),
        ("2026-12-24", "2026-12-24T00:00:00"),
        ("2026-12-24T08:00", "2026-12-24T08:00:00"),
        ("2026-12-24T08:00:30", "2026-12-24T08:00:30"),
        ("2020-01-01", "2020-01-01T00:00:00"),
        ("2028-02-29", "2028-02-29T00:00:00"),
        ("uts1800000000", "2027-01-15T08:00:00"),
    ],
)
def test_moments(text: str, moment: str) -> None:
    assert times.at(text, now=NOW, tz=UTC) == utc(moment)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-", "soon", "monday", "0", "1", "24:00", "12:60", "12:00:60", "1:2", "0:30am", "13:00pm"),
        *("13/01", "00/10", "02/30", "2/30/27", "2027-02-29", "2026-13-01", "2026-1-2", "12/24/2026", "20261224"),
        *("now+", "now-", "now+1min", "now+1month", "now+1hour+1hour", "now+hour", "+1hour", "now 16:00"),
        *("16:00 now", "today tomorrow", "noon 16:00", "12/24 12/25", "2026-12-24T08:00:00Z", "T", "nownow+1"),
        *("now+999999999999weeks", "now-99999999999", "uts18", "uts99999999999999", "٣", "\x1b[2J", "9" * 5000),
        *("now+" + "9" * 5000, "noon\n", "0001-01-01", "9999-12-31T23:59:59" + "9"),
    ],
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(GrammarError) as caught:
        times.at(text, now=NOW, tz=UTC)
    assert "time" in str(caught.value) or "day" in str(caught.value)


# --- zones and daylight saving ----------------------------------------------------------------------------------------


def test_words_are_in_the_nodes_zone() -> None:
    assert times.at("2026-12-24T08:00", now=NOW, tz=BERLIN) == utc("2026-12-24T07:00:00")
    assert times.at("16:00", now=NOW, tz=BERLIN) == utc("2026-11-22T15:00:00")
    eastern = timezone(timedelta(hours=14))  # there it is already evening
    assert times.at("midnight", now=NOW, tz=eastern) == utc("2026-11-22T10:00:00")
    assert times.at("today", now=NOW, tz=eastern) == utc("2026-11-21T10:00:00")


def test_an_hour_that_is_skipped() -> None:
    """On 28 March 2027, 2:00 to 3:00 does not exist in Berlin: what would be half past two is half past three."""
    before = utc("2027-03-27T12:00:00")
    assert times.at("03/28/27 2:30", now=before, tz=BERLIN) == utc("2027-03-28T01:30:00")
    assert times.at("tomorrow 2:30", now=before, tz=BERLIN) == utc("2027-03-28T01:30:00")
    assert times.at("03/28/27 3:30", now=before, tz=BERLIN) == utc("2027-03-28T01:30:00")
    assert times.at("03/28/27 1:59", now=before, tz=BERLIN) == utc("2027-03-28T00:59:00")


def test_an_hour_that_comes_twice() -> None:
    """On 31 October 2027, 2:00 to 3:00 comes twice in Berlin; the first one is meant."""
    before = utc("2027-10-30T12:00:00")
    assert times.at("10/31/27 2:30", now=before, tz=BERLIN) == utc("2027-10-31T00:30:00")
    assert times.at("10/31/27 3:00", now=before, tz=BERLIN) == utc("2027-10-31T02:00:00")


def test_seconds_from_now_do_not_mind_the_clock_change() -> None:
    before = utc("2027-03-28T00:30:00")  # 1:30 in Berlin, an hour before 3:30
    assert times.at("now+1hour", now=before, tz=BERLIN) == before + 3600
    assert times.at("now+1day", now=before, tz=BERLIN) == before + 86_400


def test_tomorrow_is_the_day_24_hours_from_now() -> None:
    late = utc("2027-03-27T22:30:00")  # 23:30 in Berlin, before the day of 23 hours
    assert times.at("tomorrow noon", now=late, tz=BERLIN) == utc("2027-03-29T10:00:00")


def test_a_day_that_only_leap_years_have() -> None:
    assert times.at("02/29", now=utc("2027-06-01T00:00:00"), tz=UTC) == utc("2028-02-29T00:00:00")
    with pytest.raises(GrammarError):
        times.at("02/29", now=NOW, tz=UTC)  # the next February has none


def test_without_a_zone_it_is_the_nodes_own() -> None:
    assert times.at("now+1hour", now=NOW) == NOW + 3600
    naive = datetime.fromtimestamp(times.at("16:00", now=NOW))
    assert (naive.hour, naive.minute) == (16, 0)


def test_the_nodes_own_zone_changes_its_clock_too() -> None:
    """By the C library and the `TZ` of a process of its own."""
    ask = "from agent.jobs import times; print(times.at('03/28/27 2:30', now=1806000000), end='')"
    told = subprocess.run(
        [sys.executable, "-c", ask], env={"TZ": "Europe/Berlin"}, capture_output=True, text=True, check=True, timeout=60
    )
    assert int(told.stdout) == utc("2027-03-28T01:30:00")


# --- what holds for all -----------------------------------------------------------------------------------------------

moments = st.integers(utc("2000-01-01T00:00:00"), utc("2090-01-01T00:00:00"))
zones = st.sampled_from([UTC, BERLIN, ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe")])


@given(moments, st.integers(0, 10_000), st.sampled_from(["", "seconds", "minute", "hours", "day", "weeks"]), zones)
def test_more_from_now_is_later(now: int, count: int, unit: str, zone: ZoneInfo) -> None:
    sooner = times.at(f"now+{count}{unit}", now=now, tz=zone)
    assert times.at(f"now+{count + 1}{unit}", now=now, tz=zone) > sooner >= now


@given(moments, moments, zones)
def test_a_later_now_is_no_earlier_moment(one: int, other: int, zone: ZoneInfo) -> None:
    early, late = sorted((one, other))
    for text in ("now+1hour", "midnight", "16:00", "tomorrow", "12/24", "today", "noon tomorrow"):
        assert times.at(text, now=early, tz=zone) <= times.at(text, now=late, tz=zone)


@given(moments, st.integers(0, 23), st.integers(0, 59), zones)
def test_a_time_of_day_is_soon(now: int, hour: int, minute: int, zone: ZoneInfo) -> None:
    at = times.at(f"{hour}:{minute:02}", now=now, tz=zone)
    assert now - 3600 < at <= now + 49 * 3600


@given(moments)
def test_a_moment_written_out_reads_back(at: int) -> None:
    text = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert times.at(text, now=NOW, tz=UTC) == at


@given(st.one_of(st.text(), st.text("0123456789:/-T+. nowhuramp", max_size=25)), st.integers(0, 2**40))
def test_any_text_is_read_or_refused(text: str, now: int) -> None:
    try:
        at = times.at(text, now=now % times.at("9998-01-01", now=0, tz=UTC), tz=UTC)
    except GrammarError as error:
        assert str(error)
    else:
        assert at >= 0
