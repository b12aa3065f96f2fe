r"""The job contract, version 1: all that a job and Stoker tell each other is files in the job's folder, `$JOB_DIR`.

    file            written by          meaning
    stop            Stoker, the user    save, then end. {"why": "preempt" | "cancel" | "limit", "by": "alice"}
    progress.json   the job             where it stands, replaced (rename) at most once a second; all but `step` may be
                                        left out: {"step": 120, "total": 9000, "step_s": 0.21, "save_s": 3.4,
                                        "phase": "train"}. `step_s` is seconds per step, `save_s` those of the last save
    metrics.jsonl   the job, appended   one object a line: "step", "t" (Unix seconds) and any other names with numbers
    ckpt/NNNNNNNNN/ the job             one checkpoint, named by its step; a folder that exists is complete: written
                                        under a hidden name, fsync, rename
    result.json     the job, last       {"state": "done" | "stopped" | "failed", "step": 9000, …}, whatever else it
                                        likes to tell: numbers become the run's results

The environment has `JOB_DIR` and `JOB_ATTEMPT` (1 for the first run). A second attempt finds what the first one left,
but no `stop`.

When Stoker ends a job (preempted, cancelled, out of time) it writes `stop` first. A job that has written
`progress.json` in this attempt is then left alone for twice the time of one step and one save, and a second to end in:
`2 * (step_s + save_s) + 1`, at most 4/5 of the grace (`jobs.grace_s`), and those 4/5 where no save was measured yet.
Then comes SIGTERM to all of the job, and at the end of the grace SIGKILL. A job that never writes `progress.json` gets
SIGTERM at once.

Any language will do; this shell script is a whole job:

    for i in $(seq 100); do sleep 1; echo "{\"step\": $i, \"step_s\": 1, \"save_s\": 0}" > "$JOB_DIR/.p"
        mv "$JOB_DIR/.p" "$JOB_DIR/progress.json"
        if [ -e "$JOB_DIR/stop" ]; then echo '{"state": "stopped"}' > "$JOB_DIR/result.json"; exit; fi; done

The readers below never block, never follow a link and never raise for what a job wrote, see `foreign`: what cannot be
understood is `None`, with a sentence for whoever asks. The writing half in Python is `agent.training.jobdir`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.jobs.foreign import ForeignError, Part, open_folder, read_part

FILE_MOST_BYTES = 64 * 1024
"""Longest `progress.json` and `result.json` that are read."""

TAIL_BYTES = 64 * 1024
"""How much of the end of `metrics.jsonl` is looked at."""

ERROR_MOST = 2000

NAME_MOST = 100
"""Longest name of a metric, and most of them, that are taken over."""

_INT_MOST = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run stands."""

    step: int
    total: int | None = None
    step_s: float | None = None
    """Seconds a step takes."""
    save_s: float | None = None
    """Seconds the last checkpoint took; `None` before the first."""
    phase: str | None = None
    """The job's own word; unsafe text."""
    at: float
    """Unix seconds at which the job wrote it."""

    @property
    def stop_s(self) -> float | None:
        """Seconds after which it can have saved and ended; `None`: no save was measured."""
        return None if self.save_s is None else (self.step_s or 0.0) + self.save_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A run's last word."""

    state: str
    """`done`, `stopped` or `failed`."""
    step: int | None = None
    error: str | None = None
    """Unsafe text."""
    numbers: dict[str, float] = field(default_factory=dict)
    """Every finite number in it, one level of objects deep (`metrics.loss` for `{"metrics": {"loss": …}}`)."""
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """One line of `metrics.jsonl`."""

    step: int | None
    t: float | None
    """Unix seconds."""
    numbers: dict[str, float]
    """The other names, as far as they are finite numbers; unsafe text as names."""


def read_progress(files_dir: Path, problems: list[str] | None = None) -> Progress | None:
    """Where the run in this `$JOB_DIR` stands; `None` when it does not tell, or tells nonsense (a sentence then).

    Args:
        files_dir: the job's folder.
        problems: takes the sentence.
    """
    with _telling(files_dir / "progress.json", problems) as path:
        if (found := _object(path)) is not None:
            return _progress(*found)
    return None


