"""What stands in the machine against what the agent remembers from its installation. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.api.health import KnownGpu
from agent.gpu.inspection import GpuInspection
from agent.selftest.checks import NODE, Check, Verdict, gpu

_ACCEPT = "if it was exchanged on purpose: stoker inventory NODE --accept"


def compare(known: Sequence[KnownGpu], found: Sequence[GpuInspection]) -> Iterator[Check]:
    """A line for the node, and one for each GPU whose links are fewer than they were."""
    there = {each.reading.uuid: each for each in found}
    gone = [each for each in known if each.uuid not in there]
    new = [each.reading.index for each in found if each.reading.uuid not in {one.uuid for one in known}]
    words = [f"{len(gone)} of {len(known)} gone ({', '.join(f'GPU {each.index}' for each in gone)})"] if gone else []
    words += [f"{len(new)} other ({', '.join(f'GPU {index}' for index in new)})"] if new else []
    yield Check(
        subject=NODE,
        name="GPUs as at install",
        found="; ".join(words) or "the same",
        expected="the same",
        verdict=Verdict.FAIL if words else Verdict.PASS,
        detail=f"these are not the GPUs that were installed; see: stoker inventory; {_ACCEPT}" if words else None,
    )
    for each in known:
        if each.uuid in there:
            yield from _links(each, there[each.uuid])


def _links(known: KnownGpu, found: GpuInspection) -> Iterator[Check]:
    for name, before, now in (
        ("PCIe lanes as at install", known.pcie_width, found.pcie_width),
        ("PCIe generation as at install", known.pcie_generation, found.pcie_generation_max),
        ("NVLinks as at install", known.nvlinks, found.nvlinks),
    ):
        if before is not None and now is not None and now < before:
            yield Check(
                subject=gpu(found.reading.index),
                name=name,
                found=str(now),
                expected=str(before),
                verdict=Verdict.FAIL,
                detail=f"there were more when it was installed; see slot, riser, bridge and BIOS; {_ACCEPT}",
                uuid=found.reading.uuid,
            )
