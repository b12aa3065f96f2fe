"""The terminal UI: one application over one session.

Rules kept here: the first frame comes before any link is opened; one timer drains the link's inbox and has the screen
draw, threads never touch widgets; nothing waits for the server on this thread; SIGTERM and SIGHUP end it like `q`, so
the terminal is left as it was found.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from agent.api.errors import StokerError
from agent.api.hostkeys import UnknownHostError
from agent.api.refs import JobRef
from agent.api.types import Job
from tui import safe, units
from tui.cluster import JobKey, job_key
from tui.keymap import KEYS, Key
from tui.links import ClusterClient
from tui.screens.base import BaseScreen
from tui.screens.dialogs import Help, ask_cancel, ask_host_key
from tui.screens.job import JobScreen
from tui.screens.jobs import CancelJobs, JobsScreen, OpenJob, OpenNode
from tui.screens.nodes import NodeScreen, NodesScreen
from tui.screens.overview import OverviewScreen
from tui.screens.submit import SubmitForm
from tui.session import Clock, Session
from tui.theme import DARK, THEMES

_FAREWELL_S = 5.0
"""How long the end may take; the terminal is put back in some milliseconds."""
_EXIT_NO_TERMINAL = 129
"""128 + SIGHUP."""
_DRAIN_S = 0.5
"""How often the screen may be drawn anew. A whole one costs some 25 ms."""
_LOG = logging.getLogger(__name__)


class StokerApp(App[None]):
    """The window."""

    TITLE = "stoker"
    CSS_PATH: ClassVar[str] = "app.tcss"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", "quit", show=False, priority=True)]

    def __init__(
        self,
        opener: Callable[[], ClusterClient],
        where: str,
        *,
        clock: Clock | None = None,
        theme: str = "dark",
        job: JobRef | None = None,
    ) -> None:
        super().__init__()
        for each in THEMES.values():
            self.register_theme(each)
        self.theme = THEMES[theme].name
        self.session = Session(opener, where, clock or Clock())
        self._job_wanted = job
        self._mains: dict[str, BaseScreen] = {}
        self._asked: UnknownHostError | None = None
        self._drawn_at = -1

    def on_mount(self) -> None:
        """Draw first, then open the link."""
        overview = OverviewScreen(self.session)
        self._mains = {"overview": overview, "nodes": NodesScreen(self.session), "jobs": JobsScreen(self.session)}
        for name, screen in self._mains.items():
            self.install_screen(screen, name)
        self.push_screen("overview")
        self._handle_signals()
        self.call_after_refresh(self.session.start)
        self.set_interval(_DRAIN_S, self.tick, name="drain")

    def on_unmount(self) -> None:
        """Leave no thread behind."""
        self.session.stop()

    def exit(self, result: None = None, return_code: int = 0, message: object = None) -> None:
        """End, also when the terminal has gone: Textual's driver waits for it to take the farewell, without a limit."""
        if not self.is_headless:
            last = threading.Timer(_FAREWELL_S, os._exit, args=(_EXIT_NO_TERMINAL,))
            last.daemon = True
            last.start()
        super().exit(result, return_code, message)  # type: ignore[arg-type]

    def tick(self) -> None:
        """Take what arrived, and draw when there was something or a second has passed."""
        screen = self.base_screen()
        changed = self.session.drain() or (screen is not None and screen.has_news)
        now = self.session.clock.monotonic()
        second = int(now)
        if not changed and second == self._drawn_at:
            return
        if second != self._drawn_at:
            overview = self._mains["overview"]
            assert isinstance(overview, OverviewScreen)
            overview.sample(now)
        self._drawn_at = second
        self._open_wanted_job()
        self._ask_about_host_key()
        if (screen := self.base_screen()) is not None:
            screen.update()

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Textual's hook: our own names in the style sheet, for whatever theme lacks them."""
        return DARK.variables

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the palette offers: our own table, no foreign text."""
        for key in KEYS:
            if key.palette:
                yield SystemCommand(f"{key.label[:1].upper()}{key.label[1:]}", key.help, self._runner(key))

    # --- actions of the key table -------------------------------------------------------------------------------------

    def action_show(self, name: str) -> None:
        """One of the main screens."""
        if not isinstance(self.screen, BaseScreen):
            return
        while len(self.screen_stack) > 2:
            self.pop_screen()
        if self.screen is not self._mains[name]:
            self.switch_screen(name)

    def action_leave(self) -> None:
        """Clear a filter, else leave a detail screen."""
        if isinstance(self.screen, BaseScreen) and not self.screen.go_back() and len(self.screen_stack) > 2:
            self.pop_screen()

    def action_help(self) -> None:
        """The list of keys."""
        self.push_screen(Help())

    def action_retry(self) -> None:
        """Try the link now; ask again about a host key that was refused."""
        self._asked = None
        self.session.retry()

    def action_other_theme(self) -> None:
        """Dark to light and back."""
        self.theme = THEMES["light" if self.current_theme.dark else "dark"].name

    def action_submit(self) -> None:
        """The form; the job it made is opened."""
        self.push_screen(SubmitForm(self.session, Path.cwd()), self._submitted)

    # --- what screens ask for -----------------------------------------------------------------------------------------

    @on(OpenJob)
    def open_job(self, message: OpenJob) -> None:
        """A job's screen."""
        self.push_screen(JobScreen(self.session, message.key))

    @on(OpenNode)
    def open_node(self, message: OpenNode) -> None:
        """A node's screen."""
        self.push_screen(NodeScreen(self.session, message.name))

    @on(CancelJobs)
    def cancel_jobs(self, message: CancelJobs) -> None:
        """Ask first; jobs that have ended meanwhile are left out."""
        known = [self.session.cluster.job(key) for key in message.keys]
        jobs = [job for job in known if job is not None and not job.state.is_final]
        if not jobs:
            self.notify("There is nothing to cancel: the job has ended.", markup=False)
            return
        keys = [job_key(job) for job in jobs]

        def answered(yes: bool | None) -> None:
            if yes:
                self._cancel(keys)

        self.push_screen(ask_cancel(jobs, self.session.wall()), answered)

    @work(thread=True, exit_on_error=False, group="calls")
    def _cancel(self, keys: list[JobKey]) -> None:
        """Wait for the server, off this thread."""
        try:
            jobs = self.session.cancel(keys)
        except StokerError as error:
            self.call_from_thread(self._complain, f"Not cancelled: {error}")
        else:
            words = ", ".join(f"{job.id} {job.state.value}" for job in jobs)
            self.call_from_thread(self._tell, f"Cancel asked for: {words}")

    # --- inside -------------------------------------------------------------------------------------------------------

    def _tell(self, sentence: str) -> None:
        """A notice at the edge. Never markup: the sentence may hold foreign text."""
        self.notify(safe.text(sentence), timeout=4, markup=False)

    def _complain(self, sentence: str) -> None:
        """A notice of something that failed."""
        self.notify(safe.text(sentence), severity="error", timeout=10, markup=False)

    def _submitted(self, job: Job | None) -> None:
        if job is None:
            return
        self._tell(f"Job {job.id} is stored on {job.node}, {units.count(job.gpus, 'GPU')}.")
        self.push_screen(JobScreen(self.session, job_key(job)))

    def _open_wanted_job(self) -> None:
        """`--job`: open it as soon as it is heard of."""
        if self._job_wanted is None:
            return
        job = self.session.cluster.find_job(self._job_wanted.id, self._job_wanted.node)
        if job is not None:
            self._job_wanted = None
            self.push_screen(JobScreen(self.session, job_key(job)))

    def _ask_about_host_key(self) -> None:
        question = self.session.question
        if question is None or question is self._asked:
            return
        self._asked = question

        def answered(yes: bool | None) -> None:
            if not yes:
                return
            try:
                self.session.accept(question)
            except StokerError as error:
                self._complain(str(error))

        self.push_screen(ask_host_key(question), answered)

    def base_screen(self) -> BaseScreen | None:
        """The whole-window screen in sight, under whatever question lies over it."""
        return next((screen for screen in reversed(self.screen_stack) if isinstance(screen, BaseScreen)), None)

    def _runner(self, key: Key) -> Callable[[], object]:
        return lambda: self.run_action(key.action)

    def _handle_signals(self) -> None:
        """End on SIGTERM and SIGHUP. Without this the terminal stays in the alternate screen, with the mouse on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            try:
                loop.add_signal_handler(number, self.exit)
            except (NotImplementedError, RuntimeError, ValueError):
                _LOG.debug("no signal handlers outside the main thread")
                return
