"""GPUs that are read in brief, all in one row of calls: real binding and calls, the stand-in for NVML."""

from __future__ import annotations

import threading
import time

import msgspec
import pytest

from agent.api.types import GpuReading
from agent.gpu.base import GpuLostError
from agent.gpu.nvml import NvmlReader
from agent.gpu.nvml_fields import RECEIVED_PCIE
from agent.gpu.nvml_herd import Herd
from agent.gpu.nvml_seldom import SELDOM_S
from tests.fakes.nvml import NvmlStandIn
from tests.fakes.sampler import nvml as nvml

COUNT = 3
GPUS = list(range(COUNT))
USUAL = (f"gpus {COUNT}", "rings", "process gpu=1 pid=4711 memory=2048")
NOW = 1_700_000_000.0
AT = SELDOM_S + 3


def ready(nvml: NvmlStandIn, *lines: str) -> NvmlReader:
    """A reader that knows what the GPUs offer, and has read each a second before `AT`."""
    nvml.write(*USUAL, *lines)
    reader = NvmlReader(str(nvml.library))
    reader.open()
    read_all(reader, 0.0)
    reader.wait_links(10)
    for at in (SELDOM_S, SELDOM_S + 1, SELDOM_S + 2):
        read_all(reader, at)
    return reader


def read_all(reader: NvmlReader, at: float) -> list[GpuReading]:
    return [reader.read(index, NOW + at, at) for index in GPUS]


def swept(reader: NvmlReader, at: float) -> list[GpuReading] | None:
    """What a sweep at that second says; `None` where it sends all to be read."""
    assert reader.ready(GPUS, at) == GPUS
    herd = reader.sweep(GPUS, NOW + at, at)
    assert herd is not None
    herd.ask()
    assert herd.asking() is None
    renewals = herd.fold()
    return None if renewals is None else [each.stamped().reading for each in renewals]


def told(reading: GpuReading) -> GpuReading:
    """Without what the rings say, which go on by the wall clock."""
    return msgspec.structs.replace(reading, spreads={})


def test_a_sweep_tells_what_reading_each_would(nvml: NvmlStandIn) -> None:
    reader = ready(nvml)
    changed = (
        "value gpu=1 util=37 power_mw=251000 temp=61 sm_mhz=1755 used=4096 mem_util=23 energy_mj=2000100 reasons=4",
        f"field gpu=2 id={RECEIVED_PCIE} scope=0 type=3 code=0 value=5000",
        "field gpu=2 id=82 scope=0 type=1 code=0 value=66",
        "gpm gpu=0 metric=2 value=43.56",
        "process gpu=2 pid=4712 memory=1024",
    )
    nvml.write(*USUAL, *changed)
    first, found = swept(reader, AT), swept(reader, AT + 1)  # their use is asked for in every other one
    assert first is not None and found is not None
    other = ready(nvml, *changed)
    for now, usual in zip(found, read_all(other, AT + 1), strict=True):
        assert told(now) == told(usual)
        assert set(now.spreads) == {"power_mw", "utilization_percent", "memory_utilization_percent"}
    assert (found[1].utilization_percent, found[1].power_mw, found[1].throttle) == (37, 251000, ("power_cap",))
    assert (first[2].pcie_rx_bytes_per_s, first[2].memory_temperature_c) == (5000, 66)
    assert [process.pid for process in found[2].processes] == [4712]
    assert found[0].sm_active_percent == 43.6


@pytest.mark.parametrize(
    "line",
    [
        "value gpu=1 util=2619",
        "value gpu=1 energy_mj=18446744073709551",
        "value gpu=1 reserved=1",
        "fail nvmlDeviceGetTemperature gpu=1 code=999",
        "fail nvmlGpmSampleGet gpu=1 code=999",
        "field gpu=1 id=82 scope=0 type=1 code=999 value=0",
        "field gpu=1 id=197 scope=0 type=3 code=0 value=18446744073709551615",
        "gpm gpu=1 metric=2 value=nan",
    ],
)
def test_what_is_out_of_the_ordinary_sends_all_to_be_read_as_if_there_had_been_no_sweep(
    nvml: NvmlStandIn, line: str
) -> None:
    reader, other = ready(nvml), ready(nvml)
    nvml.write(*USUAL, line)
    assert swept(reader, AT) is None
    assert [told(each) for each in read_all(reader, AT)] == [told(each) for each in read_all(other, AT)]
    nvml.write(*USUAL)
    read_all(reader, AT + 1)
    read_all(reader, AT + 1 + SELDOM_S)
    assert swept(reader, AT + 2 + SELDOM_S) is not None


