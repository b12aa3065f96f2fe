"""The configuration as the parts see it: resolved, frozen, checked."""

from __future__ import annotations

from pathlib import Path

from agent.api.errors import StokerError
from agent.config.tables import (
    GpuTable,
    HubNode,
    JobsTable,
    Mode,
    PartitionTable,
    PlainTables,
    QosTable,
)


class ConfigError(StokerError):
    """The configuration cannot be used; the message names file, line and key."""


class Config(PlainTables, frozen=True, kw_only=True):
    """Everything a daemon needs to know, resolved: no `None` left to interpret, every path absolute."""

    path: Path | None
    """The file it came from; `None` when there is none."""
    name: str
    mode: Mode
    state_dir: Path
    run_dir: Path
    allow_root_jobs: bool
    act_for: tuple[str, ...]
    gpu: GpuTable
    jobs: JobsTable
    cluster: str
    hub_nodes: tuple[HubNode, ...]
    hub_usage_days: int = 800
    """How long rows of the usage ledger stay whose report the vendor acknowledged."""
    cpus: int = 1
    """CPUs that jobs may have at a time."""
    partitions: tuple[PartitionTable, ...] = (PartitionTable(name="main", default=True),)
    """At least one, and exactly one is the default."""
    qos: tuple[QosTable, ...] = (QosTable(name="normal"),)
    """At least one; the first is the default."""

    @property
    def agent_socket(self) -> Path:
        """Where the agent listens."""
        return self.run_dir / "agent.sock"

    @property
    def hub_socket(self) -> Path:
        """Where the hub listens."""
        return self.run_dir / "hub.sock"

    @property
    def hub_state_dir(self) -> Path:
        """The hub's own state: placements and the licence."""
        return self.state_dir / "hub"
