"""A job's log on its screen: it is followed, read up, searched, folded, and let go of where it gets long."""

from __future__ import annotations

import pytest
from textual.events import MouseScrollDown, MouseScrollUp

from agent.api.errors import DeadlineError
from agent.api.refs import JobRef
from agent.api.types import JobState, LogChunk, LogEnd
from tests.fakes.values import job
from tests.screens.stage import Stage, play
from tui.widgets.logview import LogView


def test_a_log_is_followed_as_it_grows_until_the_job_ends() -> None:
    async def scene(on: Stage) -> None:
        on.cluster.logs["gpu-a1", 41] = b"first line\n"
        await on.press("3", "j", "enter")
        await on.until(lambda: on.sees("first line"), "what there was")
        feed = on.cluster.follows[0]
        feed.push(LogChunk(offset=11, data=b"half of a "))
        await on.until(lambda: on.sees("half of a"), "an open line is shown")
        feed.push(LogChunk(offset=21, data=b"line \xe2\x82"))
        feed.push(LogChunk(offset=28, data=b"\xac\n"))
        await on.until(lambda: on.sees("half of a line €"), "and completed, a letter cut in two by the chunk included")
        feed.push(LogChunk(offset=1_000_030, data=b"after the cap\n"))
        await on.until(lambda: on.sees("left out"), "what the cap left out is noted")
        feed.push(LogEnd(job=job(41, JobState.COMPLETED, node="gpu-a1")))
        await on.until(lambda: on.sees("Log, complete"), "the end")
        assert not on.sees("following"), "nothing more comes"

    play(scene)


def test_a_broken_log_goes_on_where_it_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.links.Follower.__init__.__defaults__", (lambda attempt: 0.05,))

    async def scene(on: Stage) -> None:
        on.cluster.logs["gpu-a1", 41] = b"before\n"
        await on.press("3", "j", "enter")
        await on.until(lambda: on.sees("before"), "the beginning")
        on.cluster.logs["gpu-a1", 41] = b"before\nafter\n"
        on.cluster.follows[0].push(DeadlineError("the head node is silent"))
        await on.until(lambda: on.sees("after"), "the rest")
        assert len([line for line in on.lines() if "before" in line]) == 1

    calls = play(scene).calls
    assert [call[1] for call in calls] == [(JobRef(id=41, node="gpu-a1"), 0), (JobRef(id=41, node="gpu-a1"), 7)]


def test_reading_up_stops_following_and_g_goes_on() -> None:
    async def scene(on: Stage) -> None:
        on.cluster.logs["gpu-a1", 41] = b"".join(b"line %d\n" % number for number in range(500))
        await on.press("3", "j", "enter")
        await on.until(lambda: on.sees("line 499"), "the end of the log")
        await on.press("k", "k", "ctrl+u")
        assert on.sees("paused")
        assert not on.sees("line 499")
        await on.press("g")
        assert on.sees("line 0")
        await on.press("G")
        assert on.sees("following") and on.sees("line 499")
        await on.press("f")
        on.cluster.follows[0].push(LogChunk(offset=len(on.cluster.logs["gpu-a1", 41]), data=b"new line\n"))
        await on.until(lambda: on.sees("501 lines"), "it came")
        assert not on.sees("new line")

    play(scene)


def test_the_wheel_stops_following_and_begins_it_again_at_the_end() -> None:
    async def scene(on: Stage) -> None:
        on.cluster.logs["gpu-a1", 41] = b"".join(b"line %d\n" % number for number in range(500))
        await on.press("3", "j", "enter")
        await on.until(lambda: on.sees("line 499"), "the end of the log")
        log = on.app.screen.query_one(LogView)
        log.post_message(wheel(log, MouseScrollUp))
        await on.until(lambda: on.sees("paused"), "reading")
        for _ in range(3):
            log.post_message(wheel(log, MouseScrollDown))
        await on.until(lambda: on.sees("following"), "at the end again")

    play(scene)


def wheel(log: LogView, turned: type[MouseScrollUp] | type[MouseScrollDown]) -> MouseScrollUp | MouseScrollDown:
    """One notch of the mouse wheel over the log."""
    return turned(log, 5, 5, 0, 0, 0, False, False, False, 5, 15)


@pytest.mark.parametrize("size", [(80, 24), (81, 24), (120, 40), (80, 30)])
def test_a_change_of_size_does_not_end_following(size: tuple[int, int]) -> None:
    async def scene(on: Stage) -> None:
        on.cluster.logs["gpu-a1", 41] = b"".join(b"%d " % number * 40 + b"\n" for number in range(300))
        await on.press("3", "j", "enter")
        await on.until(lambda: on.sees("299 299"), "the end of the log")
        await on.pilot.resize_terminal(*size)
        await on.settle()
        await on.until(lambda: on.sees("following") and on.sees("299 299"), "still at the end")

    play(scene, size=(100, 28))


def test_search_walks_the_matches_round_the_ends() -> None:
    async def scene(on: Stage) -> None:
        lines = [b"NaN here" if number in (3, 200, 400) else b"line %d" % number for number in range(500)]
        on.cluster.logs["gpu-a1", 41] = b"\n".join(lines) + b"\n"
        await on.press("3", "j", "enter")
        await on.until(lambda: on.sees("line 499"), "the end of the log")
        await on.press("slash", *"nan", "enter")
        assert on.sees("match 3 of 3") and on.sees("NaN here")
        await on.press("n")
        assert on.sees("match 1 of 3")
        await on.press("N", "N")
        assert on.sees("match 2 of 3") and on.sees("line 199")
        await on.press("slash", "escape")
        assert not on.sees("match")

    play(scene)


def test_long_lines_fold_or_run_off() -> None:
    async def scene(on: Stage) -> None:
        on.cluster.logs["gpu-a1", 41] = b"a" * 100 + b"END\nlast\n"
        await on.press("3", "j", "enter")
        await on.until(lambda: on.sees("END"), "folded")
        await on.press("w")
        assert not on.sees("END")
        assert on.sees("not folded")
        await on.press(*["l"] * 6)
        assert on.sees("END")
        await on.press("w")
        assert on.sees("END")

    play(scene)


def test_the_start_option_opens_the_job_and_its_log() -> None:
    async def scene(on: Stage) -> None:
        await on.until(lambda: on.screen_name == "JobScreen", "the job's screen")
        assert on.sees("vit-sweep")

    play(scene, job=JobRef(id=42))


def test_a_log_view_lets_go_of_old_lines() -> None:
    async def scene(on: Stage) -> None:
        on.cluster.logs["gpu-a1", 41] = b""
        await on.press("3", "j", "enter")
        await on.until(lambda: on.cluster.follows, "following")
        for part in range(3):
            lines = b"".join(b"%d\n" % number for number in range(part * 8000, part * 8000 + 8000))
            on.cluster.follows[0].push(LogChunk(offset=part * 50_000, data=lines))
        await on.until(lambda: on.sees("23999"), "the newest")
        log = on.app.screen.query_one(LogView)
        assert log.line_count <= 20_000
        await on.press("g")
        assert on.sees("older lines let go")

    play(scene)
