"""GPUs that hang, are lost, vanish, or are held by strangers, under the real agent: rows 32 to 36 of the fault matrix.

The sampler process and the NVML calls in it are the real ones; the driver's library is the stand-in, driven by a file.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from agent.api.client import Client
from agent.api.health import Incident, IncidentKind
from agent.api.queue import Drain, DrainRequest
from agent.api.refs import JobRef
from agent.api.types import Gpu, GpuSource, GpuState, Job, JobState, SubmitRequest
from tests.fakes.daemons import Box, box, wait_final, wait_until
from tests.fakes.nvml import NvmlStandIn, uuid
from tests.fakes.sampler import nvml as nvml

GPUS = "gpus 8"
PATIENCE = """
[health.for_s]
gpu_missing = 2
gpu_exchanged = 2
[health.clear_s]
gpu_missing = 2
gpu_exchanged = 2
gpu_hung = 2
"""


@pytest.fixture
def lab(tmp_path: Path, nvml: NvmlStandIn) -> Iterator[Box]:
    nvml.write(GPUS)
    with box(tmp_path, library=nvml.library, more=PATIENCE) as made:
        yield made


def submit(lab: Box, client: Client, key: str, command: str = "sleep 600", gpus: int = 1) -> Job:
    script = f"#!/bin/sh\n#SBATCH --gpus={gpus}\n{command}\n"
    asked = SubmitRequest(
        script=script, script_name="job.sh", work_dir=str(lab.work_dir), env={"PATH": os.environ["PATH"]}
    )
    return client.submit(asked, key).job


def run_on(lab: Box, client: Client, key: str) -> tuple[Job, str]:
    """A job that runs, and the UUID of its GPU."""
    job = submit(lab, client, key)
    wait_until(lambda: client.job(JobRef(id=job.id)).state is JobState.RUNNING, f"{key} runs")
    (gpu,) = client.job(JobRef(id=job.id)).gpu_uuids
    return job, gpu


def index_of(gpu_uuid: str) -> int:
    return int(gpu_uuid[-12:])


def gpu_of(client: Client, gpu_uuid: str) -> Gpu:
    return next(gpu for gpu in client.node().gpus if gpu.uuid == gpu_uuid)


def drain_of(client: Client, gpu_uuid: str) -> Drain | None:
    return gpu_of(client, gpu_uuid).drain


def opened(client: Client, kind: IncidentKind, gpu: str | None = None) -> Incident:
    def is_it(each: Incident) -> bool:
        return each.kind is kind and gpu in (None, each.gpu_uuid)

    found = wait_until(lambda: [each for each in client.incidents() if is_it(each)], f"{kind} is opened")
    return found[0]


def samplers(lab: Box) -> list[psutil.Process]:
    assert lab.agent.process is not None
    children = psutil.Process(lab.agent.pid).children(recursive=True)
    return [each for each in children if _is_sampler(each)]


def _is_sampler(process: psutil.Process) -> bool:
    """One that has just ended is none."""
    try:
        return "sampler" in process.cmdline()
    except psutil.NoSuchProcess:  # a zombie is one
        return False


def state_of(client: Client, job: Job) -> JobState:
    return client.job(JobRef(id=job.id)).state


def told(client: Client, job: Job) -> list[str]:
    """What a job's history says of incidents."""
    return [each.detail or "" for each in client.report(JobRef(id=job.id)).events if each.event == "Incident"]


def end(client: Client, *jobs: Job) -> None:
    for job in jobs:
        client.cancel(JobRef(id=job.id))
        assert wait_final(client, job.id).state is JobState.CANCELLED


def test_row_32_a_gpu_that_hangs_is_named_while_the_others_stay_fresh_and_the_api_answers(
    lab: Box, nvml: NvmlStandIn
) -> None:
    with lab.agent.client() as client:
        mine, ill = run_on(lab, client, "on the sick one")
        other, _ = run_on(lab, client, "on another")
        sampler = samplers(lab)
        nvml.write(GPUS, f"hang * gpu={index_of(ill)}")
        took = []
        while gpu_of(client, ill).state is not GpuState.HUNG:
            begun = time.monotonic()
            client.node()
            took.append(time.monotonic() - begun)
        found = opened(client, IncidentKind.GPU_HUNG)
        assert (found.gpu_uuid, found.job_id) == (ill, mine.id)
        assert statistics.median(took) < 1.0
        sick = gpu_of(client, ill)
        assert sick.age_s > 2.0, "its values are the old ones, and say how old"
        wait_until(
            lambda: max(gpu.age_s for gpu in client.node().gpus if gpu.uuid != ill) < 2.0, "the others are read still"
        )
        wait_until(lambda: gpu_of(client, ill).drain, "nothing new is started there")
        assert {gpu.state for gpu in client.node().gpus if gpu.uuid != ill} == {GpuState.OK}
        assert samplers(lab) == sampler, "the process that samples the others is left alone"
        assert (state_of(client, mine), state_of(client, other)) == (JobState.RUNNING, JobState.RUNNING)
        (line,) = wait_until(lambda: told(client, mine), "its job is told")
        assert f"incident {found.id}" in line
        assert told(client, other) == []
        nvml.write(GPUS)
        wait_until(lambda: gpu_of(client, ill).state is GpuState.OK, "it answers again")
        wait_until(lambda: not gpu_of(client, ill).drain, "and is given out again")
        end(client, mine, other)


