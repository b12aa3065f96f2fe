"""Commands before a queue that is longer than one answer of a server: a thousand jobs, where nobody says how many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api.types import JobState
from tests.fakes.agent import fake_agent, job
from tui.__main__ import main

MANY = 1010
JOBS = (
    job(1, "n1", JobState.RUNNING, started_at=2, name="began-first"),
    *(job(10 + number, "n1", JobState.PENDING, user="bob", name="waits") for number in range(MANY)),
    job(3000, "n1", JobState.FAILED, exit_code=3, started_at=1, ended_at=2, array_job_id=3000, array_task_id=0),
    *(
        job(3000 + task, "n1", JobState.COMPLETED, exit_code=0, started_at=1, ended_at=2, array_job_id=3000,
            array_task_id=task)
        for task in range(1, MANY)
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path: Path = tmp_path_factory.mktemp("many") / "a.sock"
    with fake_agent(path, jobs=JOBS):
        yield str(path)


def test_the_queue_is_listed_to_its_oldest_job(socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", socket, "jobs", "--limit", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (len(found), found[-2]["name"]) == (MANY + 2, "began-first"), "what runs began before what waits"
    assert main(["--socket", socket, "jobs", "-t", "PD", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == MANY


def test_waiting_for_an_array_waits_for_all_its_tasks(socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", socket, "wait", "3000", "--json"]) == 3, "the code of the oldest task"
    assert len(json.loads(capsys.readouterr().out)) == MANY


def test_cancelling_by_a_filter_takes_all_that_match(socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", socket, "cancel", "--user", "bob", "--state", "PD", "--yes", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == MANY
