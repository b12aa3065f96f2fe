"""The words of GPU health: what is wrong, how badly, since when, and what to do."""

from __future__ import annotations

from agent.api.words import Wire, Word


class Severity(Word):
    """How badly."""

    INFO = "info"
    """Worth knowing; nothing is to be done about the hardware."""
    WARNING = "warning"
    """Somebody should look; the GPU goes on being given out."""
    CRITICAL = "critical"
    """Nothing should be started there: the policy drains it."""


class IncidentKind(Word):
    """What is wrong."""

    XID = "xid"
    GPU_LOST = "gpu_lost"
    GPU_HUNG = "gpu_hung"
    GPU_MISSING = "gpu_missing"
    """Fewer GPUs than at install."""
    GPU_EXCHANGED = "gpu_exchanged"
    """Another UUID where one was known."""
    LINK_DEGRADED = "link_degraded"
    """PCIe is narrower or slower, or NVLinks fewer, than at install."""
    ECC = "ecc"
    ROW_REMAP = "row_remap"
    THERMAL_THROTTLE = "thermal_throttle"
    POWER_THROTTLE = "power_throttle"
    NVLINK_ERRORS = "nvlink_errors"
    RECOVERY_ACTION = "recovery_action"
    """The driver asks for a reset or a reboot."""
    HUNG_COLLECTIVE = "hung_collective"
    """Busy at idle watts: ranks wait for one another for ever."""
    HELD_IDLE = "held_idle"
    STRAGGLER = "straggler"
    """One GPU unlike its siblings in the same job."""
    MEMORY_LEAKED = "memory_leaked"
    """Memory in use that no live job holds: nobody's, or a strange process's."""
    SAMPLER = "sampler"
    """Readings do not come."""


class KnownGpu(Wire, frozen=True, kw_only=True):
    """A GPU as it was when the node was taken into service, or when somebody accepted what was there."""

    uuid: str
    index: int
    name: str
    pci: str | None = None
    """Its place, which stays when those before it are gone and its index is another."""
    pcie_width: int | None = None
    """Lanes that it can have."""
    pcie_generation: int | None = None
    """That it and its slot can both do; the one in use falls while it idles."""
    pcie_generation_seen: int | None = None
    """The highest that it was seen to use."""
    nvlinks: int | None = None
    """The most that were up: those of a switch come up some time after the driver."""


class Incident(Wire, frozen=True, kw_only=True):
    """Something that is or was wrong. The same again after it cleared is another one."""

    id: int
    node: str
    kind: IncidentKind
    severity: Severity
    gpu_uuid: str | None = None
    """`None`: the node's."""
    gpu_index: int | None = None
    """When it was opened; keyed on `gpu_uuid`."""
    job_id: int | None = None
    user: str | None = None
    pid: int | None = None
    code: int | None = None
    """Of an XID."""
    what: str
    """One sentence."""
    advice: str
    """What to do next."""
    opened_at: int
    """Unix seconds."""
    seen_at: int
    """When it was last so."""
    count: int = 1
    """Times that it was seen anew while it was open, for events such as XIDs."""
    drained_at: int | None = None
    """When its GPU was taken out of use for it, by the policy of its kind."""
    cleared_at: int | None = None
    cleared_by: str | None = None
    """Who said that it is over; `None`: it was seen to be."""
    acknowledged_at: int | None = None
    acknowledged_by: str | None = None