def test_row_32_a_sampler_that_is_stuck_as_a_whole_is_replaced_once(lab: Box, nvml: NvmlStandIn) -> None:
    """All calls hang, also the start of the driver in the process that replaces the one that is killed."""
    with lab.agent.client() as client:
        other, _ = run_on(lab, client, "goes on")
        (before,) = samplers(lab)
        nvml.write(GPUS, "hang * gpu=*")
        wait_until(lambda: {gpu.state for gpu in client.node().gpus} == {GpuState.HUNG}, "all are said to hang")
        before.kill()
        wait_until(lambda: [each for each in samplers(lab) if each != before], "another takes its place")
        (again,) = samplers(lab)
        wait_until(lambda: "has not come up" in (client.node().gpu_reason or ""), "it says why it reads nothing")
        assert samplers(lab) == [again], "one at a time, and no loop of kills"
        assert state_of(client, other) is JobState.RUNNING
        nvml.write(GPUS)
        wait_until(lambda: {gpu.state for gpu in client.node().gpus} == {GpuState.OK}, "all are read again")
        assert samplers(lab) == [again]
        end(client, other)


SICK = (
    (IncidentKind.GPU_LOST, "fail * gpu={gpu} code=15"),
    (IncidentKind.XID, "event 1 gpu={gpu} type=8 data=79"),
    (IncidentKind.XID, "event 2 gpu={gpu} type=8 data=119"),
    (IncidentKind.ECC, "event 3 gpu={gpu} type=2 data=0"),
    (IncidentKind.ECC, "field gpu={gpu} id=4 scope=0 type=3 code=0 value=2"),
    (IncidentKind.RECOVERY_ACTION, "field gpu={gpu} id=230 scope=0 type=1 code=0 value=1"),
)
"""What happens to a GPU, and how the driver tells of it; the last two are counted, and what it wants done."""


def test_row_33_sick_gpus_are_drained_their_jobs_are_told_and_the_others_run_on(lab: Box, nvml: NvmlStandIn) -> None:
    with lab.agent.client() as client:
        jobs = {gpu: job for job, gpu in (run_on(lab, client, f"job {number}") for number in range(7))}
        *ill, well = jobs
        nvml.write(GPUS, *(line.format(gpu=index_of(gpu)) for gpu, (_, line) in zip(ill, SICK, strict=True)))
        for gpu, (kind, _) in zip(ill, SICK, strict=True):
            found = opened(client, kind, gpu)
            assert (found.severity.value, found.job_id) == ("critical", jobs[gpu].id)
            wait_until(partial(drain_of, client, gpu), "it is drained")
            wait_until(partial(told, client, jobs[gpu]), "its job is told")
        assert sorted(gpu.uuid for gpu in client.node().gpus if gpu.drain) == sorted(ill)
        assert [len(told(client, job)) for job in jobs.values()] == [1, 1, 1, 1, 1, 1, 0]
        assert {state_of(client, job) for job in jobs.values()} == {JobState.RUNNING}
        first, second = submit(lab, client, "the free one"), submit(lab, client, "then that of the healthy job")
        wait_until(lambda: state_of(client, first) is JobState.RUNNING, "the free GPU is given out")
        assert state_of(client, second) is JobState.PENDING, "no sick one is"
        end(client, jobs[well])
        wait_until(lambda: state_of(client, second) is JobState.RUNNING, "a healthy one came free")
        assert client.job(JobRef(id=second.id)).gpu_uuids == (well,)
        assert {state_of(client, jobs[gpu]) for gpu in ill} == {JobState.RUNNING}
        end(client, first, second, *(jobs[gpu] for gpu in ill))


def test_row_34_without_a_driver_the_agent_runs_and_says_why_and_finds_it_when_it_comes(
    tmp_path: Path, nvml: NvmlStandIn
) -> None:
    nvml.write(GPUS)
    place = tmp_path / "driver" / "libnvidia-ml.so.1"
    place.parent.mkdir()
    with box(tmp_path / "box", library=place, voucher=False, hub=False) as lab, lab.agent.client() as client:
        node = client.node()
        assert node.gpus == ()
        wait_until(lambda: "cannot be loaded" in (client.node().gpu_reason or ""), "it says why")
        shutil.copy(nvml.library, place)
        wait_until(lambda: len(client.node().gpus) == 8, "the driver is found")
        assert client.node().gpu_source is GpuSource.NVML


