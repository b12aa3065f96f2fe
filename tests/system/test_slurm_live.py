"""Slurm's names on a real agent: the queue's commands, `srun` and `salloc` from outside, and inside of a job."""

from __future__ import annotations

import os
import pty
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from agent.api.types import JobState
from tests.fakes.daemons import wait_final, wait_until
from tests.fakes.shell import Shell, text
from tests.fakes.shell import made as made
from tests.fakes.shell import shell as shell


def test_a_job_from_sbatch_to_sacct(shell: Shell) -> None:
    (shell.folder / "train.sh").write_text(
        "#!/bin/sh\n#SBATCH -J train -t 10 -n 2 -G 2\n#SBATCH -o out-%j\n"
        "srun -l sh -c 'echo rank $SLURM_PROCID'\nexit 3\n"
    )
    done = shell.run("sbatch", "--wait", "train.sh")
    assert done.returncode == 3
    number = done.stdout.removeprefix("Submitted batch job ").strip()
    assert sorted(text(shell.folder / f"out-{number}").splitlines()) == ["0: rank 0", "1: rank 1"]
    fields = "JobID,JobName,State,ExitCode,AllocCPUS,Timelimit,NodeList"
    assert shell.out("sacct", "-P", "-n", "-j", number, "-o", fields).splitlines() == [
        f"{number}|train|FAILED|3:0|2|00:10:00|n1",
        f"{number}.batch|batch|FAILED|3:0|2||n1",
        f"{number}.0|sh|COMPLETED|0:0|2||n1",
    ]
    told = shell.out("sacct", "-P", "-n", "-j", f"{number}.0", "-o", "JobID,NTasks,MaxRSS,Elapsed").strip().split("|")
    assert told[:2] == [f"{number}.0", "2"]
    assert int(told[2].removesuffix("K")) > 100
    shown = shell.out("scontrol", "show", "job", number)
    assert "JobState=FAILED Reason=NonZeroExitCode" in shown
    assert f"StdOut={shell.folder}/out-{number}" in shown
    assert shell.out("seff", number).startswith(f"Job ID: {number}\nCluster: ")


def test_what_is_said_of_a_waiting_job(shell: Shell) -> None:
    first = shell.submit("-G2", "--wrap", "sleep 300")
    wait_until(lambda: shell.state(first) == "RUNNING", "the first runs")
    second = shell.submit("-G1", "-t", "5", "-J", "waits", "--wrap", "true")
    wait_until(lambda: "(Resources)" in shell.out("squeue", "-j", second), "squeue tells why it waits")
    assert shell.out("squeue", "-h", "-j", second, "-o", "%i %j %t %l %Q").split()[:4] == [
        second,
        "waits",
        "PD",
        "5:00",
    ]
    assert shell.out("sinfo", "-h", "-o", "%t").splitlines()[0] == "alloc"
    shell.out("scontrol", "update", f"JobId={second}", "TimeLimit=7", "Nice=5")
    assert shell.out("squeue", "-h", "-j", second, "-o", "%l %y").split() == ["7:00", "5"]
    shell.out("scontrol", "hold", second)
    wait_until(lambda: "(JobHeld" in shell.out("squeue", "-j", second), "it is held")
    shell.out("scontrol", "release", second)
    third = shell.submit("-d", f"afterany:{first}:{second}", "--wrap", "true")
    awaited = f"afterany:{first}(unfulfilled),afterany:{second}(unfulfilled)"
    assert shell.out("squeue", "-h", "-j", third, "-o", "%E %r").split() == [awaited, "Dependency"]
    assert f"Dependency={awaited}\n" in shell.out("scontrol", "show", "job", third)
    plan = shell.run("sbatch", "--test-only", "-G1", "--wrap", "true")
    assert plan.returncode == 0 or "allocation failure" in plan.stderr
    shell.out("scancel", first)
    wait_until(lambda: shell.state(first).startswith(f"CANCELLED by {os.getuid()}"), "the first is cancelled")
    wait_until(lambda: shell.state(second) == "COMPLETED", "the second had its turn")


