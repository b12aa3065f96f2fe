"""Jobs in the unit of a keeper, each in a cgroup of its own, under a real systemd in namespaces of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.engine import procs
from agent.engine.records import AttemptDir, Exit
from tests.component.test_launch_systemd import RUNAWAY
from tests.fakes.attempts import Bench, left, log, program, until
from tests.fakes.sysd_ns import Systemd, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

HOUSE = Path(procs.__file__).parents[2]

AGENT = """
import asyncio, json, logging, os, sys
from pathlib import Path
sys.path.insert(0, {house!r})
from agent.engine import procs
from agent.engine.launch import LaunchError
from agent.engine.found import recover
from agent.engine.records import AttemptDir
from agent.engine.served import choose_launcher

async def main():
    launcher = choose_launcher("auto", run_dir=Path({run_dir!r}), stop_s=5.0)
    await launcher.start()
    loop = asyncio.get_running_loop()
    answer = os.getpid()
    while True:
        unit = launcher._server and launcher._server.unit
        print(json.dumps([type(launcher).__name__, unit, answer]), flush=True)
        verb, _, path = (await loop.run_in_executor(None, sys.stdin.readline)).strip().partition(" ")
        if verb == "":
            return await launcher.stop()
        attempt = AttemptDir(Path(path))
        try:
            if verb == "launch":
                await launcher.launch(int(attempt.path.parent.name), attempt)
                answer = "launched"
            if verb == "recover":
                answer = repr(recover(attempt, procs.boot_id()))
        except LaunchError as error:
            answer = "LaunchError: " + str(error)

asyncio.run(main())
"""


class Agent:
    """The launcher in a process of its own in the box, as an agent has it."""

    def __init__(self, box: Systemd, run_dir: Path) -> None:
        code = AGENT.format(house=str(HOUSE), run_dir=str(run_dir))
        self._process = subprocess.Popen(
            [*box.entering(), sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._box = box
        self.unit = ""
        self.pid = int(self._hear())

    def ask(self, verb: str, attempt: AttemptDir) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{verb} {attempt.path}\n")
        self._process.stdin.flush()
        return str(self._hear())

    def kill(self) -> None:
        self._box.run("kill", "-KILL", str(self.pid))
        self._process.communicate(timeout=30)

    def close(self) -> str:
        """Let it stop; what it logged."""
        if self._process.poll() is None:
            return self._process.communicate("", timeout=30)[1]
        return ""

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._process.communicate()[1]
        kind, unit, answer = json.loads(line)
        assert kind == "ServedSystemdLauncher"
        self.unit = unit or ""
        return answer


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    # A path that systemd would like to expand: $NAME in arguments, %n in units.
    with tempfile.TemporaryDirectory(prefix="stk-$HOME-%n-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def box(state: Path) -> Iterator[Systemd]:
    with Systemd(share=[state]) as booted:
        yield booted


@pytest.fixture
def bench(state: Path, request: pytest.FixtureRequest) -> Bench:
    path = state / str(len(list(state.iterdir())))
    path.mkdir()
    return Bench(path, first_job=1000 * (1 + len(list(state.iterdir()))))


@contextmanager
def agent(box: Systemd, run_dir: Path) -> Iterator[Agent]:
    made = Agent(box, run_dir)
    try:
        yield made
    finally:
        made.close()


def show(box: Systemd, unit: str, *names: str) -> dict[str, str]:
    done = box.run("systemctl", "show", unit, *(f"--property={name}" for name in names))
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def active(box: Systemd, unit: str) -> str:
    return show(box, unit, "ActiveState")["ActiveState"]


def ended(attempt: AttemptDir) -> Exit:
    until(lambda: attempt.read_exit() is not None)
    record = attempt.read_exit()
    assert record is not None
    return record


def ready(attempt: AttemptDir) -> None:
    until(lambda: b"READY" in log(attempt))


def record(attempt: AttemptDir) -> dict[str, Any]:
    """`started`, once it is there: pids are those of the box."""
    until(lambda: (attempt.path / "started").exists())
    return dict(json.loads((attempt.path / "started").read_text()))


def inside(box: Systemd, cgroup: str) -> list[str]:
    """Pids in one of the box's cgroups; none when it has gone."""
    return box.run("cat", f"{cgroup}/cgroup.procs", check=False).stdout.split()


