"""Time that does not run back and cannot be poisoned."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from licensing import clock
from licensing.clock import HighWater, Uptime
from tests.fakes.vendor import DAY, NOW

BOOT = Uptime(boot_id="a", seconds=100)


def up(seconds: int, boot_id: str = "a") -> Uptime:
    return Uptime(boot_id=boot_id, seconds=seconds)


def test_setting_the_clock_back_gains_nothing() -> None:
    mark = clock.advance(None, NOW, BOOT)
    assert clock.effective(mark, NOW - 30 * DAY, up(100)) == NOW
    assert clock.effective(mark, NOW - 30 * DAY, up(100 + DAY)) == NOW + DAY


def test_nor_does_a_reboot_with_the_clock_set_back() -> None:
    mark = clock.advance(None, NOW, BOOT)
    assert clock.effective(mark, NOW - 30 * DAY, up(50, "b")) == NOW + 50


def test_a_jump_counts_at_once_and_is_not_kept() -> None:
    mark = clock.advance(clock.advance(None, NOW, BOOT), NOW + 900 * DAY, up(160))
    assert clock.effective(mark, NOW + 900 * DAY, up(160)) == NOW + 900 * DAY
    assert clock.effective(mark, NOW + 60, up(160)) == NOW + 60


def test_a_jump_is_kept_after_a_day_of_uptime() -> None:
    mark = clock.advance(None, NOW, BOOT)
    for hour in range(25):
        mark = clock.advance(mark, NOW + 900 * DAY + hour * 3600, up(160 + hour * 3600))
    assert mark.time == NOW + 901 * DAY
    assert mark.ahead_since is None


def test_a_jump_that_is_taken_back_leaves_no_doubt_behind() -> None:
    mark = clock.advance(clock.advance(None, NOW, BOOT), NOW + 900 * DAY, up(160))
    mark = clock.advance(mark, NOW + 120, up(220))
    assert (mark.time, mark.ahead_since) == (NOW + 120, None)


def test_a_signed_time_is_believed() -> None:
    mark = clock.trust(clock.advance(None, 0, BOOT), NOW, up(160))
    assert clock.effective(mark, 0, up(170)) == NOW + 10
    assert clock.trust(mark, NOW - DAY, up(170)) is mark


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
        before = clock.effective(mark, 0, uptime)
        mark = clock.advance(mark, wall, uptime)
        assert clock.effective(mark, wall, uptime) >= max(before, wall)
        assert last is None or mark.time >= last.time
        last = mark


def test_the_kernel_answers() -> None:
    first, second = clock.read_uptime(), clock.read_uptime()
    assert first.boot_id == second.boot_id != ""
    assert 0 < first.seconds <= second.seconds
