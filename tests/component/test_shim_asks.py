"""What is asked of a running job's shim: `--signal`, a signal passed on, another time limit; each exactly once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from agent.engine import watch
from agent.engine.records import Ask, AttemptDir, RecordError
from tests.fakes.attempts import Bench, finish, launch, log, program, started, stop, until

HEARER = """
import os, signal, sys, time
name = sys.argv[1]
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
    signal.signal(number, lambda n, _: os.write(1, f"{name} {signal.Signals(n).name}\\n".encode()))
ready, working = os.pipe()
if name == "batch" and os.fork() == 0:
    name = "step"
    os.close(working)
elif name == "batch":
    os.close(working)
    os.read(ready, 1)  # ends when the other has its name
    os.write(1, b"READY\\n")
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    time.sleep(0.02)
"""
"""A first process with one below it; both tell what they hear."""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def hearer(tmp_path: Path) -> str:
    return str(program(tmp_path / "hearer", HEARER))


def heard(attempt: AttemptDir) -> list[str]:
    return sorted(line.decode() for line in log(attempt).splitlines() if line != b"READY")


# --- --signal ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_only", "who"), [(False, "step"), (True, "batch")])
def test_the_warning_comes_once_before_the_limit_to_those_it_is_for(
    bench: Bench, hearer: str, batch_only: bool, who: str
) -> None:
    """Without `B:` all of the job but its first process, as Slurm's steps without the batch shell."""
    warn = {"warn_signal": int(signal.SIGUSR1), "warn_before_s": 1, "warn_batch_only": batch_only}
    attempt = bench.running([hearer, "batch", "60"], time_limit_s=5, grace_s=5.0, **warn)
    ended = finish(attempt)
    assert heard(attempt) == [f"{who} SIGUSR1"]
    assert (ended.why, ended.signal) == ("limit", signal.SIGTERM)
    assert (ended.detail or "").startswith(
        "signal 10 was sent 1 s before its time limit; reached its time limit of 5 s"
    )


def test_a_job_may_end_well_on_its_warning(bench: Bench) -> None:
    script = "trap 'echo SAVED; exit 0' USR1; echo READY; while :; do sleep 0.05; done"
    ended = bench.run(script, time_limit_s=60, warn_signal=10, warn_before_s=57, warn_batch_only=True)
    assert (ended.code, ended.why, log(bench.last)) == (0, None, b"READY\nSAVED\n")


def test_a_preemption_is_warned_of_and_given_the_time(bench: Bench, hearer: str) -> None:
    attempt = bench.running([hearer, "batch", "60"], warn_signal=int(signal.SIGUSR2), warn_before_s=1, grace_s=20.0)
    asked = time.monotonic()
    stop(attempt, "preempt", "the queue")
    ended = finish(attempt)
    assert time.monotonic() - asked >= 1
    assert heard(attempt) == ["step SIGUSR2"]
    assert (ended.why, ended.signal) == ("preempt", signal.SIGTERM)
    assert "signal 12 was sent before its preemption" in (ended.detail or "")


def test_a_cancel_does_not_warn(bench: Bench, hearer: str) -> None:
    attempt = bench.running([hearer, "batch", "60"], warn_signal=int(signal.SIGUSR2), warn_before_s=5)
    stop(attempt)
    assert finish(attempt).why == "cancel"
    assert heard(attempt) == []


# --- asks -------------------------------------------------------------------------------------------------------------


def test_signals_reach_whom_they_are_for_in_order_and_do_not_end_the_job(bench: Bench, hearer: str) -> None:
    attempt = bench.running([hearer, "batch", "5"])
    asyncio.run(watch.send_signal(attempt, signal.SIGUSR1))
    until(lambda: heard(attempt) == ["step SIGUSR1"])
    asyncio.run(watch.send_signal(attempt, signal.SIGHUP, batch_only=True))
    until(lambda: heard(attempt) == ["batch SIGHUP", "step SIGUSR1"])
    ended = finish(attempt)
    assert (ended.code, ended.why) == (0, None)
    assert not attempt.has_asks()


