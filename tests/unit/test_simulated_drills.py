"""Each fault that can be simulated raises its incident, after its time: the reader, rules and patience, no waiting."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.api.health import IncidentKind, KnownGpu
from agent.api.types import GpuReading, GpuState
from agent.gpu.base import GpuLostError
from agent.gpu.frames import GpuEvent
from agent.gpu.simulated import SIMULATED_XID, SimulatedReader, inject, simulated_uuid
from agent.gpu.simulated_gpu import Fault
from agent.telemetry.rules import HeldBy, Scene, blind, look
from agent.telemetry.told import of_event, xid_finding
from agent.telemetry.watch import PATIENCE, Watch
from agent.telemetry.xidjoin import Heard

COUNT, SICK, LONGEST_S = 4, 2, 1000
RAISES = {
    Fault.LOST: {IncidentKind.GPU_LOST},
    Fault.HOT: {IncidentKind.THERMAL_THROTTLE, IncidentKind.STRAGGLER},
    Fault.XID: {IncidentKind.XID, IncidentKind.RECOVERY_ACTION, IncidentKind.HELD_IDLE},
    Fault.ECC: {IncidentKind.ECC, IncidentKind.ROW_REMAP, IncidentKind.RECOVERY_ACTION},
    Fault.THROTTLED: {IncidentKind.POWER_THROTTLE, IncidentKind.STRAGGLER},
    Fault.IDLE: {IncidentKind.HELD_IDLE},
    Fault.STRAGGLER: {IncidentKind.STRAGGLER},
}
"""`hung` really blocks whoever reads; the sampler's own tests have it."""


def test_every_fault_is_tried() -> None:
    assert set(RAISES) | {Fault.HUNG} == set(Fault)


@pytest.mark.parametrize("fault", [None, *RAISES], ids=str)
def test_a_drill_raises_its_incident(tmp_path: Path, fault: Fault | None) -> None:
    heard: list[GpuEvent] = []
    reader = SimulatedReader(COUNT, node_name="n1", state_dir=tmp_path)
    reader.listen(heard.append)
    node = Drill(reader)
    assert node.run(60.0, heard) == {}, "a busy node that is well"
    if fault is not None:
        inject(tmp_path, str(SICK), fault.value, count=COUNT)
    opened = node.run(LONGEST_S, heard)
    assert set(opened) == (RAISES[fault] if fault is not None else set())
    assert set(opened.values()) <= {SICK}
    for kind in opened:
        assert PATIENCE[kind].for_s <= node.opened_at[kind] - 60.0 <= PATIENCE[kind].for_s + 60.0
    inject(tmp_path, str(SICK), "ok", count=COUNT)
    node.run(LONGEST_S, heard)
    assert node.open == set(), "mended, all is over"


def test_an_xid_is_told_once_for_each_time_it_is_injected_and_not_at_a_start(tmp_path: Path) -> None:
    heard: list[GpuEvent] = []

    def read(reader: SimulatedReader) -> None:
        for second in range(3):
            reader.read(SICK, float(second), float(second))

    reader = SimulatedReader(COUNT, node_name="n1", state_dir=tmp_path)
    reader.listen(heard.append)
    for word in ("xid", "ok", "xid"):
        inject(tmp_path, str(SICK), word, count=COUNT)
        read(reader)
    assert [(each.code, each.uuid) for each in heard] == [(SIMULATED_XID, simulated_uuid("n1", SICK))] * 2
    again = SimulatedReader(COUNT, node_name="n1", state_dir=tmp_path)
    again.listen(heard.append)
    read(again)
    assert len(heard) == 2, "a driver does not tell of an XID again"


class Drill:
    """A node of simulated GPUs, all held by one job, second by second."""

    def __init__(self, reader: SimulatedReader) -> None:
        self._reader = reader
        self._watch = Watch()
        self._now = 0.0
        self._last: dict[int, GpuReading] = {}
        self.open: set[IncidentKind] = set()
        self.opened_at: dict[IncidentKind, float] = {}
        first = [reader.read(index, 0.0, 0.0) for index in range(COUNT)]
        self._held = {each.uuid: HeldBy(job_id=17, user="ada", gpus=COUNT) for each in first}
        self._known = tuple(KnownGpu(uuid=each.uuid, index=each.index, name=each.name) for each in first)
        reader.hold(frozenset(self._held))
        for second in range(60):  # it warms up
            for index in range(COUNT):
                reader.read(index, float(second), float(second))
        self._now = 60.0

    def run(self, for_s: float, heard: list[GpuEvent]) -> dict[IncidentKind, int | None]:
        """Kinds that were opened meanwhile, each with its GPU's index."""
        opened: dict[IncidentKind, int | None] = {}
        until = self._now + for_s
        while self._now < until:
            self._now += 1.0
            scene = Scene(readings=[self._read(index) for index in range(COUNT)], held=self._held, known=self._known)
            xids = [xid for event in heard if (xid := of_event(event)) is not None]
            heard.clear()
            findings = [*(xid_finding(Heard(xid=each, is_new=True), scene) for each in xids), *look(scene)]
            changes = self._watch.look(findings, self._now, blind=blind(scene))
            for finding in changes.opened:
                opened[finding.kind] = finding.gpu_index
                self.opened_at[finding.kind] = self._now - 60.0
                self.open.add(finding.kind)
            self.open -= {kind for kind, _, _ in changes.cleared}
        return opened

    def _read(self, index: int) -> GpuReading:
        try:
            self._last[index] = self._reader.read(index, self._now, self._now)
        except GpuLostError as error:
            return msgspec.structs.replace(self._last[index], state=GpuState.LOST, reason=str(error))
        return self._last[index]