def test_arrays(shell: Shell) -> None:
    number = shell.submit(
        "-a", "1-4%2", "-o", "o-%A-%a", "--wrap", "echo $SLURM_ARRAY_TASK_ID; [ $SLURM_ARRAY_TASK_ID != 3 ]"
    )
    wait_until(
        lambda: "PENDING" not in shell.state(number) and "RUNNING" not in shell.state(number), "all have ended", 60
    )
    lines = shell.out("sacct", "-n", "-X", "-P", "-o", "JobID,State", "-j", number).splitlines()
    states = ["COMPLETED", "COMPLETED", "FAILED", "COMPLETED"]
    assert lines == [f"{number}_{task}|{state}" for task, state in zip(range(1, 5), states, strict=True)]
    assert text(shell.folder / f"o-{number}-2") == "2\n"


def test_many_tasks_of_an_array_are_ended_in_one_go(shell: Shell) -> None:
    number = shell.submit("-H", "-a", "1-60", "-J", "many", "--wrap", "true")
    shell.out("scancel", f"{number}_[5-40]", f"{number}_[58-70]")
    left = shell.out("squeue", "-h", "-r", "-n", "many", "-o", "%K").split()
    assert {int(each) for each in left} == {*range(1, 5), *range(41, 58)}
    shell.out("scancel", "-n", "many", "-t", "PENDING")
    assert shell.out("squeue", "-h", "-n", "many") == ""


def test_refusals_are_sbatchs(shell: Shell) -> None:
    for words in (["-G99", "--wrap", "true"], ["-p", "nope", "--wrap", "true"], ["--mem=x", "--wrap", "true"]):
        done = shell.run("sbatch", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("sbatch: error: Batch job submission failed: ")


def test_names_inside_of_a_job(shell: Shell) -> None:
    script = """\
#!/bin/sh
#SBATCH -o inside
scontrol show hostnames
squeue -h -j $SLURM_JOB_ID -w $SLURM_JOB_NODELIST -o %t
inner=$(sbatch --parsable -o inner --wrap 'echo from inside')
echo $inner
scontrol show job $SLURM_JOB_ID | head -n 1
scontrol show node $SLURM_JOB_NODELIST | head -n 1
sinfo -h -n $SLURM_JOB_NODELIST -o %n
"""
    (shell.folder / "job.sh").write_text(script)
    done = shell.run("sbatch", "--wait", "job.sh", STOKER_SOCKET=shell.env["STOKER_SOCKET"])
    assert done.returncode == 0, text(shell.folder / "inside")
    host, state, inner, shown, node, named = text(shell.folder / "inside").splitlines()
    assert (node.split()[0], named) == ("NodeName=n1", "n1")
    assert state == "R"
    assert socket.getaddrinfo(host, None), "torchrun can be told it as its MASTER_ADDR"
    assert shown.startswith("JobId=")
    wait_until(lambda: text(shell.folder / "inner") == "from inside\n", f"job {inner} runs too")


def test_a_job_requeues_itself_and_exits(shell: Shell) -> None:
    """How Lightning and many a trap for USR1 end: the script has exited before anybody could stop it."""
    (shell.folder / "again.sh").write_text(
        "#!/bin/bash\n#SBATCH -o again-%j --open-mode=append\necho run $SLURM_RESTART_COUNT\n"
        "[ $SLURM_RESTART_COUNT = 1 ] || scontrol requeue $SLURM_JOB_ID\nexit 0\n"
    )
    done = shell.run("sbatch", "--wait", "again.sh")
    number = done.stdout.removeprefix("Submitted batch job ").strip()
    assert (done.returncode, shell.state(number)) == (0, "COMPLETED")
    ran = text(shell.folder / f"again-{number}").splitlines()
    assert [line for line in ran if not line.endswith(" DUE TO JOB REQUEUE ***")] == ["run 0", "run 1"]


def test_srun_from_outside(shell: Shell) -> None:
    done = shell.run("srun", "-n2", "-l", "sh", "-c", "echo $SLURM_PROCID $SLURM_NTASKS; exit $((SLURM_PROCID * 4))")
    assert done.returncode == 4, done.stderr
    assert {"0: 0 2", "1: 1 2"} <= set(done.stdout.splitlines())
    refused = shell.run("srun", "-p", "nope", "true")
    assert refused.stderr.startswith("srun: error: Unable to allocate resources: invalid partition specified: nope")
    assert (refused.returncode, refused.stderr.startswith("srun: error: ")) == (1, True)


def test_srun_from_outside_keeps_its_streams_apart(shell: Shell) -> None:
    done = shell.run("srun", "sh", "-c", "cat; echo out; echo err >&2; kill -9 $$", given="typed\n")
    assert (done.returncode, done.stdout) == (137, "typed\nout\n")
    assert done.stderr.splitlines() == ["err", "srun: error: n1: task 0: Killed"]
    missing = shell.run("srun", "no-such-program")
    assert missing.returncode == 2
    assert (
        missing.stderr.splitlines()[0] == "slurmstepd-n1: error: execve(): no-such-program: No such file or directory"
    )


def test_srun_from_outside_runs_several_programs(shell: Shell) -> None:
    (shell.folder / "programs").write_text("0 echo first %t\n* sh -c 'echo other $SLURM_PROCID'\n")
    done = shell.run("srun", "-n3", "-l", "--multi-prog", "programs")
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, ["0: first 0", "1: other 1", "2: other 2"])


