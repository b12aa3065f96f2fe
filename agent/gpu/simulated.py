"""Simulated GPUs behind the reader protocol: the demo, and fault drills without hardware.

What one says is in `simulated_gpu`. A GPU that a job holds warms up and becomes busy. Faults come from the file
`simulated.json` in the state folder, `{"3": "hung"}`, so that they are injected and lifted from outside while all above
this module is the real thing. `hung` really blocks the thread that reads.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.api.errors import StokerError
from agent.api.types import GpuReading, GpuSource
from agent.gpu.base import DriverGoneError, GpuLostError, Inventory, NoGpusError, mig_index
from agent.gpu.frames import EventKind, GpuEvent
from agent.gpu.simulated_faults import ALL, BOARDS, OK, Fault
from agent.gpu.simulated_gpu import GIB, Instance, SimulatedGpu
from agent.gpu.simulated_layout import MIG_PROFILES, Layout, links, numa_node, nvlinks

log = logging.getLogger(__name__)

FAULTS_FILE = "simulated.json"
_HUNG_POLL_S = 0.1
SIMULATED_XID = 95
"""A memory error that may have hit every program: what the fault `xid` is told as, once, when it is injected."""


class SimulatedReader:
    """`count` GPUs whose UUIDs stay the same for a node name."""

    source = GpuSource.SIMULATED

    def __init__(self, count: int, *, node_name: str, state_dir: Path, layout: Layout = Layout.NVSWITCH) -> None:
        self._faults = FaultFile(state_dir / FAULTS_FILE)
        self._faults.look()
        self._boards = self._faults.boards
        """What is missing or exchanged; another driver's process sees what changed of that."""
        slots = [slot for slot in range(count) if self._boards.get(slot) is not Fault.MISSING]
        uuids = [simulated_uuid(node_name, slot, exchanged=slot in self._boards) for slot in slots]
        self._gpus = [
            SimulatedGpu(
                index=index,
                slot=slot,
                uuid=uuid,
                links=links(layout, index, uuids),
                nvlinks=nvlinks(layout, slot),
                numa_node=numa_node(slot, count),
                instances=_instances(node_name, slot) if layout.is_divided(slot) else (),
            )
            for index, (slot, uuid) in enumerate(zip(slots, uuids, strict=True))
        ]
        self._held: frozenset[str] = frozenset()
        self._tell: Callable[[GpuEvent], None] = lambda _: None
        self._before = {slot: self._faults.of(slot) for slot in slots}
        """A fault that is there at the start happened before it: a driver does not tell of an XID again."""

    def open(self) -> Inventory:
        """See `GpuReader`.

        Raises:
            NoGpusError: the configuration asks for 0, or all are missing.
            DriverGoneError: one was put in meanwhile.
        """
        self._faults.look()
        self._check_boards()
        if not self._gpus:
            if self._boards:
                raise NoGpusError("all simulated GPUs are missing; put them in with: stoker-agent simulate gpu all ok")
            raise NoGpusError("no simulated GPUs: gpu.simulated_count is 0; set it to 1 or more")
        return Inventory(count=len(self._gpus), driver_version=None)

    def read(self, index: int, now: float, monotonic: float) -> GpuReading:
        """See `GpuReader`."""
        gpu = self._gpus[index]
        slot = gpu.slot
        fault = self._faults.of(slot)
        self._notice(gpu, fault, now)
        while fault is Fault.HUNG:
            time.sleep(_HUNG_POLL_S)
            fault = self._faults.of(slot)
        self._check_boards()
        if fault is Fault.LOST:
            raise GpuLostError(f"simulated GPU {slot} is lost; lift it with: stoker-agent simulate gpu {slot} ok")
        return gpu.read(now, monotonic, held=self._held, fault=fault)

    def ready(self, indexes: Sequence[int], monotonic: float) -> list[int]:
        """See `GpuReader`; these are always read."""
        return []

    def check(self, index: int, monotonic: float) -> bool:
        """See `GpuReader`."""
        return False

    def sweep(self, indexes: Sequence[int], now: float, monotonic: float) -> None:
        """See `GpuReader`."""

    def glance(self, index: int, monotonic: float) -> None:
        """See `GpuReader`; simulated GPUs tell of their peaks anyway."""

    def instances(self, index: int, now: float, monotonic: float) -> tuple[GpuReading, ...]:
        """See `GpuReader`."""
        return tuple(self._gpus[index].read_instances())

    def hold(self, uuids: frozenset[str]) -> None:
        """See `GpuReader`."""
        self._held = uuids

    def listen(self, tell: Callable[[GpuEvent], None]) -> None:
        """See `GpuReader`."""
        self._tell = tell

    def _notice(self, gpu: SimulatedGpu, fault: Fault | None, now: float) -> None:
        """Tell of an XID that came since the last reading."""
        before, self._before[gpu.slot] = self._before[gpu.slot], fault
        if fault is Fault.XID and before is not Fault.XID:
            self._tell(GpuEvent(kind=EventKind.XID, uuid=gpu.uuid, at=now, code=SIMULATED_XID))

    def _check_boards(self) -> None:
        """As with a real driver, only a fresh process sees other boards than there were when it began."""
        if self._faults.boards != self._boards:
            raise DriverGoneError("a simulated GPU was taken out or put in; the driver is loaded anew")


