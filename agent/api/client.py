"""The one client of the API, for the commands, the screen and the hub alike.

Its verbs stand in groups (`jobcalls.py`, `queuecalls.py`, `licencecalls.py`, `healthcalls.py`); how a call is made, and
the rules it keeps, in `call.py`.
"""

from __future__ import annotations

from urllib.parse import quote

from agent.api.decode import decoder
from agent.api.healthcalls import HealthCalls
from agent.api.jobcalls import JobCalls
from agent.api.licencecalls import LicenceCalls
from agent.api.queuecalls import QueueCalls
from agent.api.stream import Stream
from agent.api.types import Hello, Node, NodeStatus, WatchMessage


class Client(JobCalls, QueueCalls, LicenceCalls, HealthCalls):
    """Calls to one server: all its verbs behind one door."""

    def hello(self) -> Hello:
        """Who answers, and in which version."""
        return self._get("/v1/hello", Hello)

    def nodes(self) -> list[NodeStatus]:
        """All nodes as the server sees them; an agent knows itself only."""
        return self._get("/v1/nodes", list[NodeStatus])

    def node(self, name: str | None = None) -> Node:
        """One node's own answer; without a name, of the agent that is asked."""
        return self._get(f"/v1/nodes/{quote(name, safe='')}/node" if name else "/v1/node", Node)

    def watch(self, *, heartbeats: bool = False) -> Stream[WatchMessage]:
        """All nodes and jobs, then every change."""
        return self._stream("/v1/watch", decoder(WatchMessage), heartbeats)
