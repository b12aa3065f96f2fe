"""What keys do: asserted by what the server is asked, and by what is on the screen afterwards."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from agent.api.errors import ApiError
from agent.api.hostkeys import HostKey, UnknownHostError
from agent.api.refs import JobRef
from agent.api.types import JobUpdate, NodeUpdate
from tests.fakes.cluster import FakeCluster, no_server
from tests.fakes.lab import lab
from tests.fakes.values import NOW, evaluation, gpu, job, node, up
from tests.screens.stage import LARGE, SMALL, Stage, play
from tui.app import StokerApp
from tui.theme import DARK, LIGHT
from tui.widgets.table import Table


def test_screens_by_number_and_back_by_esc() -> None:
    async def scene(on: Stage) -> None:
        for key, name in (("2", "NodesScreen"), ("3", "JobsScreen"), ("1", "OverviewScreen"), ("2", "NodesScreen")):
            await on.press(key)
            assert on.screen_name == name
        await on.press("enter")
        assert on.screen_name == "NodeScreen"
        assert on.sees("▸ gpu-a1")
        await on.press("enter")
        assert on.screen_name == "JobScreen"
        await on.press("escape")
        assert on.screen_name == "NodeScreen"
        await on.press("escape", "escape", "escape")
        assert on.screen_name == "NodesScreen"
        await on.press("enter", "3")
        assert on.screen_name == "JobsScreen"
        assert len(on.app.screen_stack) == 2

    play(scene)


def test_tab_moves_between_the_panes_of_every_screen() -> None:
    async def scene(on: Stage) -> None:
        for keys in ((), ("2",), ("enter",), ("3",), ("enter",)):
            await on.press(*keys)
            here, before = on.screen_name, on.app.focused
            seen = set()
            for _ in range(3):
                await on.press("tab")
                seen.add(on.app.focused)
            assert on.screen_name == here
            assert None not in seen
            if here == "OverviewScreen":
                assert seen - {before}, "it has two panes"

    play(scene)


def test_cancel_asks_names_the_job_and_means_no_by_default() -> None:
    async def scene(on: Stage) -> None:
        await on.press("3", "j", "X")
        assert on.sees("Cancel job 41?")
        assert on.sees("llama-ft-70b")
        assert on.sees("SIGTERM")
        await on.press("enter")
        assert on.screen_name == "JobsScreen"
        await on.press("X", "escape", "X", "n")
        assert on.screen_name == "JobsScreen"

    assert play(scene).calls == []


def test_cancel_with_yes_cancels_that_job_and_no_other() -> None:
    async def scene(on: Stage) -> None:
        await on.press("3", "j", "X", "y")
        await on.until(lambda: on.sees("Cancel asked for: 41 CANCELLED"), "the answer is shown")

    assert play(scene).calls == [("cancel", JobRef(id=41, node="gpu-a1"))]


def test_cancel_by_the_button_needs_a_move_to_it() -> None:
    async def scene(on: Stage) -> None:
        await on.press("3", "X", "tab", "enter")
        await on.until(lambda: on.cluster.calls, "the server was asked")

    assert play(scene).calls == [("cancel", JobRef(id=43, node="gpu-a2"))]


def test_marked_jobs_are_all_named_hidden_ones_too() -> None:
    async def scene(on: Stage) -> None:
        await on.press("3", "space", "space")
        assert on.sees("2 marked")
        await on.press("slash", *"vit", "enter", "X")
        assert on.sees("Cancel 2 jobs?")
        assert on.sees("41 llama-ft-70b") and on.sees("43 moe-pretrain")
        await on.press("y")
        await on.until(lambda: len(on.cluster.calls) == 2, "both were asked for")

    assert {call[1] for call in play(scene).calls} == {JobRef(id=41, node="gpu-a1"), JobRef(id=43, node="gpu-a2")}


def test_an_ended_job_cannot_be_cancelled_or_marked() -> None:
    async def scene(on: Stage) -> None:
        await on.press("3", "G", "space", "X")
        assert on.screen_name == "JobsScreen"
        assert on.sees("nothing to cancel")
        assert not on.sees("marked")

    assert play(scene).calls == []


def test_a_refused_cancel_says_why() -> None:
    async def scene(on: Stage) -> None:
        on.cluster.refusal = ApiError(403, "forbidden", "job 43 is [red]carol's[/]; only she or an admin may cancel it")
        await on.press("3", "X", "y")
        await on.until(lambda: on.sees("[red]carol's[/]"), "the refusal is shown, its markup not read")

    play(scene)


def test_the_cursor_stays_on_its_job_when_others_come_and_go() -> None:
    async def scene(on: Stage) -> None:
        await on.press("3", "j", "j")
        queue = on.app.screen.query_one("#queue", Table)
        assert queue.key == ("gpu-a1", 42)
        on.cluster.say(JobUpdate(job=job(36, node="gpu-a1", submitted_at=NOW - 9_000_000)))
        await on.until(lambda: on.sees(" 36 "), "the new job is listed")
        assert queue.key == ("gpu-a1", 42)

    play(scene)


def test_filter_narrows_counts_and_is_cleared_by_esc() -> None:
    async def scene(on: Stage) -> None:
        await on.press("3", "slash", *"carol")
        assert on.sees("Jobs 2 of 9 with “carol”")
        await on.press("enter")
        assert not on.sees("RUNNING    4")
        await on.press("escape")
        assert on.sees("Jobs 9")
        await on.press("slash", *"nobody")
        assert on.sees("nothing matches “nobody”")
        await on.press("escape")
        assert on.sees("Jobs 9")

    play(scene)


def test_letters_in_the_filter_are_text_and_no_commands() -> None:
    async def scene(on: Stage) -> None:
        await on.press("3", "slash", "X", "q", "1", "S")
        assert on.screen_name == "JobsScreen"
        assert on.sees("Xq1S")

    assert play(scene).calls == []


def test_a_lost_link_ages_what_is_shown_and_comes_back() -> None:
    async def scene(on: Stage) -> None:
        await on.pass_seconds(4)
        assert on.sees("~ hub stale 4 s")
        assert on.sees("last heard 4 s ago")
        await on.pass_seconds(20)
        assert on.sees("x hub lost 24 s")
        await on.press("2")
        assert on.sees("x lost")
        assert not on.sees("71%"), "an old number is not shown as if it were live"
        await on.press("3")
        assert on.sees("llama-ft"), "what is known of jobs stays readable"
        for message in on.cluster.full_state():
            on.cluster.say(message)
        await on.until(lambda: on.sees("● hub"), "heard again")

    play(scene)


def test_a_server_that_is_not_there_is_named_with_the_next_try() -> None:
    cluster = FakeCluster()
    cluster.down = no_server()

    async def scene(on: Stage) -> None:
        await on.until(lambda: on.sees("nobody listens on /run/stoker/hub.sock"), "why")
        assert on.sees("next try in")
        on.cluster.down = None
        await on.press("r")
        await on.until(lambda: on.sees("● hub"), "there it is")

    play(scene, cluster, size=LARGE, connected=False)


def test_an_unknown_host_key_is_asked_about_and_saved_only_after_yes(tmp_path: Path) -> None:
    key = HostKey.parse("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS")
    known = tmp_path / "known_hosts"
    cluster = lab()
    cluster.down = UnknownHostError(host="head1", key=key, file=known)

    async def scene(on: Stage) -> None:
        await on.until(lambda: on.sees("head1 is not in known_hosts"), "the question")
        assert on.sees(key.fingerprint)
        await on.press("enter")
        assert not known.exists(), "no is the default"
        await on.press("r")
        await on.until(lambda: on.sees("head1 is not in known_hosts"), "asked again, because the operator wanted it")
        on.cluster.down = None
        await on.press("y")
        await on.until(lambda: on.sees("● hub"), "connected")

    play(scene, cluster, connected=False)
    assert known.read_text() == f"head1 {key}\n"


def test_a_bare_agent_is_shown_as_well() -> None:
    alone = FakeCluster([up(node("n1", tuple(gpu(i) for i in range(8))))], [job(1)], evaluation(), server="agent")

    async def scene(on: Stage) -> None:
        assert on.sees("● agent")
        assert on.sees("1/1 nodes up")
        assert len([line for line in on.lines() if " sim " in line or "simulated" in line]) >= 9

    play(scene, alone)


def test_no_gpus_says_why() -> None:
    bare = node("n1", (), gpu_source="none", gpu_reason="no NVIDIA driver is loaded")

    async def scene(on: Stage) -> None:
        assert on.sees("no GPUs: no NVIDIA driver is loaded")
        assert not on.sees("simulated")

    play(scene, FakeCluster([up(bare)], [], evaluation()), size=LARGE)


@pytest.mark.parametrize("size", [(60, 15), (79, 24), (80, 23), (20, 5), (20, 3)])
def test_too_small_a_terminal_is_told_what_is_needed(size: tuple[int, int]) -> None:
    async def scene(on: Stage) -> None:
        told = " ".join(" ".join(on.lines()).split())
        assert told == f"{size[0]}×{size[1]} is too small; Stoker needs 80×24 (q quits)", "once, and all of it"
        await on.pilot.resize_terminal(80, 24)
        await on.settle()
        assert on.sees("llama-ft-70b"[:6])
        await on.pilot.resize_terminal(*size)
        await on.settle()
        assert not on.sees("llama")

    play(scene, size=size)


def test_dark_and_light() -> None:
    async def scene(on: Stage) -> None:
        for before, after in ((LIGHT, DARK), (DARK, LIGHT)):
            assert str(before.success) in on.app.export_screenshot(), "the glyph of a node that is up"
            await on.press("ctrl+t")
            picture = on.app.export_screenshot()
            assert str(after.success) in picture and str(before.success) not in picture

    play(scene, theme="light")


def test_help_lists_every_key_once() -> None:
    async def scene(on: Stage) -> None:
        await on.press("question_mark")
        assert on.sees("everywhere")
        await on.press("escape")
        assert on.screen_name == "OverviewScreen"

    play(scene)


def test_the_palette_offers_our_commands() -> None:
    async def scene(on: Stage) -> None:
        await on.press("ctrl+p", *"jobs")
        await on.until(lambda: on.sees("the queue, and the jobs that have ended"), "found")
        await on.press("enter")
        await on.until(lambda: on.screen_name == "JobsScreen", "and done")

    play(scene, size=LARGE)


def test_the_licence_counts_down_and_tells_what_helps() -> None:
    async def scene(on: Stage) -> None:
        assert on.sees("evaluation, 13 d 23 h left")
        await on.pass_seconds(2 * 3600)
        assert on.sees("evaluation, 13 d 21 h left")

    play(scene)


def test_no_thread_is_left_when_the_screen_closes() -> None:
    async def scene(on: Stage) -> None:
        await on.press("3", "enter")
        await on.until(lambda: on.cluster.followed.is_set(), "a log link is open")

    play(scene)
    for thread in threading.enumerate():
        if thread.name.startswith("link-"):
            thread.join(5)
            assert not thread.is_alive(), thread.name


def test_nothing_waits_on_the_server_in_the_screens_thread() -> None:
    """Opening hangs for ever: the screen is drawn, keys work, and it can be left."""
    never = threading.Event()

    async def run() -> None:
        app = StokerApp(lambda: never.wait(30) and None, "nowhere")  # type: ignore[arg-type, return-value]
        async with app.run_test(size=SMALL) as pilot:
            await pilot.press("3")
            await pilot.pause()
            assert type(app.screen).__name__ == "JobsScreen"
            await pilot.press("q")

    asyncio.run(run())
    never.set()


def test_a_gpu_value_shows_its_age_while_the_node_goes_on() -> None:
    cluster = FakeCluster([up(node("n1", (gpu(0),)))], [], evaluation())

    async def scene(on: Stage) -> None:
        on.cluster.say(NodeUpdate(status=up(node("n1", (gpu(0, age_s=40.0, state="hung", reason="no answer"),)))))
        await on.until(lambda: on.sees("40 s"), "the age of the value")
        assert on.sees("no answer")

    play(scene, cluster, size=LARGE)


def test_the_help_scrolls_by_lines_by_half_pages_and_to_its_ends() -> None:
    async def scene(on: Stage) -> None:
        await on.press("question_mark")
        box = on.app.screen.query_one("#box")
        half = box.size.height // 2
        assert box.max_scroll_y > 2 * half, "there is something to scroll"
        await on.press("ctrl+d")
        assert box.scroll_offset.y == half
        await on.press("ctrl+d", "ctrl+u", "j")
        assert box.scroll_offset.y == half + 1
        await on.press("G")
        assert on.sees("signs") and box.scroll_offset.y == box.max_scroll_y
        await on.press("g")
        assert box.scroll_offset.y == 0
        assert on.sees("g G scroll")
        await on.press("escape")
        assert on.screen_name == "OverviewScreen"

    play(scene, size=SMALL)
