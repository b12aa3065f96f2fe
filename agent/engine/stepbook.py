"""What the steps of a job told of themselves (`agent.step.book`), read as somebody else's file.

Rules kept here: the file is the user's, who may have written anything: a line that makes no sense is passed over, and
at most so much is read and so many steps are told, the last ones.
"""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from agent.api.queue import JobStep
from agent.jobs.foreign import ForeignError, open_folder, read_part
from agent.step.book import FILE

logger = logging.getLogger(__name__)

MOST_BYTES = 1024 * 1024
MOST_STEPS = 1000


def read(files: Path, attempt: int) -> tuple[JobStep, ...]:
    """The steps of one attempt, in the order of their numbers.

    Args:
        files: the job's own folder, `$JOB_DIR`.
        attempt: which run of the job.
    """
    try:
        folder = open_folder(os.fspath(files))
        try:
            part = read_part(folder, FILE, MOST_BYTES, tail=True)
        finally:
            os.close(folder)
    except (OSError, ForeignError) as error:
        if not isinstance(error, FileNotFoundError):
            logger.debug("%s: steps are not told: %s", files, error)
        return ()
    if part is None:
        return ()
    steps: dict[int, JobStep] = {}
    for line in part.data.split(b"\n")[0 if part.whole else 1 : -1]:
        _take(line.decode("utf-8", "replace"), attempt, steps)
    return tuple(steps[number] for number in sorted(steps)[-MOST_STEPS:])


def _take(line: str, attempt: int, steps: dict[int, JobStep]) -> None:
    kind, _, rest = line.partition(" ")
    try:
        if kind == "S":
            run, number, tasks, cpus, at, name = rest.split(" ", 5)
            if int(run) == attempt:
                steps[_count(number)] = JobStep(
                    id=_count(number), name=name, tasks=_count(tasks), cpus=_count(cpus), started_at=_time(at)
                )
        elif kind == "E":
            run, number, *facts = rest.split(" ")
            if int(run) == attempt and int(number) in steps:
                steps[int(number)] = replace(steps[int(number)], **_end(facts))
    except ValueError:
        return


def _end(facts: list[str]) -> dict[str, Any]:
    at, code, number, cancelled, rss, cpu = facts
    return {
        "ended_at": _time(at),
        "exit_code": None if code == "-" else _count(code),
        "signal": None if number == "-" else _count(number),
        "cancelled": cancelled == "1",
        "max_rss_bytes": None if rss == "-" else _count(rss, 2**50),
        "cpu_seconds": None if cpu == "-" else _time(cpu),
    }


def _count(text: str, most: int = 10**9) -> int:
    value = int(text)
    if not 0 <= value < most:
        raise ValueError(text[:40])
    return value


def _time(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 <= value < 1e12):
        raise ValueError(text[:40])
    return value
