"""The terminal UI: one application over one session.

Rules kept here: the first frame comes before any link is opened; one timer drains the link's inbox and has the screen
draw, threads never touch widgets; a screen that few open is imported when it is opened; nothing waits for the server on
this thread; SIGTERM and SIGHUP end it like `q`, so the terminal is left as it was found.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from agent.api.errors import StokerError
from agent.api.hostkeys import UnknownHostError
from agent.api.queue import DrainRequest
from agent.api.refs import JobRef
from agent.api.types import Job, Licence
from tui import actions, drained, safe, units
from tui.actions import ACTIONS, JobAction, Target
from tui.client import ClusterClient
from tui.cluster import ArrayKey, JobKey, job_key
from tui.keymap import KEYS, Key, Scope
from tui.rows import drain_note
from tui.screens import questions
from tui.screens.base import BaseScreen
from tui.screens.dialogs import Help, ask_host_key
from tui.screens.faults import TellsFaults
from tui.screens.incidents import IncidentsScreen
from tui.screens.jobs import AskOfJobs, JobsScreen, OpenArray, OpenGpu, OpenHost, OpenInventory, OpenJob, OpenNode
from tui.screens.licence import LicenceScreen
from tui.screens.nodes import NodeScreen, NodesScreen
from tui.screens.overview import OverviewScreen
from tui.screens.processes import ProcessesScreen
from tui.session import Clock, Session
from tui.theme import DARK, THEMES
from tui.widgets.machines import MachineTable

if TYPE_CHECKING:
    from tui.screens.activation import Draft

_FAREWELL_S = 5.0
"""How long the end may take; the terminal is put back in some milliseconds."""
_EXIT_NO_TERMINAL = 129
"""128 + SIGHUP."""
_DRAIN_S = 0.5
"""How often the screen may be drawn anew; readings alone have it drawn once a second."""
_LOG = logging.getLogger(__name__)


class StokerApp(TellsFaults, App[None]):
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
        self._draft: Draft | None = None
        self._mains: dict[str, BaseScreen] = {}
        self._asked: UnknownHostError | None = None
        self._drawn_at = -1

    def on_mount(self) -> None:
        """Draw first, then open the link."""
        overview = OverviewScreen(self.session)
        self._mains = {
            "overview": overview,
            "nodes": NodesScreen(self.session),
            "jobs": JobsScreen(self.session),
            "incidents": IncidentsScreen(self.session),
            "processes": ProcessesScreen(self.session),
            "licence": LicenceScreen(self.session),
        }
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
        """Take what arrived; draw when something has changed its state, and else once a second."""
        screen = self.base_screen()
        if not self.is_running or not self._mains or not self._mains["overview"].is_mounted:
            return  # the timer may come after the end, on a busy machine before the first screen: no second is lost
        changed = self.session.drain() or (screen is not None and screen.has_news)
        now = self.session.clock.monotonic()
        second = int(now)
        if not changed and second == self._drawn_at:
            return
        if second != self._drawn_at:
            overview = self._mains["overview"]
            assert isinstance(overview, OverviewScreen)
            overview.sample(now)
            self.session.traces.note(self.session.cluster.nodes(now), now)
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
        here = self.base_screen()
        scopes = (Scope.APP, *((*here.SCOPES, *here.MORE_SCOPES) if here else ()))
        for key in KEYS:
            if key.palette and key.scope in scopes:
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
        from tui.screens.submit import SubmitForm

        self.push_screen(SubmitForm(self.session, Path.cwd()), self._submitted)

    def action_usage(self) -> None:
        """The GPU time of a month."""
        from tui.screens.usage import UsageScreen

        if isinstance(self.screen, BaseScreen) and not isinstance(self.screen, UsageScreen):
            self.push_screen(UsageScreen(self.session))

    def action_activate(self) -> None:
        """The form for the vendor's files and for requests."""
        from tui.screens.activation import ActivationForm, Draft

        self._draft = self._draft or Draft()
        self.push_screen(ActivationForm(self.session, Path.cwd(), self._draft), self._activated)

    # --- what screens ask for -----------------------------------------------------------------------------------------

    @on(OpenJob)
    def open_job(self, message: OpenJob) -> None:
        """A job's screen."""
        self._show_job(message.key)

    @on(OpenNode)
    def open_node(self, message: OpenNode) -> None:
        """A node's screen."""
        self.push_screen(NodeScreen(self.session, message.name))

    @on(OpenGpu)
    def open_gpu(self, message: OpenGpu) -> None:
        """A GPU's screen."""
        from tui.screens.gpu import GpuScreen

        self.push_screen(GpuScreen(self.session, message.node, message.uuid))

    @on(OpenHost)
    def open_host(self, message: OpenHost) -> None:
        """A node beside its GPUs."""
        from tui.screens.host import HostScreen

        self.push_screen(HostScreen(self.session, message.node))

    @on(OpenInventory)
    def open_inventory(self, message: OpenInventory) -> None:
        """What a node is known to have."""
        from tui.screens.inventory import InventoryScreen

        self.push_screen(InventoryScreen(self.session, message.node))

    @on(OpenArray)
    def open_array(self, message: OpenArray) -> None:
        """An array's screen."""
        self._show_array(message.key)

    @on(AskOfJobs)
    def ask_of_jobs(self, message: AskOfJobs) -> None:
        """Ask first; jobs to which it does not apply any more are left out."""
        action, wall = ACTIONS[message.action], self.session.wall()
        targets = actions.targets(message.keys, self.session.cluster.jobs(), action.applies)
        if not targets:
            self.notify(action.nothing, markup=False)
        elif action.name == "cancel" and len(targets) == 1 and len(targets[0].jobs) > 1:
            self._ask_how_many(targets[0])
        else:
            self.push_screen(questions.ask(action, targets, wall), lambda answer: self._do(action, targets, answer))

    def _ask_how_many(self, target: Target) -> None:
        """All tasks of an array, or those that wait."""
        cancel = ACTIONS["cancel"]

        def chosen(answer: str | None) -> None:
            waiting = actions.singly(target, actions.is_waiting)
            self._do(cancel, waiting if answer == "waiting" else [target], answer)

        self.push_screen(questions.ask_how_many(target, self.session.wall()), chosen)

    def _do(self, action: JobAction, targets: Sequence[Target], answer: bool | str | None) -> None:
        """Act on a yes, or on what was typed."""
        if answer:
            self._ask_server(action, list(targets), answer if isinstance(answer, str) else "")

    @work(thread=True, exit_on_error=False, group="calls")
    def _ask_server(self, action: JobAction, targets: list[Target], typed: str) -> None:
        """Wait for the server, off this thread. The first refusal ends it."""
        done: list[str] = []
        try:
            self.session.ask(lambda client: done.extend(actions.carry_out(client, action, targets, typed)))
        except StokerError as error:
            so_far = f" ({units.count(len(done), 'job')} before it done)" if done else ""
            self.call_from_thread(self._complain, f"{action.title}: refused{so_far}: {error}")
        else:
            self.call_from_thread(self._tell, f"{action.title} asked for: {', '.join(done)}")

    @on(MachineTable.DrainWanted)
    def ask_drain(self, message: MachineTable.DrainWanted) -> None:
        """Ask for the reason, or whether to undo it."""
        view = self.session.cluster.node(message.node, self.session.clock.monotonic())
        gpu = next((each for each in view.gpus if each.uuid == message.gpu_uuid), None) if view else None
        if view is None or view.node is None or (message.gpu_uuid is not None and gpu is None):
            self.notify("Nothing is known of it now.", markup=False)
            return
        drain = view.node.drain if gpu is None else gpu.drain
        index = None if gpu is None else gpu.index
        if not message.resume:
            jobs = [job for job in self.session.cluster.jobs() if _is_there(job, message.node, message.gpu_uuid)]
            question = questions.ask_drain(message.node, index, jobs, self.session.wall())
            self.push_screen(question, lambda reason: self._drain(message.node, message.gpu_uuid, index, reason))
        elif drain is None:
            self.notify("There is nothing to resume: it is not drained.", markup=False)
        else:
            undo = questions.ask_resume(message.node, index, drain_note(drain))
            self.push_screen(undo, lambda yes: self._resume(message.node, message.gpu_uuid, index) if yes else None)

    def _drain(self, node: str, gpu_uuid: str | None, index: int | None, reason: str | None) -> None:
        if reason:
            request = DrainRequest(gpu=gpu_uuid, reason=reason)
            what = _machine(node, index)
            self._change_machine(lambda client: drained.drained(what, client.drain(request, node)))

    def _resume(self, node: str, gpu_uuid: str | None, index: int | None) -> None:
        request, what, gpu = DrainRequest(gpu=gpu_uuid), _machine(node, index), gpu_uuid is not None
        self._change_machine(lambda client: drained.resumed(what, client.resume(request, node), gpu=gpu))

    @work(thread=True, exit_on_error=False, group="calls")
    def _change_machine(self, ask: Callable[[ClusterClient], str]) -> None:
        """Wait for the server, off this thread; what it did is told."""
        try:
            done = self.session.ask(ask)
        except StokerError as error:
            self.call_from_thread(self._complain, f"Refused: {error}")
        else:
            self.call_from_thread(self._tell, done)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _tell(self, sentence: str) -> None:
        """A notice at the edge. Never markup: the sentence may hold foreign text."""
        self.notify(safe.text(sentence), timeout=4, markup=False)

    def _complain(self, sentence: str) -> None:
        """A notice of something that failed."""
        self.notify(safe.text(sentence), severity="error", timeout=10, markup=False)

    def _show_job(self, key: JobKey) -> None:
        from tui.screens.job import JobScreen

        self.push_screen(JobScreen(self.session, key))

    def _show_array(self, key: ArrayKey) -> None:
        from tui.screens.array import ArrayScreen

        self.push_screen(ArrayScreen(self.session, key))

    def _activated(self, licence: Licence | None) -> None:
        if licence is not None:
            self._tell(f"Taken. {licence.stage.value}: {licence.message}")

    def _submitted(self, job: Job | None) -> None:
        if job is None:
            return
        self._tell(f"Job {job.id} is stored on {job.node}, {units.count(job.gpus, 'GPU')}.")
        if job.array_job_id is None:
            self._show_job(job_key(job))
        else:
            self._show_array(ArrayKey(job.node, job.array_job_id))

    def _open_wanted_job(self) -> None:
        """`--job`: open it as soon as it is heard of."""
        if self._job_wanted is None:
            return
        job = self.session.cluster.find_job(self._job_wanted.id, self._job_wanted.node, self._job_wanted.task)
        if job is not None:
            self._job_wanted = None
            self._show_job(job_key(job))

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
        """Does what the key does, in the place where the key works."""

        def run() -> object:
            tables = list(self.screen.query(MachineTable)) if key.scope is Scope.MACHINE else []
            place = self if key.scope is Scope.APP else next(iter(tables), self.screen)
            return self.run_action(key.action, default_namespace=place)

        return run

    def _handle_signals(self) -> None:
        """End on SIGTERM and SIGHUP. Without this the terminal stays in the alternate screen, with the mouse on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            try:
                loop.add_signal_handler(number, self.exit)
            except (NotImplementedError, RuntimeError, ValueError):
                _LOG.debug("no signal handlers outside the main thread")
                return


def _machine(node: str, index: int | None) -> str:
    return node if index is None else f"{node}:{index}"


def _is_there(job: Job, node: str, gpu_uuid: str | None) -> bool:
    """Whether a job runs on a node, or on one GPU of it."""
    if job.node != node or not actions.is_active(job) or actions.is_waiting(job):
        return False
    return gpu_uuid is None or gpu_uuid in job.gpu_uuids