def test_srun_from_outside_writes_the_files_that_its_patterns_name(shell: Shell) -> None:
    done = shell.run("srun", "-n2", "-o", "o-%t", "-e", "e-%2t", "sh", "-c", "echo o; echo e >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [text(shell.folder / name) for name in ("o-0", "o-1", "e-00", "e-01")] == ["o\n", "o\n", "e\n", "e\n"]


def test_a_job_that_cannot_come_to_srun_is_followed_by_its_log(shell: Shell) -> None:
    """As from another node: the socket is where the job does not find it."""
    from tui.slurm import terminal

    done = shell.run("srun", "sh", "-c", "echo out; exit 5", XDG_RUNTIME_DIR=str(shell.folder))
    assert (done.returncode, done.stdout) == (5, "out\n")
    door = terminal.Door()
    words = door.command(["sh", "-c", "echo else; exit 6"], "--srun", "--else")
    door.close()
    number = shell.submit("-o", "else", "--wrap", " ".join(map(_quoted, words)))
    wait_until(lambda: shell.state(number) == "FAILED", "it ran without anybody outside")
    assert text(shell.folder / "else") == "else\n"


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def test_two_ctrl_c_cancel_what_srun_started(shell: Shell) -> None:
    srun = shell.start("srun", "sh", "-c", "echo here; exec sleep 300")
    assert srun.stdout is not None
    assert srun.stderr is not None
    assert srun.stdout.readline() == "here\n"
    number = shell.out("squeue", "-h", "-n", "sh", "-o", "%i").strip()
    srun.send_signal(signal.SIGINT)
    assert srun.stderr.readline() == "srun: interrupt (one more within 1 sec to abort)\n"
    assert srun.stderr.readline() == f"srun: StepId={number}.0 task 0: running\n"
    srun.send_signal(signal.SIGINT)
    _, err = srun.communicate(timeout=60)
    assert (srun.returncode, err.splitlines()[0]) == (130, "srun: forcing job termination")
    wait_until(lambda: shell.state(number).startswith(f"CANCELLED by {os.getuid()}"), "the job is cancelled")


def test_ctrl_c_goes_to_the_ranks_where_that_is_wanted(shell: Shell) -> None:
    srun = shell.start(
        "srun", "-X", "sh", "-c", "trap 'echo got it; exit 4' INT; echo here; while :; do sleep 0.1; done"
    )
    assert srun.stdout is not None
    assert srun.stdout.readline() == "here\n"
    srun.send_signal(signal.SIGINT)
    out, err = srun.communicate(timeout=60)
    assert (srun.returncode, out) == (4, "got it\n")
    assert "srun: sending Ctrl-C to StepId=" in err


def test_ctrl_c_takes_an_srun_that_waits_out_of_the_queue(shell: Shell) -> None:
    first = shell.submit("-G2", "--wrap", "sleep 300")
    wait_until(lambda: shell.state(first) == "RUNNING", "the first runs")
    srun = shell.start("srun", "-G1", "-J", "late", "true")
    assert srun.stderr is not None
    assert "queued and waiting for resources" in srun.stderr.readline()
    number = shell.out("squeue", "-h", "-n", "late", "-o", "%i").strip()
    srun.send_signal(signal.SIGINT)
    _, err = srun.communicate(timeout=60)
    told = f"srun: Job allocation {number} has been revoked\nsrun: Force Terminated JobId={number}\n"
    assert (srun.returncode, err) == (1, told)
    assert shell.state(number).startswith("CANCELLED")


def test_salloc_says_what_is_wrong_as_slurm_does(shell: Shell) -> None:
    done = shell.run("salloc", "no-such-command")
    number = re.findall(r"allocation (\d+)", done.stderr)[0]
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"salloc: Granted job allocation {number}",
        'salloc: error: _fork_command: Unable to find command "no-such-command"',
        f"salloc: Relinquishing job allocation {number}",
    ]
    assert shell.run("salloc", "-Q", "sh", "-c", "kill -9 $$").returncode == 0  # as salloc: its user did that
    assert shell.run("salloc", "-Q", "sh", "-c", "kill -11 $$").returncode == 1


