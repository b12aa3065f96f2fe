"""What an update makes of a reservation."""

from __future__ import annotations

import pytest

from agent.api.errors import ApiError
from agent.api.queue import Reservation, ReservationUpdate
from agent.engine.rereserve import changed

NOW = 1_800_000_000
HOUR = 3600
COURSE = Reservation(name="course", start_at=NOW + HOUR, end_at=NOW + 3 * HOUR, users=("ada",), comment="lab")


def update(**asked: object) -> Reservation:
    return changed(COURSE, ReservationUpdate(**asked), NOW)  # type: ignore[arg-type]


def test_what_is_not_said_stays() -> None:
    assert update() == COURSE
    assert update(comment="").comment is None


@pytest.mark.parametrize(
    ("asked", "start_h", "end_h"),
    [
        ({"start": "now+2hours"}, 2, 4),
        ({"end": "now+2hours"}, 1, 2),
        ({"duration": "60"}, 1, 2),
        ({"duration": "+60"}, 1, 4),
        ({"duration": "-60"}, 1, 2),
        ({"start": "now+5hours", "duration": "60"}, 5, 6),
        ({"start": "now+2hours", "end": "now+9hours"}, 2, 9),
    ],
)
def test_times(asked: dict[str, str], start_h: int, end_h: int) -> None:
    made = update(**asked)
    assert ((made.start_at - NOW) / HOUR, (made.end_at - NOW) / HOUR) == (start_h, end_h)


@pytest.mark.parametrize(
    ("said", "users"),
    [
        (("bob",), ("bob",)),
        (("+bob",), ("ada", "bob")),
        (("+bob", "-ada"), ("bob",)),
        (("+ada",), ("ada",)),
        (("-eve",), ("ada",)),
    ],
)
def test_names(said: tuple[str, ...], users: tuple[str, ...]) -> None:
    assert update(users=said).users == users


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"end": "now+30minutes"}, "$.end"),
        ({"duration": "-120"}, "$.end"),
        ({"duration": "UNLIMITED"}, "$.duration"),
        ({"duration": "soon"}, "$.duration"),
        ({"duration": "+"}, "$.duration"),
        ({"start": "whenever"}, "$.start"),
        ({"users": ()}, "$.users"),
        ({"users": ("-ada",)}, "$.users"),
    ],
)
def test_what_makes_no_sense_is_refused(asked: dict[str, object], field: str) -> None:
    with pytest.raises(ApiError) as caught:
        update(**asked)
    assert (caught.value.status, caught.value.field) == (400, field)


def test_a_window_for_nobody_needs_no_users() -> None:
    made = update(users=(), maintenance=True)
    assert (made.users, made.maintenance) == ((), True)
