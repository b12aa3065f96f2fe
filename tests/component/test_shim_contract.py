"""The job contract as the shim keeps it: asked by file, given its measured time, then signalled."""

from __future__ import annotations

import json
import os
import re
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.engine.records import AttemptDir, Exit
from agent.jobs import contract
from tests.fakes.attempts import Bench, finish, log, program, stop, until

TRAINER = """
import json, os, pathlib, signal, sys, time
folder, answers = pathlib.Path(os.environ["JOB_DIR"]), sys.argv[3] == "answers"
step_s, save_s = map(float, sys.argv[1:3])
signal.signal(signal.SIGTERM, lambda *_: (print("TERM", flush=True), os._exit(9)))
(folder / ".p").write_text(json.dumps({"step": 1, "step_s": step_s, "save_s": save_s if save_s >= 0 else None}))
(folder / ".p").rename(folder / "progress.json")
print("READY", flush=True)
while not (answers and (folder / "stop").exists()):
    time.sleep(0.01)
print((folder / "stop").read_text(), end="", flush=True)
time.sleep(step_s + max(0, save_s))
print("SAVED", flush=True)
"""
"""It asks for its time, and takes as long as it measured; or does not answer."""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def job_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "owner" / "files"
    folder.mkdir(parents=True)
    return folder


def trainer(bench: Bench, job_dir: Path, *words: object, **claim: object) -> AttemptDir:
    script = program(bench.path / "trainer", TRAINER)
    env = {"PATH": "/bin", "JOB_DIR": str(job_dir)}
    return bench.running([str(script), *map(str, words)], job_dir=str(job_dir), env=env, **claim)


def test_a_job_that_speaks_the_contract_ends_by_itself_and_is_never_signalled(bench: Bench, job_dir: Path) -> None:
    attempt = trainer(bench, job_dir, 0.1, 0.2, "answers", grace_s=20.0)
    stop(attempt, "preempt", "alice")
    ended = finish(attempt)
    assert (ended.code, ended.signal, ended.why) == (0, None, "preempt")
    assert log(attempt) == b'READY\n{"why": "preempt", "by": "alice"}\nSAVED\n'
    assert re.fullmatch(
        r"asked to stop by alice; "
        r"its stop file was written and 1.6 s waited for: it takes 0.1 s a step and 0.2 s a save; "
        r"ended by itself \d+\.\d s after it was asked",
        ended.detail or "",
    )


def test_one_that_does_not_answer_gets_sigterm_after_its_measured_time(bench: Bench, job_dir: Path) -> None:
    """Row 14's time too: what was waited for is told."""
    attempt = trainer(bench, job_dir, 0.05, 0.05, "never", grace_s=20.0)
    asked = time.monotonic()
    stop(attempt)
    ended = finish(attempt)
    assert 1.2 <= time.monotonic() - asked < 19
    assert (ended.code, ended.why) == (9, "cancel")
    assert log(attempt) == b"READY\nTERM\n"
    assert "1.2 s waited for" in (ended.detail or "")
    assert "s after SIGTERM" in (ended.detail or "")


@pytest.mark.parametrize("save_s", ["100000", "-1"])
def test_no_measure_is_waited_for_longer_than_the_grace_allows(bench: Bench, job_dir: Path, save_s: str) -> None:
    """4/5 of the grace, the rest is SIGTERM's; the same where no save was measured yet."""
    attempt = trainer(bench, job_dir, 0.05, save_s, "never", grace_s=1.0)
    asked = time.monotonic()
    stop(attempt)
    ended = finish(attempt)
    assert 0.8 <= time.monotonic() - asked < 30
    assert ended.code == 9
    assert "0.8 s waited for" in (ended.detail or "")


def test_the_time_limit_asks_by_file_first_too(bench: Bench, job_dir: Path) -> None:
    attempt = trainer(bench, job_dir, 0.05, 0.05, "answers", grace_s=20.0, time_limit_s=4)
    ended = finish(attempt)
    assert (ended.code, ended.why) == (0, "limit")
    assert log(attempt).splitlines()[1] == b'{"why": "limit", "by": "the time limit"}'


def test_a_job_that_does_not_speak_it_is_signalled_at_once_and_finds_the_file(bench: Bench, job_dir: Path) -> None:
    attempt = bench.running(
        f"trap 'cat {job_dir}/stop; exit 3' TERM; echo READY; sleep 60 & wait", job_dir=str(job_dir)
    )
    asked = time.monotonic()
    stop(attempt)
    ended = finish(attempt)
    assert time.monotonic() - asked < 10
    assert (ended.code, log(attempt)) == (3, b'READY\n{"why": "cancel", "by": "alice"}\n')
    assert (ended.detail or "").startswith("asked to stop by alice; ended ")


def test_a_second_attempt_finds_no_old_stop_and_old_progress_does_not_count(bench: Bench, job_dir: Path) -> None:
    (job_dir / "stop").write_text("{}")
    (job_dir / "progress.json").write_text('{"step": 5, "step_s": 1, "save_s": 1000}')
    bench.number = 2
    attempt = bench.running(f"ls {job_dir}; echo READY; exec sleep 60", job_dir=str(job_dir), grace_s=20.0)
    asked = time.monotonic()
    stop(attempt)
    ended = finish(attempt)
    assert log(attempt) == b"progress.json\nREADY\n"
    assert time.monotonic() - asked < 10
    assert "waited" not in (ended.detail or "")


