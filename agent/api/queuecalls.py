"""What the client asks about all that stands around the queue: rules, drains, reservations, recurring jobs, notices."""

from __future__ import annotations

from urllib.parse import quote

from msgspec.structs import replace

from agent.api.call import Caller, root
from agent.api.queue import (
    Cron,
    DeadLetter,
    Drain,
    DrainChange,
    DrainRequest,
    PartitionUpdate,
    QueueRules,
    Reloaded,
    Reservation,
    ReservationRequest,
    ReservationUpdate,
    Share,
)
from agent.api.types import KEY_HEADER, CronRequest

_DRAIN_ANSWER: type[DrainChange | list[Drain]] = DrainChange | list[Drain]  # type: ignore[assignment]  # msgspec's way


class QueueCalls(Caller):
    """Verbs about the queue of one node; a hub asked without a node's name puts all nodes' answers together."""

    def rules(self, node: str | None = None) -> QueueRules:
        """Partitions, QOS, accounts and features that a submit may name."""
        return self._get(f"{root(node)}/partitions", QueueRules)

    def shares(self, node: str | None = None) -> list[Share]:
        """The fair share."""
        return self._get(f"{root(node)}/shares", list[Share])

    def drain(self, request: DrainRequest, node: str | None = None) -> DrainChange | None:
        """Give a GPU or the node no new job. An agent of a version before does not tell what it found."""
        return self._change_drain(f"{root(node)}/drain", request)

    def resume(self, request: DrainRequest, node: str | None = None) -> DrainChange | None:
        """Undo `drain`."""
        return self._change_drain(f"{root(node)}/resume", request)

    def reservations(self, node: str | None = None) -> list[Reservation]:
        """Reservations that are not over."""
        return self._get(f"{root(node)}/reservations", list[Reservation])

    def reserve(self, request: ReservationRequest, node: str | None = None) -> Reservation:
        """Make one; for admins."""
        return self._ask("POST", f"{root(node)}/reservations", Reservation, request)

    def update_reservation(self, name: str, request: ReservationUpdate, node: str | None = None) -> Reservation:
        """Change one; for admins."""
        return self._ask("POST", f"{root(node)}/reservations/{quote(name, safe='')}", Reservation, request)

    def update_partition(self, name: str, state: str, node: str | None = None) -> QueueRules:
        """Open or close a partition; for admins."""
        path = f"{root(node)}/partitions/{quote(name, safe='')}"
        return self._ask("POST", path, QueueRules, PartitionUpdate(state=state), repeatable=True)

    def unreserve(self, name: str, node: str | None = None) -> list[Reservation]:
        """Delete one; the answer is the rest."""
        return self._ask("DELETE", f"{root(node)}/reservations/{quote(name, safe='')}", list[Reservation])

    def reload(self, node: str | None = None) -> Reloaded:
        """Read the configuration again; for admins."""
        return self._ask("POST", f"{root(node)}/reload", Reloaded, repeatable=True)

    def crons(self, node: str | None = None) -> list[Cron]:
        """Recurring jobs."""
        return self._get(f"{root(node)}/cron", list[Cron])

    def add_cron(self, request: CronRequest, key: str) -> Cron:
        """Store a recurring job on the node that `request.request.node` names, or the asked agent's own."""
        return self._ask("POST", f"{root(request.request.node)}/cron", Cron, request, {KEY_HEADER: key})

    def remove_cron(self, cron_id: int, node: str | None = None) -> list[Cron]:
        """Delete a recurring job; jobs that it made stay. The answer is the rest."""
        return self._ask("DELETE", f"{root(node)}/cron/{cron_id}", list[Cron])

    def dead_letters(self, node: str | None = None) -> list[DeadLetter]:
        """Notices that could not be delivered; for admins."""
        return self._get(f"{root(node)}/notices", list[DeadLetter])

    def retry_dead_letters(self, node: str | None = None) -> list[DeadLetter]:
        """Try them all again; the answer is what is dead still."""
        return self._ask("POST", f"{root(node)}/notices/retry", list[DeadLetter])

    def _change_drain(self, path: str, request: DrainRequest) -> DrainChange | None:
        found = self._ask("POST", path, _DRAIN_ANSWER, replace(request, tell=True), repeatable=True)
        return found if isinstance(found, DrainChange) else None
