"""A job's own temporary folder: there for the job, gone after it, whatever it holds and however the job ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.engine import procs, tmpdir
from agent.engine.found import Lost, Rebooted, recover
from agent.engine.records import AttemptDir, Started
from tests.fakes.attempts import Bench, finish, log, started, until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a job as another user")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    return tmp_path / "tmp"


@pytest.fixture
def open_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stoker-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def test_it_is_the_jobs_own_and_gone_after_it(bench: Bench, tmp: Path) -> None:
    ended = bench.run(
        f"stat -c '%a %u' {tmp}; ls -A {tmp}; echo x > {tmp}/x; mkdir {tmp}/y", tmp_dir=str(tmp), umask=0o777
    )
    assert (ended.why, ended.detail, log(bench.last).split()) == (None, None, [b"700", str(os.geteuid()).encode()])
    assert not tmp.exists()


@needs_root
def test_it_belongs_to_the_user(bench: Bench, open_dir: Path) -> None:
    folder = open_dir / "tmp"
    ended = bench.run(
        f"stat -c %u:%g:%a {folder}; touch {folder}/x", tmp_dir=str(folder), uid=54321, gid=54322, groups=()
    )
    assert (ended.code, log(bench.last)) == (0, b"54321:54322:700\n")
    assert not folder.exists()


def test_what_an_earlier_attempt_left_is_not_found(bench: Bench, tmp: Path) -> None:
    tmp.mkdir(mode=0o777)
    (tmp / "old").write_text("old")
    bench.run(f"ls -A {tmp}", tmp_dir=str(tmp))
    assert log(bench.last) == b""


def test_row_53_links_are_removed_and_not_followed(bench: Bench, tmp: Path, tmp_path: Path) -> None:
    (victim := tmp_path / "victim").mkdir()
    (victim / "precious").write_text("precious")
    plant = f"ln -s {victim} {tmp}/link; ln {victim}/precious {tmp}/hard; mkfifo {tmp}/fifo; ln -s / {tmp}/.stoker-1"
    ended = bench.run(f"{plant}; mkdir -p {tmp}/a/b/c; ln -s {victim} {tmp}/a/b/c/deep", tmp_dir=str(tmp))
    assert (ended.code, ended.detail) == (0, None)
    assert not tmp.exists()
    assert (victim / "precious").read_text() == "precious"


def test_row_53_a_link_planted_for_the_folder_itself_is_only_removed(bench: Bench, tmp: Path, tmp_path: Path) -> None:
    (victim := tmp_path / "victim").mkdir()
    (victim / "precious").write_text("precious")
    ended = bench.run(f"rmdir {tmp}; ln -s {victim} {tmp}", tmp_dir=str(tmp))
    assert (ended.code, tmp.is_symlink(), (victim / "precious").read_text()) == (0, False, "precious")


DEEP = """
import os, sys
os.chdir(sys.argv[1])
for _ in range(3000):
    os.mkdir("d" * 50)
    os.chdir("d" * 50)
    open("f", "w").close()
