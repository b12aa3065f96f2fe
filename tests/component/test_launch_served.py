"""Shims from the fork server: the same shims, sooner; and what happens when the server dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from agent.engine import procs
from agent.engine.launch import LaunchError
from agent.engine.records import AttemptDir
from agent.engine.served import ServedForkLauncher
from tests.fakes.attempts import Bench, finish, started, until


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@asynccontextmanager
async def served() -> AsyncIterator[ServedForkLauncher]:
    launcher = ServedForkLauncher(sys.executable)
    await launcher.start()
    until(lambda: servers() != [])  # whose command line may be empty for a moment
    try:
        yield launcher
    finally:
        await launcher.stop()


def with_server(act: Callable[[ServedForkLauncher], Awaitable[None]]) -> None:
    async def main() -> None:
        async with served() as launcher:
            await act(launcher)

    asyncio.run(main())


def servers() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "--serve" in each.cmdline()]


def open_files(pid: int) -> list[str]:
    """What its descriptors lead to; one that it closes at this moment is left out."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(path))
    return found


def test_its_shims_run_jobs_and_stay_when_it_goes(bench: Bench) -> None:
    attempt = bench.attempt("echo READY; exec sleep 60")

    async def act(launcher: ServedForkLauncher) -> None:
        await launcher.launch(1, attempt)
        server = servers()[0].pid
        who = started(attempt)
        stat = procs.read_stat(who.shim_pid)
        assert stat is not None and stat.parent == server
        assert os.getsid(who.shim_pid) not in (os.getsid(0), os.getsid(server))

    with_server(act)
    assert servers() == [], "it goes with us"
    who = started(attempt)
    stat = procs.read_stat(who.shim_pid)
    assert stat is not None and stat.parent != os.getpid(), "and its shims stay, nobody's children"
    os.kill(who.job_pid, signal.SIGKILL)
    assert finish(attempt).signal == signal.SIGKILL


def test_nothing_of_the_server_is_open_in_the_shim(bench: Bench) -> None:
    attempt = bench.attempt("echo READY; exec sleep 60")

    async def act(launcher: ServedForkLauncher) -> None:
        await launcher.launch(1, attempt)

    with_server(act)
    who = started(attempt)
    for pid in (who.shim_pid, who.job_pid):
        assert not any("socket:" in each for each in open_files(pid))
    os.kill(who.job_pid, signal.SIGKILL)
    finish(attempt)


