"""The surroundings of a job, in which srun is called."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from agent.step import tools

ROOT = Path(__file__).parents[2]


class Steps:
    """A job's surroundings, in which srun is called."""

    def __init__(self, folder: Path, cpus: int = 4, tasks: int = 2, gpus: int = 0) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        tools.install(self.bin, sys.executable)
        self.env = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(folder),
            "JOB_DIR": str(folder),
            "JOB_ATTEMPT": "1",
            "SLURM_JOB_ID": "17",
            "SLURM_JOB_NAME": "train",
            "SLURM_JOB_NODELIST": "n1",
            "SLURM_NTASKS": str(tasks),
            "SLURM_CPUS_ON_NODE": str(cpus),
            "SLURMD_NODENAME": "n1",
            "CUDA_VISIBLE_DEVICES": ",".join(f"GPU-{number}" for number in range(gpus)),
        }

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["srun", *words],
            env=self.env | more,
            cwd=self.folder,
            executable=self.bin / "srun",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, given: str = "", timeout_s: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
        child = self.start(*words, **more)
        out, err = child.communicate(given, timeout=timeout_s)
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)

    def ready(self, count: int) -> list[int]:
        """The pids of ranks that have told theirs in files `ready-N`."""
        return [int(path.read_text()) for path in self.wait_files("ready-*", count)]

    def wait_files(self, pattern: str, count: int) -> list[Path]:
        return wait(lambda: found if len(found := sorted(self.folder.glob(pattern))) >= count else [], pattern)


def wait(ask: Callable[[], list[Path]], what: str) -> list[Path]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if found := ask():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within 30 s: {what}")


def gone(pids: list[int]) -> bool:
    left = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.append(psutil.Process(pid))
    _, alive = psutil.wait_procs(left, timeout=60)
    return not alive


READY = "echo $$ > .new-$SLURM_PROCID; mv .new-$SLURM_PROCID ready-$SLURM_PROCID; "


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path)
