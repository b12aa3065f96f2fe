"""What is read of a GPU beside the basics: fields, rings, GPM, processes. Real binding, a library compiled from C."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agent.api.gpus import ValueState
from agent.api.types import GpuBus, GpuErrors, GpuLimits, GpuProcess, GpuState
from agent.gpu.base import GpuLostError
from agent.gpu.nvml import NvmlReader
from agent.gpu.nvml_call import FORGET_S
from agent.gpu.nvml_seldom import SELDOM_S
from tests.fakes.nvml import CONTROL_VARIABLE, NvmlStandIn, compiled

GIB = 1 << 30
NOW = 1_800_000_000.0
US = int(NOW * 1e6)
NO_COUNTERS = tuple(f"field gpu=0 id={number} scope=* type=3 code=3 value=0" for number in (74, 75))
"""Of throttling."""


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvmlStandIn:
    return NvmlStandIn(tmp_path, monkeypatch)


def opened(nvml: NvmlStandIn, *lines: str) -> NvmlReader:
    nvml.write(*lines)
    reader = NvmlReader(str(nvml.library))
    reader.open()
    return reader


def field(number: int, value: object, *, scope: object = "*", kind: int = 3, code: int = 0) -> str:
    return f"field gpu=0 id={number} scope={scope} type={kind} code={code} value={value}"


# --- values -----------------------------------------------------------------------------------------------------------


def test_limits_errors_and_links_arrive_in_their_fields(nvml: NvmlStandIn) -> None:
    reader = opened(
        nvml,
        "value gpu=0 reserved=5 encoder=11 decoder=12 fan=33 pstate=2",
        "value gpu=0 slowdown=89 shutdown=94 limit_default=600000 limit_min=100000 limit_max=650000",
        "value gpu=0 sm_max=1755 mem_max=1593",
        "value gpu=0 pcie_gen=4 pcie_width=8 pcie_gen_max=5 pcie_width_max=16 replays=21 remapped=3 remap_pending=1",
        *(field(number, value) for number, value in {3: 1, 4: 2, 5: 30, 6: 40, 142: 6, 145: 0, 230: 1}.items()),
        *(f"link gpu=0 link={link} to=switch" for link in range(6)),
        "link gpu=0 link=5 to=off",
        *(field(163, 7, scope=link) for link in range(2)),
        field(161, 4, scope=5),
        field(162, 9, scope=0),
    )
    gpu = reader.read(0, NOW, 0.0)
    assert (gpu.memory_reserved_bytes, gpu.encoder_percent, gpu.decoder_percent) == (5, 11, 12)
    assert (gpu.fan_percent, gpu.performance_state, gpu.memory_temperature_c) == (33, 2, 50)
    assert gpu.limits == GpuLimits(
        power_default_mw=600_000,
        power_least_mw=100_000,
        power_most_mw=650_000,
        temperature_slowdown_c=89,
        temperature_shutdown_c=94,
        temperature_most_c=87,
        memory_temperature_most_c=95,
        sm_clock_max_mhz=1755,
        memory_clock_max_mhz=1593,
        pcie_generation_max=5,
        pcie_width_max=16,
    )
    assert gpu.bus == GpuBus(pcie_generation=4, pcie_width=8, nvlinks_total=6, nvlinks_active=5)
    assert gpu.errors == GpuErrors(
        ecc_corrected=1,
        ecc_uncorrected=2,
        ecc_corrected_ever=30,
        ecc_uncorrected_ever=40,
        rows_remapped_corrected=6,
        rows_remapped_uncorrected=3,
        remap_pending=True,
        remap_failed=False,
        pcie_replays=21,
        nvlink_crc=14,
        nvlink_replays=4,
        nvlink_recoveries=9,
        recovery_action="gpu_reset",
    )


def test_boards_before_ampere_count_pages_and_have_one_counter_for_all_links(nvml: NvmlStandIn) -> None:
    old = {29: 1, 30: 2, 31: 1, 38: 5, 45: 6, 52: 7, 59: 8}
    newer = (142, 143, 144, 145, 161, 162, 163, 230)
    lines = [*(field(*each) for each in old.items()), *(field(number, 0, code=3) for number in newer)]
    errors = opened(nvml, *lines).read(0, NOW, 0.0).errors
    assert errors == GpuErrors(
        ecc_corrected=0,
        ecc_uncorrected=0,
        ecc_corrected_ever=0,
        ecc_uncorrected_ever=0,
        pages_retired=3,
        pages_pending=True,
        pcie_replays=0,
        nvlink_crc=11,
        nvlink_replays=7,
        nvlink_recoveries=8,
    )


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0, ()),
        (1, ()),
        (0x4 | 0x1, ("power_cap",)),
        (0x8 | 0x40, ("thermal_hw", "hw_slowdown")),
        (0x2 | 0x10 | 0x20 | 0x80 | 0x100, ("thermal_sw", "power_brake", "sync_boost", "app_clocks", "display_clocks")),
        (2**63, ()),
    ],
)
def test_reasons_of_throttling_are_words_and_idling_is_none(
    nvml: NvmlStandIn, bits: int, words: tuple[str, ...]
) -> None:
    assert opened(nvml, f"value gpu=0 reasons={bits}").read(0, NOW, 0.0).throttle == words


def test_throttling_is_a_share_of_the_time_since_the_last_reading(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, field(74, 5_000_000_000), field(75, 10**9))
    first = reader.read(0, NOW, 0.0)
    assert (first.throttled_percent, first.throttled_us) == (
        None,
        {"power": 5_000_000, "thermal": 10**6, "sync_boost": 0, "board": 0, "reliability": 0},
    )
    nvml.write(field(74, 5_250_000_000), field(75, 10**9 + 4 * 10**7))
    assert reader.read(0, NOW, 1.0).throttled_percent == 25.0
    nvml.write(field(74, 5_250_000_000 + 2_100_000_000), field(75, 10**9 + 4 * 10**7))
    assert reader.read(0, NOW, 3.0).throttled_percent == 100.0  # a step of the counter fell into this time too


@pytest.mark.parametrize(("bits", "share"), [(0, 0.0), (0x1, 0.0), (0x2, 0.0), (0x4, 100.0), (0x48, 100.0)])
def test_without_counters_it_is_throttled_wholly_or_not(nvml: NvmlStandIn, bits: int, share: float) -> None:
    reader = opened(nvml, f"value gpu=0 reasons={bits}", field(74, 0, code=3), field(75, 0, code=3))
    assert reader.read(0, NOW, 0.0).throttled_percent == share


def test_byte_counters_become_rates(nvml: NvmlStandIn) -> None:
    links = "link gpu=0 link=0 to=switch"
    reader = opened(nvml, links, field(197, 1000), field(198, 2000), field(138, 10), field(139, 20))
    first = reader.read(0, NOW, 0.0)
    rates = ("pcie_tx_bytes_per_s", "pcie_rx_bytes_per_s", "nvlink_tx_bytes_per_s", "nvlink_rx_bytes_per_s")
    assert [getattr(first, name) for name in rates] == [None] * 4
    nvml.write(links, field(197, 3000), field(198, 8000), field(138, 14), field(139, 30))
    second = reader.read(0, NOW, 2.0)
    assert [getattr(second, name) for name in rates] == [1000, 3000, 2 * 1024, 5 * 1024]


def test_a_counter_that_begins_anew_tells_nothing_once_and_one_that_leaps_is_counted(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, field(197, 10**9))
    reader.read(0, NOW, 0.0)
    nvml.write(field(197, 500))
    anew = reader.read(0, NOW, 1.0)
    assert (anew.pcie_tx_bytes_per_s, anew.dropped) == (None, 0)
    nvml.write(field(197, 2**63))
    leapt = reader.read(0, NOW, 2.0)
    assert (leapt.pcie_tx_bytes_per_s, leapt.dropped) == (None, 1)
    nvml.write(field(197, 2**63 + 4096))
    assert reader.read(0, NOW, 3.0).pcie_tx_bytes_per_s == 4096


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("value gpu=0 util=2619", "utilization_percent"),
        ("value gpu=0 mem_util=101", "memory_utilization_percent"),
        ("value gpu=0 power_mw=4294967295", "power_mw"),
        ("value gpu=0 limit_mw=300000 power_mw=1500001", "power_mw"),
        ("value gpu=0 temp=201", "temperature_c"),
        ("value gpu=0 used=85899345921", "memory_used_bytes"),
        ("value gpu=0 encoder=300", "encoder_percent"),
        ("value gpu=0 fan=65535", "fan_percent"),
        (field(82, -3, kind=5), "memory_temperature_c"),
    ],
)
def test_what_cannot_be_is_left_out_and_counted(nvml: NvmlStandIn, line: str, name: str) -> None:
    gpu = opened(nvml, line).read(0, NOW, 0.0)
    assert (getattr(gpu, name), gpu.dropped) == (None, 1)


@pytest.mark.parametrize(("kind", "text", "value"), [(0, "61.0", 61), (1, "61", 61), (5, "61", 61), (6, "61", 61)])
def test_a_field_is_read_by_its_type_whatever_lies_beyond_it(
    nvml: NvmlStandIn, kind: int, text: str, value: int
) -> None:
    assert opened(nvml, field(82, text, kind=kind)).read(0, NOW, 0.0).memory_temperature_c == value


def test_an_energy_counter_that_leaps_is_left_out_once(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, "value gpu=0 energy_mj=1000")
    assert reader.read(0, NOW, 0.0).energy_mj == 1000
    nvml.write("value gpu=0 energy_mj=4294967296000")
    assert (reader.read(0, NOW, 1.0).energy_mj, reader.read(0, NOW, 2.0).energy_mj) == (None, 4294967296000)


# --- how often --------------------------------------------------------------------------------------------------------


def test_a_field_that_is_not_offered_is_asked_for_again_after_an_hour(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, field(82, 0, code=3), field(3, 0, code=2))
    gpu = reader.read(0, NOW, 100.0)
    assert (gpu.memory_temperature_c, gpu.errors and gpu.errors.ecc_corrected) == (None, None)
    nvml.write()
    later = reader.read(0, NOW, 100.0 + FORGET_S - 1)
    assert (later.memory_temperature_c, later.errors and later.errors.ecc_corrected) == (None, None)
    again = reader.read(0, NOW, 100.0 + FORGET_S + SELDOM_S)
    assert (again.memory_temperature_c, again.errors and again.errors.ecc_corrected) == (50, 0)


def test_errors_are_read_every_ten_seconds_and_limits_each_hour(nvml: NvmlStandIn) -> None:
    reader = opened(nvml)
    reader.read(0, NOW, 0.0)
    nvml.write(field(3, 5), "value gpu=0 sm_max=7")
    early = reader.read(0, NOW, SELDOM_S - 1)
    late = reader.read(0, NOW, SELDOM_S + 1)
    assert early.errors is not None
    assert late.errors is not None
    assert (early.errors.ecc_corrected, late.errors.ecc_corrected) == (0, 5)
    assert late.limits is not None
    assert late.limits.sm_clock_max_mhz == 1980
    hour = reader.read(0, NOW, FORGET_S + 1).limits
    assert hour is not None
    assert hour.sm_clock_max_mhz == 7


def test_a_lost_gpu_is_noticed_in_its_fields_too(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, field(82, 0, code=15))
    with pytest.raises(GpuLostError, match="GPU 0 is lost"):
        reader.read(0, NOW, 0.0)


@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetSamples",
        "nvmlDeviceGetProcessUtilization",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetEncoderUtilization",
        "nvmlDeviceGetFanSpeed",
        "nvmlDeviceGetPerformanceState",
        "nvmlDeviceGetPowerManagementLimitConstraints",
        "nvmlDeviceGetTemperatureThreshold",
        "nvmlDeviceGetMaxClockInfo",
        "nvmlDeviceGetCurrPcieLinkWidth",
        "nvmlGpmQueryDeviceSupport",
        "nvmlGpmSampleGet",
        "nvmlGpmSampleAlloc",
    ],
)
@pytest.mark.parametrize("code", [3, 13, 999])
def test_whatever_fails_the_rest_is_read(nvml: NvmlStandIn, function: str, code: int) -> None:
    process = "process gpu=0 pid=4711 memory=1"
    reader = opened(nvml, process, "rings", f"fail {function} gpu=* code={code}")
    for second in range(3):
        gpu = reader.read(0, NOW + second, float(second))
        assert (gpu.power_mw, gpu.dropped, len(gpu.processes)) == (100_000, 0, 1)
    nvml.write(process, "rings")
    for second in range(3):
        gpu = reader.read(0, NOW, 2 * FORGET_S + second)
    values = msgspec.structs.asdict(gpu)
    assert [name for name, value in values.items() if value is None] == [
        "state_since",
        "reason",
        "nvlink_rx_bytes_per_s",
        "nvlink_tx_bytes_per_s",
        "numa_node",
        "mig_parent",
        "mig_profile",
        "mig_gi",
        "mig_ci",
    ]


def test_an_old_driver_lacks_all_of_it_and_is_read_all_the_same(tmp_path: Path) -> None:
    control = tmp_path / "control"
    control.write_text("process gpu=0 pid=4711 memory=2048\nvalue gpu=0 reasons=4\n")
    script = (
        "import sys; from agent.gpu.nvml import NvmlReader;"
        "r = NvmlReader(sys.argv[1]); r.open(); r.read(0, 0., 0.); g = r.read(0, 1., 1.);"
        "print(g.throttle, g.memory_reserved_bytes, g.sm_active_percent, g.power_mw)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(compiled(("OLD_DRIVER",)))],
        env={**os.environ, CONTROL_VARIABLE: str(control)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "('power_cap',) None None 100000\n", done.stderr


# --- what a value is worth --------------------------------------------------------------------------------------------


def test_what_cannot_be_is_an_error_and_not_unsupported_however_seldom_it_is_asked(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, "value gpu=0 encoder=40")
    assert reader.read(0, NOW, 0.0).encoder_percent == 40
    absurd = f"value gpu=0 fan=255 encoder=300 decoder=101 used={81 * GIB}"
    nvml.write(absurd)
    early = reader.read(0, NOW, 1.0)
    assert (early.encoder_percent, early.value_state("encoder_percent")) == (None, ValueState.ERROR)
    for second in (11.0, 12.0):
        gpu = reader.read(0, NOW, second)
        for name in ("fan_percent", "encoder_percent", "decoder_percent", "memory_used_bytes", "memory_free_bytes"):
            assert (getattr(gpu, name), gpu.value_state(name)) == (None, ValueState.ERROR), name
    nvml.write()
    gpu = reader.read(0, NOW, 22.0)
    assert (gpu.fan_percent, gpu.encoder_percent, gpu.memory_free_bytes) == (0, 0, 79 * GIB)
    assert gpu.failed == ()


def test_an_instance_that_uses_more_than_it_has_says_that_this_cannot_be(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, f"mig gpu=0 slot=1 profile=1g.10gb total={10 * GIB} used={11 * GIB}")
    reader.read(0, NOW, 0.0)
    (part,) = reader.instances(0, NOW, 0.0)
    assert (part.memory_used_bytes, part.memory_free_bytes, part.dropped) == (None, None, 1)
    assert part.value_state("memory_used_bytes") is part.value_state("memory_free_bytes") is ValueState.ERROR


def test_a_value_is_unsupported_failed_or_there(nvml: NvmlStandIn) -> None:
    reader = opened(
        nvml,
        "fail nvmlDeviceGetPowerUsage gpu=0 code=3",
        "fail nvmlDeviceGetTotalEnergyConsumption gpu=0 code=999",
        "fail nvmlDeviceGetFanSpeed gpu=0 code=999",
        "fail nvmlDeviceGetPerformanceState gpu=0 code=3",
        "fail nvmlDeviceGetMaxPcieLinkWidth gpu=0 code=999",
        "fail nvmlGpmSampleGet gpu=0 code=999",
        "value gpu=0 util=2619",
        field(3, 0, code=999),
        field(4, 0, code=3),
        field(82, 0, code=999),
    )
    gpu = reader.read(0, NOW, 0.0)
    expected = {
        "power_mw": ValueState.UNSUPPORTED,
        "performance_state": ValueState.UNSUPPORTED,
        "errors.ecc_uncorrected": ValueState.UNSUPPORTED,
        "energy_mj": ValueState.ERROR,
        "fan_percent": ValueState.ERROR,
        "limits.pcie_width_max": ValueState.ERROR,
        "tensor_active_percent": ValueState.ERROR,
        "utilization_percent": ValueState.ERROR,
        "errors.ecc_corrected": ValueState.ERROR,
        "memory_temperature_c": ValueState.ERROR,
        "temperature_c": ValueState.VALUE,
        "errors.pcie_replays": ValueState.VALUE,
    }
    assert {name: gpu.value_state(name) for name in expected} == expected
    hung = msgspec.structs.replace(gpu, state=GpuState.HUNG)
    assert hung.value_state("temperature_c") is ValueState.STALE
    assert hung.value_state("power_mw") is ValueState.UNSUPPORTED
    nvml.write()
    reader.read(0, NOW, 11.0)
    assert reader.read(0, NOW, 12.0).failed == ("limits.pcie_width_max",)  # asked again in an hour


def test_a_field_that_is_told_again_is_no_longer_failed(nvml: NvmlStandIn) -> None:
    reader = opened(nvml)
    reader.read(0, NOW, 0.0)
    reader.read(0, NOW, 1.0)
    nvml.write(field(82, 0, code=999))
    assert reader.read(0, NOW, 2.0).failed == ("memory_temperature_c",)
    nvml.write()
    assert reader.read(0, NOW, 3.0).failed == ()
    assert not reader._devices[0]._fields.failed


# --- general performance monitoring -----------------------------------------------------------------------------------


def shares(reader: NvmlReader, second: float) -> list[float | None]:
    gpu = reader.read(0, NOW + second, second)
    return [gpu.sm_active_percent, gpu.sm_occupancy_percent, gpu.tensor_active_percent, gpu.dram_active_percent]


def test_how_much_of_a_gpu_is_used_is_told_from_the_second_reading_on(nvml: NvmlStandIn) -> None:
    lines = [f"gpm gpu=0 metric={number} value={value}" for number, value in ((2, 91.26), (3, 40), (5, 63.5), (10, 12))]
    reader = opened(nvml, *lines)
    assert shares(reader, 0.0) == [None] * 4
    assert shares(reader, 1.0) == [91.3, 40.0, 63.5, 12.0]
    assert shares(reader, 2.0) == [91.3, 40.0, 63.5, 12.0]
    nvml.write(*lines, "fail nvmlGpmSampleGet gpu=0 code=999")
    assert shares(reader, 3.0) == [None] * 4
    nvml.write(
        *lines, "gpm gpu=0 metric=3 value=nan", "gpm gpu=0 metric=5 value=100.4", "gpm gpu=0 metric=10 value=900"
    )
    assert shares(reader, 4.0) == [None] * 4
    assert shares(reader, 5.0) == [91.3, None, 100.0, None]


def test_a_board_that_cannot_is_asked_again_after_an_hour(nvml: NvmlStandIn) -> None:
    reader = opened(nvml, "gpm gpu=0 off")
    assert [shares(reader, second) for second in (0.0, 1.0)] == [[None] * 4] * 2
    nvml.write()
    assert shares(reader, 2.0) == shares(reader, 3.0) == [None] * 4
    shares(reader, FORGET_S + 1)
    assert None not in shares(reader, FORGET_S + 2)


# --- processes --------------------------------------------------------------------------------------------------------


def test_processes_have_a_kind_and_a_share(nvml: NvmlStandIn) -> None:
    lines = [
        "process gpu=0 pid=1 memory=10",
        "process gpu=0 pid=2 memory=20",
        "graphics gpu=0 pid=2 memory=20",
        "graphics gpu=0 pid=3 memory=30",
    ]
    uses = [(1, -0.9, 30), (1, -0.1, 70), (2, -5.0, 90), (3, -0.5, 2619)]
    use = [f"use gpu=0 pid={pid} at={US + round(at * 1e6)} sm={share}" for pid, at, share in uses]
    gpu = opened(nvml, *lines, *use).read(0, NOW, 0.0)
    assert gpu.processes == (
        GpuProcess(pid=1, memory_used_bytes=10, kind="compute", sm_percent=70),
        GpuProcess(pid=2, memory_used_bytes=20, kind="compute+graphics", sm_percent=0),
        GpuProcess(pid=3, memory_used_bytes=30, kind="graphics", sm_percent=0),
    )
    assert gpu.dropped == 1


def test_more_shares_than_there_was_room_for(nvml: NvmlStandIn) -> None:
    lines = [f"process gpu=0 pid={pid} memory=1" for pid in range(1, 101)]
    gpu = opened(nvml, *lines, "rings").read(0, NOW, 0.0)
    assert {process.sm_percent for process in gpu.processes} == {50}
    assert len(gpu.processes) == 100


def test_a_process_that_begins_to_draw_is_seen_within_ten_seconds_and_its_end_at_once(nvml: NvmlStandIn) -> None:
    reader = opened(nvml)
    reader.read(0, NOW, 0.0)
    nvml.write("graphics gpu=0 pid=3 memory=30")
    assert [each.pid for each in reader.read(0, NOW, 11.0).processes] == [3]
    nvml.write()
    assert reader.read(0, NOW, 12.0).processes == ()
