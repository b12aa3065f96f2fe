"""What the client asks about how nodes and GPUs are: history, incidents, inventory, the page of metrics."""

from __future__ import annotations

from agent.api.call import Caller, root, with_query
from agent.api.health import Incident, KnownGpu
from agent.api.telemetry import MetricHistory


class HealthCalls(Caller):
    """Verbs about telemetry and health."""

    def history(
        self,
        metric: str,
        *,
        gpu: str | None = None,
        since: int | None = None,
        until: int | None = None,
        points: int | None = None,
        node: str | None = None,
    ) -> MetricHistory:
        """`GET /v1/history`: a metric of a GPU (an index or a UUID) or of the node, in at most `points` buckets."""
        asked = with_query("/history", metric=metric, gpu=gpu, **{"from": since, "to": until}, points=points)
        return self._get(f"{root(node)}{asked}", MetricHistory)

    def incidents(self, *, over: bool = False, node: str | None = None) -> list[Incident]:
        """`GET /v1/incidents`: those of a node that are open; with `over` those that were as well."""
        return self._get(f"{root(node)}{with_query('/incidents', over=1 if over else None)}", list[Incident])

    def inventory(self, node: str | None = None) -> list[KnownGpu]:
        """`GET /v1/inventory`: the GPUs that a node is known to have."""
        return self._get(f"{root(node)}/inventory", list[KnownGpu])

    def accept_inventory(self, node: str | None = None) -> list[KnownGpu]:
        """`POST /v1/inventory/accept`: take what is there now for right; for admins."""
        return self._ask("POST", f"{root(node)}/inventory/accept", list[KnownGpu], repeatable=True)

    def acknowledge(self, number: int, node: str | None = None) -> Incident:
        """`POST /v1/incidents/N/acknowledge`; for admins."""
        return self._ask("POST", f"{root(node)}/incidents/{number}/acknowledge", Incident, repeatable=True)

    def clear_incident(self, number: int, node: str | None = None) -> Incident:
        """`POST /v1/incidents/N/clear`: say that it is over; for admins."""
        return self._ask("POST", f"{root(node)}/incidents/{number}/clear", Incident)

    def metrics(self, node: str | None = None) -> str:
        """The server's own page of metrics as OpenMetrics, or that of one node."""
        path = f"{root(node)}/metrics" if node else "/metrics"
        wire, answer = self._send("GET", path, {"Accept": "application/openmetrics-text"})
        return self._finish(wire, answer).decode("utf-8", "replace")
