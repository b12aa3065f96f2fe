"""The NVML reader: real binding, real ctypes calls, a library compiled from C in place of the driver's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.api.queue import LinkGrade
from agent.api.types import GpuProcess, GpuSource
from agent.gpu.base import DriverGoneError, GpuLostError, NoGpusError
from agent.gpu.health import CHECK_S
from agent.gpu.nvml import NvmlReader
from agent.gpu.nvml_call import FORGET_S
from agent.gpu.nvml_seldom import SELDOM_S
from tests.fakes.nvml import CONTROL_VARIABLE, NvmlStandIn, compiled, mig_uuid, uuid

GIB = 1024**3
FIELD = "field gpu={} id={} scope=* type=3 code={} value={}"


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvmlStandIn:
    return NvmlStandIn(tmp_path, monkeypatch)


def opened(nvml: NvmlStandIn, *lines: str | bytes) -> NvmlReader:
    nvml.write(*lines)
    reader = NvmlReader(str(nvml.library))
    reader.open()
    return reader


def test_every_value_arrives_in_its_field_and_unit(nvml: NvmlStandIn) -> None:
    nvml.write(
        "gpus 2",
        "driver 575.51.03",
        "value gpu=1 util=37 power_mw=251000 limit_mw=650000 temp=61 sm_mhz=1755 mem_mhz=2619",
        "value gpu=1 total=85899345920 used=4096 mem_util=23 energy_mj=18446744073709551 minor=5",
        "process gpu=1 pid=4711 memory=2048",
        "process gpu=1 pid=4712 memory=18446744073709551615",
    )
    reader = NvmlReader(str(nvml.library))
    inventory = reader.open()
    assert (inventory.count, inventory.driver_version) == (2, "575.51.03")
    assert reader.source is GpuSource.NVML
    gpu = reader.read(1, 1000.5, 7.0)
    assert (gpu.index, gpu.uuid, gpu.name, gpu.sampled_at) == (1, uuid(1), "NVIDIA H100 80GB HBM3", 1000.5)
    assert (gpu.memory_total_bytes, gpu.memory_used_bytes) == (80 * GIB, 4096)
    assert (gpu.utilization_percent, gpu.power_mw, gpu.power_limit_mw) == (37, 251000, 650000)
    assert (gpu.temperature_c, gpu.sm_clock_mhz, gpu.memory_clock_mhz) == (61, 1755, 2619)
    assert (gpu.memory_utilization_percent, gpu.energy_mj, gpu.minor) == (23, 18446744073709551, 5)
    assert (gpu.divided, gpu.mig_parent, gpu.mig_profile, gpu.links) == (False, None, None, {})
    assert (gpu.mig_gi, gpu.mig_ci) == (None, None)
    assert reader.instances(1, 1000.5, 7.0) == ()
    assert gpu.processes == (
        GpuProcess(pid=4711, memory_used_bytes=2048, sm_percent=0),
        GpuProcess(pid=4712, sm_percent=0),
    )
    assert reader.read(0, 1000.5, 7.0).processes == ()


def test_each_gpu_has_its_own_buffers(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, "gpus 16")
    powers = [reader.read(index, 0.0, 0.0).power_mw for index in range(16)]
    assert powers == [100_000 + 1000 * index for index in range(16)]


def test_an_unsupported_value_is_absent_and_asked_for_again_after_an_hour(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, "fail nvmlDeviceGetPowerUsage gpu=0 code=3")
    gpu = reader.read(0, 0.0, 100.0)
    assert (gpu.power_mw, gpu.temperature_c) == (None, 40)
    nvml.write()
    assert reader.read(0, 0.0, 100.0 + FORGET_S - 1).power_mw is None
    assert reader.read(0, 0.0, 100.0 + FORGET_S + 1).power_mw == 100_000


def test_a_value_that_fails_once_is_absent_once(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, "fail nvmlDeviceGetClockInfo gpu=0 code=999")
    assert reader.read(0, 0.0, 100.0).sm_clock_mhz is None
    nvml.write()
    assert reader.read(0, 0.0, 101.0).sm_clock_mhz == 1500


def test_an_impossible_utilisation_is_dropped(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, "value gpu=0 util=2619")
    assert reader.read(0, 0.0, 0.0).utilization_percent is None


@pytest.mark.parametrize("function", ["*", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetComputeRunningProcesses_v3"])
def test_a_lost_gpu_is_lost_whichever_call_says_so_and_the_others_are_not(nvml: NvmlStandIn, function: str) -> None:
    reader = opened(nvml, "gpus 2", f"fail {function} gpu=1 code=15")
    with pytest.raises(GpuLostError, match=r"GPU 1 is lost .*dmesg"):
        reader.read(1, 0.0, 0.0)
    assert reader.read(0, 0.0, 0.0).index == 0
    nvml.write("gpus 2")
    assert reader.read(1, 0.0, 0.0).uuid == uuid(1)


def test_a_gpu_about_which_every_call_fails_is_not_ok(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, "gpus 2")
    reader.read(0, 0.0, 0.0)
    nvml.write("gpus 2", "fail * gpu=0 code=999")
    with pytest.raises(GpuLostError, match="Unknown Error"):
        reader.read(0, 0.0, 1.0)


@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID"])
@pytest.mark.parametrize("code", [15, 999])
def test_a_gpu_that_was_never_identified_is_lost_until_it_can_be(nvml: NvmlStandIn, function: str, code: int) -> None:
    reader = opened(nvml, f"fail {function} gpu=0 code={code}")
    with pytest.raises(GpuLostError, match="GPU 0"):
        reader.read(0, 0.0, 0.0)
    nvml.write()
    assert reader.read(0, 0.0, 0.0).uuid == uuid(0)


@pytest.mark.parametrize("code", [1, 9, 18])
def test_a_driver_that_goes_away_is_not_blamed_on_one_gpu(nvml: NvmlStandIn, code: int) -> None:
    reader = opened(nvml, "gpus 2")
    reader.read(0, 0.0, 0.0)
    nvml.write("gpus 2", f"fail * gpu=* code={code}")
    with pytest.raises(DriverGoneError, match="went away"):
        reader.read(0, 0.0, 1.0)


def test_a_strange_name_is_text(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, b"name gpu=0 H\xffB \x1b[31m200\xc3")
    assert reader.read(0, 0.0, 0.0).name == "H\ufffdB \x1b[31m200\ufffd"  # cleaned by whoever shows it


def test_more_processes_than_there_was_room_for(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, *(f"process gpu=0 pid={1000 + each} memory={each}" for each in range(33)))
    assert [process.pid for process in reader.read(0, 0.0, 0.0).processes] == list(range(1000, 1033))
    nvml.write(*(f"process gpu=0 pid={1000 + each} memory={each}" for each in range(200)))
    assert [process.memory_used_bytes for process in reader.read(0, 0.0, 1.0).processes] == list(range(200))
    nvml.write()
    assert reader.read(0, 0.0, 2.0).processes == ()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("fail nvmlInitWithFlags gpu=* code=9", "modprobe nvidia"),
        ("fail nvmlInitWithFlags gpu=* code=999", "NVML does not start: Unknown Error"),
        ("fail nvmlDeviceGetCount_v2 gpu=* code=4", "NVML does not start"),
        ("gpus 0", "driver 550.54.15 runs but shows no GPU"),
    ],
)
def test_no_driver_is_a_reason_and_opens_once_there_is_one(nvml: NvmlStandIn, line: str, sentence: str) -> None:
    nvml.write(line)
    reader = NvmlReader(str(nvml.library))
    with pytest.raises(NoGpusError, match=sentence) as caught:
        reader.open()
    assert not isinstance(caught.value, DriverGoneError)
    nvml.write("gpus 3")
    assert reader.open().count == 3


def test_an_exchanged_driver_needs_a_fresh_process(nvml: NvmlStandIn) -> None:
    nvml.write("fail nvmlInitWithFlags gpu=* code=18")
    with pytest.raises(DriverGoneError, match="reboot"):
        NvmlReader(str(nvml.library)).open()


@pytest.mark.parametrize("content", [None, b"", b"no library", b"\x7fELF"])
def test_a_library_that_is_none_is_a_reason(tmp_path: Path, content: bytes | None) -> None:
    library = tmp_path / "libnvidia-ml.so.1"
    if content is not None:
        library.write_bytes(content)
    with pytest.raises(NoGpusError, match=r"gpu\.library cannot be loaded: .*correct it"):
        NvmlReader(str(library)).open()


def test_an_old_driver_lacks_functions_and_is_read_all_the_same(tmp_path: Path) -> None:
    control = tmp_path / "control"
    control.write_text("process gpu=0 pid=4711 memory=2048\n")
    script = (
        "import sys; from agent.gpu.nvml import NvmlReader;"
        "r = NvmlReader(sys.argv[1]); r.open(); g = r.read(0, 0., 0.);"
        "print(g.memory_total_bytes, g.memory_used_bytes, [p.pid for p in g.processes])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(compiled(("OLD_DRIVER",)))],
        env={**os.environ, CONTROL_VARIABLE: str(control)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split(maxsplit=2) == [str(80 * GIB), str(GIB), "[4711]\n"], done.stderr


# --- read once: place and links ---------------------------------------------------------------------------------------


def links(nvml: NvmlStandIn, *lines: str, count: int) -> list[dict[int, int]]:
    """What each GPU says of its peers, by index."""
    reader = opened(nvml, f"gpus {count}", *lines)
    for index in range(count):
        reader.read(index, 0.0, 0.0)
    reader.wait_links(20)
    indexes = {uuid(index): index for index in range(count)}
    told = [reader.read(index, 0.0, 1.0).links for index in range(count)]
    return [{indexes[peer]: grade for peer, grade in each.items()} for each in told]


def test_nvlinks_to_a_switch_count_for_every_pair_as_many_as_the_lesser_has(nvml: NvmlStandIn) -> None:
    lines = [f"link gpu={gpu} link={link} to=switch" for gpu in range(3) for link in range(18)]
    found = links(nvml, *lines, "link gpu=2 link=17 to=off", count=3)
    assert found == [{1: LinkGrade.NVLINK + 17, 2: 26}, {0: 27, 2: 26}, {0: 26, 1: 26}]


def test_nvlinks_between_gpus_count_for_their_pair_and_pcie_for_the_others(nvml: NvmlStandIn) -> None:
    pairs = [(0, 1), (0, 1), (0, 2), (1, 3), (2, 3), (2, 3), (2, 3)]
    ends = [(one, other) for pair in pairs for one, other in (pair, pair[::-1])]
    lines = [f"link gpu={one} link={number} to={other}" for number, (one, other) in enumerate(ends)]
    found = links(nvml, *lines, "near gpu=0 peer=3 level=20", "near gpu=1 peer=2 level=40", count=5)
    assert found == [
        {1: LinkGrade.NVLINK + 1, 2: LinkGrade.NVLINK, 3: LinkGrade.BRIDGE},
        {0: 11, 2: LinkGrade.NODE, 3: 10},
        {0: 10, 1: LinkGrade.NODE, 3: 12},
        {0: LinkGrade.BRIDGE, 1: 10, 2: 12},
        {},
    ]


@pytest.mark.parametrize(
    ("level", "grade"), [(0, 2), (10, 2), (20, 2), (30, 1), (40, 1), (50, None), (77, None)], ids=str
)
def test_the_ways_over_pcie_are_graded_as_nvidia_smi_orders_them(
    nvml: NvmlStandIn, level: int, grade: int | None
) -> None:
    expected = [{}, {}] if grade is None else [{1: grade}, {0: grade}]
    assert links(nvml, f"near gpu=0 peer=1 level={level}", count=2) == expected


def test_links_that_cannot_be_asked_for_are_left_out_and_the_gpu_is_read_all_the_same(nvml: NvmlStandIn) -> None:
    lines = [f"link gpu={gpu} link=0 to=switch" for gpu in range(3)]
    found = links(nvml, *lines, "fail nvmlDeviceGetNvLinkState gpu=1 code=999", count=3)
    assert found == [{2: LinkGrade.NVLINK}, {}, {0: LinkGrade.NVLINK}]


def test_a_gpu_that_hangs_when_asked_for_its_links_is_read_all_the_same(nvml: NvmlStandIn) -> None:
    lines = ["near gpu=0 peer=1 level=20", "hang nvmlDeviceGetNvLinkState gpu=2"]
    reader = opened(nvml, "gpus 3", *lines)
    for index in range(3):
        reader.read(index, 0.0, 0.0)
    reader.wait_links(0.5)
    assert reader.read(0, 0.0, 1.0).links == {uuid(1): LinkGrade.BRIDGE}
    assert reader.read(2, 0.0, 1.0).power_mw == 102_000
    nvml.write("gpus 3")
    reader.wait_links(20)


@pytest.mark.parametrize(("content", "node"), [("1\n", 1), ("-1\n", None), ("", None), ("x", None), (None, None)])
def test_the_numa_node_is_what_sysfs_says(nvml: NvmlStandIn, tmp_path: Path, content: str | None, node: object) -> None:
    folder = tmp_path / "sys/bus/pci/devices/0000:11:00.0"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "numa_node").write_text(content)
    nvml.write("gpus 2")
    reader = NvmlReader(str(nvml.library), sysfs=tmp_path / "sys")
    reader.open()
    assert reader.read(1, 0.0, 0.0).numa_node == node


def test_what_is_read_once_is_not_asked_for_again(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, "gpus 2", "near gpu=0 peer=1 level=20")
    for index in range(2):
        reader.read(index, 0.0, 0.0)
    reader.wait_links(20)
    once = ("UUID", "Name", "MinorNumber", "PciInfo_v3", "NvLinkState", "TopologyCommonAncestor")
    nvml.write("gpus 2", *(f"fail nvmlDeviceGet{name} gpu=* code=999" for name in once))
    again = reader.read(0, 0.0, 1.0)
    assert (again.uuid, again.minor, again.links) == (uuid(0), 0, {uuid(1): LinkGrade.BRIDGE})


# --- MIG --------------------------------------------------------------------------------------------------------------


def test_mig_instances_are_gpus_of_their_own_beside_one_that_takes_no_job(nvml: NvmlStandIn) -> None:
    reader = opened(
        nvml,
        "gpus 2",
        "mig gpu=1 slot=0 profile=3g.40gb total=42949672960 used=1024",
        "mig gpu=1 slot=4 profile=1c.2g.20gb total=21474836480 used=2048",
        "process gpu=1 pid=11 memory=512 slot=4",
    )
    parent = reader.read(1, 1000.5, 7.0)
    first, second = reader.instances(1, 1000.5, 7.0)
    assert parent.divided
    assert (first.index, first.uuid, first.mig_parent, first.mig_profile) == (200, mig_uuid(1, 0), uuid(1), "3g.40gb")
    assert (second.index, second.uuid, second.mig_profile) == (204, mig_uuid(1, 4), "1c.2g.20gb")
    assert [(each.mig_gi, each.mig_ci) for each in (first, second)] == [(7, 0), (11, 4)]
    assert (first.memory_total_bytes, first.memory_used_bytes, first.processes) == (40 * GIB, 1024, ())
    assert (second.memory_used_bytes, second.processes) == (2048, (GpuProcess(pid=11, memory_used_bytes=512),))
    assert (first.utilization_percent, first.power_mw, first.energy_mj) == (None, None, None)
    assert (first.temperature_c, first.minor, first.divided, first.sampled_at) == (41, 1, False, 1000.5)
    assert not reader.read(0, 1000.5, 7.0).divided
    assert reader.instances(0, 1000.5, 7.0) == ()


def test_how_much_of_a_mig_instance_is_used_is_told_by_gpm(nvml: NvmlStandIn) -> None:
    part = "mig gpu=0 slot=2 profile=3g.40gb total=42949672960 used=1024"
    metrics = [
        f"gpm gpu=0 metric={number} value={value}" for number, value in ((2, 91.2), (3, 40), (5, 63.5), (10, 12))
    ]
    reader = opened(nvml, part, *metrics)

    def shares(at: float) -> tuple[float | None, ...]:
        reader.read(0, 1000.0 + at, at)
        (each,) = reader.instances(0, 1000.0 + at, at)
        return each.sm_active_percent, each.sm_occupancy_percent, each.tensor_active_percent, each.dram_active_percent

    assert shares(0.0) == (None,) * 4
    assert shares(1.0) == (91.2, 40.0, 63.5, 12.0)
    nvml.write(part, *metrics, "fail nvmlGpmMigSampleGet gpu=0 code=3")
    assert shares(2.0) == shares(3.0) == (None,) * 4


def test_mig_instances_come_and_go_while_we_watch(nvml: NvmlStandIn) -> None:
    part = "mig gpu=0 slot={} profile=1g.10gb total=10737418240 used=4096"

    def seen(at: float) -> list[int]:
        reader.read(0, 0.0, at)
        return [each.index for each in reader.instances(0, 0.0, at)]

    reader = opened(nvml, "mig gpu=0")
    assert seen(0.0) == []
    assert reader.read(0, 0.0, 0.0).divided
    nvml.write(part.format(0), part.format(3))
    assert seen(SELDOM_S - 1) == []
    assert seen(SELDOM_S + 1) == [100, 103]
    nvml.write(part.format(3), part.format(4))
    assert seen(SELDOM_S + 2) == [103]
    assert seen(SELDOM_S + 3) == [103, 104]
    nvml.write()
    seen(SELDOM_S + 4)
    assert seen(3 * SELDOM_S) == []
    assert not reader.read(0, 0.0, 3 * SELDOM_S).divided


def test_the_profile_of_an_instance_with_a_strange_name_is_not_made_up(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, "mig gpu=0 slot=0 profile=what total=1 used=1")
    reader.read(0, 0.0, 0.0)
    (part,) = reader.instances(0, 0.0, 0.0)
    assert (part.mig_profile, part.name) == (None, "NVIDIA H100 80GB HBM3 MIG what")


# --- health -----------------------------------------------------------------------------------------------------------


def test_what_speaks_against_a_gpu_is_told_and_a_well_one_has_nothing(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, "gpus 2", "value gpu=1 remapped=3 remap_pending=1 remap_failed=1")
    assert reader.read(0, 0.0, 0.0).ill == ()
    worst, pending, remapped = reader.read(1, 0.0, 0.0).ill
    nvml.write("gpus 2", FIELD.format(0, 230, 0, 4), FIELD.format(0, 4, 0, 7))
    asked, uncorrected = reader.read(0, 0.0, CHECK_S).ill
    assert asked == "the driver asks: let its jobs end, then reset it"
    assert uncorrected.startswith("7 uncorrectable memory errors")
    assert "have it replaced" in worst
    assert "next reset" in pending
    assert remapped.startswith("3 of its memory rows")


def test_replays_count_while_they_rise_and_a_counter_that_began_anew_does_not(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, "value gpu=0 replays=5000")
    assert reader.read(0, 0.0, 0.0).ill == ()
    nvml.write("value gpu=0 replays=5040")
    assert reader.read(0, 0.0, CHECK_S - 1).ill == ()  # not asked yet
    assert "sent 40 packets again" in reader.read(0, 0.0, CHECK_S).ill[0]
    assert reader.read(0, 0.0, 2 * CHECK_S).ill == ()
    nvml.write("value gpu=0 replays=3")
    assert reader.read(0, 0.0, 3 * CHECK_S).ill == ()


def test_a_gpu_that_is_judged_as_before_is_not_read_in_full_for_that(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, "value gpu=0 replays=5000")
    reader.read(0, 0.0, 0.0)
    reader.wait_links(10)
    for at in (SELDOM_S, SELDOM_S + 1):
        reader.read(0, at, at)
    assert reader.check(0, CHECK_S) and reader.ready([0], CHECK_S) == [0]
    nvml.write("value gpu=0 replays=5040")
    assert not reader.check(0, 2 * CHECK_S)
    assert "sent 40 packets again" in reader.read(0, 0.0, 2 * CHECK_S).ill[0]
    assert not reader.check(0, 3 * CHECK_S)  # it says so no longer
    assert reader.read(0, 0.0, 3 * CHECK_S).ill == ()


@pytest.mark.parametrize("code", [3, 13, 999])
def test_health_that_cannot_be_asked_for_speaks_against_nobody(nvml: NvmlStandIn, code: int) -> None:
    numbers = (143, 94)  # rows remapped, replays
    reader = opened(nvml, "value gpu=0 remapped=3", *(FIELD.format(0, each, code, 3) for each in numbers))
    assert reader.read(0, 0.0, 0.0).ill == ()
    nvml.write("value gpu=0 remapped=3", f"fail nvmlDeviceGetFieldValues gpu=0 code={code}")
    assert reader.read(0, 0.0, CHECK_S).ill == ()
