"""Where a submit goes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.errors import ApiError
from agent.api.types import GpuState, LinkState, NodeStatus
from agent.hub.placement import free_gpus, place
from tests.fakes.agent import node


def status(name: str, gpus: int = 8, busy: int = 0, link: LinkState = LinkState.UP, **more: Any) -> NodeStatus:
    made = node(name, gpus)
    held = tuple(msgspec.structs.replace(gpu, job_id=1 if gpu.index < busy else None) for gpu in made.gpus)
    made = msgspec.structs.replace(made, gpus=held, **more)
    return NodeStatus(name=name, link=link, age_s=0.0, node=made, reason="cable pulled", retry_in_s=7.4)


def refusal(named: str | None, gpus: int, *statuses: NodeStatus) -> ApiError:
    with pytest.raises(ApiError) as caught:
        place(named, gpus, statuses, {})
    return caught.value


def test_most_free_gpus_win() -> None:
    assert place(None, 2, [status("n1", busy=5), status("n2", busy=2), status("n3", busy=8)], {}) == "n2"


def test_a_node_too_small_is_passed_over_though_it_is_idle() -> None:
    assert place(None, 8, [status("small", gpus=4), status("big", gpus=8, busy=8)], {}) == "big"


def test_among_equals_the_shorter_queue_then_the_name() -> None:
    assert place(None, 1, [status("n2", jobs_pending=3), status("n1", jobs_pending=4)], {}) == "n2"
    assert place(None, 0, [status("n2"), status("n1")], {}) == "n1"


def test_what_a_queue_asks_for_is_not_free() -> None:
    nodes = [status("n1", busy=2), status("n2", busy=5)]
    assert place(None, 1, nodes, {"n1": 2, "n2": 5}) == "n1"
    assert place(None, 1, nodes, {"n1": 2 + 4, "n2": 5}) == "n2"  # n1 has 6 free, 4 of them for jobs just submitted


def test_only_gpus_on_which_a_job_could_start_count_as_free() -> None:
    made = node("n1", 3)
    hung = msgspec.structs.replace(made.gpus[0], state=GpuState.HUNG)
    unseated = msgspec.structs.replace(made.gpus[1], seated=False)
    assert free_gpus(msgspec.structs.replace(made, gpus=(hung, unseated, made.gpus[2]))) == 1


def test_a_named_node_is_taken_as_named() -> None:
    assert place("n2", 99, [status("n1"), status("n2", link=LinkState.STALE)], {}) == "n2"


def test_a_misspelt_node_is_named_rightly() -> None:
    error = refusal("gpu-nod2", 1, status("gpu-node1"), status("gpu-node2"))
    assert (error.status, error.code, error.field) == (404, "unknown_node", "$.node")
    assert "did you mean 'gpu-node2'?" in error.message
    assert "the cluster has gpu-node1" in refusal("x", 1, status("gpu-node1")).message


def test_a_lost_node_says_why_and_when() -> None:
    error = refusal("n1", 1, status("n1", link=LinkState.LOST))
    assert (error.status, error.code) == (503, "node_lost")
    assert "n1 cannot be reached: cable pulled; next attempt in 7 s" in error.message
    assert refusal("n1", 1, status("n1", link=LinkState.CONNECTING)).code == "node_connecting"


def test_too_many_gpus_says_what_each_has() -> None:
    error = refusal(None, 9, status("n1", gpus=8), status("n2", gpus=4), status("n3", gpus=16, link=LinkState.LOST))
    assert (error.status, error.code) == (422, "too_many_gpus")
    assert "asks for 9 GPUs" in error.message
    assert "n1 has 8, n2 has 4" in error.message


def test_no_node_up_says_what_is_wrong_with_each() -> None:
    error = refusal(None, 1, status("n1", link=LinkState.LOST), status("n2", link=LinkState.STALE))
    assert (error.status, error.code) == (503, "no_node")
    assert "n1 is lost (cable pulled); n2 is stale" in error.message


@given(
    st.integers(0, 10),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.sampled_from(list(LinkState))), min_size=1, max_size=8),
)
def test_the_choice_can_always_run_the_job_and_none_is_freer(
    gpus: int, facts: list[tuple[int, int, LinkState]]
) -> None:
    statuses = [status(f"n{i}", has, busy, link) for i, (has, busy, link) in enumerate(facts)]
    able = [each for each in statuses if each.link is LinkState.UP and each.node and len(each.node.gpus) >= gpus]
    try:
        chosen = place(None, gpus, statuses, {})
    except ApiError:
        assert not able
        return
    nodes = {each.name: each.node for each in able if each.node}
    assert free_gpus(nodes[chosen]) == max(map(free_gpus, nodes.values()))
    assert place(None, gpus, list(reversed(statuses)), {}) == chosen
