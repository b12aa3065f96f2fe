"""What the hub believes of a link, with the clock in the test's hand."""

from __future__ import annotations

import random
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.api.types import LinkState
from agent.config import HubNode
from agent.hub.fleet import backoff_of
from agent.hub.linkstate import Backoff, Gone, Heard, Link


def gone(at: float) -> Gone:
    return Gone(at=at, reason="refused", retry_at=at + 2)


def test_a_node_that_speaks_is_up_and_silence_makes_it_stale_then_lost() -> None:
    link = Link(now=100.0)
    states = [link.state]
    assert link.handle(Heard(at=101.0))
    states.append(link.state)
    assert not link.tick(103.9)
    assert link.tick(104.0)
    states.append(link.state)
    assert link.age_s(104.5) == 3.5
    assert not link.tick(115.9)
    assert link.tick(116.0)
    states.append(link.state)
    assert states == [LinkState.CONNECTING, LinkState.UP, LinkState.STALE, LinkState.LOST]
    assert link.reason is not None


def test_a_stale_node_that_speaks_is_up_again_with_nothing_left_of_its_reason() -> None:
    link = Link(now=0.0)
    link.handle(Heard(at=0.0))
    link.tick(5.0)
    assert link.handle(Heard(at=6.0))
    assert (link.state, link.reason) == (LinkState.UP, None)


def test_a_broken_link_is_lost_at_once_and_counts_down() -> None:
    link = Link(now=0.0)
    link.handle(Heard(at=0.0))
    assert link.handle(gone(1.0))
    assert (link.state, link.reason, link.retry_in_s(1.5)) == (LinkState.LOST, "refused", 1.5)
    assert link.retry_in_s(9.0) == 0.0
    link.handle(Heard(at=10.0))
    assert link.retry_in_s(10.0) is None


def test_a_failed_retry_brings_its_own_reason_and_is_no_change_of_state() -> None:
    link = Link(now=0.0)
    link.handle(gone(1.0))
    assert not link.handle(Gone(at=3.0, reason="timed out", retry_at=9.0))
    assert (link.state, link.reason) == (LinkState.LOST, "timed out")


def test_a_node_never_heard_stays_connecting_until_an_attempt_fails() -> None:
    link = Link(now=0.0)
    assert not link.tick(100.0)
    assert link.state is LinkState.CONNECTING


events = st.lists(st.tuples(st.sampled_from(["heard", "gone", "tick"]), st.floats(0, 20)), max_size=60)


@given(events)
def test_up_means_heard_within_three_seconds_and_stale_within_fifteen(steps: list[tuple[str, float]]) -> None:
    now, heard_at = 0.0, None
    link = Link(now=0.0)
    for kind, wait in steps:
        now += wait
        if kind == "heard":
            link.handle(Heard(at=now))
            heard_at = now
        elif kind == "gone":
            link.handle(gone(now))
        link.tick(now)
        if link.state is LinkState.UP:
            assert heard_at is not None
            assert now - heard_at < 3
        if link.state is LinkState.STALE:
            assert heard_at is not None
            assert 3 <= now - heard_at < 15
        assert (link.reason is None) == (link.state in (LinkState.UP, LinkState.CONNECTING))


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_waits_are_below_a_ceiling_that_doubles_to_sixty_seconds(seed: int, tries: int) -> None:
    backoff = Backoff(random.Random(seed))
    for attempt in range(tries):
        assert 0 <= backoff.next_s() <= min(60.0, 2.0**attempt)
    backoff.reset()
    assert backoff.next_s() <= 1.0


def test_an_agent_on_this_machine_is_found_within_seconds_of_its_start_however_long_it_was_away() -> None:
    here, there = backoff_of(HubNode(name="n1", socket=Path("/x"))), backoff_of(HubNode(name="n2", ssh="u@h"))
    assert max(here.next_s() for _ in range(200)) <= 4.0
    assert max(there.next_s() for _ in range(200)) > 30.0


def test_waits_are_spread() -> None:
    waits = [Backoff(random.Random(seed)).next_s() for seed in range(200)]
    assert min(waits) < 0.1
    assert max(waits) > 0.9
