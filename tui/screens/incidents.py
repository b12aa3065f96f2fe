"""Screen 4: what is wrong with GPUs and nodes, whom it hit, what to do; and the inventory of one node.

Rules kept here: what is open comes with the stream; what is over, and what a node has too much of for the stream, is
asked for in a worker thread while the screen is looked at; a node that cannot be asked is named, and costs nobody else
anything.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType

from agent.api.errors import StokerError
from agent.api.health import Incident
from agent.api.types import MAX_INCIDENTS
from tui import incidents, units
from tui.cluster import NodeView
from tui.incidents import IncidentKey, Told
from tui.keymap import Scope
from tui.screens import healthasks
from tui.screens.base import BaseScreen, title_with_count
from tui.screens.jobs import OpenGpu, OpenInventory, OpenJob, OpenNode
from tui.session import Session
from tui.widgets.keys import bindings
from tui.widgets.machines import MachineTable
from tui.widgets.panel import Panel
from tui.widgets.table import Table

_ASK_AGAIN_S = 15.0
"""How often nodes are asked for what the stream does not tell."""
_ASKED_MOST = 64
"""Nodes asked for what is over: at a thousand the answers would be old before the last one came."""
_LOG = logging.getLogger(__name__)


class IncidentsScreen(BaseScreen):
    """The list over all there is to say about one."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.INCIDENT)
    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.LIST, Scope.INCIDENT)
    TITLE_WORDS = "Incidents"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.marked: set[IncidentKey] = set()
        self._over = False
        self._told: list[Told] = []
        self._asked: dict[str, list[Incident]] = {}
        self._silent: tuple[str, ...] = ()
        """Nodes that could not be asked."""
        self._asked_at: float | None = None
        self._asking = 0
        """Which asking is the latest: the answer of an older one, which took longer, is passed over."""

    def body(self) -> ComposeResult:
        """The list over the facts."""
        yield Table(incidents.COLUMNS, empty="no incident is open; o shows those that are over", id="incidents")
        yield Panel(id="facts")

    def on_mount(self) -> None:
        """Keys go to the list."""
        super().on_mount()
        self._table().focus()

    def update_body(self, now: float) -> None:
        """Draw the list and the facts."""
        views = self.session.cluster.nodes(now)
        self._ask_nodes(views, now)
        self._told = incidents.told(views, self._asked, over=self._over)
        self.marked &= {each.key for each in self._told if _is_new(each)}
        table, panel = self._table(), self.query_one("#facts", Panel)
        table.show(incidents.table_rows(self._told, self.session.clock, self.marked, short=self.short))
        table.entitle(title_with_count("Incidents", table), self._words())
        here = self.here()
        panel.display = here is not None
        if here is None:
            return
        width = max(20, self.size.width - 4)
        lines = incidents.facts(here, self.session.cluster, self.session.clock, self.session.wall(), width)
        panel.entitle(f"incident {here.incident.id} of {here.view.name}")
        panel.show(lines[: max(5, self.size.height // 2)])

    def here(self) -> Told | None:
        """The incident under the cursor."""
        key = self._table().key
        return next((each for each in self._told if each.key == key), None)

    def _words(self) -> str:
        silent = f"{units.count(len(self._silent), 'node')} did not answer: {', '.join(self._silent[:3])}   "
        words = f"{len(self.marked)} marked, u forgets" if self.marked else incidents.counts(self._told)
        return (silent if self._silent else "") + words

    def _table(self) -> Table:
        return self.query_one("#incidents", Table)

    # --- keys ---------------------------------------------------------------------------------------------------------

    @on(Table.Moved, "#incidents")
    def follow_cursor(self) -> None:
        """The facts are those of the row under the cursor."""
        self.update()

    @on(Table.Opened, "#incidents")
    def open_gpu(self) -> None:
        """Enter: the GPU, or the node where it is none's."""
        if (here := self.here()) is None:
            return
        if any(gpu.uuid == here.incident.gpu_uuid for gpu in here.view.gpus):
            self.post_message(OpenGpu(here.view.name, str(here.incident.gpu_uuid)))
        elif incidents.concerns_inventory(here.incident):
            self.post_message(OpenInventory(here.view.name))
        else:
            self.post_message(OpenNode(here.view.name))

    def action_job(self) -> None:
        """The job that it hit."""
        if (here := self.here()) is None:
            return
        job_id = here.incident.job_id
        if job_id is None:
            self.notify("It hit no job.", markup=False)
        elif self.session.cluster.job((here.view.name, job_id)) is None:
            self.notify(f"Job {job_id} is not listed any more; stoker show {job_id} may know it.", markup=False)
        else:
            self.post_message(OpenJob((here.view.name, job_id)))

    def action_node(self) -> None:
        """Its node."""
        if (here := self.here()) is not None:
            self.post_message(OpenNode(here.view.name))

    def action_inventory(self) -> None:
        """What its node is known to have."""
        if (here := self.here()) is not None:
            self.post_message(OpenInventory(here.view.name))

    def action_over(self) -> None:
        """Those that are over as well, or not."""
        self._over = not self._over
        self._asked_at = None
        self.update()

    def action_mark(self) -> None:
        """Mark or unmark, and move on."""
        here = self.here()
        if here is None or not _is_new(here):
            return
        self.marked ^= {here.key}
        self._table().action_move(1)
        self.update()

    def action_mark_all(self) -> None:
        """Mark all that are shown and nobody has seen."""
        shown = self._table().keys
        self.marked |= {each.key for each in self._told if _is_new(each) and each.key in shown}
        self.update()

    def action_unmark(self) -> None:
        """Forget all marks."""
        self.marked.clear()
        self.update()

    def action_acknowledge(self) -> None:
        """Ask about the marked ones, or the one under the cursor."""
        chosen = [each for each in self._chosen() if _is_new(each)]
        nothing = "There is nothing to acknowledge: somebody has seen it, or it is over."
        self._ask(chosen, nothing, healthasks.ACKNOWLEDGE)

    def action_clear(self) -> None:
        """Ask whether the marked ones, or the one under the cursor, are over."""
        chosen = [each for each in self._chosen() if each.is_open]
        self._ask(chosen, "There is nothing to clear: it is over.", healthasks.CLEAR)

    def _chosen(self) -> list[Told]:
        here = self.here()
        wanted = self.marked or ({here.key} if here is not None else set())
        return [each for each in self._told if each.key in wanted]

    def _ask(self, chosen: Sequence[Told], nothing: str, verb: healthasks.Verb) -> None:
        if not chosen:
            self.notify(nothing, markup=False)
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._do(chosen, verb)

        self.app.push_screen(healthasks.ask_of_incidents(chosen, verb), answered)

    def action_drain(self) -> None:
        """Give its GPU no new job."""
        self._want_drain(resume=False)

    def action_resume(self) -> None:
        """Let jobs start on its GPU again."""
        self._want_drain(resume=True)

    def _want_drain(self, *, resume: bool) -> None:
        if (here := self.here()) is not None:
            self.post_message(MachineTable.DrainWanted(here.view.name, here.incident.gpu_uuid, resume=resume))

    # --- asking the server --------------------------------------------------------------------------------------------

    @work(thread=True, exit_on_error=False, group="calls")
    def _do(self, chosen: Sequence[Told], verb: healthasks.Verb) -> None:
        """Wait for the server, off this thread. The first refusal ends it."""
        done = 0
        try:
            for each in chosen:
                self.session.ask(lambda client, key=each.key: verb.ask(client, key[1], key[0]))  # type: ignore[misc]
                done += 1
        except StokerError as error:
            so_far = f" ({units.count(done, 'incident')} before it done)" if done else ""
            self.app.call_from_thread(self._answered, f"{verb.title}: refused{so_far}: {error}", bad=True)
        else:
            self.app.call_from_thread(self._answered, f"{verb.done}: {units.count(done, 'incident')}", bad=False)

    def _answered(self, sentence: str, *, bad: bool) -> None:
        healthasks.tell(self.app, sentence, bad=bad)
        self._asked_at = None
        self.marked.clear()
        self.update()

    def _ask_nodes(self, views: Sequence[NodeView], now: float) -> None:
        """Ask those whose stream does not tell all that is shown."""
        if self._asked_at is not None and now - self._asked_at < _ASK_AGAIN_S:
            return
        full = [view.name for view in views if len(view.incidents) >= MAX_INCIDENTS]
        wanted = [view.name for view in views if not incidents.is_lost(view)][:_ASKED_MOST] if self._over else full
        if not wanted:
            return
        self._asked_at = now
        self._asking += 1
        self._load(self._asking, tuple(wanted), over=self._over)

    @work(thread=True, exit_on_error=False, exclusive=True, group="incidents")
    def _load(self, asking: int, names: Sequence[str], *, over: bool) -> None:
        """Wait for the server, off this thread."""
        found: dict[str, list[Incident]] = {}
        silent: list[str] = []
        for name in names:
            try:
                found[name] = self.session.ask(lambda client, name=name: client.incidents(over=over, node=name))  # type: ignore[misc]
            except StokerError as error:
                _LOG.debug("no incidents of %s: %s", name, error)
                silent.append(name)
        self.app.call_from_thread(self._take, asking, found, tuple(silent))

    def _take(self, asking: int, found: dict[str, list[Incident]], silent: tuple[str, ...]) -> None:
        if asking != self._asking:
            return
        self._asked, self._silent = found, silent
        if self.is_mounted:
            self.update()


def _is_new(each: Told) -> bool:
    """Whether it is open, and nobody has seen it."""
    return each.is_open and each.incident.acknowledged_at is None
