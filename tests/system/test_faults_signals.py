"""A whole agent under signals, with closed descriptors, and with a wall clock that jumps. Rows 29, 30 and 64."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from agent.api.client import Client
from agent.api.errors import ApiError
from agent.api.refs import JobRef
from agent.api.types import JobState, SubmitRequest
from tests.fakes.daemons import Box, activate_evaluation, box, wait_final, wait_until


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with box(tmp_path_factory.mktemp("signals"), gpus=2) as made:
        made.hub.stop()  # it has handed out the seats
        yield made


def submit(client: Client, lab: Box, script: str, *flags: str) -> int:
    request = SubmitRequest(
        script=f"#!/bin/sh\n{script}\n",
        script_name="job.sh",
        flags=("--output=/dev/null", *flags),
        work_dir=str(lab.work_dir),
        env={"PATH": os.environ["PATH"]},
    )
    return client.submit(request, f"key-{time.monotonic_ns()}").job.id


def runs(client: Client, job_id: int) -> bool:
    return client.job(JobRef(id=job_id)).state is JobState.RUNNING


def fifo(lab: Box, name: str) -> Path:
    os.mkfifo(path := lab.root / name)
    return path


def said(lab: Box, text: str) -> bool:
    return times_said(lab, text) > 0


def times_said(lab: Box, text: str) -> int:
    return lab.agent.log.read_text().count(text)


def _more(lab: Box, text: str, than: int) -> bool:
    return times_said(lab, text) > than


def test_row_64_hup_reads_the_rules_again_and_a_wrong_file_keeps_the_old_ones(lab: Box) -> None:
    before = lab.config.read_text()
    try:
        with lab.agent.client() as client:
            lab.config.write_text(before + "[limits]\nmax_submit_per_user = 1\n")
            os.kill(lab.agent.pid, signal.SIGHUP)
            wait_until(lambda: said(lab, "the configuration was read again"), "it was read")
            held = submit(client, lab, "true", "--hold")
            with pytest.raises(ApiError) as caught:
                submit(client, lab, "true")
            assert caught.value.status == 429

            for wrong in ("[limits]\nmax_submit_per_usr = 9\n", "not TOML at all"):
                refused = times_said(lab, "the old one holds: ")
                lab.config.write_text(before + wrong)
                os.kill(lab.agent.pid, signal.SIGHUP)
                wait_until(partial(_more, lab, "the old one holds: ", refused), "it was refused")
                with pytest.raises(ApiError) as caught:
                    submit(client, lab, "true")
                assert caught.value.status == 429, "the rules of the last sound file"
            assert said(lab, "max_submit_per_user")
            assert said(lab, f"{lab.config}:")

            lab.config.unlink()
            os.kill(lab.agent.pid, signal.SIGHUP)
            wait_until(partial(_more, lab, "the old one holds: ", refused + 1), "a file that is gone is refused")
            lab.config.write_text(before)
            os.kill(lab.agent.pid, signal.SIGHUP)
            wait_until(partial(_more, lab, "the configuration was read again", 1), "the first file is back")
            client.cancel(JobRef(id=held))
            assert wait_final(client, submit(client, lab, "exit 5")).exit_code == 5
    finally:
        lab.config.write_text(before)


def test_row_64_a_storm_of_signals_costs_nothing(lab: Box) -> None:
    """SIGWINCH, SIGCHLD and SIGPIPE interrupt system calls by the thousand; callers that hang up give EPIPE."""
    over = threading.Event()

    def storm() -> None:
        while not over.is_set():
            for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGWINCH, signal.SIGURG, signal.SIGCONT):
                os.kill(lab.agent.pid, number)
            time.sleep(0.0005)  # 10,000 signals a second

    thread = threading.Thread(target=storm, name="storm")
    thread.start()
    try:
        with lab.agent.client() as client:
            for number in range(5):
                job = submit(client, lab, f"echo line; exit {number}", "--gpus=1")
                with lab.agent.client() as gone:
                    gone.jobs()  # and hangs up
                ended = wait_final(client, job)
                assert ended.exit_code == number
                assert client.log(JobRef(id=job), 0, None).data == b"line\n"
    finally:
        over.set()
        thread.join(timeout=60)
    with lab.agent.client() as client:
        assert client.node().name == "n1"


def test_row_64_term_stops_the_agent_within_5_s_whatever_callers_do(lab: Box) -> None:
    """With a job that runs, a watcher that never hangs up, and half a request that never ends."""
    go = fifo(lab, "term")
    with lab.agent.client() as client:
        job = submit(client, lab, f"read x < {go}; exit 4", "--gpus=1")
        wait_until(lambda: runs(client, job), "the job runs")
        watcher = client.watch()
        next(watcher)
        with socket.socket(socket.AF_UNIX) as half:
            half.connect(str(lab.agent.socket))
            half.sendall(b"GET /v1/jobs HTT")
            began = time.monotonic()
            lab.agent.kill(signal.SIGTERM)
            took_s = time.monotonic() - began
        assert lab.agent.process is not None
        assert lab.agent.process.returncode == 0
        assert took_s <= 15, "5 s on a machine that is not busy"
        watcher.close()
    lab.agent.start()
    go.write_text("\n")
    with lab.agent.client() as client:
        assert wait_final(client, job).exit_code == 4


CLOSED = """
import os, sys
os.closerange(0, 2) if sys.argv[1] == "in and out" else os.closerange(0, 3)
fd = int(os.environ["STOKER_READY_FD"])
os.execv(sys.executable, [sys.executable, "-c", {entry!r}, "--config", sys.argv[2], "run"])
"""


@pytest.mark.parametrize("what", ["in and out", "in, out and err"])
def test_row_64_an_agent_without_stdin_stdout_and_stderr_works(lab: Box, what: str) -> None:
    """No descriptor of the store, a socket or a job's file may end up as 0, 1 or 2 and be written to by mistake."""
    lab.agent.stop()
    read_fd, write_fd = os.pipe()
    entry = "import sys; from agent.__main__ import agent_main as main; sys.exit(main())"
    lab.agent.process = subprocess.Popen(
        [sys.executable, "-c", CLOSED.format(entry=entry), what, str(lab.config)],
        pass_fds=[write_fd],
        env={**os.environ, "STOKER_READY_FD": str(write_fd)},
        stderr=subprocess.DEVNULL,
    )
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as ready:
        assert ready.read(1) == b"\n"
    try:
        with lab.agent.client() as client:
            job = submit(client, lab, "echo out; echo err >&2; cat; exit 7", "--gpus=1")
            assert wait_final(client, job).exit_code == 7
            assert client.log(JobRef(id=job), 0, None).data == b"out\nerr\n"
    finally:
        lab.agent.stop()
        lab.agent.start()


