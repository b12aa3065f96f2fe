"""Why a node gets no lease, said to that node: its jobs wait for a seat, and nothing on it would say for what else.

Rules kept here: it hears a refusal once, and once that it is over; what it did not hear is said again. An agent of
before, which knows no refusals, is left in peace: a lease that it gets is news enough there.
"""

from __future__ import annotations

import logging

from agent.api.errors import ApiError
from agent.api.types import LeaseRefusal
from agent.gate import NoSeat
from agent.hub.fleet import Member

_TOLD = ("LIC-421", "LIC-423", "LIC-441", "LIC-442", "LIC-444")
"""What the node hears as well: what its jobs wait for is said by no lease, and an operator must do something about."""
_NO_EAR = (404, 405)
"""Answers of an agent that knows no refusals."""

_log = logging.getLogger(__name__)


class Refusals:
    """What each node has heard of them; used from the event loop."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}
        """By which code each node heard why it gets no lease; empty where that is over."""
        self._of_before: set[str] = set()
        """Nodes whose agent is of before: that a refusal is over would be one without words there."""

    def note(self, node: str, code: str) -> None:
        """Take from a node what it heard last."""
        self._told[node] = code

    def forget(self, node: str) -> None:
        """It got a lease, or is asked again what it holds."""
        self._told.pop(node, None)

    async def tell(self, member: Member, why: NoSeat | None) -> None:
        """Let a node know why it gets no lease, or that it does again; what it did not hear is said again."""
        name = member.name
        if why is None or why.code not in _TOLD:
            refusal = LeaseRefusal(code="", message="")
        else:
            refusal = LeaseRefusal(code=why.code, message=why.message, fix=why.fix)
        before = self._told.get(name, "")
        if before == refusal.code or (not refusal.code and name in self._of_before):
            return
        self._told[name] = refusal.code
        try:
            held = await member.calls.call(lambda client: client.refuse_lease(refusal))
        except ApiError as error:
            if error.status not in _NO_EAR:
                self._told[name] = before
            _log.info("node=%s does not hear why it gets no lease: %s", name, error)
            return
        (self._of_before.discard if held.refused == refusal.code else self._of_before.add)(name)
