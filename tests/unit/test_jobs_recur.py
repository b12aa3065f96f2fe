"""When a recurring job is due: on time, late, across a changed clock and daylight saving."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.queue import Missed
from agent.api.types import SubmitRequest
from agent.jobs import recur
from agent.jobs.errors import SpecError
from agent.jobs.recur import Fire, Skip, StoredCron, Wait

UTC = ZoneInfo("UTC")
BERLIN = ZoneInfo("Europe/Berlin")
REQUEST = SubmitRequest(script="#!/bin/sh\n", script_name="x.sh", work_dir="/")


def cron(schedule: str, next_at: int, missed: Missed = Missed.SKIP) -> StoredCron:
    return StoredCron(
        id=1, schedule=schedule, name="x", user="ada", uid=1, key="k", request=REQUEST, missed=missed, next_at=next_at
    )


def at(text: str, zone: ZoneInfo = UTC) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp())


def test_it_fires_at_its_time_and_once() -> None:
    due = at("2026-03-02T03:00")
    one = cron("0 3 * * 1", due)
    assert recur.look(one, due - 1, UTC) == Wait()
    assert recur.look(one, due, UTC) == Fire(slot=due, next_at=at("2026-03-09T03:00"))
    served = msgspec.structs.replace(one, next_at=at("2026-03-09T03:00"))
    assert recur.look(served, due + 1, UTC) == Wait()


def test_a_clock_set_back_an_hour_serves_nothing_twice() -> None:
    """Row 29."""
    due = at("2026-03-02T03:00")
    fired = recur.look(cron("0 3 * * *", due), due + 5, UTC)
    assert isinstance(fired, Fire)
    served = cron("0 3 * * *", fired.next_at)
    for moment in range(due - 3600, due + 3600, 60):
        assert recur.look(served, moment, UTC) == Wait()


@pytest.mark.parametrize("missed", Missed)
def test_a_clock_set_forward_a_day_serves_once_or_skips(missed: Missed) -> None:
    """Row 29: 24 hourly times pass at once."""
    due = at("2026-03-02T03:00")
    found = recur.look(cron("0 * * * *", due, missed), due + 86400, UTC)
    assert not isinstance(found, Wait)
    assert found.next_at == due + 86400 + 3600
    if missed is Missed.RUN:
        assert isinstance(found, Fire) and found.slot == due and "makes up for 2026-03-02 03:00" in (found.note or "")
    else:
        assert isinstance(found, Skip) and "skipped 2026-03-02 03:00" in found.note


def test_a_little_late_is_on_time() -> None:
    due = at("2026-03-02T03:00")
    assert isinstance(recur.look(cron("0 3 * * *", due), due + recur.LATE_S, UTC), Fire)
    assert isinstance(recur.look(cron("0 3 * * *", due), due + recur.LATE_S + 1, UTC), Skip)


def times(schedule: str, first: int, last: int, zone: ZoneInfo) -> list[str]:
    found, moment = [], first - 1
    while (moment := recur.next_after(schedule, moment, zone)) <= last:
        found.append(datetime.fromtimestamp(moment, zone).strftime("%m-%d %H:%M%z"))
    return found


def test_half_past_two_on_the_nights_of_daylight_saving() -> None:
    """Row 31: Berlin jumps from 02:00 to 03:00 on 2026-03-29 and has 02:30 twice on 2026-10-25."""
    spring = times("30 2 * * *", at("2026-03-28T00:00", BERLIN), at("2026-03-31T00:00", BERLIN), BERLIN)
    assert spring == ["03-28 02:30+0100", "03-29 03:00+0200", "03-30 02:30+0200"]
    autumn = times("30 2 * * *", at("2026-10-24T00:00", BERLIN), at("2026-10-27T00:00", BERLIN), BERLIN)
    assert autumn == ["10-24 02:30+0200", "10-25 02:30+0200", "10-26 02:30+0100"]


def test_every_quarter_of_an_hour_follows_the_real_time_through_the_autumn_night() -> None:
    """Row 31."""
    night = times("*/15 * * * *", at("2026-10-25T01:50", BERLIN), at("2026-10-25T03:05", BERLIN), BERLIN)
    assert len(night) == 9, "two hours and a quarter pass on the wall between them"


def test_the_leap_day() -> None:
    """Row 31."""
    assert times("0 0 29 2 *", at("2024-01-01T00:00"), at("2029-01-01T00:00"), UTC) == [
        "02-29 00:00+0000",
        "02-29 00:00+0000",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("0 0 3 * * 1", "five fields"),
        ("61 * * * *", "minute"),
        ("0 0 31 2 *", "day"),
        ("a b c d e", "minute"),
        ("@reboot", "known names"),
        ("@dialy", "known names"),
        ("\x1b[31m * * * *", r"\x1b"),
        ("0 " * 500, "five fields"),
    ],
)
def test_what_is_no_schedule_is_refused(text: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        recur.check(text)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


def test_nicknames_and_spaces() -> None:
    assert recur.check("@Daily") == "0 0 * * *"
    assert recur.check("  0   3 * *  MON ") == "0 3 * * MON"


@given(st.text(max_size=40))
def test_any_text_is_a_schedule_or_a_refusal(text: str) -> None:
    try:
        schedule = recur.check(text)
    except SpecError:
        return
    assert recur.next_after(schedule, 0, UTC) > 0


@given(st.integers(0, 2**32), st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 0 1 * *", "5 4 * * sun"]))
def test_the_next_time_is_later_and_looking_again_changes_nothing(now: int, schedule: str) -> None:
    following = recur.next_after(schedule, now, BERLIN)
    assert following > now
    assert recur.look(cron(schedule, following), now, BERLIN) == Wait()
