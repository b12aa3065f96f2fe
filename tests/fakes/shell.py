"""A user's shell on a real box: Slurm's commands by their names, and `stoker`.

from tests.fakes.shell import Shell, made as made, shell as shell, text
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api.refs import JobRef
from tests.fakes.daemons import Box, box, wait_final


class Shell:
    """A user's shell on the box: runs commands by their names."""

    def __init__(self, made: Box, folder: Path) -> None:
        self.box = made
        self.folder = folder
        self.env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "SHELL": "/bin/sh",
            "STOKER_SOCKET": str(made.agent.socket),
        }

    def words(self, name: str, *words: str) -> list[str]:
        return [sys.executable, "-I", "-m", "tui.slurm", name, *words]

    def run(self, name: str, *words: str, given: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(name, *words),
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            env=self.env | more,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=90,
        )

    def out(self, name: str, *words: str, **more: str) -> str:
        done = self.run(name, *words, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, name: str, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words(name, *words),
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def submit(self, *words: str) -> str:
        return self.out("sbatch", "--parsable", *words).strip()

    def state(self, number: str) -> str:
        return self.out("sacct", "-n", "-X", "-P", "-o", "State", "-j", number).strip()


@pytest.fixture(scope="module")
def made() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="stk-live-") as folder, box(Path(folder) / "box", gpus=2) as machine:
        yield machine


@pytest.fixture
def shell(made: Box, tmp_path: Path) -> Iterator[Shell]:
    yield Shell(made, tmp_path)
    with made.agent.client() as client:
        for job in client.jobs("PENDING,CONFIGURING,RUNNING,COMPLETING"):
            client.cancel(JobRef(id=job.id))
            wait_final(client, job.id)


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def stoker(lab: Box, *words: str, code: int = 0, output: str | None = None) -> str:
    """What `stoker` says of the box's hub, in UTC: on `output`, which is stderr where another exit code is expected."""
    program = "import sys; from tui.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "--socket", str(lab.hub.socket), *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TZ": "UTC"},
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    said: str = getattr(done, output or ("stderr" if code else "stdout"))
    return said
