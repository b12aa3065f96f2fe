"""Simulated GPUs behind the reader protocol: the demo, and fault drills without hardware.

Values move smoothly and depend on time and index only. A GPU that a job holds warms up and becomes busy. Faults come
from the file `simulated.json` in the state folder, `{"3": "hung"}`, so that they are injected and lifted from outside
while everything above this module is the real thing. `hung` really blocks the thread that reads.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from agent.api.errors import StokerError
from agent.api.types import GpuReading, GpuSource
from agent.gpu.base import GpuLostError, Inventory, NoGpusError, mig_index
from agent.gpu.simulated_layout import MIG_PROFILES, MIG_SLICES, Layout, links, numa_node

log = logging.getLogger(__name__)

NAME = "Simulated H100 80GB"
FAULTS_FILE = "simulated.json"

_GIB = 1024**3
_MEMORY_BYTES = 80 * _GIB
_POWER_LIMIT_MW = 700_000
_WARM_UP_S = 6.0
"""Time constant with which a GPU follows its job's start and end."""
_HUNG_POLL_S = 0.1


class Fault(StrEnum):
    """What can be done to a simulated GPU."""

    LOST = "lost"
    HUNG = "hung"
    HOT = "hot"
    """Throttled at 94 °C, though still answering."""


_OK = "ok"


class SimulatedReader:
    """`count` GPUs whose UUIDs stay the same for a node name."""

    source = GpuSource.SIMULATED

    def __init__(self, count: int, *, node_name: str, state_dir: Path, layout: Layout = Layout.NVSWITCH) -> None:
        self._faults = FaultFile(state_dir / FAULTS_FILE)
        uuids = [simulated_uuid(node_name, index) for index in range(count)]
        self._gpus = [
            _SimulatedGpu(
                index=index,
                uuid=uuid,
                links=links(layout, index, uuids),
                numa_node=numa_node(index, count),
                instances=tuple(_instances(node_name, index)) if layout.is_divided(index) else (),
            )
            for index, uuid in enumerate(uuids)
        ]
        self._held: frozenset[str] = frozenset()

    def open(self) -> Inventory:
        """See `GpuReader`.

        Raises:
            NoGpusError: the configuration asks for 0.
        """
        if not self._gpus:
            raise NoGpusError("no simulated GPUs: gpu.simulated_count is 0; set it to 1 or more")
        return Inventory(count=len(self._gpus), driver_version=None)

    def read(self, index: int, now: float, monotonic: float) -> GpuReading:
        """See `GpuReader`."""
        gpu = self._gpus[index]
        while (fault := self._faults.of(index)) is Fault.HUNG:
            time.sleep(_HUNG_POLL_S)
        if fault is Fault.LOST:
            raise GpuLostError(f"simulated GPU {index} is lost; lift it with: stoker-agent simulate gpu {index} ok")
        return gpu.read(now, monotonic, held=self._held, hot=fault is Fault.HOT)

    def instances(self, index: int, now: float, monotonic: float) -> tuple[GpuReading, ...]:
        """See `GpuReader`."""
        return tuple(self._gpus[index].read_instances(now))

    def hold(self, uuids: frozenset[str]) -> None:
        """See `GpuReader`."""
        self._held = uuids


def simulated_uuid(node_name: str, index: int) -> str:
    """`GPU-51a0…`, in the shape of a real one; the prefix lets a person tell (5-1-a-0: "simulated")."""
    digest = hashlib.sha256(f"{node_name}:{index}".encode()).hexdigest()
    return f"GPU-51a0{digest[:4]}-{digest[4:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:28]}"


def _instances(node_name: str, index: int) -> Iterator[_Instance]:
    for slot, (profile, gib) in enumerate(MIG_PROFILES):
        uuid = simulated_uuid(node_name, mig_index(index, slot)).replace("GPU-", "MIG-")
        yield _Instance(index=mig_index(index, slot), uuid=uuid, profile=profile, memory_bytes=gib * _GIB)


@dataclass(slots=True)
class _Load:
    """0 idle to 1 busy, follows the job with `_WARM_UP_S`."""

    now: float = 0.0
    _at: float | None = None

    def follow(self, target: float, monotonic: float) -> float:
        """A GPU seen for the first time is where its job wants it: a restarted sampler shows no dip."""
        if self._at is None:
            self.now = target
        else:
            passed = max(0.0, monotonic - self._at)
            self.now = target + (self.now - target) * math.exp(-passed / _WARM_UP_S)
        self._at = monotonic
        return self.now


@dataclass(slots=True, kw_only=True)
class _Instance:
    """A part of a divided GPU; it has memory of its own, and NVML tells nothing else of one."""

    index: int
    uuid: str
    profile: str
    memory_bytes: int
    load: _Load = field(default_factory=_Load)

    @property
    def slices(self) -> int:
        return int(self.profile.partition("g")[0])


