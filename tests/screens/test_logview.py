"""The log view on its own: it stays at the end while it follows, whatever comes and however much of it."""

from __future__ import annotations

import asyncio

import pytest
from textual.app import App, ComposeResult

from tui.logtext import LogLine
from tui.widgets.logview import KEEP, LogView


class Shell(App[None]):
    """A screen with nothing but the log."""

    def compose(self) -> ComposeResult:
        yield LogView(id="log")

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return dict.fromkeys(("dim", "load", "memory", "track"), "#888888")


@pytest.mark.parametrize("width", [10, 80], ids=["short lines", "lines that fold once the scroll bar is there"])
@pytest.mark.parametrize(
    "batches",
    [(30,), (5, 30), (KEEP + 1,), (8000, 8000, 8000), (KEEP, 1, 1)],
    ids=["one screenful", "a little first", "over the cap at once", "over the cap", "one over the cap"],
)
def test_a_followed_log_is_at_its_end(batches: tuple[int, ...], width: int) -> None:
    async def run() -> None:
        app = Shell()
        async with app.run_test(size=(80, 24)) as pilot:
            log = app.query_one(LogView)
            for count in batches:
                log.append([LogLine("x" * width)] * (count - 1) + [LogLine("the end")], "")
                await pilot.pause()
                assert log.following and log.scroll_offset.y == log.max_scroll_y
            assert log.max_scroll_y > 0
            last = "".join(segment.text for segment in log.render_line(log.size.height - 1))
            assert last.strip() == "the end"

    asyncio.run(run())