def test_row_34_a_driver_that_is_exchanged_is_taken_up_and_the_jobs_run_on(lab: Box, nvml: NvmlStandIn) -> None:
    with lab.agent.client() as client:
        job, gpu = run_on(lab, client, "goes on")
        pid, (before,) = lab.agent.pid, samplers(lab)
        nvml.write(GPUS, "fail * gpu=* code=18")
        wait_until(lambda: "different versions" in (client.node().gpu_reason or ""), "it says that they differ")
        assert state_of(client, job) is JobState.RUNNING
        nvml.write(GPUS, "driver 575.57.08")
        wait_until(lambda: client.node().driver_version == "575.57.08", "the new driver is read")
        wait_until(lambda: gpu_of(client, gpu).state is GpuState.OK, "its GPUs are")
        assert (lab.agent.pid, state_of(client, job)) == (pid, JobState.RUNNING)
        assert samplers(lab) != [before], "a fresh process loads the library that came with it"
        assert client.job(JobRef(id=job.id)).gpu_uuids == (gpu,)
        end(client, job)


def test_row_35_a_gpu_fewer_and_another_one_are_told_and_jobs_wait_with_the_reason(lab: Box, nvml: NvmlStandIn) -> None:
    with lab.agent.client() as client:
        wait_until(client.inventory, "the node's GPUs are remembered")
        blocker = submit(lab, client, "holds all", gpus=8)
        wait_until(lambda: state_of(client, blocker) is JobState.RUNNING, "it runs")
        whole = submit(lab, client, "wants all", gpus=8)
    lab.agent.kill()
    nvml.write("gpus 7", "uuid gpu=2 GPU-new")
    lab.agent.start()
    with lab.agent.client() as client:
        missing, other = opened(client, IncidentKind.GPU_MISSING), opened(client, IncidentKind.GPU_EXCHANGED)
        assert (missing.gpu_uuid, other.gpu_uuid) == (uuid(7), "GPU-new")
        assert f"not {uuid(2)}" in other.what
        assert "stoker inventory --accept" in missing.advice
        end(client, blocker)
        why = wait_until(lambda: client.job(JobRef(id=whole.id)).detail, "why it waits is told")
        assert state_of(client, whole) is JobState.PENDING
        assert why is not None
        assert "7" in why, why
        accepted = client.accept_inventory()
        assert len(accepted) == 7
        wait_until(
            lambda: not {each.kind for each in client.incidents()} & {missing.kind, other.kind}, "both are over", 120
        )


def test_row_36_a_gpu_whose_memory_a_stranger_holds_is_not_given_out_and_he_is_named(
    lab: Box, nvml: NvmlStandIn
) -> None:
    with lab.agent.client() as client, subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as stranger:
        gib = 1 << 30
        nvml.write(GPUS, *(f"process gpu={gpu} pid={stranger.pid} memory={20 * gib}" for gpu in range(7)))
        wait_until(lambda: len([gpu for gpu in client.node().gpus if gpu.processes]) == 7, "it is seen")
        first, waits = submit(lab, client, "has the free one"), submit(lab, client, "waits")
        wait_until(lambda: state_of(client, first) is JobState.RUNNING, "the free one is given out")
        assert client.job(JobRef(id=first.id)).gpu_uuids == (uuid(7),)
        why = wait_until(lambda: client.job(JobRef(id=waits.id)).detail, "why it waits is told")
        assert why is not None
        assert str(stranger.pid) in why, why
        assert state_of(client, waits) is JobState.PENDING
        nvml.write(GPUS)
        wait_until(lambda: state_of(client, waits) is JobState.RUNNING, "it starts when the stranger is gone")
        end(client, first, waits)
        stranger.kill()


def test_resuming_gives_a_held_gpu_back_though_its_incident_goes_on(lab: Box, nvml: NvmlStandIn) -> None:
    """A person's word counts: what is held is not taken out again for the same incident."""
    with lab.agent.client() as client:
        nvml.write(GPUS, "event 1 gpu=4 type=8 data=79")
        wait_until(lambda: gpu_of(client, uuid(4)).drain, "it is drained")
        client.resume(DrainRequest(gpu="4"))
        job = submit(lab, client, "all", gpus=8)
        wait_until(lambda: state_of(client, job) is JobState.RUNNING, "it is given out")
        assert [each.kind for each in client.incidents()] == [IncidentKind.XID]
        assert not gpu_of(client, uuid(4)).drain
        end(client, job)
