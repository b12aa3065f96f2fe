"""`srun` and `scontrol` inside of a job: real processes, with the interpreter's flags as jobs have them."""

from __future__ import annotations

import importlib.util
import os
import select
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from agent.step import tools
from tests.fakes.ports import free_port
from tests.fakes.steps import READY, ROOT, Steps
from tests.fakes.steps import steps as steps

TORCH = importlib.util.find_spec("torch") is not None


# --- ranks and their environment --------------------------------------------------------------------------------------


def test_each_rank_is_told_its_place(steps: Steps) -> None:
    names = "SLURM_PROCID SLURM_LOCALID SLURM_NTASKS SLURM_NPROCS SLURM_NODEID SLURM_STEP_ID SLURM_STEP_NUM_TASKS"
    names += " SLURM_NODELIST SLURM_LAUNCH_NODE_IPADDR SLURM_TASK_PID"
    done = steps.run(
        "-l",
        "sh",
        "-c",
        f"for each in {names}; do eval echo $each=\\$$each; done; echo pid=$$",
        SLURM_JOB_NODELIST="box",
    )
    ranks = [
        dict(line[3:].split("=") for line in done.stdout.splitlines() if line.startswith(f"{n}: ")) for n in (0, 1)
    ]
    for number, rank in enumerate(ranks):
        assert rank["SLURM_PROCID"] == rank["SLURM_LOCALID"] == str(number)
        assert rank["SLURM_NTASKS"] == rank["SLURM_NPROCS"] == rank["SLURM_STEP_NUM_TASKS"] == "2"
        assert (rank["SLURM_NODEID"], rank["SLURM_STEP_ID"], rank["SLURM_NODELIST"]) == ("0", "0", "box")
        assert rank["SLURM_LAUNCH_NODE_IPADDR"] == "127.0.0.1"
        assert rank["SLURM_TASK_PID"] == rank["pid"]


def test_steps_are_numbered_and_begin_anew_with_each_attempt(steps: Steps) -> None:
    ask = ("-n1", "sh", "-c", "echo $SLURM_STEP_ID")
    assert [steps.run(*ask).stdout for _ in range(2)] == ["0\n", "1\n"]
    assert steps.run(*ask, JOB_ATTEMPT="2").stdout == "0\n"
    (steps.folder / ".steps").write_bytes(b"\xff\0 not a number")
    assert steps.run(*ask).stdout == "0\n"


def test_one_word_each_however_odd(steps: Steps) -> None:
    odd = ["$HOME", "a b", "", "-n", "--", "*", "æ漢", "'\"`\\"]
    done = steps.run("-n1", sys.executable, "-c", "import sys; print(sys.argv[1:])", *odd)
    assert done.stdout == f"{odd}\n"


