"""A job from claim to exit record: what it is given, how its end is told, and every way it cannot be started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.engine import procs
from agent.engine.folder import Folder
from agent.engine.launch import SHIM
from tests.fakes.attempts import Bench, crash, finish, left, log, program, shim, started, until


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A folder that other users reach too."""
    with tempfile.TemporaryDirectory(prefix="stoker-test-") as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a job as another user")


@pytest.mark.parametrize(("script", "code", "number"), [("exit 0", 0, None), ("exit 7", 7, None)])
def test_the_exit_code_is_recorded(bench: Bench, script: str, code: int, number: int | None) -> None:
    ended = bench.run(script)
    assert (ended.code, ended.signal, ended.why, ended.detail, ended.swept) == (code, number, None, None, 0)


def test_a_signal_is_recorded_as_a_signal(bench: Bench) -> None:
    ended = bench.run("kill -USR1 $$")
    assert (ended.code, ended.signal, ended.why) == (None, signal.SIGUSR1, None)


def test_row_55_hostile_arguments_arrive_byte_for_byte(bench: Bench, tmp_path: Path) -> None:
    raw = [b"$HOME", b"$$", b"%n%i", b"a\nb\ttab", b"'\"`\\", b"\xff\xfe\x80", "æ漢".encode(), b"", b" ", b"*", b"-e"]
    teller = program(tmp_path / "tell", "import os, sys\nos.write(1, b'\\0'.join(map(os.fsencode, sys.argv[1:])))\n")
    bench.run([str(teller), *(each.decode("utf-8", "surrogateescape") for each in raw)])
    assert log(bench.last).split(b"\0") == raw


def test_the_environment_is_exactly_the_claims(bench: Bench) -> None:
    env = {
        "PATH": "/bin",
        "ODD": "a=b\n$(date)",
        "BYTES": "\udcff",
        "BASH_ENV": "/none",
        "PYTHONPATH": "/none",
        "E": "",
    }
    bench.run(["/usr/bin/env", "-0"], env=env)
    seen = log(bench.last).split(b"\0")[:-1]
    assert sorted(seen) == sorted(f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in env.items())


def test_row_54_the_jobs_environment_never_reaches_the_shim(bench: Bench) -> None:
    attempt = bench.running("echo READY; sleep 60", env={"PATH": "/bin", "SECRET": "x", "PYTHONSTARTUP": "/none"})
    shim_env = Path(f"/proc/{started(attempt).shim_pid}/environ").read_bytes()
    os.kill(started(attempt).job_pid, signal.SIGKILL)
    finish(attempt)
    assert b"SECRET" not in shim_env
    assert b"PYTHON" not in shim_env


def test_the_job_starts_clean(bench: Bench, tmp_path: Path) -> None:
    """Working folder, umask, stdin at its end, default signals, no descriptors of ours, its own session."""
    teller = program(
        tmp_path / "tell",
        "import os, signal\n"
        "fds = [f for f in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{f}')]\n"
        "status = open('/proc/self/status').read()\n"
        "masks = [l.split()[1] for l in status.splitlines() if l[:6] in ('SigBlk', 'SigCgt')]\n"
        "old = os.umask(0)\n"
        "print(os.getcwd(), oct(old), repr(open(0).read()), fds, os.getsid(0) == os.getpid(), masks)\n"
        "print('ignored', [l for l in status.splitlines() if l.startswith('SigIgn')])\n",
    )
    bench.run(["/bin/sh", "-c", f"grep SigIgn /proc/self/status; exec {teller}"], work_dir=str(tmp_path), umask=0o027)
    text = log(bench.last).decode()
    assert f"{tmp_path} 0o27 ''" in text
    assert "['0', '1', '2'] True" in text
    assert text.splitlines()[0].split()[1].strip("0") == ""


def test_row_16_no_zombies_gather_below_a_running_shim(bench: Bench) -> None:
    attempt = bench.running("for i in $(seq 30); do (/bin/true &) ; done; sleep 0.2; echo READY; sleep 60")
    who = started(attempt)
    until(lambda: procs.children(who.shim_pid) == [who.job_pid])
    os.kill(who.job_pid, signal.SIGKILL)
    assert finish(attempt).signal == signal.SIGKILL


# --- cannot be started ------------------------------------------------------------------------------------------------


def test_a_missing_program(bench: Bench) -> None:
    ended = bench.run(["/no/such/program"])
    assert (ended.why, ended.code) == ("start", 127)
    assert "cannot run /no/such/program: No such file or directory" in (ended.detail or "")


