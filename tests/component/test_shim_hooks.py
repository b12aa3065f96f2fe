"""The site's programs around a job: what they are given, what they can change, and what their failures mean."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.engine.hooks import LOG_BYTES
from agent.engine.records import AttemptDir, HookOrders
from tests.fakes.attempts import Bench, finish, launch, left, log, stop, until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a job as another user")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A folder for hooks that every user reaches."""
    with tempfile.TemporaryDirectory(prefix="stoker-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def hook(site: Path, name: str, text: str) -> str:
    path = site / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return str(path)


def said(attempt: AttemptDir) -> str:
    return (attempt.path / "hooks.log").read_text()


def test_they_run_in_order_around_the_job(bench: Bench, site: Path, tmp_path: Path) -> None:
    order = tmp_path / "order"
    order.touch()
    order.chmod(0o666)
    tell = {name: hook(site, name, f"echo {name} >> {order}") for name in ("prolog", "epilog", "tp", "te")}
    hooks = HookOrders(prolog=tell["prolog"], epilog=tell["epilog"], task_prolog=tell["tp"], task_epilog=tell["te"])
    ended = bench.run(f"echo job >> {order}", hooks=hooks)
    assert (ended.code, ended.why, ended.detail) == (0, None, None)
    assert order.read_text().split() == ["prolog", "tp", "job", "te", "epilog"]


def test_row_54_a_hook_of_roots_sees_nothing_of_the_users_environment(bench: Bench, site: Path) -> None:
    prolog = hook(site, "prolog", "env; echo =; id -u; pwd")
    facts = {"PATH": "/bin:/usr/bin", "SLURM_JOB_ID": "17", "SLURM_JOB_USER": "ada"}
    hostile = {"PATH": "/evil", "LD_PRELOAD": "/evil.so", "BASH_ENV": "/evil.sh", "SLURM_JOB_ID": "1", "IFS": "x"}
    bench.run("exit 0", env=hostile, hooks=HookOrders(prolog=prolog, epilog=prolog, env=facts))
    text = said(bench.last)
    assert "evil" not in text and "LD_PRELOAD" not in text
    assert text.count("SLURM_JOB_ID=17\n") == 2
    assert "SLURM_SCRIPT_CONTEXT=prolog_slurmd" in text and "SLURM_SCRIPT_CONTEXT=epilog_slurmd" in text
    assert text.count(f"=\n{os.geteuid()}\n/\n") == 2


def test_a_prolog_that_fails_means_that_the_job_never_starts(bench: Bench, site: Path, tmp_path: Path) -> None:
    hooks = HookOrders(
        prolog=hook(site, "prolog", "echo no GPU answers; exit 3"),
        epilog=hook(site, "epilog", f"touch {tmp_path}/cleaned"),
    )
    ended = bench.run(f"touch {tmp_path}/ran", hooks=hooks)
    assert (ended.why, ended.code, ended.signal, ended.run_s) == ("prolog", None, None, 0)
    assert (
        ended.detail == f"the prolog {site}/prolog ended with 3; what it said is in hooks.log of the attempt's folder"
    )
    assert said(bench.last) == "no GPU answers\n"
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "cleaned").exists()
    assert bench.last.read_started() is None


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("kill -9 $$", "was ended by signal 9"),
        ("sleep 600", "did not end within 0.5 s"),
        ("trap '' TERM; setsid sleep 600 & sleep 600", "did not end within 0.5 s"),
        ("yes | tr y z", "did not end within 0.5 s"),
    ],
)
def test_every_way_in_which_a_prolog_can_fail(bench: Bench, site: Path, text: str, how: str) -> None:
    ended = bench.run("echo never", hooks=HookOrders(prolog=hook(site, "prolog", text), timeout_s=0.5))
    assert ended.why == "prolog"
    assert how in (ended.detail or "")
    assert log(bench.last) == b""
    assert left(f"{site}/prolog") == []
    assert (bench.last.path / "hooks.log").stat().st_size <= LOG_BYTES + 100


def test_a_prolog_that_cannot_be_run(bench: Bench, site: Path) -> None:
    ended = bench.run("echo never", hooks=HookOrders(prolog="/no/prolog"))
    assert (ended.why, ended.detail is not None and "/no/prolog ended with 127" in ended.detail) == ("prolog", True)
    assert said(bench.last) == "cannot run /no/prolog: No such file or directory\n"


def test_what_a_prolog_leaves_running_is_ended_with_it(bench: Bench, site: Path) -> None:
    token = f"7{os.getpid()}.5"
    hooks = HookOrders(prolog=hook(site, "prolog", f"setsid sleep {token} >/dev/null 2>&1 & exit 0"))
    ended = bench.run(f"pgrep -f '^sleep {token}' | wc -l", hooks=hooks)
    assert (ended.code, ended.swept, log(bench.last).strip()) == (0, 0, b"0")
    assert left(token) == []