def gone(box: Systemd, cgroup: str) -> bool:
    return box.run("test", "-d", cgroup, check=False).returncode != 0


def test_a_job_has_a_cgroup_of_its_own_in_the_keepers_unit_and_nothing_is_left_of_it(
    box: Systemd, bench: Bench
) -> None:
    attempt = bench.attempt("echo READY; read x < go; exit 4", work_dir=str(bench.path))
    os.mkfifo(bench.path / "go")
    with agent(box, bench.path) as made:
        assert made.ask("launch", attempt) == "launched"
        who = record(attempt)
        facts = show(box, made.unit, "Slice", "Delegate", "KillMode", "OOMPolicy", "TasksMax", "TimeoutStopUSec")
        assert facts == {
            "Slice": "stoker-jobs.slice",
            "Delegate": "yes",
            "KillMode": "process",
            "OOMPolicy": "continue",
            "TasksMax": "infinity",
            "TimeoutStopUSec": "1min 25s",
        }
        name = f"stoker-job-{attempt.path.parent.name}-1.{who['shim_pid']}-{who['shim_start']}"
        assert who["cgroup"].endswith(f"/stoker-jobs.slice/{made.unit}/{name}")
        assert inside(box, who["cgroup"]) == [str(who["job_pid"])]
        assert str(who["shim_pid"]) in inside(box, f"{Path(who['cgroup']).parent}/supervisors")
        (bench.path / "go").write_text("\n")
        assert ended(attempt).code == 4
        until(lambda: gone(box, who["cgroup"]))
        assert active(box, made.unit) == "active"
    until(lambda: show(box, made.unit, "LoadState") == {"LoadState": "not-found"})
    assert list(bench.path.glob("*.sock")) == []


def test_the_shim_is_shielded_from_the_killer_for_memory_and_the_job_is_not(box: Systemd, bench: Bench) -> None:
    attempt = bench.attempt("cat /proc/self/oom_score_adj")
    with agent(box, bench.path) as made:
        made.ask("launch", attempt)
        assert show(box, made.unit, "OOMScoreAdjust") == {"OOMScoreAdjust": "-900"}
        assert ended(attempt).code == 0
    assert log(attempt) == b"0\n"


def test_a_second_launch_changes_nothing_while_it_runs_and_after(box: Systemd, bench: Bench) -> None:
    attempt = bench.attempt(f"echo x >> '{bench.path}/runs'; sleep 0.5")
    with agent(box, bench.path) as made:
        assert [made.ask("launch", attempt), made.ask("launch", attempt)] == ["launched", "launched"]
        assert ended(attempt).code == 0
        assert made.ask("launch", attempt) == "launched"
    assert (bench.path / "runs").read_text() == "x\n"


def test_row_4_a_killed_agent_costs_no_job_and_the_keeper_goes_with_the_last(box: Systemd, bench: Bench) -> None:
    os.mkfifo(bench.path / "go")
    attempt = bench.attempt("echo READY; read x < go; echo whole; exit 6", work_dir=str(bench.path))
    first = Agent(box, bench.path)
    first.ask("launch", attempt)
    until(lambda: b"READY" in log(attempt))
    first.kill()
    with agent(box, bench.path) as second:
        assert second.unit != first.unit
        assert second.ask("recover", attempt).startswith("Alive(")
        assert active(box, first.unit) == "active"
        (bench.path / "go").write_text("\n")
        assert ended(attempt).code == 6
    assert log(attempt) == b"READY\nwhole\n"
    until(lambda: show(box, first.unit, "LoadState") == {"LoadState": "not-found"})


