"""The board of the sampler process: deadlines, states and what they keep."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.api.types import GpuReading, GpuState
from agent.gpu.board import Answer, Board
from agent.gpu.frames import FRESH_NAMES, News, Renewal, Stamped, Swept
from agent.gpu.rounds import deadline_s


def reading(index: int = 0, power_mw: int = 100) -> GpuReading:
    return GpuReading(index=index, uuid=f"GPU-{index}", name="x", sampled_at=1000.0, power_mw=power_mw)


def shown(b: Board) -> tuple[Stamped, ...]:
    return tuple(each.stamped() if isinstance(each, Renewal) else each for each in b.gpus())


def renewal(base: GpuReading, at: float, power_mw: int) -> Renewal:
    """As a sweep makes it: all that a reading brings, of which only the power is new."""
    values = {name: getattr(base, name) for name in FRESH_NAMES} | {"power_mw": power_mw}
    return Renewal(base, (), (base.index, at, None, *values.values()))


def board(count: int = 1) -> Board:
    return Board(count, deadline_s=1.5, now=900.0)


def test_a_reading_is_stamped_with_the_moment_it_was_asked_for_not_answered() -> None:
    b = board()
    b.ask(0, 10.0)
    b.answer(Answer(index=0, reading=reading()), 1000.0)
    assert shown(b)[0].at == 10.0
    assert shown(b)[0].reading == reading()


def test_a_gpu_under_way_is_not_asked_again() -> None:
    b = board(3)
    b.ask(1, 10.0)
    assert b.idle() == [0, 2]
    b.answer(Answer(index=1, reading=reading(1)), 1000.0)
    assert b.idle() == [0, 1, 2]


def test_past_its_deadline_a_gpu_is_hung_with_its_last_values_and_their_moment() -> None:
    b = board()
    b.ask(0, 10.0)
    b.answer(Answer(index=0, reading=reading(power_mw=777)), 1000.0)
    b.ask(0, 11.0)
    assert b.judge(12.4, 1002.4) == []
    assert b.next_deadline() == 12.5
    assert b.judge(12.5, 1002.5) == [0]
    gpu = shown(b)[0]
    assert (gpu.reading.state, gpu.reading.state_since, gpu.reading.power_mw, gpu.at) == (
        GpuState.HUNG,
        1002,
        777,
        10.0,
    )
    assert "GPU 0" in (gpu.reading.reason or "")
    assert b.judge(13.0, 1003.0) == []  # named once
    assert b.next_deadline() is None


def test_a_hung_gpu_that_answers_is_ok_again() -> None:
    b = board()
    b.ask(0, 10.0)
    b.judge(12.0, 1002.0)
    b.answer(Answer(index=0, reading=reading()), 1003.0)
    gpu = shown(b)[0].reading
    assert (gpu.state, gpu.state_since, gpu.reason) == (GpuState.OK, None, None)


def test_a_lost_gpu_keeps_its_values_and_the_moment_it_was_lost() -> None:
    b = board()
    b.ask(0, 10.0)
    b.answer(Answer(index=0, reading=reading(power_mw=777)), 1000.0)
    for second in (1, 2):
        b.ask(0, 10.0 + second)
        b.answer(Answer(index=0, reading=None, state=GpuState.LOST, reason="gone"), 1000.0 + second)
    gpu = shown(b)[0]
    assert (gpu.reading.state, gpu.reading.state_since, gpu.reading.reason) == (GpuState.LOST, 1001, "gone")
    assert (gpu.reading.power_mw, gpu.at) == (777, 10.0)


def test_a_gpu_never_read_says_so_and_has_no_values() -> None:
    b = board(2)
    b.ask(1, 10.0)
    b.judge(20.0, 1010.0)
    gpu = shown(b)[1]
    assert gpu.at is None
    assert gpu.reading.uuid == "unknown:1"
    assert gpu.reading.state is GpuState.HUNG
    assert gpu.reading.memory_total_bytes is None


def test_mig_instances_are_as_ill_as_their_gpu_and_keep_their_values() -> None:
    b = board(2)
    b.ask(0, 10.0)
    parts = (reading(100, power_mw=5), reading(101))
    b.answer(Answer(index=0, reading=reading(), instances=parts), 1000.0)
    assert [each.reading.index for each in shown(b)] == [0, 1, 100, 101]
    assert {each.at for each in shown(b) if each.reading.index != 1} == {10.0}
    b.ask(0, 11.0)
    b.judge(13.0, 1003.0)
    part = shown(b)[2]
    assert (part.reading.state, part.reading.state_since, part.reading.power_mw, part.at) == ("hung", 1003, 5, 10.0)
    b.answer(Answer(index=0, reading=reading(), instances=parts[1:]), 1004.0)
    assert [(each.reading.index, each.reading.state) for each in shown(b)[2:]] == [(101, "ok")]


@given(st.floats(0.05, 60))
def test_a_silent_gpu_is_named_in_time_and_a_slow_one_is_not_slandered(period: float) -> None:
    deadline = deadline_s(period)
    assert 1.0 <= deadline <= 5.0
    assert period + deadline <= max(3.0, period + 5.0)
    if period == 1.0:
        assert period + deadline <= 3.0


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["ask", "ok", "lost", "judge"]), st.floats(0.01, 3))))
def test_no_history_makes_an_old_value_look_new(steps: list[tuple[int, str, float]]) -> None:
    """Whatever happens in whatever order, a stamp never exceeds the last time its GPU was asked, nor goes back."""
    b = board(3)
    asked: dict[int, float] = {}
    now = 100.0
    for index, what, passed in steps:
        now += passed
        before = shown(b)[index].at
        if what == "ask" and index in b.idle():
            b.ask(index, now)
            asked[index] = now
        elif what == "judge":
            b.judge(now, now)
        elif what in ("ok", "lost") and index not in b.idle():
            good = what == "ok"
            state = GpuState.OK if good else GpuState.LOST
            b.answer(Answer(index=index, reading=reading(index) if good else None, state=state), now)
        after = shown(b)[index].at
        assert after in (before, asked.get(index))
        assert before is None or (after is not None and after >= before)


def test_a_gpu_that_hangs_keeps_what_was_new_last() -> None:
    b, base = board(), reading(power_mw=100)
    b.ask(0, 10.0)
    b.answer(Answer(index=0, reading=base), 1000.0)
    assert b.was_read(0, renewal(base, 11.0, 777), ())
    b.ask(0, 12.0)
    assert b.judge(13.5, 1003.5) == [0]
    (gpu,) = shown(b)
    assert (gpu.reading.state, gpu.reading.power_mw, gpu.at) == (GpuState.HUNG, 777, 11.0)
    assert b.ill() == {0}
    assert not b.was_read(0, renewal(base, 14.0, 888), ())


def test_one_of_a_sweep_that_hangs_keeps_what_was_new_last_and_the_others_theirs() -> None:
    b, bases = board(2), [reading(0, power_mw=100), reading(1, power_mw=100)]
    for base in bases:
        b.ask(base.index, 10.0)
        b.answer(Answer(index=base.index, reading=base), 1000.0)
    for at in (11.0, 12.0):
        columns = [[getattr(base, name) for base in bases] for name in Swept.__struct_fields__[5:]]
        columns[3] = [701, 702]
        b.were_read(News([0, 1], bases, at, at, [(), ()], [[None] * 2] * 3, columns))
    b.ask(1, 13.0)
    assert b.judge(14.5, 1003.5) == [1]
    one, other = shown(b)
    assert (one.reading.state, one.reading.power_mw, one.at) == (GpuState.OK, 701, 12.0)
    assert (other.reading.state, other.reading.power_mw, other.at) == (GpuState.HUNG, 702, 12.0)