HOSTILE = {
    "a link to a secret": "ln -s {secret} progress.json",
    "a fifo": "mkfifo progress.json",
    "a folder": "mkdir progress.json stop .stop.tmp; touch stop/x .stop.tmp/x",
    "endless": "ln -s /dev/zero progress.json; ln -s /dev/zero stop; ln -s /dev/zero .stop.tmp",
    "a gigabyte": "truncate -s 1G progress.json",
    "deep": "head -c 60000 /dev/zero | tr '\\0' '[' > progress.json",
    "not a number": """echo '{{"step_s": NaN, "save_s": Infinity}}' > progress.json""",
    "other types": """echo '{{"step_s": "1", "save_s": [1e400]}}' > progress.json""",
    "5,000 digits": """(echo -n '{{"save_s": '; head -c 5000 /dev/zero | tr '\\0' 9; echo '}}') > progress.json""",
    "links everywhere": "ln -s {victim} stop; ln -s {victim} .stop.tmp",
    "no folder": "cd /; rm -r {dir}",
    "a link for a folder": "cd /; rm -r {dir}; ln -s /etc {dir}",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_row_53_nothing_in_the_folder_fools_or_holds_up_the_shim(bench: Bench, job_dir: Path, what: str) -> None:
    """What a hostile user plants: never followed, never waited for, and the stop goes its way."""
    (secret := job_dir.parent / "secret").write_text('{"step_s": 0, "save_s": 3000}')
    (victim := job_dir.parent / "victim").write_text("precious")
    plant = HOSTILE[what].format(secret=secret, victim=victim, dir=job_dir)
    attempt = bench.running(f"cd {job_dir}; {plant}; echo READY; exec sleep 60", job_dir=str(job_dir), grace_s=3.0)
    asked = time.monotonic()
    stop(attempt)
    ended = finish(attempt)
    waits = what in ("not a number", "other types")  # it speaks the contract, and tells no time: the grace's 4/5
    assert (ended.why, ended.signal) == ("cancel", 15)
    assert ("2.4 s waited for" in (ended.detail or "")) is waits
    assert time.monotonic() - asked < 10
    assert victim.read_text() == "precious"
    assert not Path("/etc/stop").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a job as another user")
def test_row_53_the_stop_file_is_the_users_own(bench: Bench, open_dir: Path) -> None:
    folder = open_dir / "files"
    folder.mkdir(mode=0o700)
    os.chown(folder, 54321, 54321)
    who = {"uid": 54321, "gid": 54321, "groups": ()}
    attempt = bench.running(
        f"ln -s /etc/shadow {folder}/.stop.tmp; ln /etc/hostname {folder}/progress.json 2>/dev/null; echo READY; "
        "exec sleep 60",
        job_dir=str(folder),
        **who,
    )
    stop(attempt)
    assert finish(attempt).why == "cancel"
    facts = (folder / "stop").lstat()
    assert (facts.st_uid, facts.st_gid, facts.st_nlink) == (54321, 54321, 1)
    assert json.loads((folder / "stop").read_text()) == {"why": "cancel", "by": "alice"}


def test_a_folder_that_refuses_the_file_is_told_and_the_job_is_signalled(bench: Bench, open_dir: Path) -> None:
    """Stands for a full disk, too: nothing can be written, so nothing is waited for."""
    (folder := open_dir / "files").mkdir(mode=0o555)
    who = {"uid": 54321, "gid": 54321, "groups": ()} if os.geteuid() == 0 else {}
    attempt = bench.running("echo READY; exec sleep 60", job_dir=str(folder), **who)
    stop(attempt)
    ended = finish(attempt)
    assert (ended.signal, ended.why) == (15, "cancel")
    assert "its stop file could not be written: Permission denied; ended " in (ended.detail or "")


def documented_script() -> str:
    """The three lines of the contract's docstring, with its seconds made shorter."""
    text = textwrap.dedent("    for i in" + (contract.__doc__ or "").split("    for i in")[1].split("\n\n")[0])
    assert len(text.splitlines()) == 3
    return text.replace("sleep 1", "sleep 0.05").replace('\\"step_s\\": 1', '\\"step_s\\": 0.05')


def test_the_documented_shell_script_satisfies_the_contract(bench: Bench, job_dir: Path) -> None:
    env = {"PATH": "/bin:/usr/bin", "JOB_DIR": str(job_dir)}
    attempt = bench.launched(["/bin/sh", "-c", documented_script()], job_dir=str(job_dir), env=env, grace_s=20.0)
    until(lambda: contract.read_progress(job_dir) is not None)
    progress = contract.read_progress(job_dir)
    assert progress is not None
    assert (progress.step_s, progress.save_s, progress.stop_s) == (0.05, 0.0, 0.05)
    stop(attempt, "preempt", "scheduler")
    ended: Exit = finish(attempt)
    assert (ended.code, ended.signal, ended.why) == (0, None, "preempt")
    result = contract.read_result(job_dir)
    assert result is not None
    assert result.state == "stopped"


@pytest.fixture
def open_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stoker-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)
