"""What the stream does not tell of a host now: disk, network and swap, from the last seconds of the node's history."""

from __future__ import annotations

import logging

from agent.api.errors import StokerError
from tui import units
from tui.session import Session
from tui.spans import Role, Span

_ASK_AGAIN_S = 5.0
_BACK_S = 20
"""How far back a value may lie; the host is noted each second."""
_METRICS = {
    "disk_read_bytes_per_s": "disk read",
    "disk_write_bytes_per_s": "write",
    "network_receive_bytes_per_s": "network in",
    "network_send_bytes_per_s": "out",
    "swap_used_bytes": "swap",
}
_LOG = logging.getLogger(__name__)


class HostNow:
    """The last known values of one node; `load` is for a worker thread."""

    def __init__(self, session: Session, node: str) -> None:
        self._session = session
        self._node = node
        self._values: dict[str, float | None] = {}
        self._asked_at: float | None = None

    def is_due(self, now: float) -> bool:
        """Whether to ask again; told once each time."""
        if self._asked_at is not None and now - self._asked_at < _ASK_AGAIN_S:
            return False
        self._asked_at = now
        return True

    def load(self) -> None:
        """Ask the node. A node that keeps no history is asked for one metric and no more."""
        until = int(self._session.wall())
        found: dict[str, float | None] = {}
        for metric in _METRICS:
            try:
                past = self._session.ask(
                    lambda client, metric=metric: client.history(  # type: ignore[misc]
                        metric, since=max(1, until - _BACK_S), until=until + 1, points=_BACK_S, node=self._node
                    )
                )
            except StokerError as error:
                _LOG.debug("no %s of %s: %s", metric, self._node, error)
                break
            found[metric] = next((value for value in reversed(past.mean) if value is not None), None)
        self._values = found

    def spans(self) -> list[Span]:
        """` disk read 12 MiB/s  write 3 KiB/s   network in …`; empty while nothing is known."""
        if not self._values:
            return [(" disk, network: the node keeps no history, or has not answered yet", Role.DIM)]
        words = [f"{label} {_written(metric, self._values.get(metric))}" for metric, label in _METRICS.items()]
        return [(" " + "   ".join(words), Role.TEXT)]


def _written(metric: str, value: float | None) -> str:
    if value is None:
        return units.UNKNOWN
    return units.size(round(value)) + ("/s" if metric.endswith("_per_s") else "")
