"""Where a submit goes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.errors import ApiError
from agent.api.queue import Drain
from agent.api.types import GpuState, LinkState, NodeStatus
from agent.hub.placement import find, free_gpus, place, require_answering
from agent.jobs.spec import JobSpec
from tests.fakes.agent import node


def status(
    name: str, gpus: int = 8, busy: int = 0, link: LinkState = LinkState.UP, kind: str = "S", **more: Any
) -> NodeStatus:
    made = node(name, gpus)
    held = tuple(msgspec.structs.replace(gpu, job_id=1 if gpu.index < busy else None, name=kind) for gpu in made.gpus)
    made = msgspec.structs.replace(made, gpus=held, **more)
    return NodeStatus(name=name, link=link, age_s=0.0, node=made, reason="cable pulled", retry_in_s=7.4)


def wants(gpus: int, kind: str | None = None, cpus: int = 1, memory_bytes: int | None = None) -> JobSpec:
    return JobSpec(
        memory_bytes=memory_bytes,
        name="a",
        script_name="a.sh",
        submit_dir="/",
        work_dir="/",
        gpus=gpus,
        gpu_type=kind,
        cpus_per_task=cpus,
    )


def refusal(spec: JobSpec, *statuses: NodeStatus) -> ApiError:
    with pytest.raises(ApiError) as caught:
        place(spec, statuses, {})
    return caught.value


def test_most_free_gpus_win() -> None:
    assert place(wants(2), [status("n1", busy=5), status("n2", busy=2), status("n3", busy=8)], {}) == "n2"


def test_a_node_too_small_is_passed_over_though_it_is_idle() -> None:
    assert place(wants(8), [status("small", gpus=4), status("big", gpus=8, busy=8)], {}) == "big"


def test_among_equals_the_shorter_queue_then_the_name() -> None:
    assert place(wants(1), [status("n2", jobs_pending=3), status("n1", jobs_pending=4)], {}) == "n2"
    assert place(wants(0), [status("n2"), status("n1")], {}) == "n1"


def test_what_a_queue_asks_for_is_not_free() -> None:
    nodes = [status("n1", busy=2), status("n2", busy=5)]
    assert place(wants(1), nodes, {"n1": 2, "n2": 5}) == "n1"
    assert place(wants(1), nodes, {"n1": 2 + 4, "n2": 5}) == "n2"  # n1 has 6 free, 4 of them for jobs just submitted


def test_only_gpus_on_which_a_job_could_start_count_as_free() -> None:
    made = node("n1", 3)
    hung = msgspec.structs.replace(made.gpus[0], state=GpuState.HUNG)
    unseated = msgspec.structs.replace(made.gpus[1], seated=False)
    assert free_gpus(msgspec.structs.replace(made, gpus=(hung, unseated, made.gpus[2]))) == 1


def test_a_drained_node_is_passed_over_but_not_refused() -> None:
    drain = Drain(reason="fans", by="root", at=1)
    assert place(wants(1), [status("n1", drain=drain), status("n2", busy=8, jobs_pending=9)], {}) == "n2"
    assert place(wants(1), [status("n1", drain=drain)], {}) == "n1"


def test_a_drained_gpu_is_not_free() -> None:
    made = status("n1")
    assert made.node is not None
    drained = tuple(msgspec.structs.replace(gpu, drain=Drain(reason="ecc", by="ada", at=1)) for gpu in made.node.gpus)
    ill = msgspec.structs.replace(made, node=msgspec.structs.replace(made.node, gpus=drained))
    assert place(wants(1), [ill, status("n2", busy=7)], {}) == "n2"


def test_a_misspelt_node_is_named_rightly() -> None:
    with pytest.raises(ApiError, match=r"did you mean 'gpu-node2'\?") as caught:
        find("gpu-nod2", [status("gpu-node1"), status("gpu-node2")])
    assert (caught.value.status, caught.value.code, caught.value.field) == (404, "unknown_node", "$.node")
    with pytest.raises(ApiError, match="the cluster has gpu-node1"):
        find("x", [status("gpu-node1")])


def test_a_lost_node_says_why_and_when() -> None:
    with pytest.raises(ApiError, match="n1 cannot be reached: cable pulled; next attempt in 7 s") as caught:
        require_answering(status("n1", link=LinkState.LOST))
    assert (caught.value.status, caught.value.code) == (503, "node_lost")
    with pytest.raises(ApiError) as caught:
        require_answering(status("n1", link=LinkState.CONNECTING))
    assert caught.value.code == "node_connecting"
    require_answering(status("n1", link=LinkState.STALE))


H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"


def test_a_job_for_one_type_goes_where_that_type_is_though_another_node_is_freer() -> None:
    nodes = [status("n1", gpus=8, kind=H100), status("n2", gpus=4, busy=4, kind=A100)]
    assert place(wants(1, "a100"), nodes, {}) == "n2"
    assert place(wants(1), nodes, {}) == "n1"


def test_only_free_gpus_of_the_type_asked_for_count() -> None:
    mixed = status("n1", gpus=8, kind=H100)
    assert mixed.node is not None
    gpus = tuple(msgspec.structs.replace(gpu, name=A100, job_id=7) if gpu.index < 2 else gpu for gpu in mixed.node.gpus)
    mixed = msgspec.structs.replace(mixed, node=msgspec.structs.replace(mixed.node, gpus=gpus))
    assert place(wants(1, "a100"), [mixed, status("n2", gpus=1, kind=A100)], {}) == "n2"


def test_a_job_for_many_cpus_goes_where_they_are() -> None:
    nodes = [status("n1", cpu_count=4), status("n2", gpus=1, cpu_count=64)]
    assert place(wants(0, cpus=32), nodes, {}) == "n2"


def test_a_job_for_much_memory_goes_where_it_is() -> None:
    nodes = [status("n1"), status("n2", gpus=1, memory_total_bytes=2**40)]
    assert place(wants(0, memory_bytes=2**38), nodes, {}) == "n2"
    error = refusal(wants(0, memory_bytes=2**41), *nodes)
    assert "asks for 1 CPU and 2,048.0 GiB, and no node" in error.message
    assert "n2 has 1 S and 1 CPU and 1,024.0 GiB" in error.message


def test_a_job_that_no_node_can_run_is_told_what_each_has() -> None:
    nodes = [status("n1", gpus=8, kind=H100), status("n2", gpus=0, cpu_count=64), status("n3", link=LinkState.LOST)]
    error = refusal(wants(2, "a100", cpus=4), *nodes)
    assert (error.status, error.code, error.field) == (400, "cannot_run", "$.script")
    assert "a.sh asks for 2 GPUs of type a100 and 4 CPUs" in error.message
    assert f"n1 has 8 {H100} and 1 CPU and 64.0 GiB, n2 has no GPU and 64 CPUs and 64.0 GiB" in error.message
    assert "not considered: n3 is lost (cable pulled)" in error.message


def test_too_many_gpus_says_what_each_has() -> None:
    error = refusal(wants(9), status("n1", gpus=8), status("n2", gpus=4), status("n3", gpus=16, link=LinkState.LOST))
    assert error.code == "cannot_run"
    assert "asks for 9 GPUs and 1 CPU" in error.message
    assert "n1 has 8 S and 1 CPU and 64.0 GiB, n2 has 4 S and" in error.message


def test_no_node_up_says_what_is_wrong_with_each() -> None:
    error = refusal(wants(1), status("n1", link=LinkState.LOST), status("n2", link=LinkState.STALE))
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
        chosen = place(wants(gpus), statuses, {})
    except ApiError:
        assert not able
        return
    nodes = {each.name: each.node for each in able if each.node}
    assert free_gpus(nodes[chosen]) == max(map(free_gpus, nodes.values()))
    assert place(wants(gpus), list(reversed(statuses)), {}) == chosen


def test_a_gpu_in_mig_mode_is_no_place_and_its_instances_are() -> None:
    made = node("n1", 2)
    parent = msgspec.structs.replace(made.gpus[0], divided=True)
    parts = [
        msgspec.structs.replace(made.gpus[0], index=100 + slot, uuid=f"MIG-{slot}", mig_parent=parent.uuid, job_id=None)
        for slot in range(3)
    ]
    gpus = (parent, msgspec.structs.replace(made.gpus[1], job_id=None), *parts)
    divided = NodeStatus(
        name="n1", link=LinkState.UP, age_s=0.0, node=msgspec.structs.replace(made, gpus=gpus), reason=None
    )
    assert divided.node is not None
    assert free_gpus(divided.node) == 4
    with pytest.raises(ApiError, match="n1 has 4 "):
        place(wants(5), [divided], {})
