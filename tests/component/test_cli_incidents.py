"""`stoker incidents` and `inventory` before a cluster of which one node is away."""

from __future__ import annotations

import io
from collections.abc import Sequence

import msgspec
import pytest

from agent.api.errors import StokerError
from tests.fakes.cluster import FakeClient, FakeCluster
from tests.fakes.lab import health_lab
from tui import commands
from tui.verbs.call import Call


def run(cluster: FakeCluster, *words: str) -> tuple[int, str]:
    out = io.StringIO()
    args = commands.read(list(words))
    code: int = args.work(Call(client=FakeClient(cluster), out=out), args)
    return code, out.getvalue()


def said(cluster: FakeCluster, verb: str) -> Sequence[object]:
    return [asked for name, asked in cluster.calls if name == verb]


def test_a_node_that_is_away_keeps_nobody_from_an_incident_of_another() -> None:
    cluster = health_lab()
    code, out = run(cluster, "incidents", "acknowledge", "6")
    assert (code, said(cluster, "acknowledge")) == (0, [("gpu-a2", 6)])
    assert "Incident 6 on gpu-a2 is acknowledged" in out
    with pytest.raises(StokerError, match="no incident 99 is open where it can be seen, and gpu-b2 cannot be asked"):
        run(cluster, "incidents", "acknowledge", "99")


def test_the_inventory_leaves_out_a_node_that_is_away_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(health_lab(), "inventory")
    assert (code, sum(line.startswith("gpu-a2") for line in out.splitlines())) == (1, 9)
    assert "gpu-b2 is left out: " in capsys.readouterr().err


def test_what_was_accepted_is_said_with_counts_models_and_place() -> None:
    cluster = health_lab()
    node = cluster.statuses["gpu-a2"].node
    assert node is not None
    models = len({gpu.name for gpu in node.gpus})
    code, out = run(cluster, "inventory", "gpu-a2", "--accept")
    first, _, rest = out.partition("\n")
    assert (code, rest.count("gpu-a2 "), models) == (0, len(node.gpus), 1)
    assert first.startswith(f"gpu-a2 accepts {len(node.gpus)} GPUs ({len(node.gpus)} x {node.gpus[0].name})")
    assert first.endswith("1 no longer expected; kept in its agent.db")
    assert "; nothing is changed; " in run(cluster, "inventory", "gpu-a2", "--accept")[1]
    without = msgspec.structs.replace(node, gpus=())
    cluster.statuses["gpu-a2"] = msgspec.structs.replace(cluster.statuses["gpu-a2"], node=without)
    code, out = run(cluster, "inventory", "gpu-a2", "--accept")
    many = len(node.gpus)
    assert out == f"gpu-a2 has no GPU, and none is expected there; the {many} GPUs of before are forgotten\n"
    code, out = run(cluster, "inventory", "gpu-a2", "--accept")
    assert (code, out) == (0, "gpu-a2 has no GPU, and none is expected there\n")


def test_what_to_type_for_a_gpu_that_stays_drained_is_a_command() -> None:
    cluster = health_lab()
    status = cluster.statuses["gpu-a2"]
    assert status.node is not None
    _, out = run(cluster, "drain", "gpu-a2:7", "--reason", "hung")
    code, out = run(cluster, "incidents", "clear", "7")
    assert code == 0
    told = out.partition("still drained: stoker ")[2].split()
    assert told == ["resume", "gpu-a2:7"]
    assert run(cluster, *told)[0] == 0


@pytest.mark.parametrize("verb", ["acknowledge", "clear"])
def test_what_is_no_incident_is_not_called_a_job(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("x", "3_1"):
        with pytest.raises(SystemExit) as ended:
            run(health_lab(), "incidents", verb, word)
        said = capsys.readouterr().err
        assert ended.value.code == 64 and f"'{word}' is not the number of an incident" in said and "a job" not in said


def test_the_list_of_jobs_names_a_node_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = health_lab()
    for words in (["jobs"], ["--json", "jobs"], ["jobs", "--all"]):
        assert run(cluster, *words)[0] == 0
        assert capsys.readouterr().err.startswith("no answer of gpu-b2: its jobs are listed as last heard, or left out")
    del cluster.statuses["gpu-b2"]
    run(cluster, "jobs")
    assert capsys.readouterr().err == ""
