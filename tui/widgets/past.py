"""What a node has kept of one metric, drawn as a band; which metric and how far back is chosen by key.

Rules kept here: the node is asked in a worker thread, and not more often than a column of the picture is wide; without
an answer the last picture stays, and the frame says why there is no newer one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from textual import work
from textual.strip import Strip

from agent.api.errors import StokerError
from agent.api.telemetry import MetricHistory
from tui import areaplot, bandplot
from tui.session import Session
from tui.spans import Role, Span
from tui.widgets.lines import Styled

_LEAST_S, _MOST_S = 5.0, 60.0
"""How often the node is asked, at most and at least."""
_SCALE = 12
"""Cells beside the picture, for asking how many buckets."""
_LOG = logging.getLogger(__name__)


class Past(Styled):
    """A picture of a metric of one series."""

    def __init__(self, session: Session, metrics: Sequence[str], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._session = session
        self._metrics = tuple(metrics)
        self._metric, self._span = 0, 0
        self._of: tuple[str, str | None] = "", None
        self._past: MetricHistory | None = None
        self._drawn: list[list[Span]] = []
        self._problem = ""
        self._asked_at: float | None = None

    @property
    def metric(self) -> str:
        """The one that is shown."""
        return self._metrics[self._metric]

    def look_at(self, node: str, gpu: str | None, now: float) -> None:
        """Show a series, and ask for it when that is due; `gpu` is a UUID, or `None` for the node itself."""
        if (node, gpu) != self._of:
            self._of = node, gpu
            self._forget()
        span_s = bandplot.SPANS[self._span][1]
        due_s = max(_LEAST_S, min(_MOST_S, span_s / max(1, self._cells)))
        if self.size.width and (self._asked_at is None or now - self._asked_at >= due_s):
            self._asked_at = now
            self._load(node, gpu, self.metric, span_s, self._cells)
        self._entitle()

    def change_metric(self, step: int) -> None:
        """The next one, or the one before."""
        self._metric = (self._metric + step) % len(self._metrics)
        self._forget()

    def change_span(self, step: int) -> None:
        """Further back, or less far."""
        self._span = max(0, min(len(bandplot.SPANS) - 1, self._span + step))
        self._forget()

    def render_line(self, y: int) -> Strip:
        """Textual's hook: one line."""
        return self.strip(self._drawn[y] if y < len(self._drawn) else (), self.line_width)

    def on_resize(self) -> None:
        """Another picture."""
        self._asked_at = None
        self._draw()

    @property
    def _cells(self) -> int:
        return max(10, self.size.width - _SCALE)

    def _forget(self) -> None:
        self._past, self._problem, self._asked_at = None, "", None
        self._draw()

    @work(thread=True, exit_on_error=False, exclusive=True, group="past")
    def _load(self, node: str, gpu: str | None, metric: str, span_s: int, points: int) -> None:
        """Wait for the server, off this thread."""
        now = int(self._session.wall())
        wanted = node, gpu, metric, span_s
        try:
            found = self._session.ask(
                lambda client: client.history(
                    metric, gpu=gpu, since=max(1, now - span_s), until=now, points=points, node=node
                )
            )
        except StokerError as error:
            _LOG.debug("no history of %s: %s", metric, error)
            self.app.call_from_thread(self._take, wanted, None, str(error))
        else:
            self.app.call_from_thread(self._take, wanted, found, "")

    def _take(self, wanted: tuple[str, str | None, str, int], found: MetricHistory | None, problem: str) -> None:
        if not self.is_mounted or wanted != (*self._of, self.metric, bandplot.SPANS[self._span][1]):
            return  # asked before another key was pressed
        self._problem = problem
        self._past = found or self._past
        self._draw()

    def _draw(self) -> None:
        past = self._past
        if past is not None and past.mean:
            drawn = bandplot.lines(past, self.size.width, self.size.height, self._session.clock.zone)
        else:
            words = self._problem or ("nothing was measured in that time" if past is not None else "asking …")
            drawn = [[], [(f"  {words}", Role.WARN if self._problem else Role.DIM)]]
        if drawn != self._drawn:
            self._drawn = drawn
            self.refresh()
        self._entitle()

    def _entitle(self) -> None:
        span = bandplot.SPANS[self._span][0]
        said = f": {areaplot.summary(self._past)}" if self._past is not None and self._past.mean else ""
        bucket = f"{self._past.width_s} s a column   " if self._past is not None else ""
        late = f"not newer: {self._problem}   " if self._problem and self._past is not None else ""
        self.entitle(f"{bandplot.name_of(self.metric)}, last {span}{said}", f"{late}{bucket}h l metric, + - span")
