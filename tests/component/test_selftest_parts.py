"""The parts of the self-test against real processes: the reader of the GPUs, the children, and torch's side."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.api.decode import decode
from agent.api.queue import LinkGrade
from agent.gpu.inspection import HW_THERMAL, SW_POWER_CAP, Inspection, InspectSpec
from agent.gpu.nvml_inspect import Inspector
from agent.selftest.children import Children, Ended, Line
from agent.selftest.compute import Answer, Target, Torch
from tests.fakes.nvml import NvmlStandIn, uuid
from tests.fakes.selftest import environment, pretender

TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the train extra is not installed")
LOST = 15


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvmlStandIn:
    return NvmlStandIn(tmp_path, monkeypatch)


def start_inspector(nvml: NvmlStandIn) -> subprocess.Popen[bytes]:
    spec = msgspec.json.encode(InspectSpec(library=str(nvml.library), period_s=0.05)).decode()
    entry = "import sys; from agent.__main__ import agent_main; sys.exit(agent_main())"
    return subprocess.Popen(
        [sys.executable, "-c", entry, "inspect", spec],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )


def end_input(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.close()
    child.stdin = None  # communicate() would flush it


# --- reading the GPUs -----------------------------------------------------------------------------------------------


def test_the_inspector_reads_links_counters_and_identity(nvml: NvmlStandIn, tmp_path: Path) -> None:
    switch = [f"link gpu={gpu} link={link} to=switch" for gpu in (0, 1) for link in range(18)]
    nvml.write(
        "gpus 2", *switch, "link gpu=1 link=17 to=off", "value gpu=1 remapped=3 remap_failed=1 replays=7 temp=71"
    )
    inspector = Inspector(str(nvml.library), sysfs=tmp_path)
    inspector.open()
    found = inspector.read()
    assert found.driver_version == "550.54.15"
    first, second = found.gpus
    assert (first.reading.uuid, first.reading.name, first.nvlinks) == (uuid(0), "NVIDIA H100 80GB HBM3", 18)
    assert first.reading.links == {uuid(1): LinkGrade.NVLINK + 16}, "the first reading waits for the links"
    assert (second.nvlinks, second.rows_remapped, second.remap_failed, second.pcie_replays) == (17, 3, True, 7)
    assert second.reading.temperature_c == 71
    assert (first.pcie_width, first.pcie_width_max) == (16, 16)


def test_the_inspector_reads_who_a_board_is_its_memory_errors_and_what_slows_it(
    nvml: NvmlStandIn, tmp_path: Path
) -> None:
    nvml.write(
        "gpus 2",
        "serial gpu=0 1650123456789",
        "vbios gpu=0 96.00.74.00.01",
        f"value gpu=0 ecc_corrected=12 ecc_uncorrected=3 reasons={HW_THERMAL | SW_POWER_CAP} slowdown=88",
        "fail nvmlDeviceGetTotalEccErrors gpu=1 code=3",
    )
    inspector = Inspector(str(nvml.library), sysfs=tmp_path)
    inspector.open()
    first, second = inspector.read().gpus
    assert (first.serial, first.vbios, first.slowdown_c) == ("1650123456789", "96.00.74.00.01", 88)
    assert (first.ecc_corrected, first.ecc_uncorrected) == (12, 3)
    assert first.throttle == HW_THERMAL | SW_POWER_CAP
    assert (second.serial, second.vbios, second.throttle) == (None, None, 0)
    assert (second.ecc_corrected, second.ecc_uncorrected) == (None, None), "ECC is off there"


def test_the_first_reading_waits_for_the_ways_between_gpus(nvml: NvmlStandIn, tmp_path: Path) -> None:
    links = [f"link gpu={gpu} link=0 to=switch" for gpu in (0, 1)]
    nvml.write("gpus 2", *links, "hang nvmlDeviceGetNvLinkRemoteDeviceType gpu=1")
    inspector = Inspector(str(nvml.library), sysfs=tmp_path)
    inspector.open()
    threading.Timer(0.5, lambda: nvml.write("gpus 2", *links)).start()
    assert inspector.read().gpus[0].reading.links == {uuid(1): LinkGrade.NVLINK}


def test_where_the_driver_does_not_tell_the_link_sysfs_does(nvml: NvmlStandIn, tmp_path: Path) -> None:
    folder = tmp_path / "bus/pci/devices/0000:10:00.0"
    folder.mkdir(parents=True)
    for name, text in (
        ("current_link_width", "8\n"),
        ("max_link_width", "16\n"),
        ("max_link_speed", "32.0 GT/s PCIe\n"),
    ):
        (folder / name).write_text(text)
    nvml.write(
        *(
            f"fail nvmlDeviceGet{name} gpu=* code=3"
            for name in ("CurrPcieLinkWidth", "MaxPcieLinkWidth", "MaxPcieLinkGeneration")
        )
    )
    inspector = Inspector(str(nvml.library), sysfs=tmp_path)
    inspector.open()
    (gpu,) = inspector.read().gpus
    assert (gpu.pcie_width, gpu.pcie_width_max, gpu.pcie_generation_max) == (8, 16, 5)
    (folder / "current_link_width").write_text("0\n")
    assert inspector.read().gpus[0].pcie_width is None, "0 is what sysfs says of a link it does not know"


def test_a_gpu_lost_in_between_keeps_its_name_and_says_why(nvml: NvmlStandIn) -> None:
    nvml.write("gpus 2")
    child = start_inspector(nvml)
    try:
        assert child.stdout is not None
        assert all(each.error is None for each in decode(child.stdout.readline(), Inspection).gpus)
        nvml.write("gpus 2", f"fail * gpu=1 code={LOST}")
        seen = next(found for line in child.stdout if (found := decode(line, Inspection)).gpus[1].error)
        assert "GPU 1 is lost" in (seen.gpus[1].error or "")
        assert (seen.gpus[1].reading.uuid, seen.gpus[0].error) == (uuid(1), None)
        end_input(child)
        assert child.wait(timeout=60) == 0, "it ends with its input"
    finally:
        child.kill()
        child.communicate()


# --- children -------------------------------------------------------------------------------------------------------


class Said(msgspec.Struct):
    """A line of these tests' children."""

    n: int


