"""Handing a job off by double fork: whose child the shim is, and what a refusal says."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from agent.engine import procs
from agent.engine.launch import ForkLauncher, LaunchError, SystemdLauncher, why_no_systemd
from agent.engine.records import AttemptDir
from agent.engine.served import choose_launcher
from tests.fakes.attempts import Bench, finish, launch, started


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_shim_is_nobodys_child_of_ours(bench: Bench) -> None:
    attempt = bench.running("echo READY; exec sleep 60")
    who = started(attempt)
    stat = procs.read_stat(who.shim_pid)
    job = procs.read_stat(who.job_pid)
    assert stat is not None
    assert job is not None
    assert stat.parent != os.getpid()
    assert job.parent == who.shim_pid
    assert os.getsid(who.shim_pid) not in (os.getsid(0), who.shim_pid)
    assert os.getsid(who.job_pid) == who.job_pid
    fds = {os.readlink(f"/proc/{who.shim_pid}/fd/{each}") for each in ("0", "1", "2")}
    assert fds == {"/dev/null"}
    os.kill(who.job_pid, signal.SIGKILL)
    finish(attempt)


def test_launches_leave_no_zombies(bench: Bench) -> None:
    before = set(procs.children(os.getpid()))
    for _ in range(5):
        bench.run("exit 0")
    assert set(procs.children(os.getpid())) <= before


def test_nothing_of_ours_is_open_in_the_shim_or_the_job(bench: Bench, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        attempt = bench.running("echo READY; exec sleep 60")
    who = started(attempt)
    for pid in (who.shim_pid, who.job_pid):
        opened = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
        assert not any("secret" in each for each in opened)
    os.kill(who.job_pid, signal.SIGKILL)
    finish(attempt)


def test_launching_twice_runs_once(bench: Bench, tmp_path: Path) -> None:
    attempt = bench.attempt(f"echo x >> {tmp_path}/runs")
    launch(attempt)
    launch(attempt)
    finish(attempt)
    launch(attempt)
    assert (tmp_path / "runs").read_text() == "x\n"


def test_an_interpreter_that_is_not_there_is_an_error_of_the_launch(bench: Bench) -> None:
    with pytest.raises(LaunchError, match="cannot run /no/python: No such file"):
        asyncio.run(ForkLauncher("/no/python").launch(1, bench.attempt("exit 0")))


def test_a_refusal_of_the_shim_reaches_the_caller(bench: Bench, tmp_path: Path) -> None:
    attempt = bench.attempt("exit 0")
    (attempt.path / "claim").unlink()
    with pytest.raises(LaunchError, match=r"job 1 could not be started: .*there is no claim to run"):
        asyncio.run(ForkLauncher().launch(1, attempt))
    with pytest.raises(LaunchError, match="No such file"):
        asyncio.run(ForkLauncher().launch(1, AttemptDir(tmp_path / "none")))


def test_units_are_asked_for_a_few_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """PID 1 tells every asker of every unit's changes: with all of a burst asking at once it did little else."""
    asking, most, refused = 0, 0, 0

    async def asked(command: list[str], timeout_s: float) -> tuple[int, str]:
        nonlocal asking, most, refused
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0)
        asking -= 1
        refused += 1
        return 1, "no"

    monkeypatch.setattr("agent.engine.launch._run", asked)
    attempts = [bench.attempt("exit 0") for _ in range(12)]
    launcher = SystemdLauncher()

    async def act() -> list[BaseException | None]:
        return await asyncio.gather(*(launcher.launch(1, each) for each in attempts), return_exceptions=True)

    assert all(isinstance(each, LaunchError) for each in asyncio.run(act()))
    assert (most, refused) == (4, 12)


def test_the_setting_chooses(tmp_path: Path) -> None:
    assert isinstance(choose_launcher("fork", run_dir=tmp_path), ForkLauncher)
    if (reason := why_no_systemd()) is not None:
        assert isinstance(choose_launcher("auto", run_dir=tmp_path), ForkLauncher)
        with pytest.raises(LaunchError, match=f'"systemd" cannot be had: {reason}'):
            choose_launcher("systemd", run_dir=tmp_path)
