"""A queue longer than one answer, of a hub whose nodes number differently: the real hub before two agents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.api.client import Client
from agent.api.types import JobState, LinkState
from tests.fakes import vendor
from tests.fakes.agent import fake_agent, job
from tests.fakes.hub import hub_config, nodes_of, running_hub
from tests.fakes.hub_cluster import wait_until
from tui import pages
from tui.__main__ import main
from tui.slurm import ask

FEW = 5
JOBS = {
    "n1": tuple(job(number, "n1", JobState.RUNNING, submitted_at=2000 + number) for number in range(2, 2 + FEW)),
    "n2": tuple(job(9000 + number, "n2", JobState.PENDING, submitted_at=1000 + number) for number in range(FEW)),
}
"""What n2 has came earlier, under higher numbers."""
ALL = {(each.node, each.id) for name in JOBS for each in JOBS[name]}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, str]]:
    folder: Path = tmp_path_factory.mktemp("hub")
    with ExitStack() as stack:
        sockets = {name: folder / f"{name}.sock" for name in JOBS}
        for name, path in sockets.items():
            stack.enter_context(fake_agent(path, name, jobs=JOBS[name]))
        config = hub_config(folder, nodes_of(sockets))
        client = stack.enter_context(running_hub(config, vendor.ROOTS))
        wait_until(lambda: [each.link for each in client.nodes()] == [LinkState.UP] * 2)
        yield client, str(config.hub_socket)


def test_every_job_of_every_node_comes(hub: tuple[Client, str]) -> None:
    found = [(each.node, each.id) for each in pages.every(hub[0], 3)]
    assert set(found) >= ALL
    assert len(found) == len(set(found))


def test_slurms_commands_see_all(hub: tuple[Client, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "PAGE", 3)
    assert {(each.node, each.id) for each in ask.Queue(hub[0]).jobs()} >= ALL


def test_the_history_is_paged_over_all_nodes(hub: tuple[Client, str], capsys: pytest.CaptureFixture[str]) -> None:
    told = ""
    for page in ("1", "2", "3", "4"):
        assert main(["--socket", hub[1], "jobs", "--all", "--limit", "3", "--page", page]) == 0
        out, said = capsys.readouterr()
        told += out
        if page == "1":
            assert "more with the same words and --page 2" in said
    assert all(str(number) in told for _, number in ALL)
