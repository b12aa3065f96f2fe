"""One job: what it is, the GPUs it holds, and its log as it grows."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Input

from agent.api.types import LogEnd
from tui import rows, units
from tui.cluster import JobKey, LinkDown
from tui.inbox import LogInbox
from tui.keymap import Scope
from tui.logtext import LogText
from tui.screens.base import BaseScreen
from tui.screens.jobs import CancelJobs, job_facts
from tui.session import Session
from tui.widgets.find import Find
from tui.widgets.keys import bindings
from tui.widgets.logview import LogView
from tui.widgets.panel import Panel
from tui.widgets.table import Table

_ROOM_FOR_GPUS = 30
"""Terminal lines from which the GPUs of the job are shown over its log."""


class JobScreen(BaseScreen):
    """A job with its live log."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.JOB)
    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.LOG, Scope.JOB)
    DETAIL = True

    def __init__(self, session: Session, key: JobKey) -> None:
        super().__init__(session)
        self.key = key
        self._text = LogText()
        self._inbox = LogInbox()
        self._follower = session.follow(key, self._inbox)
        self._news: LogEnd | LinkDown | None = None

    def body(self) -> ComposeResult:
        """Facts, GPUs where there is room, log."""
        yield Panel(id="facts")
        yield Table(rows.GPU_COLUMNS, empty="no GPUs held", id="gpus")
        yield LogView(id="log")

    def on_mount(self) -> None:
        """Begin to follow."""
        super().on_mount()
        self.query_one("#gpus", Table).can_focus = False
        self.query_one(LogView).focus()
        self._follower.start()

    def on_unmount(self) -> None:
        """Nobody looks any more."""
        self._follower.stop()

    @property
    def has_news(self) -> bool:
        """A piece of the log."""
        return self._inbox.waiting

    def trail(self) -> tuple[str, ...]:
        """Jobs, and which."""
        return "Jobs", str(self.key[1])

    def update_body(self, now: float) -> None:
        """Draw the facts, the GPUs, and what of the log has come."""
        job = self.session.cluster.job(self.key)
        facts, gpus = self.query_one("#facts", Panel), self.query_one("#gpus", Table)
        facts.entitle(job.name if job else f"job {self.key[1]}")
        facts.show(job_facts(self.session, self.key))
        view = self.session.cluster.node(self.key[0], now)
        held = set(job.gpu_uuids) if job and not job.state.is_final else set()
        listed = (
            [row for row in rows.gpu_rows(self.session.cluster, view, short=self.short) if _uuid(row.key) in held]
            if view
            else []
        )
        gpus.display = bool(listed) and self.size.height >= _ROOM_FOR_GPUS
        gpus.styles.height = min(len(listed), 8) + 3
        gpus.show(listed)
        gpus.entitle(f"GPUs held {len(listed)}")
        self._take_log()

    def _take_log(self) -> None:
        pieces, news = self._inbox.drain()
        log = self.query_one(LogView)
        lines = [line for piece in pieces for line in self._text.feed(piece.offset, piece.data)]
        if news is not None or pieces:
            self._news = news
        if isinstance(news, LogEnd):
            lines += self._text.finish()
        log.append(lines, self._text.partial)
        self._entitle(log)

    def _entitle(self, log: LogView) -> None:
        state = "following" if log.following else "paused; G goes to the end"
        words = [units.count(log.line_count, "line"), state, *([] if log.wrapped else ["not folded"])]
        if log.search_state:
            words.append(f"{log.search_state}, n and N move")
        title = "Log"
        if isinstance(self._news, LogEnd):
            title = "Log, complete" if log.line_count else "Log: the job wrote nothing"
        elif isinstance(self._news, LinkDown):
            title = f"Log, interrupted: {self._news.reason}"
        elif not log.line_count:
            title = "Log: nothing yet"
        log.entitle(title, " · ".join(words))

    def action_cancel(self) -> None:
        """Ask about this job."""
        self.post_message(CancelJobs((self.key,)))

    @on(LogView.Changed)
    def show_log_state(self) -> None:
        """The frame says how the log is being read."""
        self._entitle(self.query_one(LogView))

    @on(LogView.SearchWanted)
    def open_search(self) -> None:
        """Show the search line."""
        log = self.query_one(LogView)
        self.query_one(Find).open("search the log   enter finds, esc clears", log.word)
        self._found_for = log

    @on(Input.Submitted, "#find")
    def search(self, event: Input.Submitted) -> None:
        """Find the word."""
        self.query_one(LogView).search(event.value)

    @on(Find.GivenUp)
    def forget_search(self) -> None:
        """No word any more."""
        self.query_one(LogView).search("")


def _uuid(key: object) -> object:
    return key[1] if isinstance(key, tuple) else None
