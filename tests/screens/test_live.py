"""The screens before a real agent and hub with simulated GPUs: a job that is warned, and one that makes way.

The agent runs as installed, but for the least idle time that its configuration takes: a minute there, a second here.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from agent.api.client import Client
from agent.api.refs import JobRef
from agent.api.types import Job, JobState, SubmitRequest
from agent.api.unix import UnixTransport
from tests.fakes.cluster import FakeCluster
from tests.fakes.daemons import Box, activate_evaluation, wait_until
from tests.screens.stage import LARGE, Hands, Stage
from tui import arrays
from tui.app import StokerApp

_TABLES = """
[[partitions]]
name = "low"
default = true
[[partitions]]
name = "high"
priority_tier = 2
[scheduler]
preempt = "partition"
[reaper]
idle_s = 1
grace_s = 600
below_percent = 99
exempt_qos = ["spared"]
[[qos]]
name = "normal"
[[qos]]
name = "spared"
"""
"""A simulated GPU that is held is busy; up to 99 % counts as idle here."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    made = Box(tmp_path_factory.mktemp("live"), gpus=1)
    made.config.write_text(made.config.read_text().replace("grace_s = 2", "grace_s = 60") + _TABLES)
    made.agent.prelude = "from agent.config import checks; checks._RANGES['reaper.idle_s'] = (1, 10**8)\n"
    try:
        made.agent.start()
        made.hub.prelude = made.agent.prelude
        made.hub.start()
        activate_evaluation(made)
        yield made
    finally:
        made.close()


@asynccontextmanager
async def before(lab: Box) -> AsyncIterator[Stage]:
    """The application, told by the real hub and the real clock."""
    app = StokerApp(lambda: Client(UnixTransport(lab.hub.socket)), str(lab.hub.socket))
    async with app.run_test(size=LARGE, notifications=True) as pilot:
        nobody = cast("FakeCluster", SimpleNamespace())
        yield Stage(app, pilot, Hands(), nobody)


def submit(lab: Box, key: str, script: str, *flags: str) -> Job:
    request = SubmitRequest(
        script=f"#!/bin/sh\n{script}\n",
        script_name=f"{key}.sh",
        flags=("--gpus=1", "--output=/dev/null", *flags),
        work_dir=str(lab.work_dir),
    )
    with lab.hub.client() as client:
        return client.submit(request, key).job


def test_a_job_that_is_warned_says_so_and_what_comes_next(lab: Box) -> None:
    job = submit(lab, "idle", "exec sleep 600")

    async def scene() -> None:
        async with before(lab) as on:
            await on.press("3")
            await on.until(lambda: on.sees("! RUNNING"), "the sign")
            assert on.sees("idle: stopped in 9 min"), "in the list, and when"
            assert on.sees("1 running, 0 pending, 1 warned")
            assert on.sees("unless they are used, the job is stopped"), "in the facts under it"
            await on.press("enter")
            await on.until(lambda: on.sees("! RUNNING"), "the job's page")
            await on.press("ctrl+p", *"details")
            await on.until(lambda: on.sees("why it waits, what it used"), "the palette knows it")
            await on.press("enter")
            await on.until(lambda: on.sees("IdleWarned → RUNNING"), "the event")
            assert on.sees("Warned") and on.sees(f"stoker cancel {job.id}"), "and what helps"
            await on.press("question_mark", "G")
            assert on.sees("hung, hot, idle, not a job")

    asyncio.run(scene())
    with lab.hub.client() as client:
        client.cancel(_ref(job))
        wait_until(lambda: client.job(_ref(job)).state.is_final, "it ends")


def test_a_job_that_makes_way_says_for_whom_and_when_it_runs_again(lab: Box) -> None:
    go = lab.work_dir / "go"
    stubborn = f"trap '' TERM; until [ -e {go} ]; do sleep 0.05; done"
    victim = submit(lab, "victim", stubborn, "--requeue", "--qos=spared", "--time=60")
    with lab.hub.client() as client:
        wait_until(lambda: client.job(_ref(victim)).state is JobState.RUNNING, "it runs")

    async def scene() -> None:
        async with before(lab) as on:
            await on.press("3")
            await on.until(lambda: on.sees("victim.sh"), "the list")
            urgent = submit(lab, "urgent", "exec sleep 600", "--partition=high", "--qos=spared", "--time=30")
            await on.until(lambda: on.sees("COMPLETING"), "it is asked to stop")
            assert on.sees(f"makes way for job {urgent.id}; when it has stopped it waits to run again")
            go.touch()
            await on.until(lambda: on.sees("Preempted; now Resources"), "why it waits, both times")
            while not on.sees(f"{victim.id} victim.sh"):
                await on.press("j")
            assert on.sees(f"ran before. Preempted: makes way for job {urgent.id}")
            await on.press("enter")
            await on.until(lambda: on.sees("PreemptAsked → COMPLETING"), "the event")
            assert on.sees("at the latest, in 29 min"), "and when it goes on"
            assert any("ran before" in line and "Preempted" in line for line in on.lines())
            with lab.hub.client() as client:
                client.cancel(_ref(urgent))

    asyncio.run(scene())
    with lab.hub.client() as client:
        wait_until(lambda: client.job(_ref(victim)).state.is_final, "it runs again, and ends")
        told = client.job(_ref(victim))
        assert (told.state, told.attempt, told.again) == (JobState.COMPLETED, 2, None)


def test_what_is_pressed_while_a_submit_is_on_its_way_makes_no_second_job(
    lab: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is stopped in the middle: the first request is sent, and no answer comes."""
    (tmp_path / "twice.sh").write_text("#!/bin/sh\ntrue\n")
    monkeypatch.chdir(tmp_path)

    async def scene() -> None:
        async with before(lab) as on:
            await on.until(lambda: on.sees("n1"), "the picture")
            await on.press("S", *"twice.sh", "enter", *"-H -J twice")
            os.kill(lab.hub.pid, signal.SIGSTOP)
            try:
                await on.press("f2")
                assert on.sees("sending")
                await on.press(*" -t 5", "f2", "f2", "enter")
            finally:
                os.kill(lab.hub.pid, signal.SIGCONT)
            await on.until(lambda: on.screen_name == "JobScreen", "it is stored, and opened")

    asyncio.run(scene())
    with lab.hub.client() as client:
        found = client.jobs(name="twice")
        assert [job.time_limit_s for job in found] == [None], "as it was when it was sent first"
        client.cancel(_ref(found[0]))


def _ref(job: Job) -> JobRef:
    return arrays.ref(job)
