"""How the GPUs reach each other, asked once. A part of the door to `pynvml`.

    gpu-reader …       hands over each GPU when it has opened it
    gpu-links          asks for its NVLinks, then for the way to each GPU that is known already; ends after the last

A question about two GPUs may block on either, so the sampling threads ask none: a GPU that hangs has never been handed
over, and one that hangs just then costs the grades that are still open, not a sample.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import pynvml

from agent.api.errors import StokerError
from agent.api.queue import LinkGrade
from agent.gpu.nvml_facts import Facts, PciPlace, told

log = logging.getLogger(__name__)

HEAD_START_S = 0.1
"""Of the first reading: two threads that call the driver hand the interpreter's lock to and fro, 5 ms at a time."""

_GRADES = {
    pynvml.NVML_TOPOLOGY_INTERNAL: LinkGrade.BRIDGE,
    pynvml.NVML_TOPOLOGY_SINGLE: LinkGrade.BRIDGE,
    pynvml.NVML_TOPOLOGY_MULTIPLE: LinkGrade.BRIDGE,
    pynvml.NVML_TOPOLOGY_HOSTBRIDGE: LinkGrade.NODE,
    pynvml.NVML_TOPOLOGY_NODE: LinkGrade.NODE,
}
"""`nvidia-smi topo -m` calls them PIX and PXB, PHB and NODE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NvLinks:
    """The NVLinks of one GPU that are up."""

    to_switch: int = 0
    """They end at an NVSwitch, and so lead to every GPU that has such links too."""
    to_gpus: Mapping[PciPlace, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    index: int
    facts: Facts
    handle: Any
    nvlinks: NvLinks


class LinkSurvey:
    """The grades of all ways between the GPUs handed over so far."""

    def __init__(self, count: int) -> None:
        """`count`: how many GPUs there will be."""
        self._count = count
        self._queue: SimpleQueue[tuple[int, Facts, Any]] = SimpleQueue()
        self._grades: dict[str, dict[str, int]] = {}
        self.changes = 0
        """Goes up with each way that is found."""
        self._thread = threading.Thread(target=self._run, name="gpu-links", daemon=True)
        self._thread.start()

    def add(self, index: int, facts: Facts, handle: Any) -> None:
        """A GPU was opened; never blocks."""
        self._queue.put((index, facts, handle))

    def of(self, uuid: str) -> dict[str, int]:
        """The grades known of one GPU; never changed afterwards, only replaced."""
        return self._grades.get(uuid, _NONE)

    def wait(self, timeout_s: float) -> None:
        """Return when all GPUs are surveyed, or when the time is up."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        known: list[_Opened] = []
        time.sleep(HEAD_START_S)
        for _ in range(self._count):
            index, facts, handle = self._queue.get()
            try:
                new = _Opened(index=index, facts=facts, handle=handle, nvlinks=_nvlinks(index, handle))
                for other in known:
                    self._join(new, other)
                known.append(new)
            except StokerError as error:
                log.warning("gpu=%d: its links are not known: %s", index, error)
            except Exception:  # the rim of the thread: one GPU's fault must not cost the others their links
                log.exception("gpu=%d: its links are not known", index)

    def _join(self, one: _Opened, other: _Opened) -> None:
        grade = nvlink_grade(one.facts, one.nvlinks, other.facts, other.nvlinks) or _topology_grade(one, other)
        if grade == LinkGrade.SYSTEM:
            return
        for this, that in ((one, other), (other, one)):
            uuid = this.facts.uuid
            self._grades[uuid] = {**self._grades.get(uuid, _NONE), that.facts.uuid: int(grade)}
        self.changes += 1


_NONE: dict[str, int] = {}


def nvlink_grade(one: Facts, its: NvLinks, other: Facts, others: NvLinks) -> int | None:
    """The grade of the NVLinks between two GPUs; `None` where there are none. What both ends agree on counts double."""
    direct = max(
        its.to_gpus.get(other.pci, 0) if other.pci else 0,
        others.to_gpus.get(one.pci, 0) if one.pci else 0,
    )
    count = direct or min(its.to_switch, others.to_switch)
    return LinkGrade.NVLINK + count - 1 if count else None


def _nvlinks(index: int, handle: Any) -> NvLinks:
    """NVML `nvmlDeviceGetNvLinkState`, `…RemoteDeviceType`, `…RemotePciInfo_v2`; `nvidia-smi nvlink -s`."""
    to_gpus: Counter[PciPlace] = Counter()
    to_switch = 0
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        if not told(index, lambda link=link: pynvml.nvmlDeviceGetNvLinkState(handle, link)):  # type: ignore[misc]
            continue
        kind = told(index, lambda link=link: pynvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, link))  # type: ignore[misc]
        if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
            to_switch += 1
            continue
        info = told(index, lambda link=link: pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link))  # type: ignore[misc]
        if info is not None:
            to_gpus[(int(info.domain), int(info.bus), int(info.device))] += 1
    return NvLinks(to_switch=to_switch, to_gpus=dict(to_gpus))


def _topology_grade(one: _Opened, other: _Opened) -> int:
    level = told(one.index, lambda: pynvml.nvmlDeviceGetTopologyCommonAncestor(one.handle, other.handle))
    return _GRADES.get(level, LinkGrade.SYSTEM)
