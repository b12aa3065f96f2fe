"""The demo as a newcomer runs it: what it prints, what it leaves, and that leaving early leaves nothing."""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.daemons import wait_until

DEMO = [sys.executable, "-I", "-m", "agent.demo"]
DEADLINE_S = 100.0


class Machine:
    """An empty home and an empty temporary folder, so that everything the demo writes is seen."""

    def __init__(self, root: Path) -> None:
        self.home, self.tmp = root / "home", root / "tmp"
        self.home.mkdir()
        self.tmp.mkdir()
        outside = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(self.tmp),
            "TERM": "xterm-256color",
        }
        self.env = {**outside, "LANG": "C.UTF-8", "SBATCH_GRES": "gpu:99", "PYTHONPATH": "/nonexistent"}

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*DEMO, *words], env=self.env, cwd=self.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def left_files(self) -> list[str]:
        """What is left below home and temporary folder, the demo's own folder's name taken away."""
        paths = [path for folder in (self.home, self.tmp) for path in folder.rglob("*") if not path.is_dir()]
        return sorted(re.sub(r".*/stoker-demo-[^/]*/", "", str(path)) for path in paths)

    def left_processes(self) -> list[str]:
        """Command lines of processes that carry the temporary folder in their environment."""
        marked = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if os.fsencode(self.tmp) in environ.read_bytes():
                    marked.append(environ.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode())
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return marked


@pytest.fixture
def machine() -> Iterator[Machine]:
    if not (Path(sys.executable).parent / "stoker").exists():
        pytest.skip("the project is not installed beside this Python; run ./install.sh test")
    if importlib.util.find_spec("torch") is None:
        pytest.skip("the train extra is not installed")
    root = Path(tempfile.mkdtemp(prefix="sd-", dir="/tmp"))
    yield Machine(root)
    shutil.rmtree(root)


def _facts(text: str) -> dict[str, str]:
    """The summary's lines."""
    lines = text.rstrip().rpartition("\n\n")[2].splitlines()
    return {line[:16].strip(): line[16:] for line in lines}


def test_it_trains_and_sums_up(machine: Machine) -> None:
    child = machine.start()
    text, _ = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 0, text
    facts = _facts(text)
    assert facts["outcome"] == "COMPLETED"
    assert 0.95 <= float(facts["test accuracy"]) <= 1
    assert re.fullmatch(r"\d+ s", facts["run time"])
    assert re.search(r"Evaluation.*1[34] days left", facts["licence"])
    assert "epoch 20/20" in text
    assert "epoch 20/20" in Path(facts["log"]).read_text()
    assert machine.left_files() == ["logs/agent.log", "logs/hub.log", "work/digits-1.out"]
    assert machine.left_processes() == []
    if "simulated" in text:
        named = [line for line in text.splitlines() if "GPU" in line and "seats" not in line]
        assert [line for line in named if "simulated" not in line] == [], "every line with a simulated GPU says so"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle_of_the_training_it_leaves_nothing_running(machine: Machine, number: int) -> None:
    child = machine.start("--no-tui")
    _read_until(child, "epoch 1/")
    child.send_signal(number)
    text, _ = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 130, text
    assert "interrupted; nothing is left running" in text
    assert machine.left_processes() == []
    assert "state" not in {Path(name).parts[0] for name in machine.left_files()}


def _read_until(child: subprocess.Popen[str], words: str) -> str:
    assert child.stdout is not None
    for line in child.stdout:
        if words in line:
            return line
    raise AssertionError(f"the demo ended before it said {words!r}")


def test_an_agent_that_dies_is_told_and_its_job_is_ended(machine: Machine) -> None:
    child = machine.start("--no-tui")
    entry = _read_until(child, "Another terminal").partition("after:")[2].strip()
    _read_until(child, "epoch 1/")
    beside = ["env", "-i", "PATH=/usr/bin:/bin", "sh", "-c", f"{entry}; stoker jobs --json; stoker-license status"]
    joined = subprocess.run(beside, capture_output=True, text=True, timeout=DEADLINE_S)
    assert '"state":"RUNNING"' in joined.stdout, joined.stderr
    assert "Evaluation" in joined.stdout
    for process in _children(child.pid):
        os.kill(process, signal.SIGKILL)
    text, _ = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 1, text
    assert "the demo failed: " in text
    assert machine.left_processes() == []


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Terminal:
    """The demo on a terminal of its own."""

    def __init__(self, machine: Machine) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(machine.home)
            os.execve(DEMO[0], DEMO, machine.env)
        self.text = ""

    def read_until(self, pattern: str) -> None:
        give_up = time.monotonic() + DEADLINE_S
        while not re.search(pattern, self.text, re.DOTALL):
            assert time.monotonic() < give_up, f"{pattern!r} was not shown: {self.text[-2000:]!r}"
            if select.select([self._fd], [], [], 1.0)[0]:
                self.text += self._read()

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def finish(self) -> int:
        """Its exit status, once it has said everything."""
        while piece := self._read():
            self.text += piece
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> str:
        try:
            return os.read(self._fd, 65536).decode(errors="replace")
        except OSError:
            return ""


def test_on_a_terminal_it_opens_the_screen_on_the_job_and_q_sums_up(machine: Machine) -> None:
    terminal = Terminal(machine)
    terminal.read_until(r"\x1b\[\?1049h.*digits.*COMPLETED")
    terminal.type("q")
    assert terminal.finish() == 0, terminal.text[-3000:]
    after = terminal.text.rpartition("\x1b[?1049l")[2]
    assert "outcome         COMPLETED" in after.replace("\r\n", "\n")
    assert machine.left_processes() == []


def test_q_before_the_end_cancels_the_job(machine: Machine) -> None:
    terminal = Terminal(machine)
    terminal.read_until(r"\x1b\[\?1049h.*digits")
    terminal.type("q")
    assert terminal.finish() == 1, terminal.text[-3000:]
    assert "outcome         CANCELLED" in terminal.text
    wait_until(lambda: not machine.left_processes(), "everything has ended", 5)