@pytest.mark.parametrize("shim_too", [False, True], ids=["the_agent", "agent_and_shim"])
def test_row_3_killed_between_the_cgroup_and_the_start_record_it_runs_once(
    box: Systemd, bench: Bench, shim_too: bool
) -> None:
    """The shim waits at the place of `started`, where a fifo stands: the job's process is made and at its gate."""
    attempt = bench.attempt(f"echo x >> '{bench.path}/runs'")
    os.mkfifo(attempt.path / "started.tmp")
    first = Agent(box, bench.path)
    first.ask("launch", attempt)
    pattern = f"stoker-job-{attempt.path.parent.name}-1.*"

    def cgroups() -> list[str]:
        return box.run("find", "/sys/fs/cgroup", "-name", pattern).stdout.split()

    until(lambda: cgroups() and inside(box, cgroups()[0]))
    made, shim = cgroups()[0], cgroups()[0].rpartition(".")[2].partition("-")[0]
    first.kill()
    with agent(box, bench.path) as second:
        assert second.ask("recover", attempt) == "Alive(started=None)"
        assert second.ask("launch", attempt) == "launched", "there is a shim already"
        box.run("kill", "-KILL", shim)
        until(lambda: gone(box, made))
        assert second.ask("recover", attempt) == "NeverRan()"
        assert not (bench.path / "runs").exists()
        (attempt.path / "started.tmp").unlink()
        assert second.ask("launch", attempt) == "launched"
        assert ended(attempt).code == 0
    assert (bench.path / "runs").read_text() == "x\n"


def test_row_8_when_a_shim_is_killed_its_keeper_ends_all_of_its_job(box: Systemd, bench: Bench) -> None:
    """Also the daemon without environment, which recovery by itself could not find."""
    script = program(bench.path / "runaway", RUNAWAY)
    attempt = bench.attempt([str(script)])
    with agent(box, bench.path) as made:
        made.ask("launch", attempt)
        until(lambda: b"READY" in log(attempt))
        assert len(left(str(script))) == 2
        who = record(attempt)
        box.run("kill", "-KILL", str(who["shim_pid"]))
        until(lambda: left(str(script)) == [] and gone(box, who["cgroup"]))
        assert made.ask("recover", attempt).startswith("Lost(")
    assert attempt.read_exit() is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_row_9_a_killed_keeper_costs_no_job_and_the_next_takes_up_what_it_left(
    box: Systemd, bench: Bench, when: str
) -> None:
    """`when`: the shim of one of its jobs is killed before or after there is another keeper."""
    os.mkfifo(bench.path / "go")
    script = program(bench.path / "runaway", RUNAWAY)
    goes_on = bench.attempt("echo READY; read x < go; exit 6", work_dir=str(bench.path))
    lost, next_, later = bench.attempt([str(script)]), bench.attempt("exit 2"), bench.attempt("exit 3")
    with agent(box, bench.path) as made:
        for each in (goes_on, lost):
            made.ask("launch", each)
            ready(each)
        before, shim = made.unit, str(record(lost)["shim_pid"])
        box.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", before)
        if when == "before":
            box.run("kill", "-KILL", shim)
        # The next one may meet the keeper's end, and then gets a unit of its own.
        assert [made.ask("launch", each) for each in (next_, later)] == ["launched", "launched"]
        assert [ended(each).code for each in (next_, later)] == [2, 3]
        assert made.unit != before
        assert record(later)["cgroup"].split("/")[-2] == made.unit
        if when == "after":
            box.run("kill", "-KILL", shim)
        until(lambda: left(str(script)) == [])
        (bench.path / "go").write_text("\n")
        assert ended(goes_on).code == 6
        until(lambda: show(box, before, "LoadState") == {"LoadState": "not-found"})


def test_rows_13_and_14_systemctl_stop_of_the_unit_gives_each_job_its_grace(box: Systemd, bench: Bench) -> None:
    script = program(bench.path / "runaway", RUNAWAY)
    saves = "trap 'echo saved; exit 0' TERM; echo READY; while :; do sleep 0.05; done"
    ignores, obeys = bench.attempt([str(script)], grace_s=0.6), bench.attempt(saves)
    with agent(box, bench.path) as made:
        for each in (ignores, obeys):
            made.ask("launch", each)
            ready(each)
        before = made.unit
        box.run("systemctl", "stop", before)
        assert [ended(each).why for each in (ignores, obeys)] == ["outside", "outside"]
        assert "SIGTERM was ignored for 0.6 s" in (ended(ignores).detail or "")
        assert log(obeys).endswith(b"saved\n")
        assert left(str(script)) == []
        again = bench.attempt("exit 3")
        assert made.ask("launch", again) == "launched"
        assert ended(again).code == 3
        assert made.unit != before


