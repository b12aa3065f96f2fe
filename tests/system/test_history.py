"""The node's own history through the real agent: kept as readings come, asked for over the wire, drawn by the verb."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api.client import Client
from agent.api.errors import ApiError
from agent.api.telemetry import GPU_METRICS, HOST_METRICS, MetricHistory
from agent.telemetry.host import HostReader
from tests.fakes.daemons import Box, box, wait_until
from tests.fakes.rawcall import call
from tests.fakes.shell import stoker


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with box(tmp_path_factory.mktemp("past"), gpus=2, history="days", voucher=False) as made:
        yield made


def measured(past: MetricHistory) -> list[float]:
    return [value for value in past.mean if value is not None]


def test_every_metric_is_kept_from_the_first_second_on(lab: Box) -> None:
    with lab.agent.client() as client:
        wait_until(lambda: len(measured(client.history("power_mw", gpu="0"))) > 0, "the first reading is kept")
        for metric in GPU_METRICS:
            past = wait_until(lambda metric=metric: _kept(client, metric, "1"), f"{metric} is kept")  # type: ignore[misc]
            assert past is not None
            assert past.width_s * len(past.mean) >= 3600
        reader = HostReader()
        reader.read(1.0)
        here = reader.read(2.0)
        reader.close()
        absent = {name for name in HOST_METRICS if getattr(here, name) is None}  # a machine without disk or network
        for metric in HOST_METRICS.keys() - absent:
            wait_until(lambda metric=metric: measured(client.history(metric)), f"{metric} is kept")  # type: ignore[misc]


def test_a_gpu_that_hangs_leaves_a_gap_and_no_flat_line(lab: Box) -> None:
    with lab.agent.client() as client:
        wait_until(lambda: measured(client.history("power_mw", gpu="1")), "it is kept")
        _simulate(lab, "1", "hung")
        wait_until(lambda: client.node().gpus[1].state == "hung", "it hangs")
        hung = int(time.time())
        wait_until(
            lambda: measured(client.history("power_mw", gpu="0", since=hung + 2, until=hung + 60, points=60)),
            "the other goes on",
        )
        assert not measured(client.history("power_mw", gpu="1", since=hung + 1, until=hung + 60, points=60))
        _simulate(lab, "1", "ok")
        wait_until(
            lambda: measured(client.history("power_mw", gpu="1", since=hung + 1, until=hung + 120, points=120)),
            "it comes back",
        )


def test_it_outlives_the_agent_and_its_death(lab: Box) -> None:
    with lab.agent.client() as client:
        wait_until(lambda: measured(client.history("power_mw", gpu="0")), "it is kept")
        begun = int(time.time()) - 600
        before = client.history("power_mw", gpu="0", since=begun, until=begun + 600, points=600)
    lab.agent.kill()
    lab.agent.start()
    with lab.agent.client() as client:
        after = wait_until(
            lambda: client.history("power_mw", gpu="0", since=begun, until=begun + 600, points=600), "it answers"
        )
    kept = [now == was for was, now in zip(before.mean[:-2], after.mean[:-2], strict=True)]
    assert all(kept)


def test_wrong_questions_are_answered_with_what_there_is(lab: Box) -> None:
    with lab.agent.client() as client:
        for asked, said in (
            ({"metric": "powr_mw", "gpu": "0"}, "did you mean power_mw? Known: utilization_percent, "),
            ({"metric": "power_mw", "gpu": "7"}, "has no GPU '7'; its GPUs: 0, 1"),
            ({"metric": "power_mw"}, "there is no metric 'power_mw'"),
            ({"metric": "cpu_percent", "points": 0}, "points='0' is not a whole number of at least 1"),
            ({"metric": "cpu_percent", "points": 2001}, "points='2001' is more than 2000"),
            ({"metric": "cpu_percent", "since": 20, "until": 10}, "from=20 is not before to=10"),
            ({"metric": "cpu_percent", "since": 2**40}, "is more than"),
            ({"metric": "x\x1b[31m" * 500}, "there is no metric"),
        ):
            with pytest.raises(ApiError) as refused:
                client.history(**asked)
            assert said in str(refused.value)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("points=3&points=4", "points is given 2 times; give it once"),
        ("metric=load_1m", "metric is given 2 times; give it once"),
        ("gpu=0&gpu=1", "gpu is given 2 times; give it once"),
        (f"points={'9' * 5000}", f"points='{'9' * 79}…' is too great a number"),
        ("to=99999999999999", "to='99999999999999' is more than 4294967295"),
        (f"points={'0' * 5000}", f"points='{'0' * 79}…' is not a whole number of at least 1"),
        (f"from={'x' * 5000}", f"from='{'x' * 79}…' is not a whole number of at least 0"),
        ("points=NaN", "points='NaN' is not a whole number of at least 1"),
        ("from=-1", "from='-1' is not a whole number of at least 0"),
        ("from=%D9%A1", "from='١' is not a whole number of at least 0"),
        ("to=", "to='' is not a whole number of at least 1"),
    ],
)
def test_questions_that_nobody_can_answer_are_refused_in_a_short_true_sentence(lab: Box, query: str, said: str) -> None:
    status, told = call(lab.agent.socket, "GET", f"/v1/history?metric=cpu_percent&{query}")
    assert (status, told["message"]) == (400, said)


def test_all_there_is_may_be_asked_for_from_the_beginning_of_time_on(lab: Box) -> None:
    with lab.agent.client() as client:
        wait_until(lambda: measured(client.history("cpu_percent", since=0, points=3)), "it is kept")
        assert len(client.history("power_mw", gpu="0", since=0, points=1).mean) == 1


def test_a_node_that_keeps_none_says_so(tmp_path: Path) -> None:
    with box(tmp_path, gpus=1, hub=False) as made, made.agent.client() as client:
        with pytest.raises(ApiError, match=r'keeps no history: telemetry\.history is "off"'):
            client.history("cpu_percent")
        assert not (made.state_dir / "history").exists()


def test_the_verb_draws_it_through_the_hub(lab: Box) -> None:
    with lab.agent.client() as client:
        wait_until(lambda: measured(client.history("temperature_c", gpu="1")), "it is kept")
    with lab.hub.client() as client:
        wait_until(lambda: client.nodes()[0].link == "up", "the hub has found the agent again")
    drawn = stoker(lab, "gpus", "n1:1", "--history", "2m", "--metric", "temperature").splitlines()
    assert drawn[0].startswith("n1:1  temperature_c: least ")
    assert drawn[1].startswith("50°C ┤")
    assert "█" in drawn[3] + drawn[4]
    assert max(map(len, drawn)) <= 80
    both = stoker(lab, "gpus", "--history", "1m")
    assert [line.split("  ")[0] for line in both.splitlines() if "utilization" in line] == ["n1:0", "n1:1"]
    assert stoker(lab, "nodes", "--history", "1m", "--metric", "memory").startswith("n1  memory_used_bytes: least ")
    (told,) = json.loads(stoker(lab, "gpus", "n1:0", "--history", "30s", "--metric", "power", "--json"))
    assert (told["node"], told["metric"], told["unit"], told["width_s"]) == ("n1", "power_mw", "mW", 1)
    assert len(told["mean"]) <= 31


def test_the_verb_says_that_less_is_kept_than_was_asked_for(lab: Box) -> None:
    with lab.agent.client() as client:
        wait_until(lambda: measured(client.history("temperature_c", gpu="1")), "it is kept")
    with lab.hub.client() as client:
        wait_until(lambda: client.nodes()[0].link == "up", "the hub has found the agent again")
    said = stoker(lab, "gpus", "n1:1", "--history", "30d", output="stderr")
    assert said.startswith("stoker: n1:1 keeps nothing from before "), said
    assert "telemetry.history" in said
    assert stoker(lab, "gpus", "n1:1", "--history", "1d", output="stderr") == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gpus", "--history", "soon"), "'soon' is not a moment"),
        (("gpus", "--history", "1h", "--until", "2h"), "the history from 1h to 2h is empty"),
        (("gpus", "--history", "1h", "--metric", "watts"), "there is no metric 'watts'; known: utilization_percent"),
        (("gpus", "--metric", "power"), "--metric is for a history; say --history 6h as well"),
        (("gpus", "n9:0", "--history", "1h"), "'n9:0' is no node and no GPU"),
        (("nodes", "n1:0", "--history", "1h"), "n1:0 is a GPU; write: stoker gpus n1:0 --history"),
    ],
)
def test_what_the_verb_does_not_understand(lab: Box, words: tuple[str, ...], said: str) -> None:
    assert said in stoker(lab, *words, code=1)


def _kept(client: Client, metric: str, gpu: str) -> MetricHistory | None:
    past = client.history(metric, gpu=gpu, points=2000)
    return past if measured(past) else None


def _simulate(lab: Box, gpu: str, fault: str) -> None:
    program = "import sys; from agent.__main__ import agent_main; sys.exit(agent_main())"
    subprocess.run(
        [sys.executable, "-c", program, "--config", str(lab.config), "simulate", "gpu", gpu, fault],
        check=True,
        capture_output=True,
        timeout=60,
    )
