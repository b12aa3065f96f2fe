"""What recovery makes of every state a crash can leave an attempt in, with real shims killed for real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.engine import procs, watch
from agent.engine.found import Alive, Ended, Lost, NeverRan, Rebooted, recover
from agent.engine.records import AttemptDir, Exit, RecordError, Stop
from tests.fakes.attempts import Bench, finish, launch, left, program, started, until

FAMILY = """
import os, sys, time
ready, working = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
elif os.fork() == 0:
    os.setsid()
else:
    os.close(working)
    os.read(ready, 1)  # ends when both are where they stay
    print("READY", flush=True)
    time.sleep(600)
os.close(working)
time.sleep(600)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _kill_shim(attempt: AttemptDir) -> None:
    who = started(attempt)
    assert procs.signal_exact(who.shim_pid, who.shim_start, signal.SIGKILL)
    until(lambda: not attempt.locked())


def test_before_during_and_after(bench: Bench) -> None:
    attempt = bench.attempt("echo READY; sleep 60")
    assert recover(attempt, procs.boot_id()) == NeverRan()
    launch(attempt)
    who = started(attempt)
    assert recover(attempt, procs.boot_id()) == Alive(who)
    assert (who.boot_id, who.job_start >= who.shim_start) == (procs.boot_id(), True)
    os.kill(who.job_pid, signal.SIGKILL)
    ended = finish(attempt)
    assert recover(attempt, procs.boot_id()) == Ended(ended)
    assert recover(attempt, "another boot") == Ended(ended)


def test_row_8_a_killed_shim_is_lost_and_its_job_is_swept(bench: Bench, tmp_path: Path) -> None:
    """Also what left the job's tree, which is known by the job's environment."""
    script = program(tmp_path / "family", FAMILY)
    attempt = bench.running([str(script)], env={"PATH": "/bin", "JOB_DIR": str(tmp_path), "JOB_ATTEMPT": "1"})
    who = started(attempt)
    assert len(left(str(script))) == 3
    _kill_shim(attempt)
    found = recover(attempt, procs.boot_id())
    assert isinstance(found, Lost)
    assert found.started == who
    assert "died without recording an end; 3 processes of it were killed" in found.detail
    assert left(str(script)) == []
    assert attempt.read_exit() is None
    again = recover(attempt, procs.boot_id())
    assert isinstance(again, Lost)
    assert "nothing of it was left" in again.detail


def test_row_9_agent_and_shim_killed_at_once_is_lost_too(bench: Bench, tmp_path: Path) -> None:
    """The launcher's whole session is killed, then the shim; whoever looks next finds a lost run and ends the rest."""
    script = program(tmp_path / "family", FAMILY)
    attempt = bench.attempt([str(script)], env={"PATH": "/bin", "JOB_DIR": str(tmp_path), "JOB_ATTEMPT": "1"})
    code = (
        "import asyncio, pathlib, time\n"
        "from agent.engine.launch import ForkLauncher\n"
        "from agent.engine.records import AttemptDir\n"
        f"asyncio.run(ForkLauncher().launch(1, AttemptDir(pathlib.Path({str(attempt.path)!r}))))\n"
        "time.sleep(600)\n"
    )
    house = str(Path(procs.__file__).parents[2])
    with subprocess.Popen([sys.executable, "-c", code], cwd=house, start_new_session=True) as agent:
        until(lambda: len(left(str(script))) == 3)
        os.killpg(agent.pid, signal.SIGKILL)
        _kill_shim(attempt)
    assert isinstance(recover(attempt, procs.boot_id()), Lost)
    assert left(str(script)) == []
    assert attempt.read_exit() is None


needs_cgroup = pytest.mark.skipif(
    os.geteuid() != 0 or not any(" cgroup2 rw" in line for line in Path("/proc/self/mounts").read_text().splitlines()),
    reason="a cgroup of the job's own needs root and a writable cgroup v2",
)

STRANGER = """
import os, sys, time
ready, working = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", sys.argv[0]], {})
os.close(working)
os.read(ready, 1)  # ends when it has become another program
print("READY", flush=True)
time.sleep(600)
"""