def test_many_asks_at_once_from_many_threads_are_each_acted_on_once(bench: Bench) -> None:
    """Signals of one number merge in the kernel, so each asks for another limit; the last one stands."""
    attempt = bench.running("echo READY; exec sleep 60", time_limit_s=600)
    threads = [
        threading.Thread(target=attempt.write_ask, args=(Ask(do="limit", limit_s=1000.0 + number),))
        for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([each for each in attempt.path.iterdir() if each.name.startswith("ask.")]) == 16
    asyncio.run(watch.change_limit(attempt, 0.5))
    ended = finish(attempt)
    assert (ended.why, attempt.has_asks()) == ("limit", False)
    assert "reached its time limit of 0.5 s" in (ended.detail or "")


def test_a_limit_is_taken_off_extended_and_shortened(bench: Bench) -> None:
    attempt = bench.running("echo READY; sleep 5; exit 4", time_limit_s=4)
    asyncio.run(watch.change_limit(attempt, None))
    assert finish(attempt).code == 4
    attempt = bench.running("echo READY; sleep 5; exit 4", time_limit_s=4)
    asyncio.run(watch.change_limit(attempt, 60))
    assert finish(attempt).code == 4
    attempt = bench.running("echo READY; exec sleep 60")
    asyncio.run(watch.change_limit(attempt, 0.1))
    assert finish(attempt).why == "limit"


def test_a_longer_limit_is_warned_of_again(bench: Bench, hearer: str) -> None:
    warn = {"warn_signal": int(signal.SIGUSR1), "warn_before_s": 1}
    attempt = bench.running([hearer, "batch", "60"], time_limit_s=5, **warn)
    until(lambda: heard(attempt) == ["step SIGUSR1"])
    asyncio.run(watch.change_limit(attempt, 10))
    until(lambda: heard(attempt) == ["step SIGUSR1", "step SIGUSR1"])
    assert finish(attempt).why == "limit"


def test_row_7_an_ask_outlives_the_agent_that_stored_it_and_told_nobody(bench: Bench, hearer: str) -> None:
    """The agent dies between the two: whoever waits for the run next tells the shim, and it acts once."""
    attempt = bench.running([hearer, "batch", "5"])
    attempt.write_ask(Ask(do="signal", number=int(signal.SIGUSR1)))
    assert finish(attempt).code == 0  # waits as an agent does after its restart
    assert heard(attempt) == ["step SIGUSR1"]
    assert not attempt.has_asks()


def test_an_ask_that_is_told_twice_is_acted_on_once(bench: Bench, hearer: str) -> None:
    attempt = bench.running([hearer, "batch", "5"])
    asyncio.run(watch.send_signal(attempt, signal.SIGUSR1))
    for _ in range(50):
        os.kill(started(attempt).shim_pid, signal.SIGUSR1)
    assert finish(attempt).code == 0
    assert heard(attempt) == ["step SIGUSR1"]


def test_an_ask_before_the_start_waits_for_it(bench: Bench) -> None:
    attempt = bench.attempt("exec sleep 60", time_limit_s=600)
    asyncio.run(watch.change_limit(attempt, 1))
    launch(attempt)
    assert finish(attempt).why == "limit"


def test_an_ask_after_the_end_does_nothing(bench: Bench) -> None:
    ended = bench.run("exit 3")
    asyncio.run(watch.send_signal(bench.last, signal.SIGKILL))
    assert bench.last.read_exit() == ended


def test_a_damaged_or_unknown_ask_is_dropped_and_the_next_one_obeyed(bench: Bench) -> None:
    attempt = bench.running("echo READY; exec sleep 60")
    (attempt.path / "ask.1").write_text('{"do": ')
    (attempt.path / "ask.2").write_text('{"do": "dance", "number": "x"}')
    (attempt.path / "ask.3").write_text('{"do": "signal", "number": 99999, "batch_only": true}')
    (attempt.path / "ask.x").write_text("no ask")
    asyncio.run(watch.change_limit(attempt, 0))
    assert finish(attempt).why == "limit"
    assert not attempt.has_asks()


def test_row_48_a_shim_of_an_older_version_is_not_signalled_to_death(bench: Bench) -> None:
    """It knows no SIGUSR1, which would end it. Simulated: its record says nothing of hearing asks."""
    attempt = bench.holding(6)
    record = json.loads((attempt.path / "started").read_text())
    del record["hears"]
    (attempt.path / "started").write_text(json.dumps(record))
    with pytest.raises(RecordError, match="older version"):
        asyncio.run(watch.send_signal(attempt, signal.SIGUSR1))
    with pytest.raises(RecordError, match="older version"):
        asyncio.run(watch.change_limit(attempt, 1))
    attempt.write_ask(Ask(do="signal", number=9))
    bench.let_go()
    assert finish(attempt).code == 6


def test_row_21_an_ask_is_never_told_to_a_stranger(bench: Bench) -> None:
    """The record names a process that lives, with another start time: SIGUSR1 would end it."""
    attempt = bench.running("echo READY; exec sleep 60")
    stranger = bench.holding(5)
    record = json.loads((attempt.path / "started").read_text())
    changed = {**record, "shim_pid": started(stranger).job_pid}
    (attempt.path / "started").write_text(json.dumps(changed))
    asyncio.run(watch.send_signal(attempt, signal.SIGUSR1))
    bench.let_go()
    assert finish(stranger).code == 5
    (attempt.path / "started").write_text(json.dumps(record))
    os.kill(record["job_pid"], signal.SIGKILL)
    assert finish(attempt).signal == signal.SIGKILL
