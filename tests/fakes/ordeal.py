"""Jobs while the agent is killed at random moments, and the count of everything that went wrong.

Used by the system test (a hundred jobs) and by the bench (six hundred and more). Each job writes its id to one file as
its first act, prints `LINES` numbered lines, and ends with a code that its id decides: what ran twice, never, with the
wrong outcome or with a hole in its log is found by comparing.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from agent.api.client import Client
from agent.api.errors import ApiError, TransportError
from agent.api.refs import JobRef
from agent.api.types import Job, JobState, SubmitRequest
from tests.fakes.daemons import Box, wait_final

LINES = 5


@dataclass(kw_only=True)
class Verdict:
    """What an ordeal found; all lists empty is the promise."""

    jobs: int
    kills: int
    wrong: list[Job] = field(default_factory=list)
    """Ended otherwise than its script did."""
    doubled: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    """Accepted, and never ran."""
    torn: list[int] = field(default_factory=list)
    """Lines of the log are missing or doubled."""

    @property
    def faults(self) -> list[object]:
        """Everything that should not be."""
        return [*self.wrong, *self.doubled, *self.missing, *self.torn]


class Ordeal:
    """One run of it."""

    def __init__(self, lab: Box, *, jobs: int, seed: int, flags: tuple[str, ...] = ("--gpus=1",)) -> None:
        self._lab = lab
        self._jobs = jobs
        self._chance = random.Random(seed)
        self._runs = lab.root / "runs"
        self._request = SubmitRequest(
            script=f'#!/bin/sh\necho "$SLURM_JOB_ID" >> {self._runs}\n'
            f'for line in $(seq {LINES}); do echo "$SLURM_JOB_ID:$line"; done\n'
            "sleep 0.0$((SLURM_JOB_ID % 9))\nexit $((SLURM_JOB_ID % 3))\n",
            script_name="ordeal.sh",
            flags=(*flags, "--output=/dev/null"),
            work_dir=str(lab.work_dir),
            env={"PATH": os.environ["PATH"]},
        )
        self._ids: list[int] = []
        self._submitted = threading.Event()

    def run(self, *, least_kills: int, pause_s: tuple[float, float], deadline_s: float) -> Verdict:
        """Submit in a thread, kill in this one, until all have ended and `least_kills` were struck; then compare."""
        submitter = threading.Thread(target=self._submit_all, name="submitter")
        submitter.start()
        end, kills = time.monotonic() + deadline_s, 0
        while time.monotonic() < end and not (self._submitted.is_set() and kills >= least_kills and self._all_final()):
            time.sleep(self._chance.uniform(*pause_s))  # the random moment is the point
            self._lab.agent.kill()
            self._lab.agent.start()
            kills += 1
        submitter.join(timeout=60)
        return self._judge(kills)

    def _submit_all(self) -> None:
        for number in range(self._jobs):
            while True:  # the same key until an answer comes: accepted means stored, once
                try:
                    with self._lab.agent.client(timeout_s=5) as client:
                        self._ids.append(client.submit(self._request, f"key-{number}").job.id)
                    break
                except (TransportError, ApiError):
                    time.sleep(0.02)
        self._submitted.set()

    def _all_final(self) -> bool:
        try:
            with self._lab.agent.client(timeout_s=5) as client:
                return not client.jobs(state="PENDING,CONFIGURING,RUNNING,COMPLETING", limit=1)
        except TransportError:
            return False

    def _judge(self, kills: int) -> Verdict:
        verdict = Verdict(jobs=len(set(self._ids)), kills=kills)
        with self._lab.agent.client() as client:
            for job_id in sorted(set(self._ids)):
                job = wait_final(client, job_id)
                if (job.state, job.exit_code) != expected(job_id):
                    verdict.wrong.append(job)
                if not _log_is_whole(client, job_id):
                    verdict.torn.append(job_id)
        ran = Counter(int(line) for line in self._runs.read_text().split())
        verdict.doubled = [job_id for job_id, count in ran.items() if count > 1]
        verdict.missing = [job_id for job_id in set(self._ids) if job_id not in ran]
        return verdict


def expected(job_id: int) -> tuple[JobState, int]:
    """How the ordeal's script ends."""
    code = job_id % 3
    return (JobState.COMPLETED if code == 0 else JobState.FAILED), code


def _log_is_whole(client: Client, job_id: int) -> bool:
    said = client.log(JobRef(id=job_id), 0, None).data.decode()
    return said == "".join(f"{job_id}:{line}\n" for line in range(1, LINES + 1))