@needs_cgroup
def test_row_8_a_daemon_without_environment_is_met_in_the_jobs_cgroup(bench: Bench, tmp_path: Path) -> None:
    """It left the tree and carries no mark; where no unit holds it, a cgroup of the job's own does."""
    script = program(tmp_path / "stranger", STRANGER)
    attempt = bench.running([str(script)], env={"PATH": "/bin", "JOB_DIR": str(tmp_path), "JOB_ATTEMPT": "1"})
    who = started(attempt)
    assert who.cgroup is not None
    assert len(left(str(script))) == 2
    _kill_shim(attempt)
    found = recover(attempt, procs.boot_id())
    assert isinstance(found, Lost)
    assert "2 processes of it were killed" in found.detail
    assert left(str(script)) == []
    assert not Path(who.cgroup).exists()


@needs_cgroup
def test_the_jobs_cgroup_holds_the_job_alone_and_goes_with_it(bench: Bench) -> None:
    attempt = bench.running("sleep 60 & sleep 60 & echo READY; wait")
    who = started(attempt)
    assert who.cgroup is not None
    inside = {int(pid) for pid in (Path(who.cgroup) / "cgroup.procs").read_text().split()}
    assert who.job_pid in inside
    assert who.shim_pid not in inside
    assert len(inside) == 3
    os.kill(who.job_pid, signal.SIGKILL)
    ended = finish(attempt)
    assert (ended.signal, ended.swept) == (signal.SIGKILL, 2)
    assert not Path(who.cgroup).exists()


def test_without_marks_only_the_tree_is_killed(bench: Bench, tmp_path: Path) -> None:
    """As where no cgroup can be had: the record then names none."""
    script = program(tmp_path / "family", FAMILY)
    attempt = bench.running([str(script)])
    record = json.loads((attempt.path / "started").read_text())
    (attempt.path / "started").write_text(json.dumps({**record, "cgroup": None}))
    _kill_shim(attempt)
    assert isinstance(recover(attempt, procs.boot_id()), Lost)
    runaway = left(str(script))
    for pid in runaway:
        os.kill(pid, signal.SIGKILL)
    assert len(runaway) == 1  # the one that left the tree, and nothing says that it is ours


def test_waiting_for_a_shim_that_is_killed_ends_as_lost(bench: Bench) -> None:
    attempt = bench.running("echo READY; exec sleep 60")

    async def wait() -> object:
        waiting = asyncio.create_task(watch.wait_end(attempt, procs.boot_id()))
        await asyncio.sleep(0)
        _kill_shim(attempt)
        return await asyncio.wait_for(waiting, 30)

    assert isinstance(asyncio.run(wait()), Lost)


def test_waiting_for_a_shim_that_never_comes_has_an_end(bench: Bench) -> None:
    attempt = bench.attempt("echo never")
    assert asyncio.run(watch.wait_end(attempt, procs.boot_id(), start_timeout_s=0.05)) == NeverRan()


def test_many_waits_at_once_see_one_end(bench: Bench) -> None:
    attempt = bench.holding(2)

    async def wait() -> list[object]:
        waits = [asyncio.ensure_future(watch.wait_end(attempt, procs.boot_id())) for _ in range(5)]
        await asyncio.sleep(0)  # all of them have begun
        bench.let_go()
        return list(await asyncio.gather(*waits))

    assert {repr(each) for each in asyncio.run(wait())} == {repr(Ended(finish(attempt)))}


def test_another_boot_is_a_reboot_and_nobody_is_signalled(bench: Bench) -> None:
    """The recorded pids belong to others after a reboot: here they are alive and must stay so."""
    attempt = bench.running("echo READY; exec sleep 60")
    who = started(attempt)
    _kill_shim(attempt)
    assert recover(attempt, "another boot") == Rebooted(who)
    assert procs.start_ticks(who.job_pid) == who.job_start
    assert isinstance(recover(attempt, procs.boot_id()), Lost)


def test_row_21_a_pid_that_was_given_out_again_is_not_signalled(bench: Bench) -> None:
    """The record names a living process with another start time: a stranger."""
    attempt = bench.running("echo READY; exec sleep 60")
    stranger = bench.running("echo READY; exec sleep 60")
    who, other = started(attempt), started(stranger)
    record = (attempt.path / "started").read_text()
    (attempt.path / "started").write_text(
        record.replace(str(who.job_pid), str(other.job_pid)).replace(str(who.shim_pid), str(other.shim_pid))
        if who.job_start != other.job_start
        else record
    )
    asyncio.run(watch.stop(attempt, "cancel", "alice"))  # reaches neither shim
    assert procs.start_ticks(other.shim_pid) == other.shim_start
    assert procs.signal_exact(who.shim_pid, who.shim_start, signal.SIGKILL)
    until(lambda: not attempt.locked())
    assert isinstance(recover(attempt, procs.boot_id()), Lost)
    assert procs.start_ticks(other.job_pid) == other.job_start
    os.kill(who.job_pid, signal.SIGKILL)
    os.kill(other.job_pid, signal.SIGKILL)
    assert finish(stranger).why is None


