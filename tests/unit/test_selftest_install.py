"""The GPUs against those of the installation, and the XIDs that came while they were tested."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from agent.api.health import KnownGpu
from agent.gpu.inspection import GpuInspection
from agent.selftest import inventory, xids
from agent.selftest.checks import Verdict
from agent.telemetry.xid import Xid
from tests.fakes.selftest import inspection, uuid

FELL = b"3,1,5000000,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=4711, name=python3, GPU has fallen off the bus.\n"


def gpu(index: int = 0, **more: object) -> GpuInspection:
    made = inspection(pcie_width=16, nvlinks=18)
    named = msgspec.structs.replace(made.reading, index=index, uuid=uuid(index), pci=f"0000:3{'bcd'[index]}:00")
    return msgspec.structs.replace(made, reading=named, **more)


def known(index: int = 0, **more: object) -> KnownGpu:
    return KnownGpu(index=index, uuid=uuid(index), name="n", pcie_width=16, nvlinks=18, **more)  # type: ignore[arg-type]


def bad(checks: object) -> dict[str, str]:
    return {f"{each.subject}: {each.name}": each.found for each in checks if each.verdict is not Verdict.PASS}  # type: ignore[attr-defined]


def test_the_same_gpus_pass() -> None:
    checks = list(inventory.compare([known(0), known(1)], [gpu(0), gpu(1)]))
    assert [(each.name, each.verdict) for each in checks] == [("GPUs as at install", Verdict.PASS)]


def test_a_gpu_that_is_gone_and_another_one_are_named() -> None:
    checks = list(inventory.compare([known(0), known(1)], [gpu(0), gpu(2)]))
    assert bad(checks) == {"node: GPUs as at install": "1 of 2 gone (GPU 1); 1 other (GPU 2)"}
    assert checks[0].detail is not None and "stoker inventory NODE --accept" in checks[0].detail


def test_fewer_lanes_or_links_than_at_install_fail_and_more_or_unknown_ones_do_not() -> None:
    narrow = gpu(0, pcie_width=8, nvlinks=17)
    assert bad(inventory.compare([known(0)], [narrow])) == {
        "GPU 0: PCIe lanes as at install": "8",
        "GPU 0: NVLinks as at install": "17",
    }
    assert bad(inventory.compare([known(0)], [gpu(0, pcie_width=None, nvlinks=20)])) == {}
    slow = inventory.compare([known(0, pcie_generation=5)], [gpu(0, pcie_generation_max=3)])
    assert bad(slow) == {"GPU 0: PCIe generation as at install": "3"}


def test_an_xid_fails_the_gpu_it_hit_and_no_other() -> None:
    came = [Xid(code=48, at=1.0, pci="0000:3b:00"), Xid(code=63, at=2.0, pci="0000:3b:00"), Xid(code=79, at=3.0)]
    checks = list(xids.judge([gpu(0), gpu(1)], [*came, came[0]]))
    assert bad(checks) == {"GPU 0: XIDs during the test": "48 (2 times), 63 (1 times)"}
    assert checks[0].detail
    assert (checks[1].found, checks[1].verdict) == ("none", Verdict.PASS)


def test_the_log_is_read_from_the_beginning_of_the_test_on(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.write_bytes(FELL)
    log = xids.XidWatch(path)
    assert log.come() == [], "what was before is not ours"
    log.close()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    kernel = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    log = xids.XidWatch(fifo)
    assert log.come() == []
    os.write(kernel, FELL)  # a record a read, as the kernel gives them
    assert [(each.code, each.pci) for each in log.come()] == [(79, "0000:3b:00")]
    assert log.come() == [], "each is told once"
    os.close(kernel)
    log.close()
    log.close()
    assert log.come() == []


def test_a_log_that_may_not_be_read_is_said_and_is_no_pass(tmp_path: Path) -> None:
    log = xids.XidWatch(tmp_path / "none")
    assert log.problem is not None and "so nobody looked for XIDs" in log.problem
    assert log.come() == []