def test_limits_that_the_keeper_cannot_keep_to_are_kept_by_a_unit(box: Systemd, bench: Bench) -> None:
    """Where cgroup v2 has no memory controller, as under an old kernel command line, PID 1 has other means."""
    attempt = bench.attempt("echo READY; read x < go; exit 0", memory_bytes=1 << 28, work_dir=str(bench.path))
    os.mkfifo(bench.path / "go")
    with agent(box, bench.path) as made:
        made.ask("launch", attempt)
        who = record(attempt)
        if "memory" in box.run("cat", "/sys/fs/cgroup/cgroup.controllers").stdout:
            assert box.run("cat", f"{who['cgroup']}/memory.max").stdout.strip() == str(1 << 28)
        else:
            facts = show(box, f"stoker-job-{attempt.path.parent.name}-1.service", "MemoryMax", "MainPID")
            assert facts == {"MemoryMax": str(1 << 28), "MainPID": str(who["shim_pid"])}
        (bench.path / "go").write_text("\n")
        assert ended(attempt).code == 0


HANDS_ON = """
import sys
sys.path.insert(0, {house!r})
from agent.engine import cgroup
own = "/sys/fs/cgroup" + open("/proc/self/cgroup").read().rpartition("0::")[2].strip()
cgroup.CONTROLLERS = tuple(open(own + "/cgroup.controllers").read().split())
home = cgroup.settle()
made = cgroup.make("/x/jobs/17/1", home, 1)
print(home.path == own, home.controllers == cgroup.CONTROLLERS, *open(made.path + "/cgroup.controllers").read().split())
"""


def test_the_units_controllers_are_handed_on_to_jobs(box: Systemd) -> None:
    """Whichever cgroup v2 has on this machine: a keeper that did not move into a leaf could hand on none.

    Not in a unit, since systemd delegates only those that it knows itself.
    """
    has = box.run("cat", "/sys/fs/cgroup/cgroup.controllers").stdout.split()
    enter = [f"echo +{each} > cgroup.subtree_control" for each in has]
    enter += ["mkdir -p unit", "echo $$ > unit/cgroup.procs", 'exec "$@"']
    code = HANDS_ON.format(house=str(HOUSE))
    done = box.run("sh", "-ec", f"cd /sys/fs/cgroup; {'; '.join(enter)}", "sh", sys.executable, "-c", code)
    assert done.stdout.split()[:2] == ["True", "True"]
    assert set(done.stdout.split()[2:]) == set(has)


def test_without_a_place_for_its_socket_each_job_gets_a_unit_of_its_own(box: Systemd, bench: Bench) -> None:
    attempt = bench.attempt("exit 5")
    made = Agent(box, bench.path / "none")
    assert made.ask("launch", attempt) == "launched"
    assert ended(attempt).code == 5
    assert "no keeper for jobs" in made.close()


def test_a_bus_that_cannot_be_reached_is_told_with_where_to_look(box: Systemd, bench: Bench) -> None:
    attempt = bench.attempt("exit 0")
    sockets = ("/run/systemd/private", "/run/dbus/system_bus_socket")
    for each in sockets:
        box.run("sh", "-c", f"test ! -e {each} || mv {each} {each}.away")
    try:
        with agent(box, bench.path) as made:
            said = made.ask("launch", attempt)
    finally:
        for each in sockets:
            box.run("sh", "-c", f"test ! -e {each}.away || mv {each}.away {each}")
    unit = f"stoker-job-{attempt.path.parent.name}-1.service"
    assert said.startswith(f"LaunchError: job {attempt.path.parent.name} could not be started: systemd refused {unit}:")
    assert "Failed to connect to bus" in said or "Failed to create bus connection" in said
    assert f"look at `journalctl -u {unit}`" in said
    with agent(box, bench.path) as made:
        assert made.ask("launch", attempt) == "launched"
        assert ended(attempt).code == 0


def test_a_launch_that_is_refused_is_told_and_the_keeper_lives(box: Systemd, bench: Bench) -> None:
    bad, good = bench.attempt("exit 0"), bench.attempt("exit 0")
    (bad.path / "claim").unlink()
    with agent(box, bench.path) as made:
        before = made.unit
        assert "there is no claim to run" in made.ask("launch", bad)
        assert made.ask("launch", good) == "launched"
        assert ended(good).code == 0
        assert made.unit == before
