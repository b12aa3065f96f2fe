"""Incidents and inventories on the screen: what is told of them, and what the server is asked."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from agent.api.errors import ApiError
from agent.api.health import Incident, Severity
from agent.api.queue import DrainRequest
from agent.api.types import MAX_INCIDENTS, LinkState, NodeStatus, NodeUpdate
from tests.fakes.cluster import FakeClient, FakeCluster
from tests.fakes.lab import A2, health_lab, incident, lab
from tests.fakes.values import NOW, evaluation, gpu, node, up
from tests.screens.stage import LARGE, SMALL, Stage, play
from tests.screens.test_hostile import EVIL, acting
from tui.screens.incidents import IncidentsScreen
from tui.widgets.table import Table


async def at(on: Stage, key: object = None) -> None:
    """On the list of incidents, with the cursor on one."""
    await on.press("4")
    assert isinstance(on.app.screen, IncidentsScreen)
    if key is not None:
        on.app.screen.query_one("#incidents", Table).select(key)
        await on.settle()


def changes(cluster: FakeCluster) -> list[tuple[str, object]]:
    return [call for call in cluster.calls if call[0] in ("acknowledge", "clear", "accept", "drain", "resume")]


def with_incidents(*incidents: Incident, name: str = "n1") -> FakeCluster:
    described = node(name, (gpu(0, node=name), gpu(1, node=name)), incidents=incidents)
    return FakeCluster([up(described)], [], evaluation())


def test_the_newest_come_first_with_word_and_sign() -> None:
    async def scene(on: Stage) -> None:
        await at(on)
        words = [line[2:13].strip() for line in on.lines()[3:7]]
        assert [word.lstrip("▌ ") for word in words] == ["! critical", "~ warning", "~ warning", "i info"]
        assert on.sees("to do:  end its jobs; nvidia-smi --gpu-reset"), "what to do, of the one under the cursor"
        assert on.sees("1 critical, 1 warning, 1 info, 1 seen")
        await at(on, ("gpu-a1", 12))
        assert on.sees("job 42 vit-sweep of bob   pid 4711   XID 31")
        assert on.sees("3 times, the last 11:06:20   seen by root 11:03:20")

    play(scene, health_lab(), LARGE)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_screen_says_that_something_critical_is_open(size: tuple[int, int]) -> None:
    async def scene(on: Stage) -> None:
        for keys in ("1", "2", "enter", "3", "enter", "4", "i"):
            await on.press(keys)
            assert "!1 crit" in on.lines()[0], keys

    play(scene, health_lab(), size)


def test_acknowledging_asks_and_names_it() -> None:
    async def scene(on: Stage) -> None:
        await at(on, ("gpu-a2", 7))
        await on.press("A")
        assert on.sees("Acknowledge 1 incident?") and on.sees("GPU 7 has not answered since")
        await on.press("enter")
        assert changes(on.cluster) == [], "no is the default"
        await on.press("A", "y")
        await on.until(lambda: on.sees("seen by root"), "the stream tells")
        assert "1 crit, seen" in on.lines()[0], "still open, but it does not shout"
        await on.press("A")
        await on.until(lambda: on.sees("There is nothing to acknowledge"), "it is done")

    assert changes(play(scene, health_lab())) == [("acknowledge", ("gpu-a2", 7))]


def test_all_that_a_filter_shows_are_acknowledged_at_once() -> None:
    async def scene(on: Stage) -> None:
        await at(on)
        await on.press("slash", *"gpu-a2", "enter", "asterisk")
        assert on.sees("2 marked")
        await on.press("A")
        assert on.sees("Acknowledge 2 incidents?")
        await on.press("y")
        await on.until(lambda: on.sees("Acknowledged: 2 incidents"), "both")

    asked = changes(play(scene, health_lab(), LARGE))
    assert asked == [("acknowledge", ("gpu-a2", 7)), ("acknowledge", ("gpu-a2", 6))]


def test_one_that_is_over_by_word_leaves_the_list() -> None:
    async def scene(on: Stage) -> None:
        await at(on, ("gpu-a2", 7))
        await on.press("C")
        assert on.sees("Clear 1 incident?") and on.sees("What is still wrong is opened again.")
        await on.press("n")
        assert changes(on.cluster) == []
        await on.press("C", "y")
        await on.until(lambda: on.sees("Cleared: 1 incident"), "told")
        await on.until(lambda: on.sees("Incidents 3") and "crit" not in on.lines()[0], "it is gone")

    assert changes(play(scene, health_lab(), LARGE)) == [("clear", ("gpu-a2", 7))]


def test_who_may_not_is_told_so_and_nothing_changes() -> None:
    async def scene(on: Stage) -> None:
        await at(on, ("gpu-a2", 7))
        on.cluster.refusal = ApiError(403, "forbidden", "acknowledging incidents is for admins (group stoker-admin)")
        await on.press("A", "y")
        await on.until(lambda: on.sees("is for admins"), "the server's word")
        assert on.sees("refused") and "!1 crit" in on.lines()[0]

    play(scene, health_lab())


def test_from_an_incident_to_its_job_its_node_and_a_drain() -> None:
    async def scene(on: Stage) -> None:
        await at(on, ("gpu-a2", 6))
        await on.press("b")
        assert "Jobs ▸ 43" in on.lines()[0]
        await on.press("escape", "n")
        assert "Nodes ▸ gpu-a2" in on.lines()[0]
        await on.press("escape", "D", *"too hot", "enter")
        await on.until(lambda: on.sees("the GPU is drained by root: too hot"), "the drain is told beside it")
        await on.press("U", "y")
        await on.until(lambda: not on.sees("drained by root"), "resumed")
        await at(on, ("gpu-a2", 7))
        await on.press("b")
        await on.until(lambda: on.sees("It hit no job."), "a sentence, and no other screen")

    asked = changes(play(scene, health_lab(), LARGE))
    assert asked == [
        ("drain", ("gpu-a2", DrainRequest(gpu=A2[3], reason="too hot"))),
        ("resume", ("gpu-a2", DrainRequest(gpu=A2[3]))),
    ]


def test_those_that_are_over_are_asked_for_by_key() -> None:
    async def scene(on: Stage) -> None:
        await at(on)
        assert not on.sees("17 Nov")
        await on.press("o")
        await on.until(lambda: on.sees("17 Nov 11:06"), "the one of yesterday")
        await on.until(lambda: on.sees("1 over"), "counted")
        await on.press("o")
        assert not on.sees("17 Nov 11:06")

    play(scene, health_lab(), LARGE)


def test_who_ended_it_and_when_its_gpu_was_drained_is_told() -> None:
    async def scene(on: Stage) -> None:
        await at(on, ("n1", 2))
        assert on.sees("its GPU was drained for it 11:05:45")
        await on.press("o")
        await on.until(lambda: on.sees("2 over"), "counted")
        await at(on, ("n1", 1))
        assert on.sees("over since 11:06:35, said by root") and not on.sees("was drained")
        await at(on, ("n1", 3))
        assert on.sees("over since 11:06:36") and not on.sees("said by")

    cluster = with_incidents(incident(2, drained_at=NOW - 55))
    cluster.over["n1"] = [incident(1, cleared_at=NOW - 5, cleared_by="root"), incident(3, cleared_at=NOW - 4)]
    play(scene, cluster, LARGE)


def test_an_answer_that_took_long_does_not_replace_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first, go, taken = threading.Event(), threading.Event(), list[object]()
    ask = FakeClient.incidents

    def slow(client: FakeClient, *, over: bool = False, node: str | None = None) -> list[Incident]:
        answer = ask(client, over=over, node=node)
        if not first.is_set():
            first.set()
            assert go.wait(30)
        return answer

    monkeypatch.setattr(FakeClient, "incidents", slow)
    take = IncidentsScreen._take

    def told(screen: IncidentsScreen, *words: Any) -> None:
        take(screen, *words)
        taken.append(words)

    monkeypatch.setattr(IncidentsScreen, "_take", told)

    async def scene(on: Stage) -> None:
        await at(on)
        await on.press("o")
        await on.until(first.is_set, "the first is asked")
        on.cluster.over.clear()  # as the server has forgotten it since
        await on.press("o", "o")
        await on.until(lambda: len(taken) == 1, "the second has its answer")
        go.set()
        await on.until(lambda: len(taken) == 2, "and the first, late")
        await on.settle()
        assert not on.sees("17 Nov 11:06")

    play(scene, health_lab(), LARGE)


def test_a_node_that_goes_away_keeps_its_incidents_and_says_how_old_they_are() -> None:
    async def scene(on: Stage) -> None:
        await at(on, ("gpu-a2", 7))
        described = on.cluster.statuses["gpu-a2"].node
        gone = NodeStatus(name="gpu-a2", link=LinkState.LOST, age_s=95.0, reason="no route to host", node=described)
        on.cluster.say(NodeUpdate(status=gone))
        await on.until(lambda: on.sees("this is what it told last"), "its age")
        assert on.sees("lost since 95 s") and on.sees("node lost; GPU 7 has not answered")
        assert "!1 crit" in on.lines()[0], "nobody has said that it is over"
        on.cluster.say(NodeUpdate(status=NodeStatus(name="gpu-a2", link=LinkState.LOST, age_s=99.0)))
        await on.until(lambda: not on.sees("GPU 7 has not"), "a server that remembers nothing of it")

    play(scene, health_lab(), LARGE)


def test_an_incident_that_clears_leaves_the_list_and_the_cursor_stands() -> None:
    async def scene(on: Stage) -> None:
        await at(on, ("gpu-a1", 11))
        described = on.cluster.statuses["gpu-a2"].node
        assert described is not None
        on.cluster.say(NodeUpdate(status=up(msgspec.structs.replace(described, incidents=()))))
        await on.until(lambda: on.sees("Incidents 2"), "both of that node are over")
        assert on.sees("incident 11 of gpu-a1") and "crit" not in on.lines()[0]

    play(scene, health_lab())


def test_no_incident_says_so() -> None:
    async def scene(on: Stage) -> None:
        await at(on)
        assert on.sees("no incident is open; o shows those that are over") and on.sees("none is open")
        for key in ("A", "b", "n", "i", "D", "U", "space", "asterisk", "enter"):
            await on.press(key)
        assert isinstance(on.app.screen, IncidentsScreen)

    assert changes(play(scene, lab())) == []


def test_a_thousand_incidents_are_listed_counted_and_filtered() -> None:
    """The stream tells the newest of a node; the others are asked for."""
    many = [
        incident(number, what=f"GPU 0 is lost, time {number}", opened_at=NOW - 1000 + number,
                 severity=Severity.WARNING if number % 2 else Severity.CRITICAL)
        for number in range(1000)
    ]  # fmt: skip
    cluster = with_incidents(*reversed(many[-MAX_INCIDENTS:]))
    asked_for = list(reversed(many))

    async def scene(on: Stage) -> None:
        await at(on)
        await on.until(lambda: on.sees("Incidents 1000"), "all of them")
        assert on.sees("500 critical, 500 warning")
        assert on.sees("time 999")
        await on.press("G")
        assert on.sees("time 0")
        await on.press("slash", *"time 77", "enter")
        assert on.sees("Incidents 11 of 1000")

    class Full(type(cluster.client())):  # type: ignore[misc]
        def incidents(self, *, over: bool = False, node: str | None = None) -> list[Incident]:
            return asked_for

    cluster.client = lambda: Full(cluster)  # type: ignore[method-assign]
    play(scene, cluster, LARGE)


def test_hostile_incidents_act_on_nothing() -> None:
    evil = incident(1, what=EVIL, advice=EVIL, user=EVIL, acknowledged_by=EVIL, gpu_uuid=EVIL, job_id=9, pid=2**40)

    async def scene(on: Stage) -> None:
        await at(on)
        for keys in ("enter", "escape", "b", "n", "escape", "i", "escape", "A", "escape"):
            await on.press(keys)
            assert acting(on.lines()) == [] and not on.app._exit
        await at(on)
        assert on.sees("[bold red]x[/]"), "markup is text"

    play(scene, with_incidents(evil), LARGE)


def test_the_inventory_tells_what_differs_and_takes_it_for_right() -> None:
    async def scene(on: Stage) -> None:
        await at(on, ("gpu-a2", 7))
        await on.press("i")
        await on.until(lambda: on.sees("x missing"), "a GPU too few")
        assert on.sees("1 difference; A accepts what is there")
        await on.press("A")
        assert on.sees("GPU 8 (Simulated H100 80GB, GPU-gpu-a2-8) is missing")
        on.cluster.refusal = ApiError(409, "not_readable", "GPU 7 cannot be read (hung); mend it first")
        await on.press("y")
        await on.until(lambda: on.sees("mend it first"), "refused")
        assert on.sees("x missing")
        await on.press("A", "y")
        await on.until(lambda: on.sees("as at install"), "accepted")

    assert changes(play(scene, health_lab(), LARGE)) == [("accept", "gpu-a2"), ("accept", "gpu-a2")]


def test_the_palette_knows_what_the_keys_do() -> None:
    async def scene(on: Stage) -> None:
        await at(on, ("gpu-a2", 6))
        await on.press("ctrl+p", *"acknowledge")
        await on.until(lambda: on.sees("say that you have seen it"), "found")
        await on.press("enter")
        await on.until(lambda: on.sees("Acknowledge 1 incident?"), "asked")

    play(scene, health_lab(), LARGE)
