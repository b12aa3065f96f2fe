"""What a step is asked from outside of its job, and whom the agent will ask at all."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path

import pytest

from agent.api.errors import ApiError
from agent.api.queue import SignalRequest, StepRequest
from agent.engine import stepverbs, watch
from agent.engine.base import Asker
from agent.engine.records import RecordError
from agent.step.asks import END, fifo_name, signal_line
from tests.fakes.attempts import Bench, finish, log, until
from tests.fakes.engines import begin, cancel, engine, make_config, ref, run, submit, who
from tests.fakes.steps import READY, Steps, gone
from tests.fakes.steps import steps as steps

FIFO = fifo_name("1", 0)


def test_a_step_passes_a_signal_on_and_ends_when_asked(steps: Steps) -> None:
    step = steps.start("-n2", "sh", "-c", "trap 'echo usr' USR1; " + READY + "while :; do sleep 0.1; done")
    pids = steps.ready(2)
    assert stepverbs._tell(steps.folder, FIFO, signal_line(signal.SIGUSR1))
    assert step.stdout is not None
    assert [step.stdout.readline() for _ in range(2)] == ["usr\n", "usr\n"]
    assert stepverbs._tell(steps.folder, FIFO, END)
    _, err = step.communicate(timeout=60)
    assert step.returncode == 128 + signal.SIGTERM
    assert "srun: Job step aborted: Waiting up to 32 seconds for job step to finish." in err
    assert gone(pids)
    assert not stepverbs._tell(steps.folder, FIFO, END)
    assert not (steps.folder / FIFO).exists()


def test_nobody_hears_for_a_step_whose_srun_was_killed(steps: Steps) -> None:
    step = steps.start("-n1", "sh", "-c", READY + "exec sleep 300")
    pids = steps.ready(1)
    step.kill()
    step.communicate(timeout=60)
    assert gone(pids)
    assert not stepverbs._tell(steps.folder, FIFO, END)


@pytest.mark.parametrize(
    "said", ["nonsense", "signal", "signal 0", "signal 65", "signal -9", "signal \u00b2", "END", ""]
)
def test_asks_that_make_no_sense_are_passed_over(steps: Steps, said: str) -> None:
    step = steps.start("-n1", "sh", "-c", "trap 'echo usr; exit 4' USR1; " + READY + "while :; do sleep 0.1; done")
    steps.ready(1)
    assert stepverbs._tell(steps.folder, FIFO, said)
    assert stepverbs._tell(steps.folder, FIFO, signal_line(signal.SIGUSR1))
    assert (step.communicate(timeout=60)[0], step.returncode) == ("usr\n", 4)


def test_only_a_fifo_of_the_folders_owner_is_written(tmp_path: Path) -> None:
    """It is the user's folder: whatever stands at the name, nothing but a fifo of theirs is touched."""
    folder, plain, elsewhere = tmp_path / "files", tmp_path / "plain", tmp_path / "fifo"
    folder.mkdir()
    plain.write_text("as it was")
    os.mkfifo(elsewhere)
    reader = os.open(elsewhere, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for target in (plain, elsewhere):
            (folder / FIFO).symlink_to(target)
            assert not stepverbs._tell(folder, FIFO, END)
            (folder / FIFO).unlink()
        (folder / FIFO).hardlink_to(plain)
        assert not stepverbs._tell(folder, FIFO, END)
        (folder / FIFO).unlink()
        if os.geteuid() == 0:
            os.chown(elsewhere, 54321, 54321)
            (folder / FIFO).hardlink_to(elsewhere)
            assert not stepverbs._tell(folder, FIFO, END)
        assert plain.read_text() == "as it was"
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


def test_a_folder_that_takes_no_fifo_costs_the_step_nothing(steps: Steps) -> None:
    (steps.folder / FIFO).mkdir()
    done = steps.run("-n1", "echo", "runs")
    assert (done.returncode, done.stdout) == (0, "runs\n")


# --- a process more in a job ------------------------------------------------------------------------------------------


def test_a_step_is_made_as_the_jobs_first_process_is(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    attempt = bench.running(
        "echo READY; while :; do sleep 0.1; done", env={"PATH": "/usr/bin:/bin", "OF": "the job"}, work_dir="/usr"
    )
    out = tmp_path / "out"
    script = f'echo "$OF $PWD $(id -u)" > {out}.new; mv {out}.new {out}; exec sleep 300'
    asyncio.run(watch.start_step(attempt, ["/bin/sh", "-c", script, "step-of-it"]))
    until(out.exists)
    assert out.read_text() == f"the job /usr {os.geteuid()}\n"
    asyncio.run(watch.stop(attempt, "cancel", "alice"))
    assert finish(attempt).why == "cancel"
    assert b"the job" not in log(attempt)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide devices and become another account")
def test_a_step_is_the_users_and_sees_no_other_gpu(tmp_path: Path) -> None:
    bench, job = Bench(tmp_path), "echo READY; while :; do sleep 0.1; done"
    with tempfile.TemporaryDirectory(prefix="stoker-step-") as name:
        device, out = Path(name) / "nvidia1", Path(name) / "out"
        Path(name).chmod(0o777)
        device.write_text("the other GPU")
        device.chmod(0o666)
        attempt = bench.running(job, hidden_devices=(str(device),), confine="on", uid=54321, gid=54321, groups=())
        script = f"id -u > {out}.new; cat {device} >> {out}.new 2>&1; mv {out}.new {out}"
        asyncio.run(watch.start_step(attempt, ["/bin/sh", "-c", script]))
        until(out.exists)
        uid, *rest = out.read_text().splitlines()
        asyncio.run(watch.stop(attempt, "cancel", "alice"))
        finish(attempt)
    assert uid == "54321"
    assert rest
    assert "the other GPU" not in " ".join(rest)


def test_a_supervisor_of_an_older_version_is_asked_for_no_step(tmp_path: Path) -> None:
    """It would take the ask and do nothing. Simulated: its record says what the last version's said."""
    bench = Bench(tmp_path)
    attempt = bench.holding(6)
    record = (attempt.path / "started").read_text()
    (attempt.path / "started").write_text(record.replace('"hears": 2', '"hears": 1'))
    with pytest.raises(RecordError, match="takes no steps"):
        asyncio.run(watch.start_step(attempt, ["/bin/true"]))
    asyncio.run(watch.send_signal(attempt, signal.SIGCONT))
    bench.let_go()
    assert finish(attempt).code == 6


def test_whose_jobs_one_may_start_and_end_steps_in(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(make_config(tmp_path)) as made:
            job = await begin(made, "exec sleep 300")
            admin, other = Asker(user="root", uid=os.geteuid() + 7, admin=True), Asker(user="eve", uid=54321)
            for asker, status in ((admin, 403), (other, 403)):
                with pytest.raises(ApiError) as caught:
                    await made.start_step(ref(job), asker, StepRequest(command=("true",)))
                assert caught.value.status == status
            with pytest.raises(ApiError) as caught:
                await made.signal_step(ref(job), 0, other, SignalRequest(signal="KILL"))
            assert caught.value.status == 403
            with pytest.raises(ApiError) as caught:
                await made.signal_step(ref(job), 0, admin, SignalRequest(signal="KILL"))
            assert caught.value.code == "step_over"  # an admin may: there is only no such step
            held = await submit(made, "true", "--hold")
            with pytest.raises(ApiError) as caught:
                await made.start_step(ref(held), who(), StepRequest(command=("true",)))
            assert caught.value.code == "not_running"
            for words in ((), ("",), ("a\0b",), ("x" * stepverbs.MOST_WORDS_BYTES,)):
                with pytest.raises(ApiError) as caught:
                    await made.start_step(ref(job), who(), StepRequest(command=words))
                assert caught.value.status == 400
            await cancel(made, job.id)

    run(test)