def test_a_bad_interpreter_is_named(bench: Bench, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text("#!/opt/none/bash\necho never\n")
    script.chmod(0o755)
    ended = bench.run([str(script)])
    assert (ended.why, ended.code) == ("start", 127)
    assert "its interpreter /opt/none/bash does not exist" in (ended.detail or "")


def test_a_script_without_permission_or_first_line(bench: Bench, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text("echo never\n")
    script.chmod(0o644)
    refused = bench.run([str(script)])
    script.chmod(0o755)
    nonsense = bench.run([str(script)])
    assert (refused.why, refused.code, nonsense.why, nonsense.code) == ("start", 126, "start", 126)
    assert "Permission denied" in (refused.detail or "")
    assert "#!/bin/bash" in (nonsense.detail or "")


def test_a_missing_work_dir(bench: Bench) -> None:
    ended = bench.run("echo never", work_dir="/no/such/folder")
    assert (ended.why, ended.code) == ("start", 1)
    assert "cannot enter the working folder /no/such/folder: No such file or directory" in (ended.detail or "")
    assert log(bench.last) == b""


# --- another user -----------------------------------------------------------------------------------------------------


@needs_root
def test_the_job_runs_as_the_user_with_its_groups(bench: Bench) -> None:
    bench.run("id -u; id -g; id -G", uid=54321, gid=54322, groups=(54322, 54323))
    assert log(bench.last).split() == [b"54321", b"54322", b"54322", b"54323"]


@needs_root
def test_the_user_may_open_its_own_stdout_and_stderr_again(bench: Bench) -> None:
    ended = bench.run("echo out > /dev/stdout && echo err > /dev/stderr", uid=54321, gid=54321, groups=())
    assert (ended.code, log(bench.last)) == (0, b"out\nerr\n")


@needs_root
def test_output_files_are_made_as_the_user(bench: Bench, open_dir: Path) -> None:
    (open_dir / "mine").mkdir(mode=0o700)
    os.chown(open_dir / "mine", 54321, 54321)
    path = open_dir / "mine" / "out"
    ended = bench.run("echo hello", uid=54321, gid=54321, groups=(), umask=0o027, output_path=str(path))
    facts = path.stat()
    assert ended.why is None
    assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o777, path.read_bytes()) == (54321, 54321, 0o640, b"hello\n")


@needs_root
def test_row_52_a_users_output_cannot_reach_what_the_user_cannot_write(bench: Bench, open_dir: Path) -> None:
    secret = open_dir / "secret"
    secret.write_text("untouched")
    secret.chmod(0o600)
    ended = bench.run("echo never", uid=54321, gid=54321, groups=(), output_path=str(secret))
    assert (ended.why, secret.read_text()) == ("start", "untouched")
    assert f"cannot open the output file {secret}: Permission denied" in (ended.detail or "")
    # And the shim has its own rights back: the records are root's.
    assert (bench.last.path / "exit").stat().st_uid == 0


@needs_root
def test_a_users_output_counts_the_supplementary_groups(bench: Bench, open_dir: Path) -> None:
    (open_dir / "shared").mkdir()
    os.chown(open_dir / "shared", 0, 54400)
    (open_dir / "shared").chmod(0o770)
    path = open_dir / "shared" / "out"
    assert bench.run("echo hello", uid=54321, gid=54321, groups=(54400,), output_path=str(path)).why is None
    assert bench.run("echo never", uid=54321, gid=54321, groups=(), output_path=f"{path}2").why == "start"


# --- once only --------------------------------------------------------------------------------------------------------


def test_a_second_shim_ends_with_73_whatever_the_first_one_does(bench: Bench) -> None:
    attempt = bench.running("echo READY; sleep 60")
    while_running = shim(attempt)
    assert while_running.wait(timeout=30) == 73
    os.kill(started(attempt).job_pid, signal.SIGKILL)
    finish(attempt)
    after = shim(attempt)
    assert after.wait(timeout=30) == 73
    for each in (while_running, after):
        assert each.stderr is not None
        with each.stderr:
            assert b"this attempt" in each.stderr.read()


def test_of_many_shims_at_once_one_runs(bench: Bench, tmp_path: Path) -> None:
    attempt = bench.attempt(f"echo x >> {tmp_path}/runs; sleep 0.2")
    shims = [shim(attempt) for _ in range(8)]
    statuses = sorted(each.wait(timeout=30) for each in shims)
    for each in shims:
        assert each.stderr is not None
        each.stderr.close()
    assert statuses == [0] + [73] * 7
    assert (tmp_path / "runs").read_text() == "x\n"


def test_a_shim_whose_claim_makes_no_sense_refuses(bench: Bench) -> None:
    attempt = bench.attempt("echo never")
    (attempt.path / "claim").write_text('{"argv": 3')
    child = shim(attempt)
    assert child.stderr is not None
    with child.stderr:
        said = child.stderr.read()
    assert child.wait(timeout=30) == 65
    assert b"claim is damaged" in said
    assert attempt.read_exit() is None


def test_what_the_job_leaves_running_is_swept(bench: Bench) -> None:
    token = f"9{os.getpid()}.25"
    ended = bench.run(f"(setsid sleep {token} </dev/null >/dev/null 2>&1 &) ; sleep {token} & exit 5")
    assert (ended.code, ended.why, left(token)) == (5, None, [])
    assert ended.swept == 2


def test_the_shim_imports_nothing_from_outside_the_standard_library(bench: Bench) -> None:
    attempt = bench.running("echo READY; sleep 60")
    maps = Path(f"/proc/{started(attempt).shim_pid}/maps").read_text()
    os.kill(started(attempt).job_pid, signal.SIGKILL)
    finish(attempt)
    assert "site-packages" not in maps
    house = Path(procs.__file__).parents[2]
    check = f"import sys; sys.path.append({str(house)!r}); import agent.engine.entry; print(list(sys.modules))"
    modules = subprocess.run([sys.executable, "-I", "-S", "-c", check], capture_output=True, text=True).stdout
    for heavy in ("json", "typing", "enum", "re", "ctypes", "msgspec", "pathlib", "subprocess", "dataclasses"):
        assert f"'{heavy}'" not in modules


def test_a_shim_that_cannot_fork_says_so(bench: Bench) -> None:
    """Too few descriptors for the job's pipes: a start failure, not a lost run."""
    attempt = bench.attempt("echo never")
    command = f"ulimit -n 10; exec {sys.executable} -I -S {SHIM} {attempt.path}"
    subprocess.run(["/bin/sh", "-c", command], check=True, timeout=30)
    ended = attempt.read_exit()
    assert ended is not None
    assert ended.why == "start"
    assert ended.detail == "cannot start a process: Too many open files; see the node's limits and load"


def test_a_crash_of_the_shim_is_told_and_is_no_end(bench: Bench, tmp_path: Path) -> None:
    """A claim that passes all checks and is still nonsense stands for a bug of ours: a traceback, and no outcome."""
    attempt = bench.attempt("echo never", output_path=str(tmp_path / "out"))
    path = attempt.path / "claim"
    path.write_text(path.read_text().replace('"umask":18', '"umask":"x"'))
    child = shim(attempt)
    assert child.stderr is not None
    child.stderr.close()
    assert child.wait(timeout=30) == 70
    assert "TypeError" in crash(attempt)
    assert attempt.read_exit() is None


def test_a_time_limit_of_a_year_is_no_trouble(bench: Bench) -> None:
    """poll(2) counts milliseconds in an int: 24.8 days."""
    assert bench.run("sleep 0.05; exit 3", time_limit_s=365 * 86400).code == 3


def test_an_attempts_folder_that_is_removed_does_not_keep_the_shim(bench: Bench) -> None:
    attempt = bench.running("echo READY; sleep 0.2")
    who = started(attempt)
    shutil.rmtree(attempt.path)
    until(lambda: (stat := procs.read_stat(who.shim_pid)) is None or stat.start != who.shim_start)


def test_the_way_to_started_is_on_disk_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a job that ran must not look like one that never did: file, attempt and job are flushed."""
    attempt = tmp_path / "jobs" / "1" / "1"
    attempt.mkdir(parents=True)
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(os.readlink(f"/proc/self/fd/{fd}")))
    Folder(os.fspath(attempt)).write_started({"shim_pid": 1})
    assert flushed == [f"{attempt}/started.tmp", f"{attempt}", f"{attempt.parent}"]


@pytest.mark.parametrize("refused", [1, 2])
def test_an_outcome_whose_flush_failed_is_written_again_and_the_shim_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    """The first flush is the file's; at the second, the folder's, it has its name already."""
    tries: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        tries.append(os.readlink(f"/proc/self/fd/{fd}"))
        if len(tries) == refused:
            raise OSError(5, "Input/output error")
        real(fd)

    mine = Folder(os.fspath(tmp_path))
    monkeypatch.setattr("agent.engine.folder._RETRY_S", 0.0)
    monkeypatch.setattr(os, "fsync", fsync)
    mine.write_exit({"code": 3, "detail": ""})
    assert mine.read("exit") == {"code": 3, "detail": ""}
    assert tries[refused:] == [f"{tmp_path}/exit{'.tmp' if refused == 1 else ''}", f"{tmp_path}"]
