"""Reservations and maintenance: who is kept out, who is let in, and what a waiting job is told."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.jobs.schedule import ReservationFacts
from agent.jobs.schedule.reasons import MAINTENANCE
from agent.jobs.schedule.words import moment
from tests.fakes.facts import HOUR, NOW, busy, gpus, job, run, started, words

DAY = 86400


def reserve(start_in_s: int, hours: int = 1, on: str | None = None, **facts: Any) -> ReservationFacts:
    """For ada, of the GPUs whose indexes are written, or of the whole node."""
    uuids = None if on is None else frozenset(f"GPU-{index}" for index in on)
    values = {"name": "exam", "users": frozenset({"ada"}), "gpu_uuids": uuids, **facts}
    return ReservationFacts(start_at=NOW + start_in_s, end_at=NOW + start_in_s + hours * HOUR, **values)


def test_nothing_starts_that_would_run_into_a_maintenance() -> None:
    window = reserve(HOUR, 2, maintenance=True, name="fans")
    waiting = [job(1, 1, time_limit_s=HOUR + 60), job(2, 1, time_limit_s=HOUR), job(3, 1), job(4, time_limit_s=None)]
    decision = run(waiting, gpus(4), reservations=[window])
    assert started(decision) == {2: "0"}
    span = f"from {moment(NOW + HOUR)} to {moment(NOW + 3 * HOUR)}"
    assert decision.reasons[1] == (
        MAINTENANCE,
        f"would run for 1:01:00 into the maintenance fans, {span}; it could start at once with --time=1:00:00 or less",
    )
    assert decision.reasons[3] == (
        MAINTENANCE,
        f"would run without a time limit into the maintenance fans, {span}; "
        "it could start at once with --time=1:00:00 or less",
    )
    assert words(decision)[4] == MAINTENANCE
    assert decision.expected[1] == NOW + 3 * HOUR
    assert decision.look_again_at == NOW + HOUR


def test_a_maintenance_is_nobodys_to_use() -> None:
    window = reserve(-60, maintenance=True)
    waiting = [job(1, 1, time_limit_s=60, reservation="exam"), job(2, 1, time_limit_s=60)]
    decision = run(waiting, gpus(2), reservations=[window])
    assert started(decision) == {}
    assert words(decision) == {1: MAINTENANCE, 2: MAINTENANCE}


def test_reserved_gpus_are_the_members_and_the_rest_is_the_others() -> None:
    waiting = [
        job(1, 2, time_limit_s=HOUR // 2, reservation="exam"),
        job(2, 1, time_limit_s=HOUR),
        job(3, 1, time_limit_s=HOUR),
        job(4, 1, time_limit_s=HOUR, reservation="exam", user="eve"),
        job(5, 1, time_limit_s=HOUR // 2, reservation="exam", user="bob", account="class"),
    ]
    window = reserve(-60, on="123", accounts=frozenset({"class"}))
    decision = run(waiting, gpus(4), reservations=[window])
    assert started(decision) == {1: "12", 2: "0", 5: "3"}
    assert decision.reasons[3][0] in ("Resources", "ReqNodeNotAvail, Reserved")
    assert decision.reasons[4] == ("Reservation", "reservation exam is not for eve; ask who made it")


def test_a_job_before_a_reservation_of_some_gpus_takes_the_others() -> None:
    decision = run([job(1, 2, time_limit_s=2 * HOUR)], gpus(4), reservations=[reserve(HOUR, on="01")])
    assert started(decision) == {1: "23"}


def test_one_that_needs_the_reserved_gpus_is_planned_behind_and_holds_up_nobody() -> None:
    waiting = [job(1, 4, time_limit_s=2 * HOUR), job(2, 2, time_limit_s=3 * HOUR)]
    decision = run(waiting, gpus(4), reservations=[reserve(HOUR, 2, on="01")])
    assert words(decision)[1] == "ReqNodeNotAvail, Reserved"
    assert decision.expected[1] == NOW + 3 * HOUR
    assert started(decision) == {2: "23"}
    longer = run([waiting[0], job(2, 2, time_limit_s=3 * HOUR + 1)], gpus(4), reservations=[reserve(HOUR, 2, on="01")])
    assert started(longer) == {}, "it would delay the first one"


def test_a_reservation_has_a_beginning_and_an_end() -> None:
    early = run([job(1, 1, reservation="exam", time_limit_s=60)], gpus(1), reservations=[reserve(HOUR)])
    assert early.reasons[1] == ("Reservation", f"reservation exam starts at {moment(NOW + HOUR)}")
    assert early.expected == {1: NOW + HOUR}
    late = run([job(1, 1, reservation="exam", time_limit_s=2 * HOUR)], gpus(1), reservations=[reserve(0)])
    assert late.reasons[1][0] == "Reservation"
    assert late.reasons[1][1].startswith("would run for 2:00:00, and reservation exam ends in 1:00:00")
    gone = run([job(1, 1, reservation="exam")], gpus(1))
    assert gone.reasons[1] == (
        "ReservationDeleted",
        "reservation exam is over or was removed; update or cancel the job",
    )


def test_outsiders_wait_for_the_end_of_a_reservation_in_use() -> None:
    running = [busy(9, "0", time_limit_s=HOUR, reservation="exam")]
    waiting = [job(1, time_limit_s=60), job(2, 1, time_limit_s=60)]
    decision = run(waiting, gpus(2), running=running, reservations=[reserve(-60, 2)])
    assert words(decision) == {1: "ReqNodeNotAvail, Reserved", 2: "ReqNodeNotAvail, Reserved"}
    assert decision.expected == {1: NOW + 2 * HOUR - 60, 2: NOW + 2 * HOUR - 60}


def test_the_reservation_that_is_named_is_the_one_in_the_way() -> None:
    """Others come sooner, and leave it enough."""
    small = reserve(-60, 9, on="0", name="small")
    soon = reserve(HOUR, 1, on="1", name="soon")
    whole = reserve(2 * HOUR, 1, name="whole")
    asked = job(1, 2, time_limit_s=4 * HOUR, user="bob")
    told = run([asked], gpus(4), reservations=[small, soon, whole]).reasons[1][1]
    assert told.startswith("would run for 4:00:00 into the reservation whole, from ")
    assert told.endswith("it could start at once with --time=2:00:00 or less")
    wide = job(1, 3, time_limit_s=4 * HOUR, user="bob")
    assert "into the reservation soon" in run([wide], gpus(4), reservations=[small, soon, whole]).reasons[1][1]
    all_of_it = job(1, 4, time_limit_s=HOUR // 2, user="bob")
    assert "into the reservation small" in run([all_of_it], gpus(4), reservations=[small, soon, whole]).reasons[1][1]
    lasting = [small, reserve(-60, 3, on="123", name="large"), reserve(-60, 2, on="1", name="tiny")]
    two = job(1, 2, time_limit_s=60, user="bob")
    assert "into the reservation large" in run([two], gpus(4), reservations=lasting[:2]).reasons[1][1]


def test_a_job_without_gpus_is_not_concerned_by_reserved_gpus() -> None:
    decision = run([job(1, time_limit_s=None)], gpus(2), reservations=[reserve(600, on="01", maintenance=True)])
    assert started(decision) == {1: ""}


def test_who_waits_for_others_is_not_told_of_a_reservation_to_come() -> None:
    running = [busy(9, "01", time_limit_s=HOUR)]
    decision = run([job(1, 2, time_limit_s=HOUR)], gpus(2), running=running, reservations=[reserve(DAY)])
    assert words(decision) == {1: "Resources"}
    assert decision.expected == {1: NOW + HOUR}


def test_members_wait_for_each_other() -> None:
    waiting = [job(1, 2, reservation="exam", time_limit_s=600), job(2, 2, reservation="exam", time_limit_s=600)]
    decision = run(waiting, gpus(4), reservations=[reserve(0, on="12")])
    assert started(decision) == {1: "12"}
    assert decision.reasons[2] == ("Resources", "asks for 2 GPUs; 0 of 2 free, held by job 1")
    assert decision.expected == {2: NOW + 600}


def test_a_reservation_that_a_running_job_overlaps_waits_for_it() -> None:
    running = [busy(9, "1", time_limit_s=600)]
    waiting = [job(1, 2, reservation="exam", time_limit_s=600)]
    decision = run(waiting, gpus(4), running=running, reservations=[reserve(0, on="12")])
    assert decision.expected == {1: NOW + 600}


@given(
    st.lists(
        st.tuples(st.integers(-5, 5), st.integers(1, 5), st.sampled_from([None, "0", "01", "23"]), st.booleans()),
        max_size=3,
    ),
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.sampled_from([60, HOUR, 3 * HOUR, None]),
            st.sampled_from([None, None, "r0", "r1", "r9"]),
        ),
        max_size=8,
    ),
)
def test_no_start_runs_into_what_is_anothers(
    windows: list[tuple[int, int, str | None, bool]],
    asked: list[tuple[int, int | None, str | None]],
) -> None:
    reservations = [
        reserve(begin * HOUR, hours, on, maintenance=closed, name=f"r{number}")
        for number, (begin, hours, on, closed) in enumerate(windows)
    ]
    reservations = [each for each in reservations if each.end_at > NOW]
    waiting = [
        job(number, count, time_limit_s=limit, reservation=name)
        for number, (count, limit, name) in enumerate(asked, start=1)
    ]
    decision = run(waiting, gpus(4), reservations=reservations)
    by_id = {each.id: each for each in waiting}
    assert set(started(decision)) | set(decision.reasons) == set(by_id)
    for start in decision.starts:
        mine = by_id[start.job_id]
        end = NOW + (mine.time_limit_s or 10**9)
        for window in reservations:
            kept = window.gpu_uuids
            touched = kept is None or kept & set(start.gpu_uuids)
            if window.name == mine.reservation:
                assert not window.maintenance
                assert window.start_at <= NOW and end <= window.end_at
                assert kept is None or set(start.gpu_uuids) <= kept
            elif touched:
                assert end <= window.start_at or window.end_at <= NOW