def test_reservations_are_made_and_deleted_by_scontrol(shell: Shell) -> None:
    line = "create reservation=course user=root starttime=now+1day duration=60 nodes=ALL"
    try:
        assert shell.out("scontrol", *line.split()) == "Reservation created: course\n"
        assert shell.out("sinfo", "-T").splitlines()[1].startswith("course     INACTIVE")
        refused = shell.run("scontrol", *line.split())
        assert refused.stderr.startswith("Error creating the reservation: Duplicate reservation name")
        wrong = shell.run("scontrol", *line.replace("duration=60", "duration=soon").replace("course", "c2").split())
        assert wrong.stderr.startswith("scontrol: error: Invalid duration duration=soon")
    finally:
        gone = shell.run("scontrol", "delete", "reservation=course")
    assert (gone.returncode, gone.stdout, gone.stderr) == (0, "", "")
    assert shell.out("scontrol", "show", "reservation") == "No reservations in the system\n"


def test_the_rules_are_read_again_by_scontrol(shell: Shell) -> None:
    before = shell.box.config.read_text()
    try:
        shell.box.config.write_text(before + "[limits]\nmax_submit_per_user = 1\n")
        assert shell.out("scontrol", "reconfigure") == ""
        shell.submit("-H", "--wrap", "true")
        assert shell.run("sbatch", "--wrap", "true").returncode == 1
        shell.box.config.write_text(before + "[limits]\nmax_submit_per_usr = 1\n")
        assert "max_submit_per_usr" in shell.run("scontrol", "reconfigure").stderr
    finally:
        shell.box.config.write_text(before)
        shell.out("scontrol", "reconfigure")
    shell.submit("-H", "--wrap", "true")


def test_limits_grow_and_shrink(shell: Shell) -> None:
    number = shell.submit("-t", "30", "-J", "grown", "--wrap", "sleep 300")
    wait_until(lambda: shell.state(number) == "RUNNING", "it runs")
    shell.out("scontrol", "update", f"job={number}", "timelimit+=30")
    shell.out("scontrol", "update", f"jobid={number}", "timelimit-=10")
    shown = shell.out("scontrol", "show", "job", number)
    assert "TimeLimit=00:50:00" in shown
    assert re.search(r"Priority=[1-9]", shown)
    refused = shell.run("scontrol", "update", f"jobid={number}", "timelimit-=1-00:00:00")
    assert refused.stderr.startswith("scontrol: error: TimeLimit decrement larger than current time limit (1440 > 50)")
    assert shell.run("scontrol", "update", f"jobid={number}", "timelimit-=abc").returncode == 1


