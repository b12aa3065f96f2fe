"""A submit to a hub of two real agents: where it goes, and what is refused before anything is noted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.api.client import Client
from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.api.types import CronRequest, Job, LinkState, SubmitRequest
from tests.fakes.daemons import Box, wait_until
from tests.fakes.hub import hub_config, nodes_of, running_hub


class Pair:
    """Two agents, of which the first takes arrays of ten tasks at most, and their hub."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.boxes = {name: Box(folder / name, name, gpus=2) for name in ("n1", "n2")}
        small = self.boxes["n1"].config
        small.write_text(small.read_text() + "[limits]\nmax_array_size = 10\n")
        for each in self.boxes.values():
            stack.callback(each.close)
            each.agent.start()
        nodes = nodes_of({name: each.run_dir / "agent.sock" for name, each in self.boxes.items()})
        self.client: Client = stack.enter_context(running_hub(hub_config(folder, nodes)))
        wait_until(lambda: {each.link for each in self.client.nodes()} == {LinkState.UP}, "both nodes up")

    def submit(self, *flags: str, key: str, node: str | None = None, **more: object) -> Job:
        values = {"script": "#!/bin/sh\nexit 0\n", "script_name": "a.sh", "work_dir": "/", **more}
        request = SubmitRequest(flags=("--output=/dev/null", *flags), node=node, **values)  # type: ignore[arg-type]
        return self.client.submit(request, key).job

    def is_noted(self, key: str) -> bool:
        """Whether a submit with this key was ever written down."""
        files = (self.folder / "state" / "hub").glob("hub.db*")
        return any(key.encode() in each.read_bytes() for each in files)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(tmp_path, stack)


def test_a_job_goes_where_the_one_is_that_it_waits_for(pair: Pair) -> None:
    held = pair.submit("--hold", key="a", node="n2")
    other = pair.submit("--hold", "--begin=now+1hour", key="b", node="n1")
    assert held.id == other.id == 1, "each node counts for itself"
    with pytest.raises(ApiError, match="submit with --node n1 or --node n2"):
        pair.submit("-d", "afterok:1", key="c")
    pair.client.cancel(_ref(other))
    waits = pair.submit("-d", "afterok:1", key="c")  # the other one has ended
    assert (waits.node, waits.dependency) == ("n2", "afterok:1")
    with pytest.raises(ApiError, match="names job 99, which no node knows"):
        pair.submit("-d", f"afterok:{waits.id}:99", key="d")
    pair.client.cancel(_ref(held))
    wait_until(
        lambda: pair.client.job(_ref(waits)).reason == "DependencyNeverSatisfied", "its node hears how the other ended"
    )


def test_a_node_may_be_named_and_left_out_as_in_slurm(pair: Pair) -> None:
    assert pair.submit("-w", "n2", key="a").node == "n2"
    assert pair.submit("--exclude=n1", key="b").node == "n2"
    with pytest.raises(ApiError, match="--exclude leaves no node of the cluster"):
        pair.submit("--exclude=n[1-2]", key="c")
    with pytest.raises(ApiError, match="no node 'n3'; did you mean"):
        pair.submit("-w", "n3", key="d")


def test_an_array_or_a_sweep_is_judged_before_anything_is_noted(pair: Pair) -> None:
    for number, (flags, more) in enumerate(
        [
            (("--array=0-10",), {}),
            ((), {"sweep": {"lr": tuple("abcdef"), "bs": ("1", "2")}}),
            (("--array=0-3", "--reservation=party"), {}),
            (("--array=5-2",), {}),
        ]
    ):
        with pytest.raises(ApiError) as caught:
            pair.submit(*flags, key=f"bad{number}", node="n1", **more)
        assert caught.value.status == 400
    assert "max_array_size = 10" in str(_refused(pair, "--array=0-10"))
    assert pair.submit("--array=0-10", "--hold", key="good", node="n2").array_text == "0-10"
    assert pair.is_noted("good")
    assert not pair.is_noted("bad") and not pair.is_noted("again"), "what was refused was written nowhere"


def test_a_recurring_job_goes_to_the_node_of_its_nodelist_and_is_told_how_to_name_one(pair: Pair) -> None:
    def ask(*flags: str, key: str) -> str:
        body = SubmitRequest(script="#!/bin/sh\n", script_name="a.sh", work_dir="/", flags=flags)
        return pair.client.add_cron(CronRequest(schedule="0 3 * * 1", request=body), key).node

    assert ask("-w", "n2", key="a") == "n2"
    with pytest.raises(ApiError, match="has n1, n2: name one with --node NAME, as in --node n1"):
        ask(key="b")
    with pytest.raises(ApiError, match="no node 'n9'"):
        ask("-w", "n9", key="c")


def _refused(pair: Pair, *flags: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        pair.submit(*flags, key="again", node="n1")
    return caught.value


def _ref(job: Job) -> JobRef:
    return JobRef(id=job.id, node=job.node)
