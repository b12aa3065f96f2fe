"""What speaks against a GPU that still works: hints for placement, short of a drain. Pure.

The least ill GPU is given out first. A hint stops nothing: what takes a GPU out of use is a drain, with an owner.
"""

from __future__ import annotations

from dataclasses import dataclass

CHECK_S = 60.0
"""How often the driver is asked; none of this changes by the second."""
REPLAYS_MANY = 10
"""Within one check. Single replays are how PCIe mends a flipped bit; a dozen a minute is a bad slot, riser or cable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What the driver counts; `None` where it does not."""

    rows_remapped: int | None = None
    """After uncorrectable errors. NVML `nvmlDeviceGetRemappedRows`, Ampere and newer."""
    remap_pending: bool = False
    remap_failed: bool = False
    pcie_replays: int | None = None
    """Since the driver was loaded. NVML `nvmlDeviceGetPcieReplayCounter`."""


def hints(before: Counters | None, now: Counters) -> tuple[str, ...]:
    """What speaks against the GPU, a sentence each, the worst first."""
    found = []
    if now.remap_failed:
        found.append("it has no spare memory rows left; have it replaced")
    if now.remap_pending:
        found.append("a bad memory row is remapped at its next reset; reset it when its jobs allow")
    if now.rows_remapped:
        found.append(f"{now.rows_remapped} of its memory rows were remapped after uncorrectable errors")
    rise = _rise(before, now)
    if rise >= REPLAYS_MANY:
        found.append(f"PCIe sent {rise} packets again within a minute; check its slot, riser and cable")
    return tuple(found)


def _rise(before: Counters | None, now: Counters) -> int:
    """Replays since the check before; none where the counter began anew."""
    if before is None or before.pcie_replays is None or now.pcie_replays is None:
        return 0
    return max(0, now.pcie_replays - before.pcie_replays)