def test_gpus_are_dealt_out(tmp_path: Path) -> None:
    steps = Steps(tmp_path, gpus=4)
    ask = ("-l", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert sorted(steps.run("--gpus-per-task=2", *ask).stdout.splitlines()) == ["0: GPU-0,GPU-1", "1: GPU-2,GPU-3"]
    assert sorted(steps.run(*ask).stdout.splitlines()) == [f"{n}: GPU-0,GPU-1,GPU-2,GPU-3" for n in (0, 1)]
    assert sorted(steps.run(*ask, SLURM_GPUS_PER_TASK="1").stdout.splitlines()) == ["0: GPU-0", "1: GPU-1"]
    assert sorted(steps.run("--gpu-bind=map_gpu:3,1", *ask).stdout.splitlines()) == ["0: GPU-3", "1: GPU-1"]
    assert sorted(steps.run("--gres=gpu:a100:1", *ask).stdout.splitlines()) == ["0: GPU-0", "1: GPU-0"]
    refused = steps.run("--gpus-per-task=3", *ask)
    assert refused.returncode == 1
    assert refused.stderr == (
        "srun: error: Unable to create step for job 17: Invalid generic resource (gres) specification\n"
    )


def test_steps_side_by_side_get_different_gpus(tmp_path: Path) -> None:
    steps = Steps(tmp_path, gpus=2)
    script = READY.replace("$SLURM_PROCID", "$NAME") + "echo $CUDA_VISIBLE_DEVICES; read line"
    first = steps.start("-n1", "-G1", "sh", "-c", script, NAME="1")
    second = steps.start("-n1", "--gres=gpu:1", "--exact", "sh", "-c", script, NAME="2")
    steps.ready(2)
    third = steps.start("-n1", "-G1", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert third.stderr is not None
    assert "step creation temporarily disabled, retrying" in third.stderr.readline()
    held = {step.communicate("go\n", timeout=30)[0] for step in (first, second)}
    assert held == {"GPU-0\n", "GPU-1\n"}
    assert third.communicate(timeout=30)[0] in held


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["-n5", "true"], 1, "srun: error: Unable to create step for job 17: More processors requested than permitted"),
        (["-n2", "-c3", "true"], 1, "srun: error: Unable to create step for job 17: More processors"),
        (["-N2", "true"], 1, "srun: error: Unable to create step for job 17: Requested node configuration"),
        (["--nope", "true"], 255, "srun: unrecognized option '--nope'\nTry \"srun --help\" for more information"),
        (["-y", "true"], 255, "srun: invalid option -- 'y'"),
        (["--gpu", "1", "true"], 255, "srun: option '--gpu' is ambiguous"),
        (["-n"], 255, "srun: option requires an argument -- 'n'"),
        (["-n", "many", "true"], 1, 'srun: error: Invalid numeric value "many" for --ntasks.'),
        (["-n", "0", "true"], 1, 'srun: error: Invalid numeric value "0" for --ntasks.'),
        (["--multi-prog", "f"], 1, "srun: error: Could not open multi_prog config file f"),
        (["--jobid=3", "true"], 1, "srun: error: --jobid=3: from inside of a job only its own"),
        (["--mpi=pmix", "true"], 1, "srun: error: --mpi=pmix is not offered here"),
        (["-o", "/nowhere/x", "true"], 1, "srun: error: Could not open output file /nowhere/x: No such file"),
        (["--open-mode=sideways", "true"], 1, "srun: error: Invalid --open-mode argument"),
        (["-o", "/nowhere/%²t", "true"], 1, "srun: error: Could not open output file /nowhere/%²t: No such file"),
        (["-i", "²", "true"], 1, "srun: error: Could not open stdin file ²: No such file"),
        (["-t", "soon", "true"], 1, "srun: error: Invalid --time specification"),
        ([], 1, "srun: fatal: No command given to execute."),
        (["nope-\x1b[31m"], 2, "slurmstepd-n1: error: execve(): nope-?[31m: No such file or directory"),
    ],
)
def test_refusals_in_slurms_words(steps: Steps, words: list[str], code: int, sentence: str) -> None:
    done = steps.run(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(sentence)


def test_outside_of_a_job_it_says_so(steps: Steps) -> None:
    done = steps.run("true", SLURM_JOB_ID="")
    assert done.returncode == 1
    assert "not inside of a job" in done.stderr


def test_a_guard_that_is_killed_costs_the_guard_and_not_the_step(steps: Steps) -> None:
    step = steps.start("-n2", "sh", "-c", READY + "read line; exit 3")
    ranks = steps.ready(2)
    (guard,) = (child for child in psutil.Process(step.pid).children() if child.pid not in ranks)
    over = os.pidfd_open(guard.pid)
    guard.kill()
    assert select.select([over], [], [], 30)[0]
    os.close(over)
    told = step.communicate("go\ngo\n", timeout=30)[1]
    assert (step.returncode, "Traceback" in told) == (3, False), told


def test_options_of_the_job_are_taken(steps: Steps) -> None:
    words = "--exact --overlap --cpu-bind=cores --mem=1G --exclusive -A lab -p main --mpi=none -N1 --unbuffered -v -n 1"
    assert steps.run(*words.split(), "--job-name", "x", "echo", "ok").stdout == "ok\n"


# --- output -----------------------------------------------------------------------------------------------------------


def test_lines_of_many_ranks_stay_whole(tmp_path: Path) -> None:
    steps = Steps(tmp_path, cpus=8, tasks=8)
    program = "import os\nr = os.environ['SLURM_PROCID']\nfor n in range(400): print(r * 300, flush=n % 7 == 0)"
    done = steps.run(sys.executable, "-c", program)
    assert sorted(set(done.stdout.splitlines())) == [str(rank) * 300 for rank in range(8)]
    assert len(done.stdout.splitlines()) == 8 * 400


def test_a_last_line_without_its_end_is_ended_only_where_another_follows(steps: Steps) -> None:
    assert steps.run("printf", "x").stdout == "x\nx"
    assert steps.run("-l", "printf", "x").stdout in ("0: x\n1: x\n", "1: x\n0: x\n")
    assert steps.run("-n1", "printf", "x").stdout == "x"


def test_labels_are_as_wide_as_the_highest_rank(tmp_path: Path) -> None:
    steps = Steps(tmp_path, cpus=11, tasks=11)
    lines = sorted(steps.run("-l", "echo", "a").stdout.splitlines())
    assert lines == sorted([f" {rank}: a" for rank in range(10)] + ["10: a"])


def test_output_goes_to_the_files_that_the_patterns_name(steps: Steps) -> None:
    done = steps.run("-o", "out-%j.%s-%3t", "-e", "err-%x", "sh", "-c", "echo $SLURM_PROCID; echo oops >&2")
    assert (done.stdout, done.stderr) == ("", "")
    assert [(steps.folder / f"out-17.0-00{rank}").read_text() for rank in (0, 1)] == ["0\n", "1\n"]
    assert (steps.folder / "err-train").read_text() == "oops\noops\n"


def test_one_file_takes_both_streams_and_a_requeued_job_adds_to_it(steps: Steps) -> None:
    words = ("-n1", "-o", "log", "sh", "-c", "echo a; echo b >&2")
    steps.run(*words)
    steps.run(*words)
    assert (steps.folder / "log").read_text() == "a\nb\n"
    steps.run(*words, SLURM_RESTART_COUNT="1")
    steps.run(*words, SLURM_OPEN_MODE="a")
    assert (steps.folder / "log").read_text() == "a\nb\n" * 3


def test_output_of_one_rank_or_none(steps: Steps) -> None:
    ask = ("sh", "-c", "echo $SLURM_PROCID")
    assert steps.run("-o", "1", *ask).stdout == "1\n"
    assert steps.run("-o", "none", *ask).stdout == ""


def test_all_ranks_read_all_of_the_input(steps: Steps) -> None:
    text = "line\n" * 50_000
    done = steps.run("-l", sys.executable, "-c", "import sys; print(len(sys.stdin.read()))", given=text)
    assert sorted(done.stdout.splitlines()) == [f"{rank}: {len(text)}" for rank in (0, 1)]
    one = steps.run("-l", "-i1", sys.executable, "-c", "import sys; print(len(sys.stdin.read()))", given=text)
    assert sorted(one.stdout.splitlines()) == ["0: 0", f"1: {len(text)}"]


def test_a_rank_that_does_not_read_holds_nobody_up(steps: Steps) -> None:
    done = steps.run("sh", "-c", "[ $SLURM_PROCID = 0 ] || wc -l", given="line\n" * 100_000)
    assert done.stdout.strip() == "100000"


def test_a_reader_that_goes_away_does_not_end_the_ranks(steps: Steps) -> None:
    script = f'"{steps.bin}/srun" -n2 sh -c "seq 100000; echo done > done-\\$SLURM_PROCID" | head -n 1'
    subprocess.run(["sh", "-c", script], env=steps.env, cwd=steps.folder, timeout=60, check=True, capture_output=True)
    assert len(steps.wait_files("done-*", 2)) == 2


# --- scontrol, and the wrappers ---------------------------------------------------------------------------------------


def test_hostnames_without_any_daemon(steps: Steps) -> None:
    def ask(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["scontrol", *words], env=steps.env | more, executable=steps.bin / "scontrol",
                              capture_output=True, text=True, timeout=30)  # fmt: skip

    assert ask("show", "hostnames").stdout == "n1\n"
    assert ask("show", "hostnames", "n[1-3,05-07],m2").stdout.split() == ["n1", "n2", "n3", "n05", "n06", "n07", "m2"]
    assert ask("show", "hostlist", "n1,n2,n3").stdout == "n[1-3]\n"
    assert ask("show", "hostnames", SLURM_JOB_NODELIST="").stderr == "scontrol: error: host list is empty\n"
    bad = ask("show", "hostnames", "n[1-")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "bracket" in bad.stderr


def test_wrappers_are_whole_stay_and_are_mended(tmp_path: Path) -> None:
    folder = tmp_path / "it's a $folder"
    socket_path = tmp_path / 'so"ck$et}`'
    tools.install(folder, sys.executable, socket_path)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(tools.STEP_COMMANDS) <= set(before)
    assert all(path.stat().st_mode & 0o777 == 0o755 for path in folder.iterdir())
    (folder / "srun").write_text("broken")
    tools.install(folder, sys.executable, socket_path)
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"srun"}
    told = (folder / "scontrol").read_text().replace("exec ", "exec printf '%s' \"$STOKER_SOCKET\" # ")
    assert subprocess.run(["sh", "-c", told], capture_output=True, text=True, env={}).stdout == str(socket_path)


