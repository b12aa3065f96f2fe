"""Time that does not run back and cannot be poisoned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licensing import clock
from licensing.clock import HighWater, Uptime
from tests.fakes.vendor import DAY, NOW

BOOT = Uptime(boot_id="a", seconds=100)


def up(seconds: int, boot_id: str = "a") -> Uptime:
    return Uptime(boot_id=boot_id, seconds=seconds)


def at(mark: HighWater | None, wall: int, uptime: Uptime) -> int:
    """The time to decide by."""
    return clock.believed(clock.advance(mark, wall, uptime), wall)


def settled(uptime: Uptime = BOOT) -> HighWater:
    """What is known where a licence was installed while the clock was right."""
    return clock.trust(clock.advance(None, NOW, uptime), NOW - DAY, NOW)


def test_setting_the_clock_back_gains_nothing() -> None:
    mark = clock.advance(None, NOW, BOOT)
    assert at(mark, NOW - 30 * DAY, up(100)) == NOW
    assert at(mark, NOW - 30 * DAY, up(100 + DAY)) == NOW + DAY


def test_nor_does_a_reboot_with_the_clock_set_back() -> None:
    mark = clock.advance(None, NOW, BOOT)
    assert at(mark, NOW - 30 * DAY, up(50, "b")) == NOW + 50


def test_a_clock_that_was_ahead_and_is_right_now_is_not_told_to_be_set() -> None:
    """A machine that starts in local time, two hours ahead, until the network tells it better."""
    mark = clock.advance(clock.advance(settled(), NOW + 2 * 3600, up(10, "b")), NOW + 60, up(70, "b"))
    assert clock.is_behind(mark, NOW + 60)
    assert "If the clock is wrong run: timedatectl set-ntp true; if it is right" in clock.lag(mark, NOW + 60)


@pytest.mark.parametrize("jump", [clock.SKEW_S + 1, 3600, 47 * 3600, 900 * DAY])
def test_a_jump_that_uptime_cannot_explain_counts_nowhere(jump: int) -> None:
    mark = clock.advance(settled(), NOW + 60 + jump, up(160))
    assert (mark.time, clock.believed(mark, NOW + 60 + jump)) == (NOW + 60, NOW + 60)


def test_a_machine_that_was_off_believes_its_clock_and_keeps_nothing_yet() -> None:
    mark = clock.advance(settled(), NOW + 14 * DAY, up(60, "b"))
    assert (mark.time, clock.believed(mark, NOW + 14 * DAY)) == (NOW + 60, NOW + 14 * DAY)
    assert at(mark, NOW + 120, up(120, "b")) == NOW + 120
    assert at(clock.trust(mark, NOW - DAY, NOW + 14 * DAY), NOW + 14 * DAY, up(60, "b")) == NOW + 14 * DAY


def test_off_for_two_days_is_nothing_special() -> None:
    mark = clock.advance(settled(), NOW + 2 * DAY, up(60, "b"))
    assert (mark.time, mark.settled) == (NOW + 2 * DAY, True)


def test_a_dead_clock_chip_and_the_network_time_after_it() -> None:
    """In 1970 first; the vendor's signature tells that this is wrong, so the correction counts at once."""
    mark = clock.trust(clock.advance(None, 0, BOOT), NOW - 90 * DAY, 0)
    assert clock.believed(mark, 0) == NOW - 90 * DAY
    assert at(mark, NOW, up(200)) == NOW


def test_a_jump_is_kept_after_a_day_of_uptime() -> None:
    mark = settled()
    for hour in range(25):
        mark = clock.advance(mark, NOW + 900 * DAY + hour * 3600, up(160 + hour * 3600))
    assert mark.time == NOW + 901 * DAY
    assert (mark.ahead_since, mark.settled) == (None, True)


def test_a_wilder_jump_begins_a_day_of_its_own() -> None:
    mark = clock.advance(settled(), NOW + 5 * DAY, up(160))
    mark = clock.advance(mark, NOW + 900 * DAY, up(160 + DAY - 1))
    mark = clock.advance(mark, NOW + 900 * DAY + 2, up(160 + DAY + 1))
    assert mark.time == NOW + 60 + DAY + 1


def test_a_jump_that_is_taken_back_leaves_no_doubt_behind() -> None:
    mark = clock.advance(settled(), NOW + 900 * DAY, up(160))
    mark = clock.advance(mark, NOW + 120, up(220))
    assert (mark.time, mark.ahead_since) == (NOW + 120, None)


def test_a_signed_time_is_believed() -> None:
    mark = clock.trust(clock.advance(None, 0, BOOT), NOW, 0)
    assert at(mark, 0, up(110)) == NOW + 10
    assert clock.trust(mark, NOW - DAY, 0).time == NOW


def test_another_machine_is_believed_as_far_as_clocks_differ() -> None:
    mark = settled()
    assert clock.lift(mark, NOW + clock.SKEW_S).time == NOW + clock.SKEW_S
    assert clock.lift(mark, NOW + clock.SKEW_S + 1) == clock.lift(mark, NOW - 5) == mark


def test_what_is_worth_a_write() -> None:
    mark = settled()
    assert clock.is_news(mark, None)
    assert not clock.is_news(None, None)
    assert not clock.is_news(clock.advance(mark, NOW + 599, up(699)), mark)
    assert clock.is_news(clock.advance(mark, NOW + 600, up(700)), mark)
    assert clock.is_news(clock.advance(mark, NOW + 9 * DAY, up(101)), mark)
    assert clock.is_news(clock.advance(mark, NOW + 5, up(5, "b")), mark)


STEPS = st.lists(
    st.tuples(st.integers(0, 2**40), st.integers(0, 10 * DAY), st.sampled_from(["same", "reboot"])), max_size=12
)


@given(STEPS)
def test_the_mark_never_goes_back(steps: list[tuple[int, int, str]]) -> None:
    mark, seconds, boots = None, 0, 0
    last: HighWater | None = None
    for wall, passed, what in steps:
        boots += what == "reboot"
        seconds = passed if what == "reboot" else seconds + passed
        uptime = up(seconds, str(boots))
        before = at(mark, 0, uptime)
        mark = clock.advance(mark, wall, uptime)
        assert clock.believed(mark, wall) >= max(before, mark.time)
        assert last is None or mark.time >= last.time
        last = mark


def test_the_kernel_answers() -> None:
    first, second = clock.read_uptime(), clock.read_uptime()
    assert first.boot_id == second.boot_id != ""
    assert 0 < first.seconds <= second.seconds