def test_a_gpu_that_is_ill_is_left_out_and_the_others_are_swept(nvml: NvmlStandIn) -> None:
    reader = ready(nvml)
    nvml.write(*USUAL, "fail * gpu=1 code=15")
    assert swept(reader, AT) is None
    reader.read(0, NOW + AT, AT)
    with pytest.raises(GpuLostError):
        reader.read(1, NOW + AT, AT)
    reader.read(2, NOW + AT, AT)
    herd = reader.sweep([0, 2], NOW + AT + 1, AT + 1)
    assert herd is not None and herd.indexes == [0, 2]
    herd.ask()
    assert herd.fold() is not None


def test_a_gpu_that_hangs_in_a_sweep_is_named_and_holds_its_own_thread_only(nvml: NvmlStandIn) -> None:
    reader = ready(nvml)
    nvml.write(*USUAL, "hang * gpu=1")
    herd = reader.sweep(reader.ready(GPUS, AT), NOW + AT, AT)
    assert isinstance(herd, Herd)
    thread = threading.Thread(target=herd.ask, daemon=True)
    thread.start()
    wait_for(lambda: herd.asking() == 1)
    herd.abandon()
    for index in (0, 2):
        assert reader.read(index, NOW + AT + 1, AT + 1).sampled_at == NOW + AT + 1
    assert thread.is_alive()
    nvml.write(*USUAL)
    thread.join(60)
    assert not thread.is_alive()
    assert not herd._sweep.is_whole  # it asked none of those behind
    assert reader.read(1, NOW + AT + 2, AT + 2).sampled_at == NOW + AT + 2
    assert herd.fold() is None


def test_every_ten_seconds_it_is_asked_whether_what_seldom_changes_did(nvml: NvmlStandIn) -> None:
    reader = ready(nvml)
    late = 2 * SELDOM_S
    assert reader.ready(GPUS, late) == []
    assert all(reader.check(index, late) for index in GPUS)
    assert swept(reader, late) is not None
    for line in ("value gpu=1 limit_mw=650000", "value gpu=1 replays=3", "mig gpu=1", "graphics gpu=1 pid=7 memory=1"):
        again = ready(nvml)
        nvml.write(*USUAL, line)
        assert [again.check(index, late) for index in GPUS] == [True, False, True], line


def wait_for(reached: object, timeout_s: float = 60.0) -> None:
    until = time.monotonic() + timeout_s
    while not reached():  # type: ignore[operator]
        assert time.monotonic() < until, "not reached"
        time.sleep(0.005)


def test_the_ring_of_power_is_asked_each_second_and_those_of_load_every_other_one(
    nvml: NvmlStandIn,
) -> None:
    reader = ready(nvml)
    seen = []
    for second in range(4):
        nvml.write(*USUAL, f"value gpu=* util={10 + second} power_mw={300_000 + second}")
        found = swept(reader, AT + second)
        assert found is not None
        spreads = found[0].spreads
        seen.append((spreads["power_mw"][0], spreads["utilization_percent"][0]))
    assert seen == [(300_000, 10), (300_001, 10), (300_002, 12), (300_003, 12)]


def test_a_driver_that_tells_of_more_than_fits_has_no_gpu_shown_what_is_anothers(nvml: NvmlStandIn) -> None:
    """Rings of two sizes answer with the same number: 200 fit into one, and 128 into the other."""
    much = ("room ring=0 300", "pace ring=0 200", "pace ring=1 200", "overtell")
    loads = [f"value gpu={index} util={20 + 10 * index}" for index in GPUS]
    crowd = [f"process gpu=1 pid={5000 + row} memory=1" for row in range(100)]
    crowd += [f"process gpu=2 pid={6000 + row} memory=1" for row in range(100)]
    reader = ready(nvml, *much, *loads, *crowd)
    for second in range(2):
        found = swept(reader, AT + second)
        assert found is not None
        assert [each.spreads["utilization_percent"] for each in found] == [(load,) * 3 for load in (20, 30, 40)]
        for each in found[1:]:
            assert {process.pid // 1000 for process in each.processes} <= {4 + each.index, 4 if each.index == 1 else 6}
