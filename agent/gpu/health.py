"""What speaks against a GPU that still works: hints for placement, short of a drain. Pure.

The least ill GPU is given out first. A hint stops nothing: what takes a GPU out of use is a drain, with an owner.
"""

from __future__ import annotations

from agent.api.types import GpuErrors

CHECK_S = 60.0
"""How often it is judged; none of this changes by the second."""
REPLAYS_MANY = 10
"""Within one check. Single replays are how PCIe mends a flipped bit; a dozen a minute is a bad slot, riser or cable."""
NVLINK_MANY = 10
"""Likewise of links between GPUs that had to be brought up again, which each time stops all that they carry."""

_WANTED = {
    "gpu_reset": "reset it when its jobs have ended",
    "drain_and_reset": "let its jobs end, then reset it",
    "drain_p2p": "let the jobs that use its NVLinks end",
    "bus_reset": "reset its bus when its jobs have ended",
    "node_reboot": "reboot the node",
    "system_reboot": "reboot the node",
    "recover_imex_domain": "have the NVLink domain recovered",
}
"""What the driver wants done, in words."""


def hints(before: GpuErrors | None, now: GpuErrors) -> tuple[str, ...]:
    """What speaks against the GPU, a sentence each, the worst first."""
    found = []
    if now.recovery_action not in (None, "none"):
        found.append(f"the driver asks: {_WANTED.get(now.recovery_action or '', now.recovery_action)}")
    if now.remap_failed:
        found.append("it has no spare memory rows left; have it replaced")
    if now.remap_pending:
        found.append("a bad memory row is remapped at its next reset; reset it when its jobs allow")
    if now.pages_pending:
        found.append("a bad memory page is retired at its next reset; reset it when its jobs allow")
    if now.ecc_uncorrected:
        found.append(f"{now.ecc_uncorrected} uncorrectable memory errors since the driver was loaded")
    if now.rows_remapped_uncorrected:
        found.append(f"{now.rows_remapped_uncorrected} of its memory rows were remapped after uncorrectable errors")
    replays = _rise(before.pcie_replays if before else None, now.pcie_replays)
    if replays >= REPLAYS_MANY:
        found.append(f"PCIe sent {replays} packets again within a minute; check its slot, riser and cable")
    recoveries = _rise(before.nvlink_recoveries if before else None, now.nvlink_recoveries)
    if recoveries >= NVLINK_MANY:
        found.append(f"its NVLinks were brought up again {recoveries} times within a minute; have it looked at")
    return tuple(found)


def _rise(before: int | None, now: int | None) -> int:
    """Since the check before; none where the counter began anew."""
    return 0 if before is None or now is None else max(0, now - before)
