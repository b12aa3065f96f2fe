"""Each fault that can be simulated raises its incident, after its time: the reader, rules and patience, no waiting."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.__main__ import agent_main
from agent.api.health import IncidentKind, KnownGpu
from agent.api.types import GpuReading, GpuState
from agent.gpu.base import DriverGoneError, GpuLostError, NoGpusError
from agent.gpu.frames import GpuEvent
from agent.gpu.simulated import SIMULATED_XID, SimulatedReader, inject, simulated_uuid
from agent.gpu.simulated_faults import MEANINGS, OK, Fault
from agent.telemetry.rises import Busy, Rises
from agent.telemetry.rules import HeldBy, Scene, blind, look, unsure
from agent.telemetry.told import of_event, xid_finding
from agent.telemetry.watch import PATIENCE, Watch
from agent.telemetry.xidjoin import Heard

COUNT, SICK, LONGEST_S = 5, 2, 1000
FREE = 4
"""No job holds it."""
RAISES = {
    Fault.LOST: {IncidentKind.GPU_LOST},
    Fault.MISSING: {IncidentKind.GPU_MISSING},
    Fault.EXCHANGED: {IncidentKind.GPU_EXCHANGED},
    Fault.HOT: {IncidentKind.THERMAL_THROTTLE, IncidentKind.STRAGGLER},
    Fault.THROTTLED: {IncidentKind.POWER_THROTTLE, IncidentKind.STRAGGLER},
    Fault.XID: {IncidentKind.XID, IncidentKind.RECOVERY_ACTION, IncidentKind.HELD_IDLE},
    Fault.ECC: {IncidentKind.ECC, IncidentKind.ROW_REMAP, IncidentKind.RECOVERY_ACTION},
    Fault.NARROW: {IncidentKind.LINK_DEGRADED},
    Fault.SLOW_LINK: {IncidentKind.LINK_DEGRADED},
    Fault.NVLINK_DOWN: {IncidentKind.LINK_DEGRADED},
    Fault.NVLINK_ERRORS: {IncidentKind.NVLINK_ERRORS},
    Fault.IDLE: {IncidentKind.HELD_IDLE},
    Fault.STRAGGLER: {IncidentKind.STRAGGLER},
    Fault.COLLECTIVE: {IncidentKind.HUNG_COLLECTIVE},
    Fault.LEAKED: {IncidentKind.MEMORY_LEAKED},
}
ELSEWHERE = {Fault.HUNG: {IncidentKind.GPU_HUNG}}
"""It really blocks whoever reads: tests/system/test_drills.py has it, with a sampler that is not held up."""
NOT_SIMULATED = {
    IncidentKind.SAMPLER: "it is the sampler's process that is silent then, and no GPU: stopped for real (SIGSTOP) in "
    "tests/component/test_sampler_child.py",
}
ALL_OF_A_JOB = {Fault.COLLECTIVE}


def test_every_fault_is_tried_and_every_kind_of_incident_has_one() -> None:
    assert RAISES.keys() | ELSEWHERE.keys() == set(Fault) == MEANINGS.keys()
    raised = set[IncidentKind]().union(*RAISES.values(), *ELSEWHERE.values())
    assert raised | NOT_SIMULATED.keys() == set(IncidentKind)
    assert not raised & NOT_SIMULATED.keys()


def test_the_help_names_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        agent_main(["simulate", "--help"])
    listed = {line.split()[0] for line in capsys.readouterr().out.partition("faults:\n")[2].splitlines()}
    assert listed == {*map(str, Fault), OK}


@pytest.mark.parametrize("fault", [None, *RAISES], ids=str)
def test_a_drill_raises_its_incident(tmp_path: Path, fault: Fault | None) -> None:
    node = Drill(tmp_path)
    assert node.run(60.0) == {}, "a busy node that is well"
    sick = FREE if fault is Fault.LEAKED else SICK
    if fault is not None:
        inject(tmp_path, "0,1,2,3" if fault in ALL_OF_A_JOB else str(sick), fault.value, count=COUNT)
    opened = node.run(LONGEST_S)
    assert set(opened) == (RAISES[fault] if fault is not None else set())
    assert set(opened.values()) <= ({0} if fault in ALL_OF_A_JOB else {sick})
    for kind in opened:
        assert PATIENCE[kind].for_s <= node.opened_at[kind] - 60.0 <= PATIENCE[kind].for_s + 60.0
    inject(tmp_path, "all", OK, count=COUNT)
    node.run(LONGEST_S)
    assert node.open == set(), "mended, all is over"


def test_a_missing_gpu_is_seen_by_a_fresh_driver_and_the_others_move_up(tmp_path: Path) -> None:
    reader = SimulatedReader(3, node_name="n1", state_dir=tmp_path)
    assert reader.open().count == 3
    inject(tmp_path, "1", "missing", count=3)
    with pytest.raises(DriverGoneError, match="loaded anew"):
        reader.read(0, 0.0, 0.0)
    with pytest.raises(DriverGoneError):
        reader.open()
    fresh = SimulatedReader(3, node_name="n1", state_dir=tmp_path)
    assert fresh.open().count == 2
    inject(tmp_path, "2", "hot", count=3)
    last = fresh.read(1, 0.0, 0.0)
    assert (last.index, last.minor, last.uuid, last.temperature_c) == (1, 2, simulated_uuid("n1", 2), 94)
    inject(tmp_path, "all", "missing", count=3)
    none = SimulatedReader(3, node_name="n1", state_dir=tmp_path)
    with pytest.raises(NoGpusError, match="simulate gpu all ok"):
        none.open()
    inject(tmp_path, "all", OK, count=3)
    with pytest.raises(DriverGoneError):
        none.open()


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
    """A node of simulated GPUs, all but one held by one job, second by second."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._heard: list[GpuEvent] = []
        self._watch, self._rises, self._busy = Watch(), Rises(), Busy()
        self._last: dict[int, GpuReading] = {}
        self.open: set[IncidentKind] = set()
        self.opened_at: dict[IncidentKind, float] = {}
        self._held: dict[str, HeldBy] = {}
        self._load_driver()
        first = [self._reader.read(index, 0.0, 0.0) for index in range(COUNT)]
        self._held = {each.uuid: HeldBy(job_id=17, user="ada", gpus=FREE) for each in first[:FREE]}
        self._known = tuple(
            KnownGpu(
                uuid=each.uuid, index=each.index, name=each.name, pcie_width=16, pcie_generation_seen=5, nvlinks=18
            )
            for each in first
        )
        self._reader.hold(frozenset(self._held))
        for second in range(60):  # it warms up
            for index in range(COUNT):
                self._reader.read(index, float(second), float(second))
        self._now = 60.0

    def run(self, for_s: float) -> dict[IncidentKind, int | None]:
        """Kinds that were opened meanwhile, each with its GPU's index."""
        opened: dict[IncidentKind, int | None] = {}
        until = self._now + for_s
        while self._now < until:
            self._now += 1.0
            readings = self._read_all()
            scene = Scene(
                readings=readings,
                held=self._held,
                known=self._known,
                rises=self._rises.look(readings, self._now),
                busy_s=self._busy.look(readings, self._now),
            )
            xids = [xid for event in self._heard if (xid := of_event(event)) is not None]
            self._heard.clear()
            findings = [*(xid_finding(Heard(xid=each, is_new=True), scene) for each in xids), *look(scene)]
            changes = self._watch.look(findings, self._now, blind=blind(scene), unsure=unsure(scene))
            for finding in changes.opened:
                opened[finding.kind] = finding.gpu_index
                self.opened_at[finding.kind] = self._now - 60.0
                self.open.add(finding.kind)
            self.open -= {kind for kind, _, _ in changes.cleared}
        return opened

    def _load_driver(self) -> None:
        self._reader = SimulatedReader(COUNT, node_name="n1", state_dir=self._folder)
        self._reader.listen(self._heard.append)
        self._reader.hold(frozenset(self._held))
        self._count = self._reader.open().count

    def _read_all(self) -> list[GpuReading]:
        try:
            return [self._read(index) for index in range(self._count)]
        except DriverGoneError:
            self._load_driver()
            return self._read_all()

    def _read(self, index: int) -> GpuReading:
        try:
            self._last[index] = self._reader.read(index, self._now, self._now)
        except GpuLostError as error:
            return msgspec.structs.replace(self._last[index], state=GpuState.LOST, reason=str(error))
        return self._last[index]
