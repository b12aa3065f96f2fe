"""Which GPUs the node is known to have: remembered at install, taken for right again when an admin says so."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from agent.api.errors import ApiError
from agent.api.health import KnownGpu
from agent.api.types import GpuBus, GpuReading, GpuState
from agent.engine.shelf import Shelf
from agent.gpu.frames import UNKNOWN_UUID

SETTLED_LOOKS = 10
"""Looks at the same GPUs, all of them well, after which a new node's inventory is remembered."""
_KIND = "inventory"
_NO_BUS = GpuBus()

logger = logging.getLogger(__name__)


class Inventory:
    """The GPUs at install. Lives on the event loop."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._known: dict[str, KnownGpu] = {}
        """By UUID."""
        self._settling: tuple[frozenset[str], int] = (frozenset(), 0)
        """GPUs of a node without an inventory, and for how many looks they have been the same."""

    async def load(self) -> None:
        """Take up what is on the shelf.

        Raises:
            StoreError: it cannot be read.
        """
        self._known = {each.uuid: each for each in await self._shelf.all(_KIND, KnownGpu)}

    def all(self) -> list[KnownGpu]:
        """By index; none on a node that is still new."""
        return sorted(self._known.values(), key=lambda each: each.index)

    async def settle(self, readings: Sequence[GpuReading]) -> None:
        """Remember a new node's GPUs once they have been the same for some looks, and all well; later, what came up.

        Raises:
            StoreError: not stored.
        """
        whole = _whole(readings)
        if self._known:
            await self._grow(whole)
            return
        uuids = frozenset(each.uuid for each in whole if each.state is GpuState.OK)
        before, looks = self._settling
        self._settling = (uuids, looks + 1 if uuids == before and len(uuids) == len(whole) else 0)
        if uuids and self._settling[1] >= SETTLED_LOOKS:
            await self._remember(whole)

    async def accept(self, readings: Sequence[GpuReading]) -> list[KnownGpu]:
        """Take what is there now for right.

        Raises:
            ApiError: 409, a GPU cannot be read.
            StoreError: not stored.
        """
        whole = _whole(readings)
        bad = next((each for each in whole if each.state is not GpuState.OK), None)
        if bad is not None:
            sentence = (
                f"GPU {bad.index} cannot be read ({bad.state.value}), so it is not known what it is; mend it first"
            )
            raise ApiError(409, "not_readable", sentence)
        await self._remember(whole)
        return self.all()

    def named(self, reading: GpuReading) -> GpuReading:
        """A reading under the UUID that it is known by: a GPU that is lost from the start on does not tell its own."""
        if not reading.uuid.startswith(UNKNOWN_UUID):
            return reading
        known = next((each for each in self._known.values() if each.index == reading.index), None)
        return reading if known is None else msgspec.structs.replace(reading, uuid=known.uuid, name=known.name)

    async def _grow(self, readings: Sequence[GpuReading]) -> None:
        """NVLinks that were not up yet when the GPU was remembered, and the PCIe generation that it had lowered because
        it was idle; less of either is the rules' to tell. Its place, which older versions did not note.
        """
        for each in readings:
            known = self._known.get(each.uuid)
            if known is None or each.state is not GpuState.OK:
                continue
            bus = each.bus or _NO_BUS
            better = msgspec.structs.replace(
                known,
                pci=known.pci or each.pci,
                nvlinks=_more(known.nvlinks, bus.nvlinks_active),
                pcie_generation_seen=_more(known.pcie_generation_seen, bus.pcie_generation),
            )
            if better != known:
                await self._shelf.change([(_KIND, each.uuid, better)], [])
                self._known[each.uuid] = better

    async def _remember(self, readings: Sequence[GpuReading]) -> None:
        known = {each.uuid: _known(each) for each in readings}
        gone = [(_KIND, uuid) for uuid in self._known if uuid not in known]
        await self._shelf.change([(_KIND, uuid, each) for uuid, each in known.items()], gone)
        self._known = known
        logger.info("the node's GPUs are remembered: %d", len(known))


def _whole(readings: Sequence[GpuReading]) -> list[GpuReading]:
    return [each for each in readings if each.mig_parent is None]


def _more(before: int | None, now: int | None) -> int | None:
    """The greater one; an absent one says nothing."""
    return before if not now or now <= (before or 0) else now


def _known(reading: GpuReading) -> KnownGpu:
    bus = reading.bus
    return KnownGpu(
        uuid=reading.uuid,
        index=reading.index,
        name=reading.name,
        pci=reading.pci,
        pcie_width=None if bus is None else bus.pcie_width,
        pcie_generation=None if reading.limits is None else reading.limits.pcie_generation_max,
        pcie_generation_seen=None if bus is None else bus.pcie_generation,
        nvlinks=None if bus is None else bus.nvlinks_active,
    )
