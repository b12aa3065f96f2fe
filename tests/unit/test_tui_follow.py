"""Waiting for a job and following its log across broken links, with time that does not pass."""

from __future__ import annotations

import io
import json

import pytest

from agent.api.errors import ApiError, ConnectError, StokerError
from agent.api.refs import JobRef
from agent.api.types import Job, JobState
from tests.fakes.cluster import FakeClient, FakeCluster, job
from tui import follow, verbs

REF = JobRef(id=1)


class Flaky(FakeClient):
    """Answers what it is told to, one after the other; the last answer stays."""

    def __init__(self, *answers: Job | Exception) -> None:
        super().__init__(FakeCluster())
        self.answers = list(answers)
        self.asked = 0

    def job(self, ref: JobRef) -> Job:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def time_flies(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """`sleep` moves the clock and returns at once; the list has what was slept."""
    slept: list[float] = []
    monkeypatch.setattr("tui.follow.time.sleep", slept.append)
    monkeypatch.setattr("tui.follow.time.monotonic", lambda: sum(slept))
    return slept


def test_waiting_bridges_a_broken_link(capsys: pytest.CaptureFixture[str]) -> None:
    running, broken = job(1), ConnectError("nobody listens")
    client = Flaky(running, running, broken, broken, running, job(1, JobState.COMPLETED))
    assert follow.wait_end(client, REF).state is JobState.COMPLETED
    said = capsys.readouterr().err
    assert said.count("the link broke, trying again: nobody listens") == 1


def test_waiting_gives_up_after_its_time_and_says_the_job_goes_on(time_flies: list[float]) -> None:
    with pytest.raises(StokerError, match="no link for 10 minutes; the job goes on"):
        follow.wait_end(Flaky(job(1), job(1), ConnectError("gone")), REF)
    assert follow.RETRY_FOR_S <= sum(time_flies) <= follow.RETRY_FOR_S + 60


def test_no_answer_at_first_is_told_at_once(time_flies: list[float]) -> None:
    with pytest.raises(ConnectError):
        follow.wait_end(Flaky(ConnectError("no socket")), REF)
    assert time_flies == []


def test_a_refusal_is_final() -> None:
    with pytest.raises(ApiError):
        follow.wait_end(Flaky(job(1), ApiError(403, "forbidden", "not yours")), REF)


def test_waiting_asks_often_at_first_and_then_every_two_seconds(time_flies: list[float]) -> None:
    follow.wait_end(Flaky(*[job(1)] * 60, job(1, JobState.FAILED)), REF)
    assert time_flies[0] <= 0.1
    assert max(time_flies) == 2.0


@pytest.mark.parametrize(
    ("state", "code", "signal", "expected"),
    [
        (JobState.COMPLETED, 0, None, 0),
        (JobState.FAILED, 17, None, 17),
        (JobState.FAILED, None, 9, 1),
        (JobState.CANCELLED, 0, None, 1),
        (JobState.CANCELLED, None, 15, 1),
        (JobState.TIMEOUT, 0, None, 1),
        (JobState.NODE_FAIL, None, None, 1),
        (JobState.OUT_OF_MEMORY, 137, None, 137),
    ],
)
def test_exit_codes_are_those_of_sbatch(state: JobState, code: int | None, signal: int | None, expected: int) -> None:
    assert verbs.exit_code(job(1, state, exit_code=code, signal=signal)) == expected


def test_a_log_as_json_is_ascii_and_whole() -> None:
    cluster = FakeCluster([], [job(1, JobState.COMPLETED)])
    cluster.logs["n1", 1] = bytes(range(256))
    out = io.StringIO()
    follow.follow_log(cluster.client(), REF, follow.writer(out, json=True))
    chunk, end = map(json.loads, out.getvalue().splitlines())
    assert out.getvalue().isascii()
    assert (chunk["type"], chunk["offset"], end["type"]) == ("log", 0, "end")