def test_salloc_runs_a_command_in_the_job(shell: Shell) -> None:
    script = "cat; env | grep -E '^(SLURM_JOB_ID|SLURM_NTASKS)='; srun -l sh -c 'echo rank $SLURM_PROCID'"
    script += "; echo oops >&2; exit 6"
    done = shell.run("salloc", "-n2", "-G1", "sh", "-c", script, given="typed\n")
    assert done.returncode == 6, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "typed"
    assert {"SLURM_NTASKS=2", "0: rank 0", "1: rank 1"} <= set(lines)
    number = next(line for line in lines if line.startswith("SLURM_JOB_ID=")).partition("=")[2]
    told = done.stderr.splitlines()
    assert f"salloc: Granted job allocation {number}" in told
    assert "oops" in told
    assert told[-1] == f"salloc: Relinquishing job allocation {number}"
    wait_until(lambda: shell.state(number) == "FAILED", "the allocation has ended")


def test_salloc_on_a_terminal(shell: Shell) -> None:
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(shell.folder)
        os.execve(sys.executable, shell.words("salloc"), shell.env)
    read_until(fd, b"Granted job allocation")
    # What is typed is echoed: the quotes keep that from being taken for the answer.
    os.write(fd, b"tty; sh -c 'echo jo\"\"b=$SLURM_JOB_ID; exec sleep 100'\n")
    said = read_until(fd, b"job=", b"/dev/pts/")
    assert b"not a tty" not in said
    os.write(fd, b"\x03")  # Ctrl-C is the command's in the shell, and ends neither shell nor job
    ask_until(fd, b"echo still $((40 + 2))\n", b"still 42")
    os.write(fd, b"exit 5\n")
    read_until(fd, b"Relinquishing")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(fd)


def test_an_allocation_ends_when_salloc_is_killed(shell: Shell) -> None:
    salloc = shell.start("salloc", "sh", "-c", "echo $SLURM_JOB_ID; sleep 300")
    assert salloc.stdout is not None
    number = salloc.stdout.readline().strip()
    salloc.kill()
    salloc.communicate()
    with shell.box.agent.client() as client:
        assert wait_final(client, int(number)).state is not JobState.COMPLETED


def test_salloc_ends_when_its_job_is_cancelled(shell: Shell) -> None:
    salloc = shell.start("salloc", "sh", "-c", "echo $SLURM_JOB_ID; sleep 300")
    assert salloc.stdout is not None
    number = salloc.stdout.readline().strip()
    shell.out("scancel", number)
    salloc.communicate(timeout=60)
    assert salloc.returncode != 0
    wait_until(lambda: shell.state(number).startswith("CANCELLED"), "the job is cancelled")


def test_interrupting_a_salloc_that_waits_takes_it_out_of_the_queue(shell: Shell) -> None:
    first = shell.submit("-G2", "--wrap", "sleep 300")
    wait_until(lambda: shell.state(first) == "RUNNING", "the first runs")
    salloc = shell.start("salloc", "-G1", "true")
    assert salloc.stderr is not None
    assert "queued and waiting for resources" in salloc.stderr.readline()
    salloc.send_signal(signal.SIGINT)
    _, err = salloc.communicate(timeout=60)
    assert (salloc.returncode, err.splitlines()[-1]) == (1, "salloc: Job aborted due to signal")
    wait_until(lambda: not shell.out("squeue", "-h", "-n", "interactive"), "it is out of the queue")


def test_holding_without_a_shell(shell: Shell) -> None:
    done = shell.run("salloc", "--no-shell", "-t", "5")
    assert done.returncode == 0, done.stderr
    number = done.stderr.strip().rpartition(" ")[2]
    assert shell.state(number) == "RUNNING"


def test_sbatch_costs_little(shell: Shell) -> None:
    """At most 150 ms of processor time, or of ten bare interpreters where the machine is slow or shared."""
    words = ["-H", "-o", "/dev/null", "--wrap", "true"]
    spent = min(_cpu_s(lambda: shell.submit(*words)) for _ in range(5))
    bare = min(_cpu_s(lambda: subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)) for _ in range(5))
    assert spent <= max(0.15, 10 * bare), (spent, bare)


