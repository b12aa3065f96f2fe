"""Why the hub cannot pass a call on to a node, and whether the node may have seen it.

ApiError
├── NodeBusyError           too many calls or answers already; nothing was sent
└── NodeUnreachableError    no answer came; what was sent may have been done
"""

from __future__ import annotations

from agent.api.errors import ApiError, DeadlineError, TransportError


class NodeBusyError(ApiError):
    """Too many wait for the node already; nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(503, "node_busy", message)


class NodeUnreachableError(ApiError):
    """The node did not answer; what was sent may have been done."""

    def __init__(self, name: str, error: TransportError) -> None:
        late = isinstance(error, DeadlineError)
        super().__init__(504 if late else 502, "node_unreachable", f"{name} does not answer: {error}")