def events(code: str, silence_s: float = 60.0) -> list[Any]:
    with Children() as children:
        children.start("it", [sys.executable, "-c", code], Said, silence_s=silence_s)
        return list(children.events())


def test_lines_come_as_their_kind_and_an_end_says_how() -> None:
    assert events("print('noise'); print('{\"n\": 1}')") == [
        Line(name="it", value=Said(n=1)),
        Ended(name="it", why=None),
    ]
    (ended,) = events("import sys; print('no GPU\\x1b[31m', file=sys.stderr); sys.exit(4)")
    assert ended.why == "ended with status 4: no GPU\\x1b[31m"
    (killed,) = events("import os; os.kill(os.getpid(), 9)")
    assert killed.why == "was ended by SIGKILL"


def test_a_silent_child_is_ended_with_all_it_started() -> None:
    code = (
        "import subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], stdin=subprocess.DEVNULL)\n"
        "print('{\"n\": %d}' % inner.pid, flush=True); time.sleep(600)"
    )
    line, ended = events(code, silence_s=2.0)
    assert ended.why == "said nothing for 2 s, and was ended"
    with pytest.raises(ProcessLookupError):
        while True:  # a killed orphan is there until its new parent has seen its end
            os.kill(line.value.n, 0)
            if Path(f"/proc/{line.value.n}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                raise ProcessLookupError


def test_leaving_ends_those_that_are_left() -> None:
    with Children() as children:
        argv = [sys.executable, "-c", "import os; print('{\"n\": %d}' % os.getpid(), flush=True); input(); input()"]
        children.start("it", argv, Said, silence_s=60)
        first = next(children.events())
        assert isinstance(first, Line) and isinstance(first.value, Said)
        pid = first.value.n
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# --- torch's side ---------------------------------------------------------------------------------------------------


def test_an_interpreter_without_torch_is_an_answer(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    answer = Torch(python=bare).rates(Target(name="CPU"), 0.1)
    assert "torch" in (answer.missing or "") and answer.problem is None and answer.versions is None


def test_a_gpus_child_sees_that_gpu_alone(tmp_path: Path) -> None:
    script = "print(json.dumps({'figure': os.environ['CUDA_VISIBLE_DEVICES'], 'value': 1}))"
    torch = Torch(python=pretender(tmp_path, {"rates": script, "peers": script}))
    (one,) = torch.rates(Target(name="GPU 1", uuid="GPU-b"), 1).figures
    (both,) = torch.peers([Target(name="0", uuid="GPU-a"), Target(name="1", uuid="GPU-b")], 1, all_pairs=False).figures
    (cpu,) = torch.rates(Target(name="CPU"), 1).figures
    assert (one.figure, both.figure, cpu.figure) == ("GPU-b", "GPU-a,GPU-b", "")


def _figures(answer: Answer) -> dict[str, int | None]:
    return {each.figure or "": each.value for each in answer.figures}


@TORCH
def test_a_burn_in_tells_each_wrong_value() -> None:
    """The real task in one process, with a product that goes wrong once: how a bad cell looks."""
    code = (
        "import sys, torch; from agent.training import selftest, selftest_burn\n"
        "mm, calls = torch.mm, []\n"
        "def bad(*args, out=None):\n"
        "    made = mm(*args, out=out) if out is not None else mm(*args)\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3: made[5, 7] += 1000.0\n"
        "    return made\n"
        "torch.mm = bad\n"
        "selftest_burn.TELL_S = 0.0001\n"
        "selftest_burn.burn({'device': 'cpu', 'seconds': 0, 'size': 64}, selftest.emit)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True, env=environment()
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(line.get("wrong", 0) for line in lines) == 1 and lines[-1] == {"done": True}


@TORCH
def test_it_ends_with_whoever_started_it() -> None:
    spec = json.dumps({"task": "burn", "device": "cpu", "seconds": 600, "watch_stdin": True})
    child = subprocess.Popen(
        [sys.executable, "-m", "agent.training.selftest", spec],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    try:
        assert child.stdout is not None
        assert b'"burn"' in child.stdout.readline()
        end_input(child)
        assert child.wait(timeout=60) == 0
    finally:
        child.kill()
        child.communicate()