def read_result(files_dir: Path, problems: list[str] | None = None, *, since: float | None = None) -> Result | None:
    """The run's last word; `None` while there is none. For `problems` see `read_progress`.

    Args:
        files_dir: the job's folder.
        problems: takes a sentence.
        since: Unix seconds; an older one is an earlier attempt's and does not count.
    """
    with _telling(files_dir / "result.json", problems) as path:
        found = _object(path)
        if found is not None and (since is None or found[1] >= since):
            return _result(*found)
    return None


def last_metrics(files_dir: Path, count: int = 1, problems: list[str] | None = None) -> list[Metrics]:
    """The last lines of `metrics.jsonl` that make sense, oldest first. For `problems` see `read_progress`."""
    with _telling(files_dir / "metrics.jsonl", problems) as path:
        part = _read(path, TAIL_BYTES, tail=True)
        if part is not None:
            lines = part.data.split(b"\n")[:-1]  # the last one is still being written, the first one may be cut
            return _last(lines if part.whole else lines[1:], count)
    return []


class _NonsenseError(Exception):
    """What stands there says nothing."""


@contextmanager
def _telling(path: Path, problems: list[str] | None) -> Iterator[Path]:
    """Turn whatever cannot be read or understood into a sentence."""
    try:
        yield path
    except (_NonsenseError, ForeignError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        if problems is not None:
            problems.append(f"{path} says nothing: {why}; see the job contract in agent/jobs/contract.py")


def _read(path: Path, most: int, *, tail: bool = False) -> Part | None:
    try:
        folder = open_folder(os.fspath(path.parent))
    except FileNotFoundError:
        return None
    try:
        return read_part(folder, path.name, most, tail=tail)
    finally:
        os.close(folder)


def _object(path: Path) -> tuple[dict[str, Any], float] | None:
    """A file's JSON object, and when it was written."""
    part = _read(path, FILE_MOST_BYTES)
    if part is None:
        return None
    if not part.whole:
        raise _NonsenseError(f"it is longer than {FILE_MOST_BYTES} bytes")
    value = _parse(part.data)
    if not isinstance(value, dict):
        raise _NonsenseError("it is not a JSON object")
    return value, part.modified_at


def _parse(data: bytes) -> Any:
    """The JSON value, or `None`. Deep nesting and numbers of 5,000 digits are refused by `json` itself."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


# --- what is believed -------------------------------------------------------------------------------------------------


def _progress(found: dict[str, Any], at: float) -> Progress:
    step, phase = _count(found.get("step")), found.get("phase")
    if step is None:
        raise _NonsenseError("it has no step that is a whole number from 0 on")
    return Progress(
        step=step,
        total=_count(found.get("total")),
        step_s=_seconds(found.get("step_s")),
        save_s=_seconds(found.get("save_s")),
        phase=phase[:NAME_MOST] if isinstance(phase, str) else None,
        at=at,
    )


def _result(found: dict[str, Any], at: float) -> Result:
    state, error = found.get("state"), found.get("error")
    if state not in ("done", "stopped", "failed"):
        raise _NonsenseError("its state is neither done nor stopped nor failed")
    return Result(
        state=state,
        step=_count(found.get("step")),
        error=error[:ERROR_MOST] if isinstance(error, str) else None,
        numbers=_numbers(found, {"state", "step", "error"}),
        at=at,
    )


def _last(lines: list[bytes], count: int) -> list[Metrics]:
    found: list[Metrics] = []
    for line in reversed(lines):
        if len(found) == count:
            break
        value = _parse(line)
        if isinstance(value, dict):
            numbers = _numbers(value, {"step", "t"})
            found.append(Metrics(step=_count(value.get("step")), t=_seconds(value.get("t")), numbers=numbers))
    return found[::-1]


def _number(value: object) -> float | None:
    """A finite number that is neither a truth value nor beyond every use."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return float(value)


def _count(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and 0 <= number <= _INT_MOST and number == int(number) else None


def _seconds(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and 0 <= number < 1e12 else None


def _numbers(found: dict[str, Any], but: set[str]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in found.items():
        inner = value.items() if isinstance(value, dict) else ()
        for label, each in ((name, value), *((f"{name}.{key}", each) for key, each in inner)):
            number = _number(each)
            if number is not None and label not in but and len(label) <= NAME_MOST and len(numbers) < NAME_MOST:
                numbers[label] = number
    return numbers