def _cpu_s(work: Callable[[], object]) -> float:
    """Processor time of the children that `work` runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ask_until(fd: int, typed: bytes, wanted: bytes) -> None:
    """Type until there is an answer: a shell that is just being interrupted throws away what was typed before."""
    said, end = b"", time.monotonic() + 60
    while wanted not in said and time.monotonic() < end:
        os.write(fd, typed)
        while wanted not in said and select.select([fd], [], [], 2.0)[0]:
            said += os.read(fd, 65536)
    assert wanted in said, said


def read_until(fd: int, *wanted: bytes) -> bytes:
    """What the terminal shows, until it has shown all that is wanted."""
    said, end = b"", time.monotonic() + 60
    while time.monotonic() < end and not all(each in said for each in wanted):
        if select.select([fd], [], [], 1.0)[0]:
            try:
                said += os.read(fd, 65536)
            except OSError:
                break
    assert all(each in said for each in wanted), said
    return said


def test_reservations_and_partitions_are_changed_by_scontrol(shell: Shell) -> None:
    shell.out(
        "scontrol", *["create", "reservation=course", "user=root", "starttime=now+1day", "duration=60", "nodes=ALL"]
    )
    try:
        for words in ("duration+=30", "users+=daemon", "flags=MAINT"):
            assert shell.out("scontrol", "update", "reservation=course", words) == "Reservation updated.\n"
        shown = shell.out("scontrol", "show", "reservation", "course")
        assert "Duration=01:30:00" in shown
        assert "Users=root,daemon" in shown
        assert "Flags=MAINT,SPEC_NODES" in shown
        late = shell.run("scontrol", "update", "reservation=course", "endtime=now+1hour")
        assert late.stderr.startswith("Error updating the reservation: Invalid time specified")
        wrong = shell.run("scontrol", "update", "reservation=course", "duration=soon")
        assert wrong.stderr.startswith("scontrol: error: Invalid duration duration=soon")
    finally:
        shell.out("scontrol", "delete", "reservation=course")
    try:
        assert shell.out("scontrol", "update", "PartitionName=main", "State=DOWN") == ""
        assert shell.out("sinfo", "-h", "-o", "%a").strip() == "down"
        number = shell.submit("--wrap", "true")
        wait_until(lambda: "(PartitionDown)" in shell.out("squeue", "-j", number), "it waits for that")
        shell.out("scontrol", "update", "partition=main", "state=inactive")
        refused = shell.run("sbatch", "--wrap", "true")
        told = "sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)"
        assert (refused.returncode, refused.stderr.startswith(told)) == (1, True)
    finally:
        shell.out("scontrol", "update", "partition=main", "state=up")
    wait_until(lambda: shell.state(number) == "COMPLETED", "it runs")


def test_a_batch_script_is_written_again(shell: Shell) -> None:
    (shell.folder / "mine.sh").write_text("#!/bin/sh\n# as it was: é\ntrue\n")
    number = shell.submit("-H", "mine.sh")
    assert shell.out("scontrol", "write", "batch_script", number) == (
        f"batch script for job {number} written to slurm-{number}.sh\n"
    )
    written = shell.folder / f"slurm-{number}.sh"
    assert written.read_text() == (shell.folder / "mine.sh").read_text()
    assert shell.out("scontrol", "wri", "batch", number, "-") == written.read_text()
    missing = shell.run("scontrol", "write", "batch_script", "99999")
    assert (missing.returncode, missing.stderr) == (1, "job script retrieval failed: Invalid job id specified\n")
    nowhere = shell.run("scontrol", "write", "batch_script", number, "/nope/x")
    assert nowhere.stderr == "scontrol: error: cannot write /nope/x: No such file or directory\n"


def test_what_is_refused_names_the_users_command(shell: Shell) -> None:
    refused = shell.run("srun", "-n9999", "./train", "--epochs=3")
    assert refused.stderr.startswith("srun: error: Unable to allocate resources: train asks for 9999 CPUs")
