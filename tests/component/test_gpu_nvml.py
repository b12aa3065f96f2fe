"""The NVML reader: real binding, real ctypes calls, a library compiled from C in place of the driver's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.api.types import GpuProcess, GpuSource
from agent.gpu.base import DriverGoneError, GpuLostError, NoGpusError
from agent.gpu.nvml import FORGET_S, NvmlReader
from tests.fakes.nvml import CONTROL_VARIABLE, NvmlStandIn, compiled, uuid

GIB = 1024**3


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
        "value gpu=1 total=85899345920 used=4096",
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
    assert gpu.processes == (GpuProcess(pid=4711, memory_used_bytes=2048), GpuProcess(pid=4712))
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
