"""Arrays on lines of a list and on a command line, moments as one types them, and what is told of a waiting job."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.errors import ApiError, ConnectError, StokerError
from agent.api.queue import PriorityParts
from agent.api.refs import JobRef
from agent.api.types import Job, JobState, LogEnd, LogMessage
from tests.fakes.cluster import FakeClient, FakeCluster, Feed
from tests.fakes.values import NOW, job
from tui import advice, arrays, jobrows, moments, running, sweep
from tui.spans import plain


def task(index: int, state: JobState = JobState.PENDING, **more: Any) -> Job:
    return job(100 + index, state, **({"array_job_id": 100, "array_task_id": index, "array_text": "0-9%2"} | more))


def test_tasks_that_wait_or_have_ended_alike_share_a_line_and_others_do_not() -> None:
    jobs = [task(0, JobState.RUNNING), task(1, JobState.RUNNING), job(7), *(task(n) for n in (9, 3, 4, 5))]
    jobs += [
        task(2, JobState.COMPLETED),
        task(6, reason="JobHeldUser"),
        task(8, JobState.COMPLETED),
        task(7, node="n2"),
    ]
    assert [line.label for line in arrays.collapse(jobs)] == [
        "100_0", "100_1", "7", "100_[3-5,9%2]", "100_[2,8]", "100_6", "100_7",
    ]  # fmt: skip
    assert [line.label for line in arrays.singly(jobs[:3])] == ["100_0", "100_1", "7"]


def test_a_first_task_is_never_named_as_the_whole_array() -> None:
    assert arrays.ref(task(0)) == JobRef(id=100, task=0, node="n1")
    assert arrays.ref(job(7)) == JobRef(id=7, node="n1")


@given(st.sets(st.integers(0, 300), min_size=1))
def test_what_is_written_of_tasks_is_read_as_the_same_tasks(numbers: set[int]) -> None:
    shuffled = random.Random(0).sample(sorted(numbers), len(numbers))
    read = arrays.refs(f"17_[{arrays.ranges(shuffled)}%3]")
    assert [ref.task for ref in read] == sorted(numbers)
    assert {ref.id for ref in read} == {17}


@pytest.mark.parametrize(
    ("text", "tasks"), [("17_[1-5:2]", [1, 3, 5]), ("17_[3,1]", [3, 1]), ("17_[2,2]", [2]), ("n1:17_[0]", [0])]
)
def test_lists_of_tasks(text: str, tasks: list[int]) -> None:
    assert [ref.task for ref in arrays.refs(text)] == tasks


@pytest.mark.parametrize(
    "text",
    ["17_[]", "17_[a]", "17_[1-]", "17_[5-1]", "17_[0-9:0]", "17_3_[1]", "x_[1]", "17_[0-999999999]", "17_[1",
     "17_[1]]", "", "17_[\u0663]", "17_[1]\n", "17_[[1]]"],
)  # fmt: skip
def test_what_names_no_tasks_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(StokerError):
        arrays.refs(text)


@given(st.text(max_size=40))
def test_no_text_makes_anything_but_a_sentence(text: str) -> None:
    for reader in (arrays.refs, lambda each: moments.read(each, NOW), lambda each: sweep.read([each])):
        try:
            reader(text)
        except StokerError:
            continue


def test_an_array_is_one_row_that_counts_its_tasks() -> None:
    jobs = [task(0, JobState.RUNNING), task(1, JobState.FAILED), *(task(n) for n in range(2, 10))]
    (row,) = jobrows.job_rows(jobs, NOW)
    assert plain(row.cells[0]) == "100_[0-9%2]" and plain(row.cells[3]) == "●1 ○8 x1"
    huge = [task(0, array_text="0,2,4,6,8,10,12,14,16,18,20")]
    assert len(plain(jobrows.job_rows(huge, NOW)[0].cells[0])) == 16
    assert [plain(row.cells[0]) for row in jobrows.task_rows(jobs[:2], NOW)] == ["100_0", "100_1"]


@pytest.mark.parametrize(
    ("text", "ago"),
    [("10m", 600), ("2h", 7200), ("3d", 259_200), ("1w", 604_800), ("30s", 30), ("now-2hours", 7200), ("now", 0),
     ("5 min", 300), ("1y", 31_536_000), ("2 years", 63_072_000), ("2 days ago", 172_800), (str(NOW - 7), 7)],
)  # fmt: skip
def test_a_span_is_so_long_ago(text: str, ago: int) -> None:
    assert moments.read(text, NOW) == NOW - ago


def test_days_and_times_are_of_this_machines_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Europe/Vienna")
    time.tzset()
    try:
        assert moments.read("2026-11-18T12:06:40", NOW) == NOW
        assert moments.read("12:06", NOW) == NOW - 40
        assert moments.read("yesterday", NOW) == NOW - 12 * 3600 - 400 - 86_400
        assert moments.read("2026-11-18 12:06", NOW) == moments.read("11/18/26-12:06", NOW) == NOW - 40
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "x", "90", "10 parsecs", "2026-13-01", "25:00", "-", "9" * 40 + "d", "10m10"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(StokerError, match="is not a moment"):
        moments.read(text, NOW)


def test_advice_names_the_command_and_only_for_what_waits() -> None:
    for reason in ("JobHeldUser", "Dependency", "BeginTime", "License", "PartitionTimeLimit", "JobArrayTaskLimit"):
        said = advice.what_helps(task(3, reason=reason))
        assert said is not None and "stoker " in said
    assert advice.what_helps(task(3, reason="JobHeldUser")) == "it is held: stoker release 100_3"
    limited = advice.what_helps(job(1, JobState.PENDING, reason="Priority", time_limit_s=60))
    unlimited = advice.what_helps(job(1, JobState.PENDING, reason="Priority"))
    assert limited != unlimited and "no time limit" in str(unlimited)
    assert advice.what_helps(job(1, JobState.PENDING, reason="SomethingNew")) is None
    assert advice.what_helps(job(1, reason="JobHeldUser")) is None


def test_priority_is_told_by_its_parts() -> None:
    parts = PriorityParts(age=20, fairshare=1000, nice=-50, total=1070)
    assert jobrows.priority_parts(job(1, priority_parts=parts)) == "age 20 + fairshare 1000 + nice 50"
    assert jobrows.priority_parts(job(1, priority_parts=PriorityParts(site=9, age=3, total=9))) == "set to 9"
    assert jobrows.priority_parts(job(1)) == ""


# --- a job that somebody waits for ------------------------------------------------------------------------------------


class Watched(FakeClient):
    """A job that is, one look after the other, as it is told to be."""

    def __init__(self, *states: Job | Exception, end: Job) -> None:
        self.cluster = FakeCluster(jobs=[end])
        super().__init__(self.cluster)
        self.states = list(states)
        self.end = end

    def job(self, ref: JobRef) -> Job:
        answer = self.states.pop(0) if self.states else self.end
        if isinstance(answer, Exception):
            raise answer
        return answer

    def follow_log(self, ref: JobRef, offset: int = 0, **_: object) -> Feed[LogMessage]:
        return Feed([LogEnd(job=self.end)])


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.running.time.sleep", lambda _: None)
    monkeypatch.setattr("tui.outage.time.sleep", lambda _: None)


def watch(client: Watched, first: Job) -> tuple[int, list[str]]:
    told: list[str] = []
    return running.Running(client, first, lambda _: None, told.append).to_end(), told


def pending(reason: str, detail: str = "") -> Job:
    return job(1, JobState.PENDING, reason=reason, detail=detail)


@pytest.mark.usefixtures("no_waiting")
def test_each_reason_is_told_once_and_an_outage_does_not_end_it() -> None:
    end = job(1, JobState.COMPLETED)
    lost = ConnectError("restarting"), ApiError(503, "busy", "slow")
    looks: list[Job | Exception] = [pending("Priority", "behind 3"), *lost, pending("Resources")]
    code, told = watch(Watched(*looks, end=end), pending("Priority", "behind 4"))
    assert code == 0
    assert told == ["job 1 waits: Priority: behind 4", "job 1 waits: Resources"]


@pytest.mark.usefixtures("no_waiting")
def test_a_job_that_is_gone_is_an_error() -> None:
    with pytest.raises(ApiError):
        watch(Watched(ApiError(404, "no_such_job", "gone"), end=job(1)), pending("Priority"))


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("state", "code", "number", "ended"),
    [
        (JobState.COMPLETED, 0, None, 0),
        (JobState.FAILED, 3, None, 3),
        (JobState.FAILED, None, 9, 137),
        (JobState.CANCELLED, None, 15, 143),
        (JobState.TIMEOUT, 0, None, 1),
        (JobState.NODE_FAIL, None, None, 1),
        (JobState.OUT_OF_MEMORY, None, 9, 137),
    ],
)
def test_the_exit_code_is_the_jobs_and_never_0_for_what_did_not_complete(
    state: JobState, code: int | None, number: int | None, ended: int
) -> None:
    end = job(1, state, exit_code=code, signal=number)
    assert watch(Watched(end=end), job(1))[0] == ended


@pytest.mark.usefixtures("no_waiting")
def test_an_interrupt_cancels_and_a_second_one_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Watched(end=job(1, JobState.CANCELLED, started_at=None))
    client.states = [pending("Priority")] * 5
    presses = iter([KeyboardInterrupt, None, KeyboardInterrupt])

    def sleep(_: float) -> None:
        if (pressed := next(presses, None)) is not None:
            raise pressed

    monkeypatch.setattr("tui.running.time.sleep", sleep)
    code, told = watch(client, pending("Priority"))
    assert code == running.INTERRUPTED
    assert [call[0] for call in client.cluster.calls] == ["cancel"], "asked once"
    assert "is asked to end" in told[1] and "not waiting any more" in told[2]