@dataclass(slots=True, kw_only=True)
class _SimulatedGpu:
    index: int
    uuid: str
    links: dict[str, int]
    numa_node: int
    instances: tuple[_Instance, ...] = ()
    _load: _Load = field(default_factory=_Load)
    _energy_mj: float = 0.0
    _last: GpuReading | None = None
    _read_at: float | None = None

    def read(self, now: float, monotonic: float, *, held: frozenset[str], hot: bool) -> GpuReading:
        load = self._follow(held, monotonic)
        # Two incommensurable waves and a phase per GPU: no two curves alike, none ever jumps.
        wave = (math.sin(now / 7 + 1.7 * self.index) + math.sin(now / 2.9 + 0.6 * self.index)) / 2
        power_mw = int(72_000 + 1_500 * wave + load * (510_000 + 40_000 * wave - (180_000 if hot else 0)))
        self._last = GpuReading(
            index=self.index,
            uuid=self.uuid,
            name=NAME,
            sampled_at=now,
            memory_total_bytes=_MEMORY_BYTES,
            memory_used_bytes=int((0.5 + load * (61 + self.index % 4 + wave)) * _GIB),
            utilization_percent=None if self.instances else round(load * (92 + 6 * wave)),
            memory_utilization_percent=None if self.instances else round(load * (44 + 5 * wave)),
            power_mw=power_mw,
            energy_mj=self._energy(power_mw, monotonic),
            power_limit_mw=_POWER_LIMIT_MW,
            temperature_c=94 if hot else round(33 + self.index % 3 + load * (33 + 2 * wave)),
            sm_clock_mhz=round(345 + load * ((765 if hot else 1635) - 345)),
            memory_clock_mhz=2619,
            numa_node=self.numa_node,
            minor=self.index,
            divided=bool(self.instances),
            links=self.links,
        )
        return self._last

    def read_instances(self, now: float) -> Iterator[GpuReading]:
        parent = self._last
        for each in self.instances if parent else ():
            assert parent is not None
            yield GpuReading(
                index=each.index,
                uuid=each.uuid,
                name=f"{NAME} MIG {each.profile}",
                sampled_at=now,
                memory_total_bytes=each.memory_bytes,
                memory_used_bytes=int((0.02 + 0.75 * each.load.now) * each.memory_bytes),
                temperature_c=parent.temperature_c,
                sm_clock_mhz=parent.sm_clock_mhz,
                memory_clock_mhz=parent.memory_clock_mhz,
                numa_node=parent.numa_node,
                minor=parent.minor,
                mig_parent=self.uuid,
                mig_profile=each.profile,
            )

    def _follow(self, held: frozenset[str], monotonic: float) -> float:
        """Its own load, or what its instances make of it together."""
        if not self.instances:
            return self._load.follow(1.0 if self.uuid in held else 0.0, monotonic)
        loads = [
            each.slices * each.load.follow(1.0 if each.uuid in held else 0.0, monotonic) for each in self.instances
        ]
        return sum(loads) / MIG_SLICES

    def _energy(self, power_mw: int, monotonic: float) -> int:
        """A counter from the start of the sampler, as the driver's is from its own."""
        passed = 0.0 if self._read_at is None else max(0.0, monotonic - self._read_at)
        self._read_at = monotonic
        self._energy_mj += power_mw * passed
        return int(self._energy_mj)


class FaultFile:
    """The faults in `simulated.json`, re-read when the file changes. A file that makes no sense injects nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[tuple[int, int, int] | None, dict[int, Fault]] = (None, {})

    def of(self, index: int) -> Fault | None:
        """The fault of one GPU, now."""
        stamp = self._stamp()
        seen_stamp, faults = self._seen
        if stamp != seen_stamp:
            faults = self._load() if stamp else {}
            self._seen = (stamp, faults)
        return faults.get(index)

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


def inject(state_dir: Path, index: str, word: str, *, count: int) -> str:
    """The verb `stoker-agent simulate gpu INDEX lost|hung|hot|ok`: inject or lift a fault.

    Args:
        state_dir: the agent's state folder.
        index: as typed.
        word: as typed.
        count: how many simulated GPUs the node has; 0 where the source is another.

    Returns:
        A sentence that says what now holds.

    Raises:
        StokerError: no such GPU, no such fault, or the file cannot be written.
    """
    number = _check_index(index, count)
    words = [*(fault.value for fault in Fault), _OK]
    if word not in words:
        raise StokerError(f"{word!r} is no simulated fault; use one of: {', '.join(words)}")
    path = state_dir / FAULTS_FILE
    try:
        _store(path, _changed(path, number, word))
    except OSError as error:
        raise StokerError(f"cannot write {path}: {error}; run this as the agent's own account") from error
    return f"simulated GPU {number} is now {word}"


def _check_index(index: str, count: int) -> int:
    if count == 0:
        raise StokerError('this node has no simulated GPUs; they come with gpu.source = "simulated"')
    if not (index.isascii() and index.isdigit() and len(index) <= 4) or int(index) >= count:
        raise StokerError(f"there is no simulated GPU {index!r}; this node's are 0 to {count - 1}")
    return int(index)


def _changed(path: Path, index: int, word: str) -> dict[int, Fault]:
    """The file's faults with one changed; a damaged file is replaced, because this command is what repairs it."""
    try:
        faults = _load_faults(path)
    except (FileNotFoundError, ValueError):
        faults = {}
    faults.pop(index, None)
    return faults if word == _OK else {**faults, index: Fault(word)}


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