def test_what_the_server_has_for_its_shims_alone_does_not_reach_the_job(bench: Bench) -> None:
    """Its environment, and its shelter from the killer for memory where that may be given (CAP_SYS_RESOURCE)."""
    attempt = bench.attempt("echo READY; exec sleep 60")
    ours = Path("/proc/self/oom_score_adj")
    before = ours.read_text()
    ask = "echo -900 2>/dev/null >/proc/self/oom_score_adj; cat /proc/self/oom_score_adj"

    async def act(launcher: ServedForkLauncher) -> None:
        await launcher.launch(1, attempt)

    try:
        ours.write_text("300")
        asked = subprocess.run(["sh", "-c", ask], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        with_server(act)
    finally:
        ours.write_text(before)
    who = started(attempt)
    score = {pid: int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (who.shim_pid, who.job_pid)}
    assert score == {who.shim_pid: int(asked.stdout), who.job_pid: 300}
    until(lambda: b"sleep" in Path(f"/proc/{who.job_pid}/cmdline").read_bytes())
    assert b"LD_BIND_NOW" not in Path(f"/proc/{who.job_pid}/environ").read_bytes()
    os.kill(who.job_pid, signal.SIGKILL)
    finish(attempt)


def test_an_ended_shim_leaves_no_zombie(bench: Bench) -> None:
    attempt = bench.attempt("exit 0")

    async def act(launcher: ServedForkLauncher) -> None:
        await launcher.launch(1, attempt)
        shims = psutil.Process(servers()[0].pid).children()
        _, alive = await asyncio.to_thread(psutil.wait_procs, shims, timeout=60)
        assert alive == [] and procs.children(servers()[0].pid) == []

    with_server(act)
    assert finish(attempt).code == 0


def test_many_at_once_run_once_each_and_in_any_case(bench: Bench, tmp_path: Path) -> None:
    attempts = [bench.attempt(f"echo {number} >> {tmp_path}/runs") for number in range(20)]

    async def act(launcher: ServedForkLauncher) -> None:
        await asyncio.gather(*(launcher.launch(number, each) for number, each in enumerate(attempts)))
        await asyncio.gather(*(launcher.launch(number, each) for number, each in enumerate(attempts)))

    with_server(act)
    for each in attempts:
        finish(each)
    assert sorted(map(int, (tmp_path / "runs").read_text().split())) == list(range(20))


def test_a_refusal_reaches_the_caller_and_the_server_lives(bench: Bench, tmp_path: Path) -> None:
    good, bad = bench.attempt("exit 0"), bench.attempt("exit 0")
    (bad.path / "claim").unlink()

    async def act(launcher: ServedForkLauncher) -> None:
        before = servers()
        with pytest.raises(LaunchError, match=r"job 1 could not be started: .*there is no claim to run"):
            await launcher.launch(1, bad)
        with pytest.raises(LaunchError, match="No such file"):
            await launcher.launch(1, AttemptDir(tmp_path / "none"))
        await launcher.launch(2, good)
        assert servers() == before

    with_server(act)
    assert finish(good).code == 0


def test_a_killed_server_costs_no_job(bench: Bench, tmp_path: Path) -> None:
    attempts = [bench.attempt(f"echo {number} >> {tmp_path}/runs") for number in range(6)]

    async def act(launcher: ServedForkLauncher) -> None:
        for number, each in enumerate(attempts):
            if number % 2:
                servers()[0].kill()
            await launcher.launch(number, each)
        assert len(servers()) == 1, "there is a new one"

    with_server(act)
    for each in attempts:
        finish(each)
    assert sorted(map(int, (tmp_path / "runs").read_text().split())) == list(range(6))


def test_a_server_that_dies_under_many_launches_is_renewed_once(bench: Bench, tmp_path: Path) -> None:
    attempts = [bench.attempt(f"echo {number} >> {tmp_path}/runs") for number in range(8)]

    async def act(launcher: ServedForkLauncher) -> None:
        servers()[0].suspend()
        launches = [asyncio.create_task(launcher.launch(number, each)) for number, each in enumerate(attempts)]
        await asyncio.sleep(0)  # all of them have asked
        servers()[0].kill()
        await asyncio.gather(*launches)
        assert len(servers()) == 1

    with_server(act)
    for each in attempts:
        finish(each)
    assert sorted(map(int, (tmp_path / "runs").read_text().split())) == list(range(8))
    assert servers() == []


LIMITED = """
import sys
sys.path.insert(0, {house!r})
from agent.engine.cgroup import Home
from agent.engine.forkserver import hand_off
print(hand_off({path!r}, [], Home({home!r}, ("memory",)))[1])
"""


def test_a_limit_that_the_kernel_refuses_fails_the_start_and_is_told(bench: Bench, tmp_path: Path) -> None:
    """As a keeper would have it; a plain folder stands for the cgroup, and has no `memory.max`."""
    attempt = bench.attempt(f"echo x >> '{tmp_path}/runs'", memory_bytes=1 << 28)
    (home := tmp_path / "home").mkdir()
    house = str(Path(procs.__file__).parents[2])
    code = LIMITED.format(house=house, path=os.fsencode(attempt.path), home=str(home))
    said = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "b'0 '\n"
    ended = finish(attempt)
    assert ended.why == "start"
    assert "cannot make a cgroup that limits the job: the kernel did not take 268435456 for" in (ended.detail or "")
    assert not (tmp_path / "runs").exists()
    assert list(home.iterdir()) == []


def test_without_an_interpreter_there_is_no_server_and_the_launch_says_why(bench: Bench) -> None:
    async def act() -> None:
        launcher = ServedForkLauncher("/no/python")
        await launcher.start()
        with pytest.raises(LaunchError, match="cannot run /no/python: No such file"):
            await launcher.launch(1, bench.attempt("exit 0"))
        await launcher.stop()

    asyncio.run(act())