@pytest.mark.parametrize("record", ["exit", "started"])
@pytest.mark.parametrize("damage", [b"", b"{", b"null", b'{"code": "0"}', b"\xff\xff", b"0" * 5000])
def test_a_damaged_record_is_lost_never_a_success(bench: Bench, record: str, damage: bytes) -> None:
    bench.run("exit 0")
    attempt = bench.last
    until(lambda: not attempt.locked())  # its shim ends a moment after its record
    if record == "started":
        (attempt.path / "exit").unlink()
    (attempt.path / record).write_bytes(damage)
    found = recover(attempt, procs.boot_id())
    assert isinstance(found, Lost)
    assert f"{attempt.path / record} is damaged" in found.detail


def test_a_damaged_record_of_a_living_shim_is_no_end(bench: Bench, tmp_path: Path) -> None:
    marks = {"PATH": "/bin:/usr/bin", "JOB_DIR": str(tmp_path), "JOB_ATTEMPT": "1"}
    attempt = bench.running("echo READY; exec sleep 600", env=marks)
    who = started(attempt)
    (attempt.path / "started").write_bytes(b"{")
    assert recover(attempt, procs.boot_id()) == Alive(None)
    assert procs.start_ticks(who.job_pid) == who.job_start, "and it was not touched"
    os.kill(who.shim_pid, signal.SIGKILL)
    until(lambda: not attempt.locked())
    found = recover(attempt, procs.boot_id())
    assert isinstance(found, Lost)
    assert "1 processes of it were killed" in found.detail
    assert procs.open_exact(who.job_pid, who.job_start) is None


def test_an_attempt_that_cannot_be_read_raises_instead_of_guessing(tmp_path: Path) -> None:
    attempt = AttemptDir(tmp_path / "jobs" / "1" / "1")
    attempt.path.mkdir(parents=True)
    (attempt.path / "exit").mkdir()
    with pytest.raises(RecordError, match="cannot read the record"):
        recover(attempt, procs.boot_id())


def test_a_record_of_a_newer_shim_is_read(bench: Bench) -> None:
    ended = bench.run("exit 4")
    path = bench.last.path / "exit"
    path.write_text(path.read_text().replace("{", '{"colour": "red", ', 1))
    assert bench.last.read_exit() == ended


def test_temporaries_that_a_crash_left_are_no_records(bench: Bench) -> None:
    attempt = bench.attempt("exit 0")
    for name in ("exit.tmp", "started.tmp", "stop.tmp"):
        (attempt.path / name).write_text('{"half": ')
    assert recover(attempt, procs.boot_id()) == NeverRan()
    launch(attempt)
    assert finish(attempt).code == 0
    assert not (attempt.path / "exit.tmp").exists()


def test_a_probe_of_the_lock_never_costs_a_start(bench: Bench) -> None:
    """Recovery looks at the very moment at which the shim takes its lock."""

    async def run(attempt: AttemptDir) -> Exit:
        from agent.engine.launch import ForkLauncher

        launching = asyncio.create_task(ForkLauncher().launch(1, attempt))
        while not launching.done():
            for _ in range(20):
                attempt.locked()
            await asyncio.sleep(0)
        await launching
        found = await watch.wait_end(attempt, procs.boot_id())
        assert isinstance(found, Ended)
        return found.exit

    for _ in range(10):
        assert asyncio.run(run(bench.attempt("exit 0"))).code == 0


def test_the_first_wish_to_stop_stands(bench: Bench) -> None:
    attempt = bench.attempt("exit 0")
    attempt.write_stop(Stop(why="cancel", by="alice"))
    attempt.write_stop(Stop(why="preempt", by="scheduler"))
    assert attempt.read_stop() == Stop(why="cancel", by="alice")
