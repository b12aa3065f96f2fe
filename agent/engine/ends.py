"""From an exit record to what happened to the job: the one place where a run's last word is weighed."""

from __future__ import annotations

from pathlib import Path

from agent.engine.records import Exit, Started
from agent.jobs import contract, machine
from agent.jobs.machine import Event


def end_event(end: Exit, started: Started | None, boot_id: str, result_state: str | None = None) -> Event:
    """What an exit record makes of its job.

    A prolog that refused sends the job back. A run that was told to stop from outside, and whose node has booted anew
    since, was ended by that reboot: nobody ran `systemctl stop` for it.

    Args:
        end: the record.
        started: who ran it, if that was recorded.
        boot_id: of this boot.
        result_state: `state` of the `result.json` that this attempt wrote, if it wrote any.
    """
    why: str | None = end.why
    if why == "prolog":
        return machine.PrologFailed(detail=end.detail or "the prolog failed")
    if why == "outside" and started is not None and started.boot_id != boot_id and result_state != "done":
        return machine.Rebooted()
    outcome = machine.outcome_of(
        code=end.code, signal=end.signal, why=why, ended_at=end.ended_at, oom=end.oom, detail=end.detail
    )
    return machine.Ended(outcome=machine.believe(outcome, result_state))


def told_state(files: Path, started: Started | None) -> str | None:
    """`state` of the `result.json` that this attempt wrote; one of an earlier attempt does not count.

    Args:
        files: `$JOB_DIR`.
        started: who ran it; of a run that never began nothing was told.
    """
    told = contract.read_result(files, since=float(started.at)) if started is not None else None
    return None if told is None else told.state
