"""The state behind the screens: ages, freshness, order, and what a reconnect forgets."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.types import (
    API_VERSION,
    Heartbeat,
    Hello,
    JobState,
    JobUpdate,
    LinkState,
    NodeStatus,
    NodeUpdate,
)
from tests.fakes.values import NOW, gpu, job, node, up
from tui.cluster import KEEP_ENDED, LOST_S, STALE_S, Cluster, Freshness, LinkDown, gpu_label, natural

HELLO = Hello(api=API_VERSION, version="0", server="hub", cluster="lab")
BEAT = Heartbeat(time=float(NOW))


def told(*statuses: NodeStatus, at: float = 0.0) -> Cluster:
    cluster = Cluster()
    for status in statuses:
        cluster.apply(NodeUpdate(status=status), at)
    return cluster


@pytest.mark.parametrize(
    ("link", "age_s", "since_s", "fresh"),
    [
        (LinkState.UP, 0.5, 0.0, Freshness.LIVE),
        (LinkState.UP, 0.5, STALE_S - 0.6, Freshness.LIVE),
        (LinkState.UP, 0.5, STALE_S, Freshness.STALE),
        (LinkState.UP, 0.5, LOST_S, Freshness.LOST),
        (LinkState.UP, STALE_S, 0.0, Freshness.STALE),
        (LinkState.STALE, 1.0, 0.0, Freshness.STALE),
        (LinkState.STALE, 1.0, LOST_S, Freshness.LOST),
        (LinkState.LOST, 0.0, 0.0, Freshness.LOST),
        (LinkState.CONNECTING, 0.0, 1.0, Freshness.CONNECTING),
        (LinkState.CONNECTING, 0.0, LOST_S, Freshness.LOST),
    ],
)
def test_freshness_is_the_worse_of_what_was_said_and_how_long_ago(
    link: LinkState, age_s: float, since_s: float, fresh: Freshness
) -> None:
    view = told(NodeStatus(name="n1", link=link, age_s=age_s)).nodes(since_s)[0]
    assert view.freshness is fresh
    assert view.age_s == age_s + since_s


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100))
def test_an_age_never_shrinks_while_nothing_comes(age_s: float, first: float, later: float) -> None:
    cluster = told(up(node("n1", (gpu(0),)), age_s))
    one, two = cluster.nodes(first)[0], cluster.nodes(first + later)[0]
    assert two.age_s >= one.age_s
    assert two.gpu_age_s(two.gpus[0]) >= two.age_s


def test_a_clock_that_is_wrong_on_the_node_does_not_matter() -> None:
    view = told(up(node("n1", (gpu(0, sampled_at=5.0),), time=5.0))).nodes(1.0)[0]
    assert view.freshness is Freshness.LIVE
    assert view.gpu_age_s(view.gpus[0]) == pytest.approx(0.4 + 0.3 + 1.0)


def test_our_own_link() -> None:
    cluster = Cluster()
    assert cluster.link(5.0).freshness is Freshness.CONNECTING
    cluster.apply(HELLO, 10.0)
    assert cluster.link(11.0).freshness is Freshness.LIVE
    assert cluster.link(10.0 + STALE_S).freshness is Freshness.STALE
    cluster.apply(LinkDown(reason="refused", retry_at=20.0), 12.0)
    down = cluster.link(13.0)
    assert (down.freshness, down.age_s, down.reason, down.retry_in_s) == (Freshness.STALE, 3.0, "refused", 7.0)
    assert cluster.link(26.0).freshness is Freshness.LOST
    cluster.apply(BEAT, 27.0)
    assert cluster.link(27.0).reason is None


def test_a_link_that_never_was_is_lost_with_its_reason() -> None:
    cluster = Cluster()
    cluster.apply(LinkDown(reason="no socket", retry_at=None), 1.0)
    link = cluster.link(1.0)
    assert (link.freshness, link.age_s, link.retry_in_s) == (Freshness.LOST, None, None)


def test_what_a_new_stream_does_not_mention_is_forgotten_once_it_is_quiet() -> None:
    cluster = Cluster()
    for message in (HELLO, NodeUpdate(status=up(node("old", ()))), JobUpdate(job=job(1)), BEAT, BEAT):
        cluster.apply(message, 0.0)
    cluster.apply(HELLO, 1.0)
    cluster.apply(NodeUpdate(status=up(node("new", ()))), 1.0)
    cluster.apply(BEAT, 1.0)
    assert [view.name for view in cluster.nodes(1.0)] == ["new", "old"], "a beat may come amid the state"
    cluster.apply(BEAT, 2.0)
    assert [view.name for view in cluster.nodes(2.0)] == ["new"]
    assert cluster.jobs() == []


def test_jobs_stand_in_the_order_running_waiting_ended() -> None:
    cluster = Cluster()
    for each in (
        job(1, JobState.COMPLETED, ended_at=NOW - 50),
        job(2, JobState.PENDING, submitted_at=NOW - 10),
        job(3, JobState.RUNNING),
        job(4, JobState.FAILED, ended_at=NOW - 5),
        job(5, JobState.PENDING, submitted_at=NOW - 20),
        job(6, JobState.COMPLETING),
    ):
        cluster.apply(JobUpdate(job=each), 0.0)
    assert [each.id for each in cluster.jobs()] == [3, 6, 5, 2, 4, 1]


def test_two_nodes_may_both_have_a_job_17() -> None:
    cluster = Cluster()
    cluster.apply(JobUpdate(job=job(17, node="n1", submitted_at=NOW - 1000)), 0.0)
    cluster.apply(JobUpdate(job=job(17, node="n2")), 0.0)
    assert len(cluster.jobs()) == 2
    newest, named = cluster.find_job(17), cluster.find_job(17, "n1")
    assert newest is not None and newest.node == "n2"
    assert named is not None and named.node == "n1"
    assert cluster.find_job(18) is None


def test_ended_jobs_are_not_kept_for_ever_and_live_ones_are() -> None:
    cluster = Cluster()
    cluster.apply(JobUpdate(job=job(1)), 0.0)
    for number in range(2, 2 * KEEP_ENDED + 10):
        cluster.apply(JobUpdate(job=job(number, JobState.COMPLETED, ended_at=NOW + number)), 0.0)
    kept = cluster.jobs()
    assert len(kept) <= 2 * KEEP_ENDED + 1
    assert kept[0].id == 1
    assert kept[1].id == 2 * KEEP_ENDED + 9


def test_totals_do_not_count_lost_values_as_present() -> None:
    heard = up(node("n1", (gpu(0, job=1, load=80), gpu(1, state="hung"))))
    cluster = told(heard, up(node("n2", (gpu(0, job=2, load=100),)), 99))
    totals = cluster.totals(0.0)
    assert (totals.nodes, totals.nodes_up, totals.nodes_lost) == (2, 1, 1)
    assert (totals.gpus, totals.gpus_busy, totals.gpus_bad) == (3, 1, 1)
    assert totals.utilization_percent == 80


def test_the_servers_clock_goes_on_between_heartbeats() -> None:
    cluster = Cluster()
    assert cluster.wall(0.0) is None
    cluster.apply(BEAT, 50.0)
    assert cluster.wall(62.5) == NOW + 12.5


def test_names_sort_as_people_count() -> None:
    assert sorted(["n10", "n2", "a", "n1", "n2x", "9"], key=natural) == ["9", "a", "n1", "n2", "n2x", "n10"]


@given(st.lists(st.text(max_size=12)))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    assert len(sorted(names, key=natural)) == len(names)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Simulated H100 80GB", "simulated H100 80GB"),
        ("NVIDIA H200 (simulated)", "simulated H200"),
        ("H100", "simulated H100"),
        ("", "simulated"),
    ],
)
def test_a_simulated_gpu_always_says_so(name: str, label: str) -> None:
    view = told(up(node("n1", (gpu(0, name=name),)))).nodes(0.0)[0]
    assert gpu_label(view, view.gpus[0]) == label


def test_a_real_gpu_never_does() -> None:
    real = msgspec.structs.replace(node("n1", (gpu(0, name="NVIDIA H100 80GB HBM3"),)), gpu_source="nvml")
    view = told(up(real)).nodes(0.0)[0]
    assert gpu_label(view, view.gpus[0]) == "H100 80GB HBM3"
