"""What a job writes: the bounded log and the files of --output and --error, under floods, attacks and full disks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.engine import logread
from agent.engine.records import AttemptDir
from tests.fakes.attempts import Bench, crash, finish, left, log, program, started, stop, until


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A folder that other users reach too."""
    with tempfile.TemporaryDirectory(prefix="stoker-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


MIB = 1024 * 1024


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_row_19_a_flood_of_a_gigabyte_keeps_the_cap(bench: Bench) -> None:
    """Head and tail are kept, the disk's share is fixed all the while, and it costs little."""
    attempt = bench.launched(
        "echo BEGIN; head -c 1000000000 /dev/zero; echo END", log_head_bytes=MIB, log_tail_bytes=4 * MIB
    )
    peak = 0
    cpu_s = 0.0
    who = started(attempt)
    while attempt.read_exit() is None:
        peak = max(peak, _disk(attempt))
        cpu_s = max(cpu_s, _cpu_s(who.shim_pid))
        time.sleep(0.02)
    ended = finish(attempt)
    assert ended.log_bytes == 1_000_000_010
    assert max(peak, _disk(attempt)) <= 5 * MIB
    assert cpu_s < 5
    pieces = logread.read(attempt, 0, 100 * MIB)
    assert len(pieces) == 2
    assert (pieces[0].offset, pieces[0].data[:6], len(pieces[0].data)) == (0, b"BEGIN\n", MIB)
    assert (pieces[1].end, pieces[1].data[-4:]) == (ended.log_bytes, b"END\n")
    assert len(pieces[1].data) > 2 * MIB


def test_row_20_binary_and_a_line_of_ten_megabytes_come_through_whole(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 4096 + b"x" * (10 * MIB) + b"\n")
    ended = bench.run(f"cat {source}", output_path=str(tmp_path / "out"))
    assert ended.log_bytes == source.stat().st_size
    assert log(bench.last) == source.read_bytes()
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


def test_row_20_a_job_that_closes_its_output_runs_on(bench: Bench) -> None:
    ended = bench.run("echo before; exec >&- 2>&-; sleep 0.3; exit 8")
    assert (ended.code, log(bench.last)) == (8, b"before\n")
    assert ended.run_s >= 0.3


def test_a_pipe_held_by_what_is_left_does_not_hold_the_end_up(bench: Bench) -> None:
    token = f"8{os.getpid()}.5"
    ended = bench.run(f"echo out; (setsid sleep {token} &) ; exit 1")
    assert (ended.code, log(bench.last), left(token)) == (1, b"out\n", [])
    assert ended.run_s < 10


def test_a_pipe_held_by_a_stranger_does_not_hold_the_end_up(bench: Bench, tmp_path: Path) -> None:
    """A process that is none of the job's opened the job's stdout by /proc and floods it."""
    attempt = bench.running("echo READY; sleep 0.5; exit 1")
    pipe = f"/proc/{started(attempt).job_pid}/fd/1"
    with subprocess.Popen(["sh", "-c", f"yes flood > {pipe}"], stderr=subprocess.DEVNULL) as stranger:
        ended = finish(attempt)
        stranger.kill()
    assert ended.code == 1


def test_stdout_and_stderr_in_one_file_keep_their_order(bench: Bench, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    bench.run("for i in 1 2 3; do echo o$i; echo e$i >&2; done", output_path=out, error_path=out)
    assert Path(out).read_text().split() == ["o1", "e1", "o2", "e2", "o3", "e3"]


def test_stdout_and_stderr_in_two_files(bench: Bench, tmp_path: Path) -> None:
    bench.run("echo o; echo e >&2", output_path=str(tmp_path / "out"), error_path=str(tmp_path / "err"))
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("o\n", "e\n")
    assert sorted(log(bench.last).split()) == [b"e", b"o"]


@pytest.mark.parametrize(("mode", "kept"), [("append", "old\nnew\n"), ("truncate", "new\n")])
def test_open_mode(bench: Bench, tmp_path: Path, mode: str, kept: str) -> None:
    (tmp_path / "out").write_text("old\n")
    bench.run("echo new", output_path=str(tmp_path / "out"), open_mode=mode)
    assert (tmp_path / "out").read_text() == kept


def test_a_devices_output(bench: Bench) -> None:
    ended = bench.run("echo gone", output_path="/dev/null")
    assert (ended.why, log(bench.last)) == (None, b"gone\n")


def test_an_output_file_is_cut_at_its_cap_with_one_line_that_says_so(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = bench.run("seq 100000", output_path=str(out), output_max_bytes=1000)
    text = out.read_bytes()
    assert text[:1000] == log(bench.last)[:1000]
    assert text[1000:].count(b"\n") == 2
    assert b"cut at 1000 bytes" in text[1000:]
    assert ended.why is None
    assert f"{out} was cut at 1000 bytes" in (ended.detail or "")


# --- refused ----------------------------------------------------------------------------------------------------------


def test_row_53_links_and_pipes_planted_as_output_are_refused(bench: Bench, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "symbolic").symlink_to(victim)
    (tmp_path / "hard").hardlink_to(victim)
    os.mkfifo(tmp_path / "fifo")
    for name, said in [("symbolic", "symbolic link"), ("hard", "hard links"), ("fifo", "No such device"), ("", "Is a")]:
        ended = bench.run("echo never", output_path=str(tmp_path / name))
        assert (ended.why, ended.code) == ("start", 1)
        assert said in (ended.detail or "")
    assert victim.read_text() == "precious"


def test_row_53_a_fifo_that_somebody_reads_and_a_socket_are_refused_too(bench: Bench, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name, said in (("fifo", "it is not a file"), ("socket", "No such device")):
            ended = bench.run("echo never", output_path=str(tmp_path / name))
            assert (ended.why, said in (ended.detail or "")) == ("start", True)
    os.close(reader)


@pytest.mark.parametrize("path", ["../../secret", "a/../../secret", "./..//../secret"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a job as another user")
def test_row_52_a_path_that_climbs_out_reaches_what_the_user_may_write_and_no_more(
    bench: Bench, open_dir: Path, path: str
) -> None:
    work = open_dir / "home" / "ada"
    (work / "a").mkdir(parents=True)
    os.chown(work, 54321, 54321)
    (secret := open_dir / "secret").write_text("precious")
    who = {"uid": 54321, "gid": 54321, "groups": (), "work_dir": str(work)}
    ended = bench.run("echo never", output_path=f"{work}/{path}", **who)
    assert (ended.why, secret.read_text()) == ("start", "precious")
    assert "Permission denied" in (ended.detail or "")


# --- input ------------------------------------------------------------------------------------------------------------


def test_an_input_file_is_the_jobs_stdin(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("one two\n")
    ended = bench.run("read a b; echo $b $a", input_path=str(tmp_path / "in"))
    assert (ended.code, log(bench.last)) == (0, b"two one\n")


def test_row_53_an_input_that_is_no_file_is_refused_and_never_waited_for(bench: Bench, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, said in (("fifo", "it is not a file"), ("", "it is not a file"), ("none", "No such file")):
        ended = bench.run("echo never", input_path=f"{tmp_path}/{name}")
        assert ended.why == "start"
        assert f"cannot open the input file {tmp_path}/{name}: {said}" in (ended.detail or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a job as another user")
def test_row_52_an_input_is_read_with_the_users_rights(bench: Bench, open_dir: Path) -> None:
    (secret := open_dir / "secret").write_text("precious")
    secret.chmod(0o600)
    (open_dir / "link").symlink_to(secret)
    for name in ("secret", "link"):
        ended = bench.run("cat", input_path=str(open_dir / name), uid=54321, gid=54321, groups=())
        assert (ended.why, b"precious" in log(bench.last)) == ("start", False)
        assert "Permission denied" in (ended.detail or "")


def test_a_folder_made_once_the_id_is_known_is_waited_for_as_submitit_needs_it(bench: Bench, tmp_path: Path) -> None:
    """sbatch's answer is what submitit makes `log/JOBID` from, while the job begins already."""
    attempt = bench.launched("echo err >&2", output_path=f"{tmp_path}/out", error_path=f"{tmp_path}/17/err")
    until((tmp_path / "out").exists)  # the other file is next
    (tmp_path / "17").mkdir()
    assert (finish(attempt).code, crash(attempt)) == (0, "")
    assert (tmp_path / "17" / "err").read_text() == "err\n"


def test_who_is_asked_to_stop_while_it_waits_for_a_folder_did_not_fail(bench: Bench, tmp_path: Path) -> None:
    files = {"output_path": f"{tmp_path}/out", "error_path": f"{tmp_path}/none/err"}
    attempt = bench.launched(f"touch {tmp_path}/ran", **files)
    until((tmp_path / "out").exists)
    stop(attempt)
    ended = finish(attempt)
    assert (ended.why, "by alice before it began" in (ended.detail or "")) == ("cancel", True)
    assert not (tmp_path / "ran").exists()


def test_a_missing_folder_of_the_output_is_a_start_failure_as_in_slurm(bench: Bench, tmp_path: Path) -> None:
    for field in ("output_path", "error_path"):
        ended = bench.run(f"touch {tmp_path}/ran", **{field: f"{tmp_path}/none/out"})
        assert ended.why == "start"
        assert f"cannot open the output file {tmp_path}/none/out: No such file" in (ended.detail or "")
        assert "--output" in (ended.detail or "")
    assert not (tmp_path / "ran").exists()


def test_a_path_that_is_no_text_is_opened_as_its_bytes_and_told_readably(bench: Bench, tmp_path: Path) -> None:
    assert bench.run("echo hello", output_path=f"{tmp_path}/\udcff").why is None
    assert Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).read_text() == "hello\n"
    ended = bench.run("echo never", output_path=f"{tmp_path}/\udcfe/out")
    assert (ended.detail or "").encode().startswith(f"cannot open the output file {tmp_path}/\\udcfe/out".encode())


def test_row_53_links_planted_in_the_attempts_folder_are_refused(bench: Bench, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("run.lock", "exit.tmp", "started.tmp", "log"):
        attempt = bench.attempt("echo hello")
        (attempt.path / name).symlink_to(victim)
        with subprocess.Popen(_shim(attempt), stderr=subprocess.DEVNULL) as child:
            child.wait(timeout=30)
        assert victim.read_text() == "precious"


# --- full disks -------------------------------------------------------------------------------------------------------


def test_an_output_file_whose_disk_is_full_does_not_end_the_job(bench: Bench) -> None:
    ended = bench.run("seq 1000; exit 3", output_path="/dev/full")
    assert ended.code == 3
    assert "/dev/full is not whole: No space left on device" in (ended.detail or "")
    assert log(bench.last).endswith(b"1000\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_state_disk_costs_log_but_no_outcome(tmp_path: Path) -> None:
    """The exit record has its space set aside; the log takes up again when there is space."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", str(disk)], check=True)
    try:
        bench = Bench(disk)
        wait = "while [ ! -e {0} ]; do sleep 0.01; done".format
        full, wrote, free = tmp_path / "full", tmp_path / "wrote", tmp_path / "free"
        attempt = bench.running(f"echo READY; {wait(full)}; seq 100000; touch {wrote}; {wait(free)}; echo LAST; exit 5")
        ballast = disk / "ballast"
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(b"x" * 2 * MIB)
        full.touch()
        until(wrote.exists)
        ballast.unlink()
        free.touch()
        ended = finish(attempt)
        pieces = logread.read(attempt, 0, 10 * MIB)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert (ended.code, ended.log_bytes) == (5, len("READY\nLAST\n") + 588895)
    assert pieces[0].data.startswith(b"READY\n")
    assert sum(len(piece.data) for piece in pieces) < ended.log_bytes
    assert (pieces[-1].data[-5:], pieces[-1].end) == (b"LAST\n", ended.log_bytes)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_state_disk_that_is_full_at_the_start_refuses_the_launch(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", str(disk)], check=True)
    try:
        attempt = Bench(disk).attempt("echo never")
        with pytest.raises(OSError, match="No space"):
            (disk / "ballast").write_bytes(b"x" * MIB)
        done = subprocess.run(_shim(attempt), capture_output=True, timeout=30)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert done.returncode == 74
    assert b"No space left on device; free or mend the disk" in done.stderr


def test_a_closed_reader_elsewhere_and_sigpipe_end_only_the_job(bench: Bench, tmp_path: Path) -> None:
    """SIGPIPE has its default action in the job, as in a shell."""
    writer = program(tmp_path / "writer", "import os\nwhile True: os.write(1, b'x' * 4096)\n")
    ended = bench.run(f"{writer} | head -c 10; exit ${{PIPESTATUS[0]}}")
    assert ended.code == 128 + signal.SIGPIPE or ended.code == 1  # Python ignores SIGPIPE for itself


def _shim(attempt: AttemptDir) -> list[str]:
    from agent.engine.launch import shim_command

    return [*shim_command(sys.executable), str(attempt.path)]


def _disk(attempt: AttemptDir) -> int:
    """Bytes of the log's files."""
    sizes = []
    for path in attempt.path.glob("log*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return sum(sizes)


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_job_that_says_nothing_has_no_log_and_reads_as_one_that_is_empty(bench: Bench) -> None:
    assert bench.run("exit 0").code == 0
    attempt = bench.last
    assert not (attempt.path / "log").exists()
    assert (logread.read(attempt, 0, 100), logread.size(attempt), logread.offset_since(attempt, 0.0)) == ([], 0, 0)
    assert logread.grep(attempt, b"x", 0, 100, ended=True).lines == []
