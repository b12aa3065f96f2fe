"""What happens around a running job, through a real agent: its folders, its stop, its log by time and text, hooks."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api.client import Client
from agent.api.queue import DrainRequest
from agent.api.refs import JobRef
from agent.api.types import Job, JobState, LogChunk, SubmitRequest
from tests.fakes.daemons import Box, box, wait_final, wait_until


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


def submit(client: Client, lab: Box, script: str, *flags: str) -> int:
    asked = SubmitRequest(
        script=f"#!/bin/bash\n{script}\n",
        script_name="job.sh",
        flags=flags,
        work_dir=str(lab.work_dir),
        env={"PATH": "/bin:/usr/bin", "TMPDIR": "/nowhere"},
    )
    return client.submit(asked, uuid.uuid4().hex).job.id


def log_of(client: Client, job_id: int, **wanted: object) -> bytes:
    return client.log(JobRef(id=job_id), 0, None, **wanted).data  # type: ignore[arg-type]


def followed(client: Client, job_id: int, **wanted: object) -> bytes:
    stream = client.follow_log(JobRef(id=job_id), 0, **wanted)  # type: ignore[arg-type]
    return b"".join(message.data for message in stream if isinstance(message, LogChunk))


def test_a_job_has_a_temporary_folder_of_its_own_and_its_variables(lab: Box) -> None:
    with lab.agent.client() as client:
        job_id = submit(
            client, lab, "touch $TMPDIR/x; echo $TMPDIR $SLURM_NTASKS_PER_NODE $SLURM_JOB_PARTITION", "--ntasks=2"
        )
        assert wait_final(client, job_id).state is JobState.COMPLETED
        folder, tasks, partition = log_of(client, job_id).decode().split()
    assert folder == str(lab.state_dir / "jobs" / str(job_id) / "tmp")
    assert not Path(folder).exists()
    assert (tasks, partition) == ("2", "main")


def test_a_cancel_asks_by_file_and_waits_for_the_measured_time(lab: Box) -> None:
    trains = """
echo '{"step": 1, "step_s": 0.1, "save_s": 0.1}' > $JOB_DIR/.p; mv $JOB_DIR/.p $JOB_DIR/progress.json
echo READY; trap 'echo TERM; exit 9' TERM
while [ ! -e $JOB_DIR/stop ]; do sleep 0.05; done
cat $JOB_DIR/stop; echo '{"state": "stopped", "step": 1}' > $JOB_DIR/result.json; echo SAVED"""
    with lab.agent.client() as client:
        job_id = submit(client, lab, trains)
        wait_until(lambda: b"READY" in log_of(client, job_id), "the job trains")
        client.cancel(JobRef(id=job_id))
        ended = wait_final(client, job_id)
        said = log_of(client, job_id)
    assert ended.state is JobState.CANCELLED
    assert b'"why": "cancel"' in said and said.endswith(b"SAVED\n") and b"TERM" not in said


def test_lines_of_a_log_by_time_and_by_text(lab: Box) -> None:
    with lab.agent.client() as client:
        job_id = submit(
            client, lab, "echo early loss; sleep 2.5; date +%s; echo late loss; echo done; printf 'loss at the end'"
        )
        live = followed(client, job_id, grep="loss")
        assert live == b"early loss\nlate loss\nloss at the end"
        wait_final(client, job_id)
        late_at = int(log_of(client, job_id).splitlines()[1])
        assert log_of(client, job_id, since=late_at).startswith(str(late_at).encode())
        assert log_of(client, job_id, since=late_at - 60).startswith(b"early loss")
        assert log_of(client, job_id, since=late_at + 60) == b""
        assert followed(client, job_id, since=late_at, grep="loss") == b"late loss\nloss at the end"
        assert followed(client, job_id, grep="nowhere") == b""
        assert log_of(client, job_id, grep="done") == b"done\n"
        assert log_of(client, job_id, grep="no such words") == b""


@pytest.fixture
def hooked(tmp_path: Path) -> Iterator[Box]:
    """With a prolog that refuses while there is a file `broken`."""
    (prolog := tmp_path / "prolog").write_text(f"#!/bin/sh\n[ ! -e {tmp_path}/broken ] || exit 3\n")
    prolog.chmod(0o755)
    with box(tmp_path, more=f'[hooks]\nprolog = "{prolog}"\n') as made:
        yield made


def test_a_signal_before_the_limit_and_a_prolog_that_refuses(hooked: Box) -> None:
    traps = "trap 'echo WARNED; exit 0' USR1; while :; do sleep 0.05; done"
    with hooked.agent.client() as client:
        warned = submit(client, hooked, traps, "--time=1", "--signal=B:USR1@58")
        ended = wait_final(client, warned)
        assert (ended.state, log_of(client, warned)) == (JobState.COMPLETED, b"WARNED\n")
        (hooked.root / "broken").touch()
        refused = submit(client, hooked, "echo never")
        wait_until(lambda: "Held" in _told(client, refused), "the prolog's refusal holds the job")
        history = [each.detail or "" for each in client.report(JobRef(id=refused)).events]
        assert any("prolog ended with 3" in each for each in history), history
        assert client.job(JobRef(id=refused)).state is JobState.PENDING
        assert log_of(client, refused) == b""
        drain = client.node().drain
        assert drain is not None and drain.reason.startswith(f"Prolog error: job {refused}: the prolog ")
        (hooked.root / "broken").unlink()
        client.release(JobRef(id=refused))
        wait_until(lambda: "node is drained" in _told(client, refused), "it waits for the node")
        client.resume(DrainRequest())
        assert wait_final(client, refused).state is JobState.COMPLETED


def _told(client: Client, job_id: int) -> str:
    job: Job = client.job(JobRef(id=job_id))
    return f"{job.reason} {job.detail}"
