"""One job: what it is, the GPUs it holds, and its log as it grows; or why it waits, what it used, and its history.

Rules kept here: what the watch stream does not say of a job (history, progress) is asked for in a worker thread, when
the details are looked at, when the job has changed, and every few seconds while it runs.
"""

from __future__ import annotations

import logging
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widgets import Input

from agent.api.errors import StokerError
from agent.api.refs import JobRef
from agent.api.types import Job, JobReport, JobState, LogEnd, TaskResult
from tui import arrays, rows, story, units
from tui.cluster import JobKey, LinkDown
from tui.inbox import LogInbox
from tui.keymap import Scope
from tui.logtext import LogText
from tui.screens.base import BaseScreen
from tui.screens.jobs import AskOfJobs, job_facts
from tui.session import Session
from tui.widgets.find import Find
from tui.widgets.keys import bindings
from tui.widgets.logview import LogView
from tui.widgets.panel import Panel
from tui.widgets.table import Table

_ROOM_FOR_GPUS = 30
"""Terminal lines from which the GPUs of the job are shown over its log."""
_LOG = logging.getLogger(__name__)
_ASK_AGAIN_S = 10.0
"""How often the details of a running job are asked for."""


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
        self._wants_story: bool | None = None
        """Said by key; else the details are shown while the job waits, since it has no log then."""
        self._told: tuple[JobReport | None, TaskResult | None] = None, None
        self._asked: tuple[object, float] = None, 0.0
        """As what the job was when its story was last asked for, and when that was."""

    def body(self) -> ComposeResult:
        """Facts, GPUs where there is room, log or details."""
        yield Panel(id="facts")
        yield Table(rows.GPU_COLUMNS, empty="no GPUs held", id="gpus")
        yield LogView(id="log")
        with VerticalScroll(id="story"):
            yield Panel(id="told")

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
        job = self.session.cluster.job(self.key)
        return "Jobs", arrays.label(job) if job else str(self.key[1])

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
        self._update_story(job, now)

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
        words = [units.count(log.line_count, "line")]
        if not log.following:
            words.append("paused; G goes to the end")
        elif not isinstance(self._news, LogEnd):
            words.append("following")
        if not log.wrapped:
            words.append("not folded")
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

    def scopes_here(self) -> tuple[Scope, ...]:
        """The log's keys go with the log."""
        return self.SCOPES if self.query_one(LogView).display else (Scope.JOB,)

    def action_cancel(self) -> None:
        """Ask about cancelling this job."""
        self.action_ask("cancel")

    def action_ask(self, name: str) -> None:
        """Ask about one of the actions."""
        self.post_message(AskOfJobs(name, (self.key,)))

    def action_story(self) -> None:
        """From the log to the details and back."""
        self._wants_story = not self.query_one("#story").display
        self.update()
        self.query_one("#story" if self._wants_story else "#log").focus()

    # --- the details --------------------------------------------------------------------------------------------------

    def _update_story(self, job: Job | None, now: float) -> None:
        box, log = self.query_one("#story", VerticalScroll), self.query_one(LogView)
        waits = job is not None and job.state is JobState.PENDING
        box.display = waits if self._wants_story is None else self._wants_story
        log.display = not box.display
        if job is None or not box.display:
            return
        if self.focused is None or self.focused is log:
            box.focus()
        self._ask_story(job, now)
        report, result = self._told
        wall, clock, width = self.session.wall(), self.session.clock, box.size.width - 2
        told = self.query_one("#told", Panel)
        told.show(story.lines(job, report, result, wall=wall, clock=clock, width=width))
        box.border_title = "Details"
        box.border_subtitle = "i shows the log"

    def _ask_story(self, job: Job, now: float) -> None:
        """Ask for what the stream does not say, unless it was just asked."""
        state = job.state, job.attempt, job.revision
        asked, when = self._asked
        if asked == state and (job.state.is_final or now - when < _ASK_AGAIN_S):
            return
        self._asked = state, now
        self._load_story(arrays.ref(job))

    @work(thread=True, exit_on_error=False, exclusive=True, group="story")
    def _load_story(self, ref: JobRef) -> None:
        """Wait for the server, off this thread. Without an answer the rest is shown."""
        report: JobReport | None = None
        result: TaskResult | None = None
        try:
            report = self.session.ask(lambda client: client.report(ref))
            found = self.session.ask(lambda client: client.results(ref))
            result = next((each for each in found if arrays.ref(each.job) == ref), None)
        except StokerError as error:
            _LOG.debug("no details of job %s: %s", ref, error)
        self.app.call_from_thread(self._take_story, report, result)

    def _take_story(self, report: JobReport | None, result: TaskResult | None) -> None:
        before = self._told
        self._told = report or before[0], result or before[1]
        if self.is_mounted:
            self.update()

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
