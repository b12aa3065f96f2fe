"""What is wrong at one look: each rule finds its fault, and a healthy node has none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.api.health import IncidentKind, KnownGpu, Severity
from agent.api.types import GpuBus, GpuErrors, GpuLimits, GpuProcess, GpuReading, GpuState
from agent.telemetry.rules import HeldBy, Scene, blind, look
from agent.telemetry.watch import Finding


def gpu(index: int, **more: Any) -> GpuReading:
    values: dict[str, Any] = {
        "name": "NVIDIA H100 80GB HBM3",
        "sampled_at": 1.0,
        "memory_total_bytes": 80 << 30,
        "memory_used_bytes": 60 << 30,
        "utilization_percent": 97,
        "power_mw": 550_000,
        "power_limit_mw": 700_000,
        "temperature_c": 60,
        "sm_clock_mhz": 1755,
        "processes": (GpuProcess(pid=1),),
    }
    return GpuReading(index=index, uuid=f"GPU-{index}", **(values | more))


def idle(index: int, **more: Any) -> GpuReading:
    values: dict[str, Any] = {
        "memory_used_bytes": 500 << 20,
        "utilization_percent": 0,
        "power_mw": 70_000,
        "processes": (),
    }
    return gpu(index, **(values | more))


def scene(*readings: GpuReading, job: int = 4, known: tuple[KnownGpu, ...] = (), **more: Any) -> Scene:
    """The first `job` GPUs are held by one job."""
    held = {each.uuid: HeldBy(job_id=17, user="ada", gpus=job) for each in readings[:job]}
    return Scene(readings=readings, held=held, known=known, **more)


def kinds(found: list[Finding]) -> list[str]:
    return [each.kind.value for each in found]


def test_a_healthy_node_has_no_findings() -> None:
    assert look(scene(*(gpu(n) for n in range(4)), *(idle(n) for n in range(4, 8)))) == []
    assert look(scene(job=0)) == []


@pytest.mark.parametrize("why", [None, "the driver has not answered for GPU 0 within 1.5 s; see dmesg for its Xid"])
def test_what_to_do_about_a_hung_gpu_is_said_once(why: str | None) -> None:
    (found,) = look(scene(gpu(0, state=GpuState.HUNG, reason=why)))
    assert f"{found.what}; {found.advice}".count("see dmesg for its Xid") == 1
    assert found.advice.endswith("when its jobs cannot be killed either, reboot the node")


def test_lost_and_hung_gpus_are_critical_and_name_job_and_user() -> None:
    readings = [gpu(0, state=GpuState.LOST, reason="GPU 0 is lost to the driver"), gpu(1, state=GpuState.HUNG), gpu(2)]
    found = look(scene(*readings, job=3))
    assert kinds(found) == ["gpu_lost", "gpu_hung"]
    assert {each.severity for each in found} == {Severity.CRITICAL}
    assert (found[0].what, found[0].job_id, found[0].user) == ("GPU 0 is lost to the driver", 17, "ada")
    assert blind(scene(*readings)) == {"GPU-0", "GPU-1"}


def test_old_values_are_not_judged() -> None:
    readings = [idle(0, state=GpuState.HUNG), gpu(1, power_mw=100_000, state=GpuState.HUNG), gpu(2), gpu(3)]
    assert set(kinds(look(scene(*readings)))) == {"gpu_hung"}


def test_fewer_gpus_and_exchanged_ones() -> None:
    known = tuple(KnownGpu(uuid=f"GPU-{n}", index=n, name="H100") for n in range(3))
    (missing,) = look(scene(gpu(0), gpu(1), job=2, known=known))
    assert (missing.kind, missing.severity, missing.gpu_uuid) == (
        IncidentKind.GPU_MISSING, Severity.CRITICAL, "GPU-2",
    )  # fmt: skip
    assert "stoker inventory --accept" in missing.advice
    other = idle(2).__class__(**{**{f: getattr(idle(2), f) for f in idle(2).__struct_fields__}, "uuid": "GPU-new"})
    (exchanged,) = look(scene(gpu(0), gpu(1), other, job=2, known=known))
    assert (exchanged.kind, exchanged.gpu_uuid) == (IncidentKind.GPU_EXCHANGED, "GPU-new")
    places = [KnownGpu(uuid=f"GPU-{n}", index=n, name="H100", pci=f"0000:1{n}:00") for n in range(4)]
    moved = [msgspec.structs.replace(idle(n - 1, pci=f"0000:1{n}:00"), uuid=f"GPU-{n}") for n in (1, 2)]
    new = msgspec.structs.replace(idle(2, pci="0000:13:00"), uuid="GPU-new")
    found = [(each.kind.value, each.gpu_uuid) for each in look(scene(*moved, new, job=0, known=tuple(places)))]
    assert found == [("gpu_missing", "GPU-0"), ("gpu_exchanged", "GPU-new")], "indexes moved up"
    assert look(scene(gpu(0), gpu(1), idle(2), job=2, known=known)) == []
    assert look(scene(job=0, known=known)) == [], "nobody has looked yet"
    (all_gone,) = look(scene(job=0, known=known, none_found="the driver is not loaded"))
    assert (all_gone.kind, all_gone.gpu_uuid) == (IncidentKind.GPU_MISSING, None)
    assert all_gone.what == "none of the node's 3 GPUs is there any more: the driver is not loaded"
    assert look(scene(job=0, none_found="the driver is not loaded")) == [], "a node that never had a GPU"


def test_ranks_that_wait_for_one_another() -> None:
    spinning = [gpu(n, utilization_percent=100, power_mw=118_000) for n in range(4)]
    assert kinds(look(scene(*spinning))) == ["hung_collective"]
    assert kinds(look(scene(*spinning[:3], gpu(3)))) == []
    assert kinds(look(scene(spinning[0], job=1))) == [], "one GPU has nobody to wait for"
    assert kinds(look(scene(*spinning[:3], gpu(3, state=GpuState.HUNG)))) == ["gpu_hung"]


def test_held_and_idle() -> None:
    (found,) = look(scene(gpu(0), idle(1), job=2))
    assert (found.kind, found.severity, found.job_id) == (IncidentKind.HELD_IDLE, Severity.INFO, 17)
    assert "stoker cancel 17" in found.advice
    assert look(scene(gpu(0), idle(1, utilization_percent=None), job=2)) == []


def test_the_odd_one_of_a_job() -> None:
    slow = gpu(2, sm_clock_mhz=900, power_mw=250_000)
    (found,) = look(scene(gpu(0), gpu(1), slow, gpu(3)))
    assert (found.kind, found.gpu_index) == (IncidentKind.STRAGGLER, 2)
    assert "runs at 900 MHz while the others of job 17 run at 1755" in found.what
    a_fifth = gpu(2, sm_clock_mhz=1400, power_mw=420_000)
    assert kinds(look(scene(gpu(0), gpu(1), a_fifth, gpu(3)))) == ["straggler"]
    at_its_limit = gpu(2, sm_clock_mhz=1400, power_mw=545_000)
    assert look(scene(gpu(0), gpu(1), at_its_limit, gpu(3))) == []
    assert look(scene(gpu(0), slow, job=2)) == []
    assert kinds(look(scene(gpu(0), gpu(1), idle(2, sm_clock_mhz=345), gpu(3)))) == ["held_idle"]
    assert look(scene(gpu(0), gpu(1), gpu(2, sm_clock_mhz=None), gpu(3))) == []


def test_what_the_driver_counts_and_says() -> None:
    known = (KnownGpu(uuid="GPU-0", index=0, name="H100", pcie_width=16, pcie_generation=5, nvlinks=18),)

    def found(**more: Any) -> list[str]:
        return kinds(look(scene(gpu(0, **more), job=1, known=known)))

    assert found(errors=GpuErrors(), bus=GpuBus(pcie_width=16, nvlinks_active=18), throttle=("power_cap",)) == []
    assert found(errors=GpuErrors(ecc_uncorrected=2)) == ["ecc"]
    assert found(errors=GpuErrors(remap_failed=True, remap_pending=True)) == ["row_remap"]
    assert found(errors=GpuErrors(remap_pending=True)) == ["row_remap"]
    assert found(bus=GpuBus(pcie_width=8)) == ["link_degraded"]
    assert found(bus=GpuBus(pcie_width=16, pcie_generation=1, nvlinks_active=17)) == ["link_degraded"]
    idle = GpuBus(pcie_width=16, pcie_generation=1, nvlinks_active=18)
    assert found(bus=idle) == found(bus=idle, limits=GpuLimits(pcie_generation_max=5)) == []
    assert found(bus=idle, limits=GpuLimits(pcie_generation_max=3)) == ["link_degraded"]
    assert found(throttle=("thermal_sw", "power_cap")) == ["thermal_throttle"]
    assert found(throttle=("power_brake",)) == ["power_throttle"]
    assert found(throttle=("power_brake", "hw_slowdown")) == ["power_throttle"]
    assert found(throttle=("hw_slowdown",)) == ["power_throttle"]
    assert found(throttle=("hw_slowdown", "thermal_hw")) == ["thermal_throttle"]
    assert found(errors=GpuErrors(recovery_action="none")) == []
    assert found(errors=GpuErrors(recovery_action="gpu_reset")) == ["recovery_action"]
    hung = gpu(0, state=GpuState.HUNG, errors=GpuErrors(ecc_uncorrected=2), throttle=("thermal_hw",))
    assert kinds(look(scene(hung, job=1, known=known))) == ["gpu_hung"]


def test_nvlinks_that_fail_again_and_again() -> None:
    def found(**rises: int) -> list[tuple[str, str]]:
        return [(each.kind.value, each.severity.value) for each in look(scene(gpu(0), job=1, rises={"GPU-0": rises}))]

    assert found(nvlink_recoveries=9, nvlink_crc=50) == []
    assert found(nvlink_recoveries=10) == [("nvlink_errors", "warning")]
    assert found(nvlink_replays=600, nvlink_crc=400) == [("nvlink_errors", "warning")]
    assert found(nvlink_recoveries=100) == [("nvlink_errors", "critical")]


def test_what_the_driver_asks_for_says_what_to_do() -> None:
    (reset,) = look(scene(gpu(0, errors=GpuErrors(recovery_action="drain_and_reset")), job=1))
    assert (reset.severity, reset.what) == (
        Severity.CRITICAL, "the driver asks for a recovery of GPU 0: drain_and_reset",
    )  # fmt: skip
    assert "nvidia-smi --gpu-reset" in reset.advice
    (imex,) = look(scene(gpu(0, errors=GpuErrors(recovery_action="recover_imex_domain")), job=1))
    assert imex.severity is Severity.WARNING


def test_memory_that_nobody_holds() -> None:
    (found,) = look(scene(idle(0, memory_used_bytes=20 << 30), job=0))
    assert (found.kind, found.severity) == (IncidentKind.MEMORY_LEAKED, Severity.CRITICAL)
    assert found.what.startswith("20.0 GiB of GPU 0")
    whose = (GpuProcess(pid=9, user="bob", command="/usr/bin/python3 a.py"), GpuProcess(pid=10))
    (strange,) = look(scene(idle(0, memory_used_bytes=20 << 30, processes=whose), job=0))
    assert (strange.kind, strange.severity) == (IncidentKind.MEMORY_LEAKED, Severity.WARNING)
    assert "by process 9 of bob (/usr/bin/python3), process 10" in strange.what
    draws = (GpuProcess(pid=9, kind="graphics"),)
    assert look(scene(idle(0, memory_used_bytes=20 << 30, processes=draws), job=0)) == []
    assert look(scene(idle(0, memory_used_bytes=20 << 30), job=0, shared={"GPU-0"})) == []
    assert look(scene(idle(0, memory_used_bytes=20 << 30, divided=True), job=0)) == []


def test_a_silent_sampler() -> None:
    (found,) = look(scene(job=0, sampler_silent_s=12.0))
    assert (found.kind, found.what) == (IncidentKind.SAMPLER, "no reading has come for 12 s")