def test_a_step_starts_fast(steps: Steps) -> None:
    """Every import is paid by every `srun`: only the standard library's C half and our own modules."""
    program = (
        "import sys; sys.path.append(sys.argv[1]); from agent.step import step; "
        "print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program, str(ROOT)], capture_output=True, text=True)
    heavy = {"re", "enum", "typing", "json", "dataclasses", "argparse", "subprocess", "msgspec", "ctypes", "pathlib"}
    assert not heavy & set(done.stdout.split())


# --- attach: the job's half of salloc -------------------------------------------------------------------------------


def test_attach_without_anybody_outside_says_where_it_is(steps: Steps) -> None:
    done = subprocess.run(
        [steps.bin / "stoker-attach", str(steps.folder / "nobody"), "true"],
        env=steps.env,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 69
    assert "cannot reach the terminal from n1" in done.stderr


def test_attach_gives_its_command_the_three_streams_and_no_copy_of_them(steps: Steps) -> None:
    """A copy that a daemon of the command's kept open would hold up whoever reads the stream to its end."""
    with tempfile.TemporaryDirectory(prefix="stk-") as folder, socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{folder}/s")
        door.listen()
        ours, theirs = os.pipe()
        command = [str(steps.bin / "stoker-attach"), f"{folder}/s", "ls", "/proc/self/fd"]
        with subprocess.Popen(command, env=steps.env) as attach, open(ours, "rb") as heard:
            link, _ = door.accept()
            with link:
                socket.send_fds(link, [b"f"], [theirs, theirs, theirs])
                os.close(theirs)
                assert heard.read().split() == [b"0", b"1", b"2", b"3"]  # 3: the folder that ls reads
                assert link.recv(64) == b"exit 0\n"
            assert attach.wait(30) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as another user")
def test_attach_takes_no_terminal_of_another_account(steps: Steps) -> None:
    program = (
        "import os, socket, sys\nos.setuid(65534)\ndoor = socket.socket(socket.AF_UNIX)\ndoor.bind(sys.argv[1])\n"
        "door.listen()\nprint('ready', flush=True)\ndoor.accept()\nsys.stdin.read()\n"
    )
    with tempfile.TemporaryDirectory(prefix="stk-") as folder:
        os.chmod(folder, 0o777)
        words = [sys.executable, "-c", program, f"{folder}/s"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stranger:
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == "ready\n"
            command = [str(steps.bin / "stoker-attach"), f"{folder}/s", "touch", "taken"]
            done = subprocess.run(command, env=steps.env, cwd=folder, capture_output=True, text=True, timeout=30)
            stranger.communicate(timeout=30)
        assert not os.path.exists(f"{folder}/taken")
    assert done.returncode == 69
    assert "belongs to another account" in done.stderr


# --- torch ------------------------------------------------------------------------------------------------------------

_DDP = """\
import os, torch, torch.distributed as dist
os.environ.setdefault("RANK", os.environ["SLURM_PROCID"])
os.environ.setdefault("WORLD_SIZE", os.environ["SLURM_NTASKS"])
os.environ.setdefault("MASTER_ADDR", os.environ["SLURM_LAUNCH_NODE_IPADDR"])
dist.init_process_group("gloo")
value = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(value)
line = f"rank {dist.get_rank()} of {dist.get_world_size()} sum {value.item()}\\n"
os.write(1, line.encode())  # in one piece: torchrun's ranks share a pipe
dist.destroy_process_group()
"""


@pytest.mark.skipif(not TORCH, reason="the train extra is not installed")
@pytest.mark.parametrize("launcher", ["python", "torchrun"])
def test_torch_distributed_runs_unchanged(steps: Steps, launcher: str) -> None:
    (steps.folder / "ddp.py").write_text(_DDP)
    port = str(free_port())
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    words = ["-n1", sys.executable, *torchrun] if launcher == "torchrun" else ["-n2", sys.executable]
    env = {"MASTER_PORT": port, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = steps.run(*words, "ddp.py", timeout_s=110, **env)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"rank {rank} of 2 sum 3.0" for rank in (0, 1)]
    assert not os.path.exists(steps.folder / "core")
