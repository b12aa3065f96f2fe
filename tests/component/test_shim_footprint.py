"""`--mem` where no cgroup limits a job: its supervisor looks, and ends what holds more. Real processes, real memory."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.fakes.attempts import Bench

MIB = 1 << 20
HOG = "import time; x = b'x' * (400 << 20); time.sleep(60)"
FAMILY = """\
import os, time
x = b"x" * (120 << 20)
for _ in range(4):
    if os.fork() == 0:
        sum(x[::4096]); time.sleep(3); os._exit(0)
for _ in range(4):
    os.wait()
"""


def test_a_job_that_holds_more_than_it_asked_for_is_out_of_memory(tmp_path: Path) -> None:
    ended = Bench(tmp_path).run(f'{sys.executable} -c "{HOG}" & wait; echo went on', memory_bytes=100 * MIB)
    assert (ended.oom, ended.why) == (True, None)
    assert ended.run_s < 30


def test_a_job_within_its_memory_is_left_alone(tmp_path: Path) -> None:
    assert Bench(tmp_path).run([sys.executable, "-c", "x = b'x' * (50 << 20)"], memory_bytes=500 * MIB).code == 0


def test_memory_that_forks_share_counts_once(tmp_path: Path) -> None:
    ended = Bench(tmp_path).run([sys.executable, "-c", FAMILY], memory_bytes=300 * MIB)
    assert (ended.code, ended.oom) == (0, False)
