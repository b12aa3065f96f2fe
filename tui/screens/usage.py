"""Screen 7: the GPU time of a month by user, account and model, with what a prepaid licence has left.

Rules kept here: the sums are asked for in a worker thread, now and then and when another month is wanted; what came
last stays on the screen, with the reason, when the server does not answer. Where there is room all lists are shown.
"""

from __future__ import annotations

import logging
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal

from agent.api.errors import ApiError, StokerError
from agent.api.usage import UsageBy, UsageMonth
from tui import safe, usage
from tui.keymap import Scope
from tui.screens.base import WIDE, BaseScreen, title_with_count
from tui.session import Session
from tui.widgets.keys import bindings
from tui.widgets.panel import Panel
from tui.widgets.table import Table

_ASK_AGAIN_S = 30.0
_MONTHS_BACK = 120
_LOG = logging.getLogger(__name__)


class UsageScreen(BaseScreen):
    """See the module."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.USAGE)
    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.USAGE,)
    MORE_SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.LIST,)
    TITLE_WORDS = "Usage"
    DETAIL = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._by = UsageBy.USER
        self._back = 0
        """How many months ago."""
        self._told: dict[UsageBy, UsageMonth] = {}
        self._problem = ""
        self._asked: tuple[str, float] | None = None

    def body(self) -> ComposeResult:
        """The totals over the lists."""
        yield Panel(id="totals")
        with Horizontal(id="sums"):
            for by in UsageBy:
                yield Table(usage.columns(by), empty="nobody used a GPU", id=f"by-{by.value}")

    def on_mount(self) -> None:
        """Keys go to the users."""
        super().on_mount()
        self._table(self._by).focus()

    def trail(self) -> tuple[str, ...]:
        """Beside the licence, which counts it."""
        return "Licence", "Usage"

    def update_body(self, now: float) -> None:
        """Draw the totals and the lists."""
        month = self._month()
        if self._asked is None or self._asked[0] != month or now - self._asked[1] >= _ASK_AGAIN_S:
            self._asked = month, now
            self._load(month)
        told = {by: each for by, each in self._told.items() if each.month == month}
        totals, session = self.query_one("#totals", Panel), self.session
        totals.border_title = "Usage"
        totals.border_subtitle = self._problem or ("" if told else "asking …")
        totals.show(
            usage.summary(
                told,
                session.cluster.licence,
                month,
                current=self._back == 0,
                clock=session.clock,
                wall=session.wall(),
                width=self.size.width - 5,
            )
        )
        wide = self.size.width >= WIDE
        for by in UsageBy:
            table = self._table(by)
            table.display = wide or by is self._by
            table.show(usage.table_rows(told[by].sums) if by in told else ())
            table.entitle(title_with_count(usage.TITLES[by], table), "" if wide else f"{self._place(by)} of 3, s: next")

    def action_next_by(self) -> None:
        """Users, accounts, models."""
        kinds = list(UsageBy)
        focused = next((by for by in kinds if self._table(by).has_focus), self._by)
        self._by = kinds[(kinds.index(focused) + 1) % len(kinds)]
        self.update()
        self._table(self._by).focus()

    def action_month(self, step: int) -> None:
        """One month on or back; none after this one."""
        self._back = min(_MONTHS_BACK, max(0, self._back - step))
        self.update()

    def _month(self) -> str:
        return usage.month_of(self.session.wall(), self._back)

    def _table(self, by: UsageBy) -> Table:
        return self.query_one(f"#by-{by.value}", Table)

    def _place(self, by: UsageBy) -> int:
        return list(UsageBy).index(by) + 1

    @work(thread=True, exit_on_error=False, exclusive=True, group="usage")
    def _load(self, month: str) -> None:
        """Wait for the server, off this thread."""
        found: dict[UsageBy, UsageMonth] = {}
        problem = ""
        try:
            for by in UsageBy:
                found[by] = self.session.ask(lambda client, by=by: client.usage(month, by.value))  # type: ignore[misc]
        except StokerError as error:
            _LOG.debug("no usage of %s: %s", month, error)
            absent = isinstance(error, ApiError) and error.status == 404
            problem = "this server counts none" if absent else f"not known now: {safe.text(str(error), 60)}"
        self.app.call_from_thread(self._take, found, problem)

    def _take(self, found: dict[UsageBy, UsageMonth], problem: str) -> None:
        self._told |= found
        self._problem = problem
        if self.is_mounted:
            self.update()
