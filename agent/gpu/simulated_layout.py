"""How simulated GPUs are connected and divided: `gpu.simulated_layout` in the configuration. Pure.

nvswitch    every pair over 18 NVLinks and a switch, as in an HGX H100
islands     fours with 4 NVLinks between each pair, PCIe between the fours
mig         as nvswitch, and GPU 0 is divided into three MIG instances
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from agent.api.queue import LinkGrade

NVLINKS = 18
"""That an H100 has."""
_SWITCHED = LinkGrade.NVLINK + NVLINKS - 1
_BRIDGED = LinkGrade.NVLINK + 4 - 1
_ISLAND = 4
MIG_PROFILES = (("1g.10gb", 10), ("2g.20gb", 20), ("4g.40gb", 40))
"""Name and GiB of each instance of a divided GPU; an H100 80GB takes just these."""
MIG_SLICES = 7
"""Parts of a GPU that profiles count with their `1g`."""


class Layout(StrEnum):
    """See the module."""

    NVSWITCH = "nvswitch"
    ISLANDS = "islands"
    MIG = "mig"

    def is_divided(self, index: int) -> bool:
        """Whether GPU `index` is in MIG mode."""
        return self is Layout.MIG and index == 0


def numa_node(index: int, count: int) -> int:
    """The first half of the GPUs hangs on one socket, the others on the other."""
    return 0 if index < (count + 1) // 2 else 1


def nvlinks(layout: Layout, index: int) -> int:
    """How many NVLinks of GPU `index` are up; in MIG mode none is used."""
    if layout.is_divided(index):
        return 0
    return NVLINKS if layout is not Layout.ISLANDS else 4 * (_ISLAND - 1)


def links(layout: Layout, index: int, uuids: Sequence[str]) -> dict[str, int]:
    """The grades of GPU `index` to its peers, by their UUIDs. A GPU in MIG mode has no peers."""
    if layout.is_divided(index):
        return {}
    grades = {
        uuid: _grade(layout, index, peer, len(uuids))
        for peer, uuid in enumerate(uuids)
        if peer != index and not layout.is_divided(peer)
    }
    return {uuid: grade for uuid, grade in grades.items() if grade != LinkGrade.SYSTEM}


def _grade(layout: Layout, index: int, peer: int, count: int) -> int:
    if layout is not Layout.ISLANDS:
        return _SWITCHED
    if index // _ISLAND == peer // _ISLAND:
        return _BRIDGED
    return LinkGrade.NODE if numa_node(index, count) == numa_node(peer, count) else LinkGrade.SYSTEM