JUMPY = """
import os, sys, time
real = time.time
def jumped():
    try:
        with open({path!r}) as file:
            return real() + float(file.read() or 0)
    except FileNotFoundError:
        return real()
time.time = jumped
from agent.__main__ import agent_main as main
sys.exit(main())
"""


@pytest.mark.parametrize("offset_s", [86_400, -3600])
def test_row_29_a_jump_of_the_agents_clock_ends_no_job_and_holds_none_up(
    tmp_path: Path, offset_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's `time.time` jumps; the kernel's clock cannot be set for a test, and time namespaces leave it out."""
    made = Box(tmp_path, gpus=2)
    jump = tmp_path / "jump"
    entry = JUMPY.format(path=str(jump))
    try:
        made.agent.start()
        made.hub.start()
        activate_evaluation(made)
        made.hub.stop()
        made.agent.stop()
        _start_with(made, entry)
        go = fifo(made, "go")
        with made.agent.client() as client:
            limited = submit(client, made, f"read x < {go}; exit 3", "--gpus=1", "--time=60")
            endless = submit(client, made, "exec sleep 600", "--gpus=1", "--time=1")
            wait_until(lambda: runs(client, limited) and runs(client, endless), "both run")
            soon = submit(client, made, "exit 9", "--begin=now+3seconds")
            jump.write_text(str(offset_s))
            wait_until(lambda: abs(client.node().time - time.time() - offset_s) < 60, "the clock has jumped")
            new = submit(client, made, "exit 2")
            assert wait_final(client, new).exit_code == 2, "the queue goes on"
            if offset_s > 0:
                assert wait_final(client, soon).exit_code == 9
            assert runs(client, limited)
            assert runs(client, endless), "the agent's clock ends nobody: the limit is counted by the shim"
            client.cancel(JobRef(id=endless))
            assert wait_final(client, endless).state is JobState.CANCELLED
            go.write_text("\n")
            assert wait_final(client, limited).exit_code == 3
    finally:
        made.close()


def test_row_30_a_clock_before_the_licences_issue_date_stops_no_running_job_and_lets_new_ones_start(
    tmp_path: Path,
) -> None:
    """The agent starts with a clock that is ten years slow, as after a dead clock chip."""
    made = Box(tmp_path, gpus=2)
    jump = tmp_path / "jump"
    try:
        made.agent.start()
        made.hub.start()
        activate_evaluation(made)
        made.hub.stop()
        go = fifo(made, "go")
        with made.agent.client() as client:
            old = submit(client, made, f"read x < {go}; exit 3", "--gpus=1")
            wait_until(lambda: runs(client, old), "it runs")
        made.agent.kill()
        jump.write_text(str(-10 * 365 * 86_400))
        _start_with(made, JUMPY.format(path=str(jump)))
        with made.agent.client() as client:
            assert client.node().time < time.time() - 9 * 365 * 86_400
            assert runs(client, old)
            assert wait_final(client, submit(client, made, "exit 2", "--gpus=1")).exit_code == 2
            go.write_text("\n")
            assert wait_final(client, old).exit_code == 3
        assert said(made, "timedatectl set-ntp true"), "the warning"
    finally:
        made.close()


def _start_with(made: Box, entry: str) -> None:
    read_fd, write_fd = os.pipe()
    with made.agent.log.open("ab") as log:
        made.agent.process = subprocess.Popen(
            [sys.executable, "-c", entry, "--config", str(made.config), "run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[write_fd],
            env={**os.environ, "STOKER_READY_FD": str(write_fd)},
        )
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as ready:
        assert ready.read(1) == b"\n", made.agent.log.read_text()
