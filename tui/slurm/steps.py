"""Steps of a job as Slurm's commands tell them: its batch script, and each `srun` in it.

Rules kept here: what a step told of itself is believed only within its job's life; a step that did not tell its end
ended with the job.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.api.queue import JobStep
from agent.api.types import FINAL_STATES, Job, JobState
from tui.slurm.job import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of one job."""

    view: View
    told: JobStep | None = None
    """`None`: the batch script."""

    @property
    def job(self) -> Job:
        """Its job."""
        return self.view.job

    @property
    def number(self) -> str:
        """`batch`, `0`."""
        return "batch" if self.told is None else str(self.told.id)

    @property
    def id(self) -> str:
        """`17_3.batch`, `17.0`."""
        return f"{self.view.id}.{self.number}"

    @property
    def raw_id(self) -> str:
        """The same with the job's own number."""
        return f"{self.job.id}.{self.number}"

    @property
    def name(self) -> str:
        """`batch`, `python`."""
        return "batch" if self.told is None else self.told.name

    @property
    def tasks(self) -> int:
        """Ranks."""
        return 1 if self.told is None else self.told.tasks

    @property
    def cpus(self) -> int:
        """CPUs counted for it; the batch script has the job's."""
        return self.view.cpus if self.told is None else self.told.cpus

    @property
    def started_at(self) -> float | None:
        """Unix seconds."""
        return self.job.started_at if self.told is None else self.told.started_at

    @property
    def ended_at(self) -> float | None:
        """Unix seconds; `None` while it runs."""
        if self.told is not None and self.told.ended_at is not None:
            return self.told.ended_at
        return self.job.ended_at if self.job.state in FINAL_STATES else None

    @property
    def elapsed_s(self) -> int:
        """From its start to its end, or until now."""
        end = self.view.now if self.ended_at is None else self.ended_at
        return max(0, int(end) - int(self.started_at or end))

    @property
    def lost(self) -> bool:
        """Nobody was left to tell its end."""
        return self.told is not None and self.told.ended_at is None and self.ended_at is not None

    @property
    def state(self) -> str:
        """`COMPLETED`, `FAILED`, `CANCELLED`, `RUNNING`; of the batch script also what became of the job."""
        if self.ended_at is None:
            return str(JobState.RUNNING.value)
        if self.told is None:
            killed = self.job.state is JobState.TIMEOUT
            return "CANCELLED" if killed else str(self.job.state.value)
        if self.lost or self.told.cancelled or self.told.signal:
            return "CANCELLED"
        return "FAILED" if self.told.exit_code else "COMPLETED"

    @property
    def code(self) -> tuple[int, int]:
        """Exit code and signal."""
        if self.told is None:
            signal = self.job.signal or 0
            return (self.job.exit_code or 0, signal or (15 if self.job.state is JobState.TIMEOUT else 0))
        if self.lost:
            return (0, 9)
        return (self.told.exit_code or 0, self.told.signal or 0)


def of(view: View) -> list[Step]:
    """The steps of one job: its batch script, then each `srun`; none of a job that did not begin."""
    if view.job.started_at is None or view.pending:
        return []
    return [Step(view=view), *(Step(view=view, told=told) for told in view.job.steps)]


def running(view: View) -> list[Step]:
    """Those that run, as squeue and scontrol list them: the newest last."""
    return [step for step in of(view) if step.ended_at is None]
