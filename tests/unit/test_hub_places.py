"""Who gets a place at a node, and on which connection."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.errors import ApiError
from agent.hub.places import LASTING_PER_USER, RESERVED, SSH_ROOM, UNIX_ROOM, Places

MAX_SESSIONS = 10
"""sshd_config(5): MaxSessions, when it is not set."""
LINK_AND_CALLS = 1 + 3


def test_the_first_connection_fills_up_before_a_spare_one_is_used() -> None:
    places = Places("n1", (2, 3))
    with ExitStack() as stack:
        assert [stack.enter_context(places.take("alice", lasting=False)) for _ in range(5)] == [0, 0, 1, 1, 1]
        with pytest.raises(ApiError, match="n1 is answering as many as it can") as caught:
            stack.enter_context(places.take("alice", lasting=False))
        assert (caught.value.status, caught.value.code) == (503, "node_busy")
    with places.take("alice", lasting=False) as connection:
        assert connection == 0


def test_one_user_cannot_take_them_all() -> None:
    places = Places("n1", UNIX_ROOM)
    with ExitStack() as stack:
        for _ in range(LASTING_PER_USER):
            stack.enter_context(places.take("alice", lasting=True))
        with pytest.raises(ApiError, match="alice reads 10 logs of n1 already; close one"):
            stack.enter_context(places.take("alice", lasting=True))
        stack.enter_context(places.take("alice", lasting=False))
        stack.enter_context(places.take("bob", lasting=True))
    with places.take("alice", lasting=True):
        pass


def test_logs_leave_room_for_short_answers() -> None:
    places = Places("n1", SSH_ROOM)
    with ExitStack() as stack:
        for number in range(places.lasting_max):
            stack.enter_context(places.take(f"user{number}", lasting=True))
        with pytest.raises(ApiError, match=f"{places.lasting_max} logs of n1 are being read already"):
            stack.enter_context(places.take("late", lasting=True))
        for _ in range(RESERVED):
            stack.enter_context(places.take("late", lasting=False))


def test_a_place_is_given_back_also_when_the_answer_fails() -> None:
    places = Places("n1", (5,))
    for _ in range(20):
        with pytest.raises(OSError, match="broke"), places.take("alice", lasting=True):
            raise OSError("it broke")


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans(), st.booleans()), max_size=120))
def test_no_connection_ever_carries_more_sessions_than_sshd_allows(steps: list[tuple[str, bool, bool]]) -> None:
    places = Places("n1", SSH_ROOM)
    held: list[tuple[int, ExitStack]] = []
    for user, lasting, leave in steps:
        if leave and held:
            held.pop(0)[1].close()
            continue
        stack = ExitStack()
        try:
            held.append((stack.enter_context(places.take(user, lasting=lasting)), stack))
        except ApiError:
            continue
        used = Counter(connection for connection, _ in held)
        assert used[0] + LINK_AND_CALLS < MAX_SESSIONS
        assert all(number < MAX_SESSIONS for number in used.values())
