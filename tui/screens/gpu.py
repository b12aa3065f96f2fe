"""One GPU: how it is and who has it, every value that is read of it, and its past."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType

from agent.api.telemetry import GPU_METRICS
from agent.api.types import Gpu, GpuState
from tui import arrays, gpufacts, incidents, rows, units
from tui.cluster import Freshness, NodeView, gpu_label
from tui.keymap import Scope
from tui.screens.base import BaseScreen
from tui.screens.jobs import OpenJob, OpenNode
from tui.session import Session
from tui.spans import Role, Span
from tui.widgets.keys import bindings
from tui.widgets.machines import MachineTable
from tui.widgets.panel import Panel
from tui.widgets.past import Past
from tui.widgets.sheet import Sheet

_PAST_LEAST, _PAST_MOST = 7, 14
"""Lines of the picture, its frame counted."""
_TALL, _FEW = 36, 9
"""Lines of a terminal on which a few lines of processes stand above the values."""
_TOLD = 2
"""Incidents that the head names."""


class PastKeys(BaseScreen):
    """A screen with a picture of the past on it."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.PAST)

    def action_metric(self, step: int) -> None:
        """Another metric."""
        self.query_one(Past).change_metric(step)
        self.update()

    def action_span(self, step: int) -> None:
        """Further back, or less far."""
        self.query_one(Past).change_span(step)
        self.update()


class GpuScreen(PastKeys):
    """See the module."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Scope.GPU)
    SCOPES: ClassVar[tuple[Scope, ...]] = (Scope.GPU, Scope.PAST, Scope.SHEET)
    DETAIL = True

    def __init__(self, session: Session, node: str, uuid: str) -> None:
        super().__init__(session)
        self.node_name = node
        self.uuid = uuid

    def body(self) -> ComposeResult:
        """Head, values, past."""
        yield Panel(id="facts")
        yield Sheet(id="values")
        yield Past(self.session, tuple(GPU_METRICS), id="past")

    def on_mount(self) -> None:
        """Keys go to the values."""
        super().on_mount()
        self.query_one(Sheet).focus()

    def trail(self) -> tuple[str, ...]:
        """Nodes, which, and which GPU."""
        found = self._found()
        return "Nodes", self.node_name, f"GPU {found[1].index}" if found else "GPU"

    def update_body(self, now: float) -> None:
        """Draw all three."""
        facts, values, past = self.query_one(Panel), self.query_one(Sheet), self.query_one(Past)
        past.styles.height = max(_PAST_LEAST, min(_PAST_MOST, self.size.height // 3))
        past.look_at(self.node_name, self.uuid, now)
        found = self._found()
        if found is None:
            facts.entitle("GPU")
            facts.show([[(f" {self.node_name} tells of no GPU {self.uuid} now", Role.WARN)]])
            values.show([])
            return
        view, gpu = found
        facts.entitle(f"GPU {gpu.index} of {view.name}", gpu_label(view, gpu))
        facts.show(self._head(view, gpu))
        lines = gpufacts.flow(gpufacts.groups(gpu), max(gpufacts.COLUMN, self.size.width - 3))
        job = self.session.cluster.job_on(view.name, gpu.job_id)
        held = f"job {arrays.label(job) if job else gpu.job_id}" if gpu.job_id is not None else ""
        using = gpufacts.process_lines(gpu, self.session.clock, held)
        lines = [*using, [], *lines] if self.size.height >= _TALL and len(using) < _FEW else [*lines, [], *using]
        old = view.freshness is not Freshness.LIVE or gpufacts.is_old(gpu, view.gpu_age_s(gpu))
        values.show([[(text, Role.DIM) for text, _ in line] for line in lines] if old else lines)
        sign = "– not offered, or it failed; ! speaks against it"
        values.entitle("Values" if not old else "Values, as last read", sign)

    def _head(self, view: NodeView, gpu: Gpu) -> list[list[Span]]:
        wall, clock = self.session.wall(), self.session.clock
        first = gpufacts.state_line(gpu, view.gpu_age_s(gpu), clock, wall)
        if not rows.is_heard(view):
            first = [(f" x the node is lost since {units.age(view.age_s)}", Role.BAD), *first]
        lines = [first, *self._holder(view, gpu)]
        if gpu.drain is not None and (gpu.job_id is not None or gpu.state is not GpuState.OK):
            lines.append([(f" * {rows.drain_note(gpu.drain)}", Role.WARN)])
        lines += [[(f" ! {said}", Role.WARN)] for said in gpu.ill[:2]]
        here = [each for each in view.incidents if each.gpu_uuid == gpu.uuid]
        for each in here[:_TOLD]:
            lines.append([(" ", Role.TEXT), *incidents.severity(each), (f"  {each.what}; {each.advice}", Role.TEXT)])
        if len(here) > _TOLD:
            lines.append([(f" and {units.count(len(here) - _TOLD, 'more incident')}; 4 lists them", Role.DIM)])
        return lines

    def _holder(self, view: NodeView, gpu: Gpu) -> list[list[Span]]:
        """Who uses it; the job also where it does not answer."""
        job = self.session.cluster.job_on(view.name, gpu.job_id)
        if gpu.state is GpuState.OK:
            return [[(" ", Role.TEXT), *rows.owner(self.session.cluster, view, gpu)]]
        return [] if job is None else [[(f" {arrays.label(job)} ", Role.STRONG), (f"{job.user} {job.name}", Role.TEXT)]]

    def _found(self) -> tuple[NodeView, Gpu] | None:
        view = self.session.cluster.node(self.node_name, self.session.clock.monotonic())
        gpu = next((gpu for gpu in view.gpus if gpu.uuid == self.uuid), None) if view is not None else None
        return (view, gpu) if view is not None and gpu is not None else None

    # --- keys ---------------------------------------------------------------------------------------------------------

    def action_other(self, step: int) -> None:
        """The next GPU of the node, or the one before."""
        if (found := self._found()) is None:
            return
        uuids = [gpu.uuid for gpu in found[0].gpus]
        self.uuid = uuids[(uuids.index(self.uuid) + step) % len(uuids)]
        self.update()

    def action_job(self) -> None:
        """The job that holds it."""
        found = self._found()
        job = self.session.cluster.job_on(self.node_name, found[1].job_id) if found is not None else None
        if job is None:
            self.notify("No job holds it.", markup=False)
        else:
            self.post_message(OpenJob((job.node, job.id)))

    def action_node(self) -> None:
        """Its node."""
        self.post_message(OpenNode(self.node_name))

    def action_drain(self) -> None:
        """Give it no new job."""
        self.post_message(MachineTable.DrainWanted(self.node_name, self.uuid, resume=False))

    def action_resume(self) -> None:
        """Let jobs start on it again."""
        self.post_message(MachineTable.DrainWanted(self.node_name, self.uuid, resume=True))