def simulated_uuid(node_name: str, index: int, *, exchanged: bool = False) -> str:
    """`GPU-51a0…`, in the shape of a real one; the prefix lets a person tell (5-1-a-0: "simulated")."""
    digest = hashlib.sha256(f"{node_name}:{index}{':exchanged' * exchanged}".encode()).hexdigest()
    return f"GPU-51a0{digest[:4]}-{digest[4:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:28]}"


def _instances(node_name: str, index: int) -> tuple[Instance, ...]:
    return tuple(
        Instance(
            index=mig_index(index, slot),
            uuid=simulated_uuid(node_name, mig_index(index, slot)).replace("GPU-", "MIG-"),
            profile=profile,
            memory_bytes=gib * GIB,
        )
        for slot, (profile, gib) in enumerate(MIG_PROFILES)
    )


class FaultFile:
    """The faults in `simulated.json`, re-read when the file changes. A file that makes no sense injects nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp_seen: tuple[int, int, int] | None = None
        self._faults: dict[int, Fault] = {}
        self.boards: dict[int, Fault] = {}
        """Those that are missing or exchanged, as they were at the last look."""

    def of(self, slot: int) -> Fault | None:
        """The fault of one GPU, now."""
        self.look()
        return self._faults.get(slot)

    def look(self) -> None:
        """Read the file, if it changed."""
        stamp = self._stamp()
        if stamp != self._stamp_seen:
            self._faults = self._load() if stamp else {}
            self.boards = {slot: fault for slot, fault in self._faults.items() if fault in BOARDS}
            self._stamp_seen = stamp

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)  # noqa: PTH116 - once per GPU and sample; Path.stat costs twice as much
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _load(self) -> dict[int, Fault]:
        try:
            return _load_faults(self._path)
        except (OSError, ValueError) as error:
            log.warning("%s makes no sense and injects no fault: %s; remove it", self._path, error)
            return {}


class WordError(StokerError):
    """A word that was typed means nothing here."""


def inject(state_dir: Path, index: str, word: str, *, count: int) -> str:
    """The verb `stoker-agent simulate gpu INDEX FAULT|ok`: inject or lift a fault.

    Args:
        state_dir: the agent's state folder.
        index: as typed: one, several with commas between them, or `all`.
        word: as typed.
        count: how many simulated GPUs the node has; 0 where the source is another.

    Returns:
        A sentence that says what now holds.

    Raises:
        WordError: no such GPU, or no such fault.
        StokerError: the file cannot be written.
    """
    if count == 0:
        raise WordError('this node has no simulated GPUs; they come with gpu.source = "simulated"')
    numbers = range(count) if index == ALL else [_check_index(each, count) for each in index.split(",")]
    words = [*(fault.value for fault in Fault), OK]
    if word not in words:
        raise WordError(f"{word!r} is no simulated fault; use one of: {', '.join(words)}")
    path = state_dir / FAULTS_FILE
    try:
        _store(path, _changed(path, numbers, word))
    except OSError as error:
        raise StokerError(f"cannot write {path}: {error}; run this as the agent's own account") from error
    if len(numbers) == 1:
        return f"simulated GPU {numbers[0]} is now {word}"
    return f"simulated GPUs {', '.join(map(str, numbers))} are now {word}"


def _check_index(index: str, count: int) -> int:
    if not (index.isascii() and index.isdigit() and len(index) <= 4) or int(index) >= count:
        raise WordError(f"there is no simulated GPU {index!r}; this node's are 0 to {count - 1}")
    return int(index)


def _changed(path: Path, indexes: Sequence[int], word: str) -> dict[int, Fault]:
    """The file's faults with some changed; a damaged file is replaced, because this command is what repairs it."""
    try:
        faults = _load_faults(path)
    except (FileNotFoundError, ValueError):
        faults = {}
    others = {index: fault for index, fault in faults.items() if index not in indexes}
    return others if word == OK else {**others, **dict.fromkeys(indexes, Fault(word))}


def _load_faults(path: Path) -> dict[int, Fault]:
    data = json.loads(path.read_bytes())
    if not isinstance(data, dict):
        raise ValueError('it is not an object such as {"3": "hung"}')
    return {int(index): Fault(word) for index, word in data.items()}


def _store(path: Path, faults: dict[int, Fault]) -> None:
    """A reader sees the old file or the new one. Not made durable: a drill need not survive a power cut."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(faults) + "\n", encoding="utf-8")
    fresh.replace(path)
