"""What is done to jobs, arrays, nodes and GPUs on the screens: asserted by what the server is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.api.errors import ApiError
from agent.api.queue import DrainRequest
from agent.api.refs import JobRef
from agent.api.types import Job, JobState, JobUpdate
from tests.fakes.cluster import FakeClient, FakeCluster
from tests.fakes.lab import queue_lab
from tests.fakes.values import NOW, evaluation, gpu, job, node, up
from tests.screens.stage import LARGE, Stage, play
from tui.cluster import ArrayKey
from tui.widgets.machines import MachineTable
from tui.widgets.table import Table

ARRAY = ArrayKey("gpu-a1", 50)
HELD, WAITING, RUNNING, ENDED = (("gpu-a1", number) for number in (46, 44, 42, 40))


async def at(on: Stage, key: object) -> None:
    """On the jobs list, with the cursor on a job."""
    await on.press("3")
    on.app.screen.query_one("#queue", Table).select(key)
    await on.settle()


def changes(cluster: FakeCluster) -> list[tuple[str, object]]:
    """What was asked for that changes something."""
    return [call for call in cluster.calls if call[0] not in ("follow", "report", "history")]


@pytest.mark.parametrize(
    ("key", "job_key", "said", "asked"),
    [
        ("H", WAITING, "Hold job 44?", ("hold", JobRef(id=44, node="gpu-a1"))),
        ("U", HELD, "Release job 46?", ("release", JobRef(id=46, node="gpu-a1"))),
        ("Q", RUNNING, "Requeue job 42?", ("requeue", JobRef(id=42, node="gpu-a1"))),
        ("Q", ENDED, "will run once more", ("requeue", JobRef(id=40, node="gpu-a1"))),
        ("T", WAITING, "Put first job 44?", ("top", JobRef(id=44, node="gpu-a1"))),
        ("H", ARRAY, "Hold array 50, 4 tasks?", ("hold", JobRef(id=50, node="gpu-a1"))),
    ],
)
def test_an_action_asks_and_does_it_only_after_yes(key: str, job_key: object, said: str, asked: object) -> None:
    async def scene(on: Stage) -> None:
        await at(on, job_key)
        await on.press(key)
        assert on.sees(said)
        await on.press("enter")
        assert on.screen_name == "JobsScreen" and changes(on.cluster) == [], "no is the default"
        await on.press(key, "y")
        await on.until(lambda: on.sees("asked for:"), "the answer is shown")

    assert changes(play(scene, queue_lab())) == [asked]


@pytest.mark.parametrize(
    ("key", "job_key", "said"),
    [
        ("H", RUNNING, "nothing to hold"),
        ("H", HELD, "nothing to hold"),
        ("U", WAITING, "nothing to release"),
        ("Q", WAITING, "nothing to requeue"),
        ("T", ENDED, "Only a job that waits"),
        ("P", RUNNING, "Only a job that waits"),
    ],
)
def test_an_action_that_does_not_apply_says_so(key: str, job_key: object, said: str) -> None:
    async def scene(on: Stage) -> None:
        await at(on, job_key)
        await on.press(key)
        assert on.screen_name == "JobsScreen" and on.sees(said)

    assert changes(play(scene, queue_lab())) == []


def test_marked_jobs_and_arrays_are_held_together() -> None:
    async def scene(on: Stage) -> None:
        await at(on, WAITING)
        await on.press("space")
        on.app.screen.query_one("#queue", Table).select(ARRAY)
        await on.press("space", "H")
        assert on.sees("Hold 5 jobs?") and on.sees("44 eval-suite") and on.sees("50 lr-sweep")
        await on.press("y")
        await on.until(lambda: len(changes(on.cluster)) == 2, "both were asked for")

    assert {call[1] for call in changes(play(scene, queue_lab()))} == {
        JobRef(id=44, node="gpu-a1"),
        JobRef(id=50, node="gpu-a1"),
    }


def test_nice_is_typed_and_checked() -> None:
    async def scene(on: Stage) -> None:
        await at(on, WAITING)
        await on.press("P", "enter")
        assert on.sees("type a nice")
        await on.press(*"much", "enter")
        assert on.sees("a whole number")
        await on.press(*["backspace"] * 4, *"-50", "enter")
        await on.until(lambda: on.sees("Renice asked for"), "done")
        await on.press("P", *"7", "escape")

    assert changes(play(scene, queue_lab())) == [("update", (JobRef(id=44, node="gpu-a1"), {"Nice": "-50"}))]


@pytest.mark.parametrize(
    ("key", "asked"),
    [("a", [JobRef(id=50, node="gpu-a1")]), ("w", [(JobRef(id=50, node="gpu-a1"), "2-5")])],
)
def test_cancel_of_an_array_asks_how_many(key: str, asked: list[JobRef]) -> None:
    async def scene(on: Stage) -> None:
        await at(on, ARRAY)
        await on.press("X")
        assert on.sees("Cancel how many of array 50?") and on.sees("2 running, 4 waiting")
        await on.press("enter")
        assert changes(on.cluster) == [], "none is the default"
        await on.press("X", "n", "X", key)
        await on.until(lambda: on.sees("Cancel asked for"), "done")

    assert [call[1] for call in changes(play(scene, queue_lab()))] == asked


def test_an_array_is_one_line_with_a_page_of_its_tasks() -> None:
    async def scene(on: Stage) -> None:
        await at(on, ARRAY)
        assert on.sees("50_[0-5%2]") and on.sees("●2 ○4") and not on.sees("50_3")
        assert on.sees("at most 2 at a time")
        await on.press("enter")
        assert on.screen_name == "ArrayScreen"
        assert on.sees("50_3") and on.sees("lr=3e-4")
        await on.press("j", "j", "H", "y")
        await on.until(lambda: on.sees("asked for: 50_2"), "one task alone")
        await on.press("enter")
        assert on.screen_name == "JobScreen" and on.sees("▸ 50_2")
        await on.press("escape", "escape")
        assert on.screen_name == "JobsScreen"

    assert changes(play(scene, queue_lab())) == [("hold", JobRef(id=50, task=2, node="gpu-a1"))]


def test_the_log_of_an_arrays_first_task_is_its_own() -> None:
    async def scene(on: Stage) -> None:
        await at(on, ARRAY)
        await on.press("enter", "enter")
        await on.until(lambda: on.cluster.follows, "following")

    calls = [call for call in play(scene, queue_lab()).calls if call[0] == "follow"]
    assert calls == [("follow", (JobRef(id=50, task=0, node="gpu-a1"), 0))]


def test_a_waiting_job_shows_why_when_and_what_helps() -> None:
    async def scene(on: Stage) -> None:
        await at(on, WAITING)
        assert on.sees("in 2 h") and on.sees("priority 1520   starts 13:36:40 at the latest   nice 100")
        await on.press("enter")
        await on.until(lambda: on.sees("age 20 + fairshare 1000 + jobsize 100 + qos 500 - nice 100"), "the parts")
        assert on.sees("what helps") and on.sees("stoker update 44 TimeLimit=")
        await on.until(lambda: on.sees("Nice 0 → 100, by eve"), "its history")
        await on.press("i")
        assert on.sees("Log: nothing yet")

    play(scene, queue_lab(), size=LARGE)


def test_a_running_job_shows_its_verdict_and_its_details_by_key() -> None:
    async def scene(on: Stage) -> None:
        await at(on, RUNNING)
        await on.press("enter")
        assert on.sees("data-starved, 41% on average: the GPUs wait")
        assert not on.sees("Details")
        await on.press("i")
        await on.until(lambda: on.sees("attempt 1 on GPUs 4-5"), "the history")
        assert on.sees("energy 0.61 kWh")
        await on.press("i")
        assert not on.sees("Details") and on.sees("Log")

    play(scene, queue_lab(), size=LARGE)


def test_details_come_again_when_the_job_has_changed_and_not_before() -> None:
    async def scene(on: Stage) -> None:
        await at(on, RUNNING)
        await on.press("enter", "i")
        await on.until(lambda: on.sees("attempt 1 on GPUs 4-5"), "the history")
        await on.pass_seconds(5)
        assert len(asked(on)) == 1
        done = job(42, JobState.COMPLETED, node="gpu-a1", user="bob", revision=3)
        on.cluster.all_jobs["gpu-a1", 42] = done
        on.cluster.say(JobUpdate(job=done))
        await on.until(lambda: len(asked(on)) == 2, "asked again")
        await on.pass_seconds(100)
        assert len(asked(on)) == 2, "an ended job does not change"

    def asked(on: Stage) -> list[object]:
        return [call for call in on.cluster.calls if call[0] == "report"]

    play(scene, queue_lab(), size=LARGE)


def test_a_server_without_details_leaves_the_rest() -> None:

    cluster = queue_lab()
    cluster.reports.clear()

    async def scene(on: Stage) -> None:
        await at(on, WAITING)
        await on.press("enter")
        await on.until(lambda: on.sees("what helps"), "what the stream told")

    play(scene, cluster)


def test_a_gpu_is_drained_for_a_reason_and_resumed() -> None:
    async def scene(on: Stage) -> None:
        await on.press("2", "enter")
        on.app.screen.query_one(MachineTable).focus()
        await on.press("j", "D")
        assert on.sees("Drain GPU 1 of gpu-a1") and on.sees("41 llama-ft-70b") and on.sees("go on to the end")
        await on.press("enter")
        assert on.sees("type a reason")
        await on.press(*"fan [red]loud", "enter")
        await on.until(lambda: on.sees("* 41"), "it is marked where it is listed")
        await on.press("U")
        assert on.sees("Resume GPU 1 of gpu-a1?") and on.sees("drained by root: fan [red]loud")
        await on.press("y")
        await on.until(lambda: not on.sees("* 41"), "and free again")
        await on.press("U")
        assert on.sees("nothing to resume")

    uuid = "GPU-gpu-a1-1"
    assert changes(play(scene, queue_lab(), size=LARGE)) == [
        ("drain", ("gpu-a1", DrainRequest(gpu=uuid, reason="fan [red]loud"))),
        ("resume", ("gpu-a1", DrainRequest(gpu=uuid))),
    ]


def test_a_node_is_drained_from_the_list_and_says_so_everywhere() -> None:
    async def scene(on: Stage) -> None:
        await on.press("2", "D", *"power", "enter")
        await on.until(lambda: on.sees("* drained") and on.sees("drained by root: power"), "in the list")
        await on.press("enter")
        assert on.sees("no new job starts here")

    calls = changes(play(scene, queue_lab(), size=LARGE))
    assert calls == [("drain", ("gpu-a1", DrainRequest(reason="power")))]


def test_who_drained_it_meanwhile_is_told() -> None:
    async def scene(on: Stage) -> None:
        await on.press("2", "D", *"power")
        FakeClient(on.cluster).drain(DrainRequest(reason="fan"), "gpu-a1")
        await on.press("enter")
        notices = on.app._notifications  # as said: on the screen it is folded
        await on.until(lambda: any("; was drained by root: fan" in each.message for each in notices), "the one before")

    play(scene, queue_lab(), size=LARGE)


def test_a_refused_drain_says_why() -> None:
    async def scene(on: Stage) -> None:
        on.cluster.refusal = ApiError(403, "forbidden", "only admins drain")
        await on.press("2", "D", *"x", "enter")
        await on.until(lambda: on.sees("only admins drain"), "the reason")

    play(scene, queue_lab())


def test_reservations_stand_on_the_nodes_page() -> None:
    async def scene(on: Stage) -> None:
        await on.press("2", "enter")
        await on.until(lambda: on.sees("reserved course: GPUs 4-7 for alice, dan "), "what is booked")

    play(scene, queue_lab())


def test_a_preview_says_when_and_where_and_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.sh").write_text("#!/bin/sh\n")
    monkeypatch.chdir(tmp_path)

    async def scene(on: Stage) -> None:
        await on.press("S", "f3")
        assert on.sees("is a folder"), "and no script"
        await on.press(*"train.sh", "enter", "f3")
        await on.until(lambda: on.sees("Preview, nothing is stored: 1 job of 2 GPUs on n1, GPU 6-7"), "the plan")
        on.cluster.refusal = ApiError(400, "bad_option", "9 GPUs asked for", "train.sh:2")
        await on.press("f3")
        await on.until(lambda: on.sees("train.sh:2: 9 GPUs asked for"), "what is wrong with it")

    assert [call[0] for call in play(scene, queue_lab(), size=LARGE).calls] == ["plan", "plan"]


def test_the_palette_offers_what_the_screen_can_do() -> None:
    async def scene(on: Stage) -> None:
        here = {command.title for command in on.app.get_system_commands(on.app.screen)}
        assert {"Hold", "Drain", "Submit"} <= here and "Details" not in here
        await at(on, WAITING)
        await on.press("ctrl+p", *"put this", "escape", "ctrl+p", *"hold")
        await on.until(lambda: on.sees("from starting"), "it is offered")
        await on.press("enter")
        await on.until(lambda: on.sees("Hold job 44?"), "and done as by its key")

    play(scene, queue_lab())


def test_a_hostile_array_and_its_parameters_are_text() -> None:
    evil = "\x1b]0;x\x07[red]x[/]\u202e"
    tasks: list[Job] = [
        job(60 + n, JobState.PENDING, array_job_id=60, array_task_id=n, array_text=evil, sweep={evil: evil}, name=evil,
            reason=evil, dependency=evil)
        for n in range(3)
    ]  # fmt: skip
    cluster = FakeCluster([up(node("n1", (gpu(0),)))], tasks, evaluation())

    async def scene(on: Stage) -> None:
        await on.press("3", "enter")
        assert on.screen_name == "ArrayScreen"
        assert not [char for line in on.lines() for char in line if not char.isprintable()]
        await on.press("escape", "X")
        assert on.sees("Cancel how many of array 60?") and on.sees("[red]x[/]")

    play(scene, cluster)


def test_times_of_the_queue_follow_the_servers_clock() -> None:
    async def scene(on: Stage) -> None:
        await at(on, WAITING)
        await on.pass_seconds(8990)
        assert on.sees("in 10 s")
        await on.pass_seconds(60)
        assert on.sees("next")

    assert NOW and play(scene, queue_lab())
