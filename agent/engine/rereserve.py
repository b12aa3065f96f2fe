"""What `scontrol update ReservationName=…` makes of a reservation. Pure: no store, no clock.

Rules kept here: moved, it keeps its length, unless that or its end is said as well; names may be added and taken away
one by one, `+ada` and `-bob`; what is not said stays.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from agent.api.errors import ApiError
from agent.api.queue import Reservation, ReservationUpdate
from agent.jobs import grammar, times


def changed(before: Reservation, asked: ReservationUpdate, now: int) -> Reservation:
    """The reservation as it is from now on; its GPUs are the caller's to choose anew.

    Raises:
        ApiError: 400, a value is none, or nobody could use what comes of it.
    """
    start_at, end_at = _span(before, asked, now)
    if end_at <= max(start_at, now):
        raise ApiError(400, "bad_time", "the reservation would be over before it begins", "$.end")
    users, accounts = _names(before.users, asked.users), _names(before.accounts, asked.accounts)
    maintenance = before.maintenance if asked.maintenance is None else asked.maintenance
    if not (users or accounts or maintenance):
        raise ApiError(400, "for_nobody", "Reservation request lacks users, groups or accounts", "$.users")
    return replace(
        before,
        start_at=start_at,
        end_at=end_at,
        users=users,
        accounts=accounts,
        maintenance=maintenance,
        comment=before.comment if asked.comment is None else asked.comment or None,
    )


def _span(before: Reservation, asked: ReservationUpdate, now: int) -> tuple[int, int]:
    length_s = before.end_at - before.start_at
    start_at = before.start_at if asked.start is None else _time("$.start", asked.start, now)
    if asked.end is not None:
        return start_at, _time("$.end", asked.end, now)
    if asked.duration is None:
        return start_at, start_at + length_s
    sign = asked.duration[:1] if asked.duration[:1] in ("+", "-") else ""
    try:
        said_s = grammar.time_limit_s(asked.duration.removeprefix(sign))
    except grammar.GrammarError as error:
        raise ApiError(400, "bad_field", f"{asked.duration[:60]!r} {error}", "$.duration") from None
    if said_s is None:
        raise ApiError(400, "bad_field", "a reservation cannot last for ever; say how long", "$.duration")
    return start_at, start_at + {"": said_s, "+": length_s + said_s, "-": length_s - said_s}[sign]


def _time(field: str, text: str, now: int) -> int:
    try:
        return times.at(text, now=now)
    except grammar.GrammarError as error:
        raise ApiError(400, "bad_field", f"{text[:60]!r} {error}", field) from None


def _names(before: Sequence[str], said: Sequence[str] | None) -> tuple[str, ...]:
    """`ada, bob` in place of those before; `+ada`, `-bob` to them."""
    if said is None:
        return tuple(before)
    if not any(name[:1] in ("+", "-") for name in said):
        return tuple(said)
    found = dict.fromkeys(before)
    for name in said:
        if name.startswith("-"):
            found.pop(name[1:], None)
        else:
            found[name.removeprefix("+")] = None
    return tuple(found)