def test_a_cancel_during_the_prolog_is_a_cancel(bench: Bench, site: Path, tmp_path: Path) -> None:
    prolog = hook(site, "prolog", f"touch {tmp_path}/began; sleep 600")
    attempt = bench.attempt(f"touch {tmp_path}/ran", hooks=HookOrders(prolog=prolog, timeout_s=60))
    launch(attempt)
    until((tmp_path / "began").exists)
    asked = time.monotonic()
    stop(attempt)  # no `started` yet, so no signal: the shim looks for the record
    ended = finish(attempt)
    assert time.monotonic() - asked < 10
    assert (ended.why, ended.code) == ("cancel", None)
    assert "before it began" in (ended.detail or "")
    assert not (tmp_path / "ran").exists()


def test_an_epilog_that_fails_changes_no_outcome_and_is_told(bench: Bench, site: Path) -> None:
    hooks = HookOrders(
        epilog=hook(site, "epilog", "echo code $SLURM_JOB_EXIT_CODE; exit 5"),
        task_epilog=hook(site, "task_epilog", "sleep 600"),
        timeout_s=0.5,
    )
    ended = bench.run("exit 7", hooks=hooks)
    assert (ended.code, ended.why) == (7, None)
    assert ended.detail == (
        f"the task_epilog {site}/task_epilog did not end within 0.5 s; the epilog {site}/epilog ended with 5"
    )
    assert said(bench.last) == f"code {7 << 8}\n"


def test_an_epilog_finds_nothing_of_the_job_left(bench: Bench, site: Path) -> None:
    token = f"6{os.getpid()}.25"
    hooks = HookOrders(epilog=hook(site, "epilog", f"pgrep -f '^sleep {token}' | wc -l"))
    bench.run(f"setsid sleep {token} & exit 0", hooks=hooks)
    assert said(bench.last).strip() == "0"


# --- as the user ------------------------------------------------------------------------------------------------------


def test_a_task_prolog_changes_the_jobs_environment_and_prints_to_its_output(bench: Bench, site: Path) -> None:
    lines = r"""
echo "export SCRATCH=/fast/17 with = and spaces"
echo "export EMPTY="
echo "unset SECRET"
echo "print hello from the site"
echo "exportBAD=1"
echo "export NOVALUE"
echo "anything else"
echo "printed nowhere"
echo "to the job's stderr" >&2
"""
    hooks = HookOrders(task_prolog=hook(site, "task_prolog", lines))
    script = 'echo "[$SCRATCH][${EMPTY-unset}][${SECRET-unset}][$exportBAD][${NOVALUE-unset}]"'
    ended = bench.run(script, env={"PATH": "/bin:/usr/bin", "SECRET": "x"}, hooks=hooks)
    assert ended.why is None
    assert sorted(log(bench.last).decode().splitlines()) == [
        "[/fast/17 with = and spaces][][unset][][unset]",
        "hello from the site",
        "to the job's stderr",
    ]


@needs_root
def test_row_54_task_hooks_are_the_users_and_not_roots(bench: Bench, site: Path) -> None:
    (site / "open").mkdir(mode=0o777)
    (site / "open").chmod(0o777)
    text = f"id -u > {site}/open/$SLURM_SCRIPT_CONTEXT-$MINE; id -G >> {site}/open/$SLURM_SCRIPT_CONTEXT-$MINE"
    hooks = HookOrders(task_prolog=hook(site, "tp", text), task_epilog=hook(site, "te", text))
    who = {"uid": 54321, "gid": 54322, "groups": (54323,)}
    ended = bench.run("exit 0", env={"PATH": "/bin:/usr/bin", "MINE": "m"}, hooks=hooks, **who)
    assert ended.detail is None
    found = {each.name: each.read_text().split() for each in (site / "open").iterdir()}
    ids = ["54321", "54322", "54323"]
    assert found == {"prolog_task-m": ids, "epilog_task-m": ids}


def test_a_task_prolog_that_fails_fails_the_job_and_not_the_node(bench: Bench, site: Path, tmp_path: Path) -> None:
    hooks = HookOrders(task_prolog=hook(site, "task_prolog", "exit 9"))
    ended = bench.run(f"touch {tmp_path}/ran", hooks=hooks)
    assert (ended.why, ended.code) == ("start", 1)
    assert f"the task_prolog {site}/task_prolog ended with 9" in (ended.detail or "")
    assert not (tmp_path / "ran").exists()


def test_an_endless_task_prolog_is_ended_and_what_it_floods_is_bounded(bench: Bench, site: Path) -> None:
    hooks = HookOrders(task_prolog=hook(site, "task_prolog", "yes 'export A=b'"), timeout_s=0.5)
    ended = bench.run("echo never", hooks=hooks)
    assert (ended.why, log(bench.last)) == ("start", b"")
    attempt = bench.launched("echo never", hooks=HookOrders(task_prolog=hook(site, "tp2", "sleep 600"), timeout_s=60))
    until(lambda: left(f"{site}/tp2"))
    stop(attempt)
    assert finish(attempt).why == "cancel"
    assert left(f"{site}/tp2") == []