"""


def test_no_depth_and_no_missing_right_keeps_it(tmp: Path) -> None:
    tmp.mkdir()
    subprocess.run([sys.executable, "-c", DEEP, str(tmp)], check=True)
    (tmp / "closed" / "in" / "it").mkdir(parents=True)
    (tmp / "closed" / "in").chmod(0)
    (tmp / "closed").chmod(0)
    taken = tmp / ".stoker-1"
    taken.mkdir()
    (taken / "x").touch()
    (tmp / ".stoker-2").touch()
    before = set(os.listdir("/proc/self/fd"))
    assert tmpdir.remove(str(tmp), timeout_s=100) is None
    assert not tmp.exists()
    assert set(os.listdir("/proc/self/fd")) == before


@needs_root
def test_another_file_system_mounted_in_it_is_left_alone_and_told(tmp: Path) -> None:
    """Such as a user's sshfs: emptying it would reach what is not the job's."""
    (tmp / "a" / "mounted").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp / "a" / "mounted")], check=True)
    try:
        (tmp / "a" / "mounted" / "precious").write_text("precious")
        problem = tmpdir.remove(str(tmp))
        left = list(tmp.rglob("precious"))
        assert [path.read_text() for path in left] == ["precious"]
        assert problem is not None
        assert f"its temporary folder {tmp} is not removed whole: " in problem
    finally:
        subprocess.run(["umount", str(tmp / "a" / "mounted")], check=True)


def test_what_takes_too_long_is_left_and_told(tmp: Path) -> None:
    (tmp / "a").mkdir(parents=True)
    for number in range(50):
        (tmp / "a" / str(number)).touch()
    problem = tmpdir.remove(str(tmp), timeout_s=0.0)
    assert problem == f"its temporary folder {tmp} is not removed whole: it holds more than could be removed in time"
    assert tmpdir.remove(str(tmp)) is None


def test_a_folder_with_more_names_than_one_reading_gives(tmp: Path) -> None:
    tmp.mkdir()
    for number in range(10_500):
        os.close(os.open(tmp / str(number), os.O_CREAT))
    assert tmpdir.remove(str(tmp)) is None
    assert not tmp.exists()


def without_its_shim(bench: Bench, tmp: Path) -> tuple[AttemptDir, Started]:
    """A job with a temporary folder, that runs on after its shim was killed."""
    attempt = bench.running(f"touch {tmp}/x; echo READY; exec sleep 60", tmp_dir=str(tmp))
    who = started(attempt)
    procs.signal_exact(who.shim_pid, who.shim_start, signal.SIGKILL)
    until(lambda: not attempt.locked())
    return attempt, who


def test_row_8_a_lost_runs_folder_is_removed_with_what_is_left_of_it(bench: Bench, tmp: Path) -> None:
    attempt, _ = without_its_shim(bench, tmp)
    assert tmp.exists()
    assert isinstance(recover(attempt, procs.boot_id()), Lost)
    assert not tmp.exists()


def test_row_10_a_reboot_leaves_none_either(bench: Bench, tmp: Path) -> None:
    attempt, who = without_its_shim(bench, tmp)
    assert isinstance(recover(attempt, "another boot"), Rebooted)
    assert not tmp.exists()
    os.kill(who.job_pid, signal.SIGKILL)


def test_an_agents_start_sets_aside_what_no_running_job_has(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    for name in ("1", "2", "3", "other"):
        (jobs / name / "tmp" / "x").mkdir(parents=True)
    (jobs / "3" / "tmp.old" / "y").mkdir(parents=True)
    (jobs / "4").mkdir()
    found = tmpdir.set_aside(str(jobs), running={1})
    assert sorted(found) == [f"{jobs}/2/tmp.old", f"{jobs}/3/tmp.old"]
    assert [tmpdir.remove(each) for each in found] == [None, None]
    assert [(jobs / name / "tmp").exists() for name in ("1", "2", "3", "other")] == [True, False, True, True]
    assert tmpdir.set_aside(str(jobs), running={1}) == [f"{jobs}/3/tmp.old"]
    assert tmpdir.set_aside(str(tmp_path / "none"), running=set()) == []


def test_a_job_that_is_stopped_has_its_folder_removed_too(bench: Bench, tmp: Path) -> None:
    attempt = bench.launched(f"touch {tmp}/x; exec sleep 60", time_limit_s=1, tmp_dir=str(tmp))
    assert finish(attempt).why == "limit"
    assert not tmp.exists()


def test_a_file_system_that_never_answers_does_not_hold_the_end_up(bench: Bench, tmp: Path, tmp_path: Path) -> None:
    """Simulated with a fifo and a socket: what is not a folder is never opened."""
    began = time.monotonic()
    ended = bench.run(f"mkfifo {tmp}/a; mkdir {tmp}/b; mkfifo {tmp}/b/c", tmp_dir=str(tmp))
    assert (ended.detail, tmp.exists()) == (None, False)
    assert time.monotonic() - began < 10
