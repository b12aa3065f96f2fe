"""Waiting for a job and following its log across broken links, with time that does not pass."""

from __future__ import annotations

import io
import json

import pytest

from agent.api.errors import (
    ApiError,
    AuthError,
    ConnectError,
    DeadlineError,
    HostKeyError,
    ProtocolError,
    StokerError,
    VersionError,
)
from agent.api.refs import JobRef
from agent.api.types import Job, JobState, LinkState, LogChunk, LogEnd, LogMessage, NodeStatus
from tests.fakes.cluster import FakeClient, FakeCluster, Feed
from tests.fakes.values import job
from tui import follow, outage, running

REF = JobRef(id=1)


class Flaky(FakeClient):
    """Answers what it is told to, one after the other; the last answer stays."""

    def __init__(self, *answers: Job | Exception) -> None:
        self.cluster = FakeCluster()
        super().__init__(self.cluster)
        self.answers = list(answers)
        self.asked: list[JobRef] = []

    def job(self, ref: JobRef) -> Job:
        self.asked.append(ref)
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


LOST = "the link is lost, trying again until it is back"
AWAY = ApiError(502, "node_unreachable", "n1 does not answer")
OUTAGES: list[StokerError] = [
    ConnectError("nobody listens"),
    DeadlineError("no answer"),
    ProtocolError("cut short"),
    AuthError("the home with the keys is not mounted yet"),
    AWAY,
    ApiError(503, "node_busy", "slow"),
    ApiError(504, "node_unreachable", "late"),
]


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: f"{type(error).__name__} {getattr(error, 'status', '')}")
def test_waiting_rides_out_an_outage_and_tells_it_once(
    error: StokerError, capsys: pytest.CaptureFixture[str], time_flies: list[float]
) -> None:
    client = Flaky(job(1), *[error] * 400, job(1), error, job(1, JobState.FAILED))
    assert follow.wait_end(client, REF).state is JobState.FAILED
    assert capsys.readouterr().err.count(LOST) == 2, "two outages"
    assert sum(time_flies) > 3600, "an hour is not too long"
    assert max(time_flies) <= 15


def test_a_server_never_reached_is_given_up_as_its_address_may_be_wrong(time_flies: list[float]) -> None:
    with pytest.raises(ConnectError, match="no socket"):
        follow.wait_end(Flaky(ConnectError("no socket")), REF)
    assert outage.REACH_FOR_S <= sum(time_flies) <= outage.REACH_FOR_S + 15


def test_a_server_that_starts_late_is_waited_for() -> None:
    assert follow.wait_end(Flaky(ConnectError("no socket"), job(1, JobState.COMPLETED)), REF).exit_code == 0


def test_a_node_that_is_away_from_the_start_is_waited_for(time_flies: list[float]) -> None:
    follow.wait_end(Flaky(*[AWAY] * 100, job(1, JobState.COMPLETED)), REF)
    assert sum(time_flies) > 600


FINAL: list[StokerError] = [
    ApiError(403, "forbidden", "not yours"),
    ApiError(404, "no_such_job", "there is no job 1"),
    HostKeyError("changed", host="h", fingerprint="f", key_type="t", known=True),
    VersionError("upgrade this program"),
]


@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
def test_what_no_waiting_heals_is_final(error: StokerError, time_flies: list[float]) -> None:
    for client in (Flaky(error), Flaky(job(1, JobState.PENDING), error)):
        with pytest.raises(type(error)):
            follow.wait_end(client, REF)
    assert len(time_flies) == 1, "one pause between two questions, and none before giving up"


def test_no_key_accepted_at_first_is_final(time_flies: list[float]) -> None:
    with pytest.raises(AuthError):
        follow.wait_end(Flaky(AuthError("no key")), REF)
    assert time_flies == []


def test_a_job_is_not_taken_for_missing_while_a_node_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    missing = ApiError(404, "not_found", "no node has a job 1; n2 cannot be asked now")
    client = Flaky(missing, missing, job(1), job(1, JobState.COMPLETED))
    client.cluster.statuses["n2"] = NodeStatus(name="n2", link=LinkState.LOST, age_s=20.0)
    follow.wait_end(client, REF)
    assert "n2 cannot be asked now" in capsys.readouterr().err
    assert client.asked == [REF] * 3 + [JobRef(id=1, node="n1")], "once it is found, it is asked for by its node"
    with pytest.raises(ApiError):
        follow.wait_end(Flaky(missing), REF)


def test_following_goes_on_at_the_byte_where_it_broke(capsys: pytest.CaptureFixture[str]) -> None:
    class Breaking(FakeClient):
        def follow_log(self, ref: JobRef, offset: int = 0, **_: object) -> Feed[LogMessage]:
            asked.append((ref, offset))
            step = steps.pop(0)
            if isinstance(step, Exception):
                raise step
            return step

    def feed(*messages: LogMessage | Exception) -> Feed[LogMessage]:
        made: Feed[LogMessage] = Feed([])
        for message in (*messages, None):
            made.push(message)
        return made

    one, two = LogChunk(offset=0, data=b"one"), LogChunk(offset=3, data=b"two")
    asked: list[tuple[JobRef, int]] = []
    steps: list[Feed[LogMessage] | Exception] = [
        feed(one),
        AWAY,
        feed(ProtocolError("cut")),
        AWAY,
        feed(two),
        feed(LogEnd(job=job(1))),
    ]
    got: list[bytes] = []
    client = Breaking(FakeCluster([], [job(1)]))
    follow.follow_log(client, REF, lambda piece: got.append(piece.data) if isinstance(piece, LogChunk) else None)
    assert got == [b"one", b"two"]
    assert [offset for _, offset in asked] == [0, 3, 3, 3, 3, 6]
    assert {ref for ref, _ in asked} == {JobRef(id=1, node="n1")}
    assert capsys.readouterr().err.count(LOST) == 2


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
    assert running.batch_code(job(1, state, exit_code=code, signal=signal)) == expected


def test_a_log_as_json_is_ascii_and_whole() -> None:
    cluster = FakeCluster([], [job(1, JobState.COMPLETED)])
    cluster.logs["n1", 1] = bytes(range(256))
    out = io.StringIO()
    follow.follow_log(cluster.client(), REF, follow.writer(out, json=True))
    chunk, end = map(json.loads, out.getvalue().splitlines())
    assert out.getvalue().isascii()
    assert (chunk["type"], chunk["offset"], end["type"]) == ("log", 0, "end")
