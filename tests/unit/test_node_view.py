"""What the node's snapshot adds to a reading."""

from __future__ import annotations

from agent.api.types import GpuProcess, GpuReading
from agent.server.node_view import owned


def reading(*pids: int) -> GpuReading:
    processes = tuple(GpuProcess(pid=pid, user="ada") for pid in pids)
    return GpuReading(index=0, uuid="GPU-0", name="x", sampled_at=0.0, processes=processes)


def test_a_process_of_a_job_says_whose_it_is_and_a_strangers_does_not() -> None:
    told = owned(reading(11, 12, 13), {11: 7, 13: 8})
    assert [(each.pid, each.user, each.job_id) for each in told.processes] == [
        (11, "ada", 7),
        (12, "ada", None),
        (13, "ada", 8),
    ]


def test_without_processes_of_jobs_the_reading_stays_what_it_is() -> None:
    plain = reading(12)
    assert owned(plain, {11: 7}) is plain
