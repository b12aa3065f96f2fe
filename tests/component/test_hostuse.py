"""Host use of jobs: real processes in /proc, and recorded cgroup files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from agent.telemetry.hostuse import HostUse, Survey, cgroup_of, job_cgroup, of_cgroup, of_trees

MIB = 1024**2

PROGRAM = """
import os, sys, time
child = os.fork()
ballast = bytearray(int(sys.argv[1]) * 2**20)
end = time.process_time() + 0.2
while time.process_time() < end: pass
if child:
    sys.stdin.readline()  # both are as they shall be once the child has said so
    os.kill(child, 9)
else:
    print("ready", flush=True)
    time.sleep(600)
"""


def test_memory_and_cpu_time_are_those_of_the_whole_tree() -> None:
    job = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "64"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        while (used := of_trees({17: job.pid}).uses[17]).cpu_seconds is None or used.cpu_seconds < 0.4:
            pass
        assert used.memory_bytes is not None
        assert 128 * MIB < used.memory_bytes < 256 * MIB
        assert used.cpu_seconds < 30
        pids = of_trees({17: job.pid, 18: os.getpid()}).pids
        child = psutil.Process(job.pid).children()[0].pid
        assert (pids[job.pid], pids[child]) in ((17, 17), (18, 18)), "it is below us as well"
        assert pids[os.getpid()] == 18
    finally:
        job.communicate("\n", timeout=60)


def test_a_job_whose_root_is_gone_is_left_out() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    found = of_trees({17: gone.pid, 18: os.getpid()})
    assert list(found.uses) == [18]
    assert of_trees({}) == Survey(uses={}, pids={})


@pytest.mark.parametrize("stat", [b"", b"17", b"17 (x", b"17 (a b) c) S x", b"\xff" * 5000])
def test_a_process_that_makes_no_sense_is_left_out(tmp_path: Path, stat: bytes) -> None:
    for pid, content in ((17, stat), (18, b"18 (a) b) (c) S 1 " + b"0 " * 9 + b"100 50 0 0 " + b"0 " * 30)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_bytes(content)
        (tmp_path / str(pid) / "statm").write_bytes(b"1000 300 100 0 0 0 0\n")
    (tmp_path / "self").mkdir()
    page = os.sysconf("SC_PAGE_SIZE")
    ticks = os.sysconf("SC_CLK_TCK")
    used = HostUse(memory_bytes=300 * page, cpu_seconds=150 / ticks)
    assert of_trees({1: 17, 2: 18}, tmp_path) == Survey(uses={2: used}, pids={18: 2})


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


def test_a_cgroup_of_version_2(tmp_path: Path) -> None:
    write(
        tmp_path / "system.slice/stoker-job-17.service",
        memory__stat="anon 1000\nfile 99999999\nshmem 200\nunevictable 0\n",
        cpu__stat="usage_usec 2500000\nuser_usec 2000000\n",
    )
    assert of_cgroup("/system.slice/stoker-job-17.service", tmp_path) == HostUse(memory_bytes=1200, cpu_seconds=2.5)


def test_a_cgroup_of_version_1(tmp_path: Path) -> None:
    write(tmp_path / "memory/job", memory__stat="cache 99999999\nrss 1000\nshmem 200\ntotal_rss 7\n")
    write(tmp_path / "cpuacct/job", cpuacct__usage="2500000000\n")
    assert of_cgroup("/job", tmp_path) == HostUse(memory_bytes=1200, cpu_seconds=2.5)


@pytest.mark.parametrize("content", ["", "anon\n", "anon x\n", "anon -5\n", "\ufffd 1\n"])
def test_a_cgroup_that_counts_nothing_is_none(tmp_path: Path, content: str) -> None:
    write(tmp_path / "job", memory__stat=content, cpu__stat=content)
    assert of_cgroup("/job", tmp_path) is None
    assert of_cgroup("/other", tmp_path) is None


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ("0::/stoker-jobs.slice/stoker-job-17-1.service\n", "/stoker-jobs.slice/stoker-job-17-1.service"),
        ("4:memory:/a/stoker-job-17-1.service/sub:x\n0::/\n", "/a/stoker-job-17-1.service/sub:x"),
        ("0::/stoker-job-17-11.service\n", None),
        ("0::/user.slice/session-1.scope\n", None),
        ("", None),
        ("\x00\n::\n", None),
    ],
)
def test_only_a_cgroup_of_the_jobs_own_counts(tmp_path: Path, content: str, path: str | None) -> None:
    write(tmp_path / "17", cgroup=content)
    assert cgroup_of(17, "stoker-job-17-1.service", tmp_path) == path
    assert cgroup_of(18, "stoker-job-17-1.service", tmp_path) is None


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("0::/stoker.slice/stoker-jobs.slice/stoker-job-17-2.service\n", "stoker-job-17-2.service"),
        ("4:memory:/\n0::/system.slice/stoker-agent.service/stoker-job-4711-99/deeper\n", "stoker-job-4711-99"),
        ("0::/user.slice\n", None),
        ("", None),
    ],
)
def test_the_job_whose_cgroup_a_process_is_in(tmp_path: Path, content: str, name: str | None) -> None:
    (tmp_path / "9").mkdir()
    (tmp_path / "9/cgroup").write_text(content)
    assert job_cgroup(9, tmp_path) == name
    assert job_cgroup(10, tmp_path) is None
