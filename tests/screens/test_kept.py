"""What a widget has drawn is kept until it is refreshed, line by line, and then it is what a whole drawing gives."""

from __future__ import annotations

from textual.geometry import Region
from textual.strip import Strip

from tests.screens.stage import LARGE, Stage, play
from tui.spans import Row, cell
from tui.widgets.table import Table


class Counted:
    """Which lines a widget was asked for."""

    def __init__(self, table: Table) -> None:
        self.lines: list[int] = []
        said = table.render_line

        def count(y: int) -> Strip:
            self.lines.append(y)
            return said(y)

        table.render_line = count  # type: ignore[method-assign]

    def take(self) -> list[int]:
        taken, self.lines = sorted(set(self.lines)), []
        return taken


def drawn(table: Table) -> list[str]:
    return [strip.text for strip in table.render_lines(Region(0, 0, *table.outer_size))]


def rows(*names: str) -> list[Row]:
    return [Row(key=index, cells=(cell(name),) * 7) for index, name in enumerate(names)]


def test_only_what_changed_is_drawn_anew_and_it_looks_as_if_all_was() -> None:
    async def scene(on: Stage) -> None:
        table = on.app.screen.query_one("#gpus", Table)
        table.show(rows("aaaaaaaa", "bbbbbbbb", "cccccccc"))
        table.entitle("GPUs 3", "mean load 1%")
        await on.pilot.pause()
        drawn(table)
        asked = Counted(table)
        drawn(table)
        assert asked.take() == []
        table.show(rows("aaaaaaaa", "xxxxxxxx", "cccccccc"))
        assert "xxxxxxxx" in drawn(table)[3]
        assert asked.take() == [2]
        table.entitle("GPUs 3", "mean load 2%")
        assert "mean load 2%" in drawn(table)[-1]
        assert asked.take() == [], "of a title the frame alone"
        before = drawn(table)
        table.refresh()
        assert drawn(table) == before
        assert len(asked.take()) == table.size.height

    play(scene, size=LARGE)
