"""Each kind of incident from first sight to end: opened when it lasted and not before, closed when all was well again.

Rules and patience together, second by second, so that a kind without a rule, or a rule without patience, is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest

from agent.api.health import IncidentKind, KnownGpu
from agent.api.types import GpuBus, GpuErrors, GpuState
from agent.gpu.frames import EventKind, GpuEvent
from agent.telemetry.rises import Busy
from agent.telemetry.rules import Scene, blind, look, unsure
from agent.telemetry.told import event_finding, of_event, xid_finding
from agent.telemetry.watch import PATIENCE, Watch
from agent.telemetry.xidjoin import Heard
from tests.unit.test_health_rules import gpu, idle, scene

KNOWN = tuple(KnownGpu(uuid=f"GPU-{n}", index=n, name="H100", pcie_width=16) for n in range(4))
BUS = GpuBus(pcie_width=16)


def node(odd: dict[str, Any] | None = None, *, job: int = 4, **more: Any) -> Scene:
    """Four busy GPUs, the second of which is as `odd` says."""
    made = [gpu(n, **({"bus": BUS} | (odd or {} if n == 1 else {}))) for n in range(4)]
    return scene(*made, job=job, known=KNOWN, **more)


def spinning() -> Scene:
    return scene(*(gpu(n, utilization_percent=100, power_mw=118_000, bus=BUS) for n in range(4)), known=KNOWN)


def exchanged() -> Scene:
    other = msgspec.structs.replace(gpu(3, bus=BUS), uuid="GPU-other")
    return scene(*(gpu(n, bus=BUS) for n in range(3)), other, known=KNOWN)


ILL: dict[IncidentKind, Callable[[], Scene]] = {
    IncidentKind.GPU_LOST: lambda: node({"state": GpuState.LOST}),
    IncidentKind.GPU_HUNG: lambda: node({"state": GpuState.HUNG}),
    IncidentKind.GPU_MISSING: lambda: scene(*(gpu(n, bus=BUS) for n in range(3)), job=3, known=KNOWN),
    IncidentKind.GPU_EXCHANGED: exchanged,
    IncidentKind.LINK_DEGRADED: lambda: node({"bus": GpuBus(pcie_width=8)}),
    IncidentKind.ECC: lambda: node({"errors": GpuErrors(ecc_uncorrected=1)}),
    IncidentKind.ROW_REMAP: lambda: node({"errors": GpuErrors(remap_pending=True)}),
    IncidentKind.THERMAL_THROTTLE: lambda: node({"throttle": ("thermal_hw",)}),
    IncidentKind.POWER_THROTTLE: lambda: node({"throttle": ("power_brake",)}),
    IncidentKind.NVLINK_ERRORS: lambda: node(rises={"GPU-1": {"nvlink_recoveries": 50}}),
    IncidentKind.RECOVERY_ACTION: lambda: node({"errors": GpuErrors(recovery_action="gpu_reset")}),
    IncidentKind.HUNG_COLLECTIVE: spinning,
    IncidentKind.HELD_IDLE: lambda: node({"utilization_percent": 0}),
    IncidentKind.STRAGGLER: lambda: node({"sm_clock_mhz": 900, "power_mw": 250_000}),
    IncidentKind.MEMORY_LEAKED: lambda: scene(idle(0, memory_used_bytes=20 << 30), job=0),
    IncidentKind.SAMPLER: lambda: node(sampler_silent_s=9.0),
}
WELL: dict[IncidentKind, Callable[[], Scene]] = {IncidentKind.MEMORY_LEAKED: lambda: scene(idle(0), job=0)}
"""Where it is another node than the usual."""


def test_every_kind_has_a_rule_or_is_an_event() -> None:
    assert set(ILL) | {IncidentKind.XID} == set(IncidentKind)


def test_a_well_node_is_well() -> None:
    assert look(node()) == []


@pytest.mark.parametrize("kind", ILL)
def test_it_opens_when_it_lasted_and_closes_when_it_has_been_well(kind: IncidentKind) -> None:
    watch, patience = Watch(), PATIENCE[kind]
    ill, well = ILL[kind](), WELL.get(kind, node)()
    opened, closed = None, None
    for second in range(int(patience.for_s) + 5):
        changes = watch.look(look(ill), float(second), blind=blind(ill))
        assert all(each.kind is kind for each in changes.opened)
        if changes.opened:
            opened = second
    assert opened == patience.for_s
    begun = int(patience.for_s) + 5
    for second in range(begun, begun + int(patience.clear_s) + 5):
        changes = watch.look(look(well), float(second), blind=blind(well))
        assert not changes.opened
        if changes.cleared:
            closed = second
    assert closed == begun - 1 + patience.clear_s, "since it was seen last"


@pytest.mark.parametrize("kind", [kind for kind in ILL if PATIENCE[kind].for_s > 0])
def test_what_comes_and_goes_sooner_than_its_patience_opens_nothing(kind: IncidentKind) -> None:
    watch, patience = Watch(), PATIENCE[kind]
    ill, well = ILL[kind](), WELL.get(kind, node)()
    for second in range(4 * int(patience.for_s)):
        now = well if second % int(patience.for_s) == 0 else ill
        assert not watch.look(look(now), float(second), blind=blind(now)).opened


def test_an_xid_opens_at_once_and_is_over_after_its_time() -> None:
    watch, well = Watch(), node()
    xid = of_event(GpuEvent(kind=EventKind.XID, uuid="GPU-1", at=1.0, code=79))
    assert xid is not None
    finding = xid_finding(Heard(xid=xid, is_new=True), well)
    assert (finding.gpu_index, finding.job_id, finding.user) == (1, 17, "ada")
    assert watch.look([finding, *look(well)], 0.0).opened == (finding,)
    over = [second for second in range(1, 700) if watch.look(look(well), float(second)).cleared]
    assert over == [PATIENCE[IncidentKind.XID].clear_s]


@pytest.mark.parametrize("kind", [kind for kind in EventKind if kind is not EventKind.XID])
def test_each_event_is_a_finding_that_names_gpu_and_job(kind: EventKind) -> None:
    found = event_finding(GpuEvent(kind=kind, uuid="GPU-2", at=1.0), node())
    assert (found.gpu_index, found.job_id) == (2, 17)
    assert found.what.startswith("GPU 2 ")


Second = tuple[int, int, int]
"""Load in percent, P-state, PCIe generation as it was read last."""


def generations(film: Iterable[Second]) -> list[tuple[int, str]]:
    """What is opened and cleared, and when, on a GPU that has used generation 5; a look each second."""
    watch, busy, told = Watch(), Busy(), []
    known = (KnownGpu(uuid="GPU-0", index=0, name="H100", pcie_generation=5, pcie_generation_seen=5),)
    for second, (load, deep, generation) in enumerate(film):
        bus = GpuBus(pcie_generation=generation)
        reading = gpu(0, utilization_percent=load, performance_state=deep, bus=bus)
        now = scene(reading, job=0, known=known, busy_s=busy.look([reading], float(second)))
        shown = [each for each in look(now) if each.kind is IncidentKind.LINK_DEGRADED]
        changes = watch.look(shown, float(second), blind=blind(now), unsure=unsure(now))
        told += [(second, each.what) for each in changes.opened]
        told += [(second, "over") for _ in changes.cleared]
    return told


REST, WAKING, WORK = (0, 8, 1), (97, 0, 1), (97, 0, 5)
SLOW, PAUSE = (97, 0, 1), (3, 0, 1)


@pytest.mark.parametrize(
    "film",
    [
        3600 * [REST],
        60 * (20 * [REST] + 9 * [WAKING] + 30 * [WORK]),
        200 * (5 * [REST] + 10 * [WAKING]),
        3600 * [(97, 8, 1)],
        1800 * [(97, 0, 1), (97, 0, 0)],
        3600 * [(30, 0, 1)],
    ],
    ids=["at rest", "wakes, and is read up to ten seconds later", "bursts", "P8", "it fails to say", "a little to do"],
)
def test_a_gpu_that_saves_power_has_no_slow_link(film: list[Second]) -> None:
    assert generations(film) == []


def test_a_link_that_is_slow_under_load_is_told_of_through_pauses_and_until_it_is_seen_to_be_well() -> None:
    film = 100 * [WORK] + 8 * (40 * [SLOW] + 2 * [PAUSE]) + 900 * [REST] + 10 * [WAKING] + 200 * [WORK]
    (opened, what), *rest = generations(film)
    assert what == "GPU 0 uses PCIe generation 1 while it works, and used 5 before"
    assert opened == 160, "after it has been so for a minute"
    assert rest == [(len(film) - 201 + PATIENCE[IncidentKind.LINK_DEGRADED].clear_s, "over")]
