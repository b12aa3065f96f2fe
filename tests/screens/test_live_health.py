"""The screens before a real agent and hub: a simulated GPU is lost, acknowledged, mended; its past is drawn."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent.api.refs import JobRef
from agent.api.types import SubmitRequest
from tests.fakes.daemons import Box, box, wait_until
from tests.screens.test_live import before
from tui.screens.gpu import GpuScreen
from tui.widgets.past import Past
from tui.widgets.table import Table


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with box(tmp_path_factory.mktemp("health"), gpus=2, history="days") as made:
        yield made


def simulate(lab: Box, gpu: int, fault: str) -> None:
    program = "import sys; from agent.__main__ import agent_main; sys.exit(agent_main())"
    words = ["--config", str(lab.config), "simulate", "gpu", str(gpu), fault]
    subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True, timeout=60)


def hold_gpus(lab: Box) -> JobRef:
    """A job on both."""
    script = "#!/bin/sh\n#SBATCH --gpus=2 --output=/dev/null\nexec sleep 600\n"
    with lab.hub.client() as client:
        request = SubmitRequest(script=script, script_name="hold.sh", work_dir=str(lab.work_dir), env=dict(os.environ))
        job = client.submit(request, "hold").job
        ref = JobRef(id=job.id, node=job.node)
        wait_until(lambda: client.job(ref).gpu_uuids, "it holds them")
        wait_until(lambda: client.inventory("n1"), "the node's GPUs are remembered")
    return ref


def test_a_lost_gpu_from_the_list_to_its_page_and_back_to_work(lab: Box) -> None:
    ref = hold_gpus(lab)

    async def scene() -> None:
        async with before(lab) as on:
            await on.press("5")
            await on.until(lambda: on.sees("no process is seen on it"), "the job holds them")
            assert on.sees("hold.sh")
            simulate(lab, 1, "lost")
            await on.until(lambda: "!1 critical" in on.lines()[0], "every screen counts it")
            await on.press("4")
            await on.until(lambda: on.sees("! critical") and on.sees("GPU 1"), "the incident")
            assert on.sees("stoker-agent simulate gpu 1 ok"), "what to do"
            assert on.sees(f"job {ref.id} hold.sh"), "whom it hit"
            await on.press("A", "y")
            await on.until(lambda: on.sees("seen by") and "1 critical, seen" in on.lines()[0], "acknowledged")
            await on.press("enter")
            assert isinstance(on.app.screen, GpuScreen)
            await on.until(lambda: on.sees("x lost since") and on.sees("drained by stoker"), "its page")
            await on.press("left_square_bracket")
            past = on.app.screen.query_one(Past)
            await on.until(lambda: "least" in str(past.border_title), "the past of the one that works")
            assert on.sees("● ok") and on.sees("NVLink") and on.sees("18 of 18")
            simulate(lab, 1, "ok")
            await on.press("right_square_bracket")
            await on.until(lambda: on.sees("● ok"), "it answers again")
            await on.press("U", "y")
            await on.until(lambda: not on.sees("drained by stoker"), "and may be used again")
            await on.press("2", "enter", "i")
            await on.until(lambda: on.sees("network in"), "disk and network of the host")
            assert on.sees("NV18")
            await on.press("escape", "v")
            await on.until(lambda: on.sees("as at install"), "the inventory")
            assert on.app.screen.query_one(Table).counts == (2, 2)

    try:
        asyncio.run(scene())
    finally:
        with lab.hub.client() as client:
            client.cancel(ref)
            wait_until(lambda: client.job(ref).state.is_final, "it ends")
