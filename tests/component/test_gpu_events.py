"""What the driver tells of by itself: real binding, real sampler process, the stand-in for NVML."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue

import pytest

from agent.api.types import GpuState
from agent.gpu import nvml_events
from agent.gpu.base import GpuLostError
from agent.gpu.frames import EventKind, GpuEvent
from agent.gpu.nvml import NvmlReader
from agent.gpu.simulated import SIMULATED_XID, inject
from tests.fakes.nvml import CONTROL_VARIABLE, NvmlStandIn, compiled, uuid
from tests.fakes.sampler import FAST, gpu, sampling, states, view_when, with_library
from tests.fakes.sampler import nvml as nvml

XID, ECC, CLOCK = 8, 2, 16
WAIT_S = 60


def event(number: int, index: int, kind: int = XID, data: int = 79, instance: int | None = None) -> str:
    part = "" if instance is None else f" instance={instance}"
    return f"event {number} gpu={index} type={kind} data={data}{part}"


def listening(nvml: NvmlStandIn, count: int) -> SimpleQueue[GpuEvent]:
    heard: SimpleQueue[GpuEvent] = SimpleQueue()
    reader = NvmlReader(str(nvml.library))
    reader.open()
    reader.listen(heard.put)
    for index in range(count):
        reader.read(index, 1.0, 1.0)
    return heard


def told(event: GpuEvent) -> tuple[str, str, int | None, int | None]:
    return event.kind.value, event.uuid, event.code, event.mig_gi


def test_each_event_is_told_once_with_its_gpu_and_code(nvml: NvmlStandIn) -> None:
    usual = ("gpus 2", event(1, 1, data=79), event(2, 1, CLOCK, 1), event(3, 1, ECC, 0), event(4, 1, 0x2000, 0))
    nvml.write(*usual)
    heard = listening(nvml, 2)
    assert [told(heard.get(timeout=WAIT_S)) for _ in range(3)] == [
        ("xid", uuid(1), 79, None),
        ("ecc", uuid(1), None, None),
        ("ecc", uuid(1), None, None),
    ]
    nvml.write(*usual, event(5, 1, data=79), event(6, 0, data=31, instance=2))
    again = {told(heard.get(timeout=WAIT_S)) for _ in range(2)}
    assert again == {("xid", uuid(1), 79, None), ("xid", uuid(0), 31, 2)}, "the same code again is told again"


@pytest.mark.parametrize(
    "call", ["nvmlDeviceRegisterEvents", "nvmlEventSetWait_v2", "nvmlDeviceGetSupportedEventTypes"]
)
def test_a_gpu_that_hangs_there_is_read_on_and_the_others_are_heard(
    tmp_path: Path, nvml: NvmlStandIn, call: str
) -> None:
    nvml.write("gpus 3", f"hang {call} gpu=1")

    async def scenario() -> None:
        heard: asyncio.Queue[GpuEvent] = asyncio.Queue()
        async with sampling(with_library(nvml), tmp_path) as sampler:
            sampler.listen(heard.put_nowait)
            await view_when(sampler, lambda view: len(view.gpus) == 3)
            nvml.write("gpus 3", f"hang {call} gpu=1", event(1, 1), event(2, 2, data=48), event(3, 0, data=31))
            found = {told(await asyncio.wait_for(heard.get(), WAIT_S)) for _ in range(2)}
            assert found == {("xid", uuid(2), 48, None), ("xid", uuid(0), 31, None)}
            await view_when(sampler, lambda view: set(states(view)) == {GpuState.OK} and gpu(view, 1)[1] < 0.5)
            nvml.write("gpus 3", event(1, 1))
            assert told(await asyncio.wait_for(heard.get(), WAIT_S)) == ("xid", uuid(1), 79, None)

    asyncio.run(scenario())


def test_a_lost_gpu_is_listened_to_again_when_it_is_well(nvml: NvmlStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_events, "AGAIN_S", 0.01)
    nvml.write("gpus 2", "fail nvmlEventSetWait_v2 gpu=1 code=15", event(1, 1, data=79))
    heard = listening(nvml, 2)
    nvml.write("gpus 2", "fail nvmlEventSetWait_v2 gpu=1 code=15", event(1, 1), event(2, 0, data=31))
    assert told(heard.get(timeout=WAIT_S)) == ("xid", uuid(0), 31, None), "the others are heard meanwhile"
    nvml.write("gpus 2", event(3, 1, data=79))
    assert told(heard.get(timeout=WAIT_S)) == ("xid", uuid(1), 79, None)


@pytest.mark.parametrize("code", [3, 13])
def test_a_gpu_that_tells_nothing_is_not_asked_again(nvml: NvmlStandIn, code: int) -> None:
    nvml.write("gpus 1", f"fail nvmlDeviceRegisterEvents gpu=0 code={code}", event(1, 0))
    before = set(threading.enumerate())
    listening(nvml, 1)
    for each in set(threading.enumerate()) - before:
        each.join(WAIT_S)
        assert not each.is_alive(), each.name


def test_a_driver_without_events_is_read_all_the_same(tmp_path: Path, nvml: NvmlStandIn) -> None:
    nvml.library = compiled(("OLD_DRIVER",))
    nvml.write("gpus 2")

    async def scenario() -> None:
        async with sampling(with_library(nvml), tmp_path) as sampler:
            await view_when(sampler, lambda view: states(view) == [GpuState.OK] * 2)

    asyncio.run(scenario())


def test_an_event_of_a_driver_that_knows_no_instances_is_the_whole_gpus(tmp_path: Path) -> None:
    """In a process of its own: here the newer library is loaded already, under the same name."""
    control = tmp_path / "control"
    control.write_text(event(1, 0, data=31) + "\n")
    script = (
        "import sys, queue; from agent.gpu.nvml import NvmlReader; heard = queue.SimpleQueue();"
        "r = NvmlReader(sys.argv[1]); r.open(); r.listen(heard.put); r.read(0, 0., 0.);"
        "print((e := heard.get(timeout=50)).code, e.mig_gi)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(compiled(("OLD_EVENTS",)))],
        env={**os.environ, CONTROL_VARIABLE: str(control)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.stdout == "31 None\n", done.stderr


def test_what_was_told_before_anybody_listened_is_not_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with sampling(FAST, tmp_path) as sampler:
            view = await view_when(sampler, lambda view: len(view.gpus) == 8)
            inject(tmp_path, "3", "xid", count=8)
            await view_when(sampler, lambda view: bool(gpu(view, 3)[0].ill))
            heard: list[GpuEvent] = []
            sampler.listen(heard.append)
            assert [(each.kind, each.uuid, each.code) for each in heard] == [
                (EventKind.XID, gpu(view, 3)[0].uuid, SIMULATED_XID)
            ]

    asyncio.run(scenario())


def test_a_gpu_that_was_lost_is_listened_to_anew_as_soon_as_it_is_read(nvml: NvmlStandIn) -> None:
    """Not after the wait on the old event set, or the pause after its failure."""
    nvml.write("gpus 1")
    heard: SimpleQueue[GpuEvent] = SimpleQueue()
    reader = NvmlReader(str(nvml.library))
    reader.open()
    reader.listen(heard.put)
    reader.read(0, 1.0, 1.0)
    nvml.write("gpus 1", "fail * gpu=0 code=15")
    with pytest.raises(GpuLostError):
        reader.read(0, 2.0, 2.0)
    nvml.write("gpus 1")
    reader.read(0, 3.0, 3.0)
    number, until = 0, time.monotonic() + nvml_events.AGAIN_S / 2
    while heard.empty():  # what was before the set is not told
        assert time.monotonic() < until, "nobody listens"
        number += 1
        nvml.write("gpus 1", event(number, 0))
        time.sleep(0.05)
    assert told(heard.get()) == ("xid", uuid(0), 79, None)
