"""The job folder: the files through which a training job and the outside talk, and nothing else.

The writing half of the contract that `agent.jobs.contract` tells in full:

    stop            written by the agent, the user or a batch trap: save, then end
    metrics.jsonl   one object a line, appended: step, t and numbers
    progress.json   where the run stands, replaced at most once a second
    ckpt/NNNNNNNNN/ one checkpoint; a folder that exists is complete
    result.json     the last word: state `done`, `stopped` or `failed`

Rules: a reader never sees half a file (hidden name, fsync, rename, fsync of the folder); after a resume the metrics
hold no step twice; asking whether to stop costs one stat(2). Whoever calls `progress` is asked to stop by the file
first, and is given twice the step and save seconds that it told. Only the standard library is used, so a script that
trains with something else can follow the same files.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

_PROGRESS_EVERY_S = 1.0
_CHECKPOINTS_KEPT = 2


class JobDir:
    """One run's hold on its job folder. Use as a context: an error that leaves it is recorded as `failed`."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._metrics = (path / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._progress_at = float("-inf")
        self._save_s: float | None = None

    @classmethod
    def from_environment(cls, environ: dict[str, str]) -> JobDir:
        """The folder that Stoker names in `JOB_DIR`; elsewhere one beside the job's output, by Slurm's job id."""
        return cls(Path(environ.get("JOB_DIR") or f"job-{environ.get('SLURM_JOB_ID', 'local')}").absolute())

    def __enter__(self) -> JobDir:
        _remove(self.path / "result.json")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.close()
        if error is not None and not (self.path / "result.json").exists():
            self.result("failed", error=f"{type(error).__name__}: {error}")

    def stop_requested(self) -> bool:
        """Whether somebody asked the run to save and end."""
        return (self.path / "stop").exists()

    def metric(self, step: int, **numbers: float) -> None:
        """Append one line of numbers for `step`."""
        self._metrics.write(json.dumps({"step": step, "t": round(time.time(), 3), **numbers}) + "\n")

    def progress(self, step: int, total: int, step_s: float, phase: str) -> None:
        """Say where the run stands. `step_s` and the last save's seconds tell the agent how soon it could stop."""
        now = time.monotonic()
        if now - self._progress_at < _PROGRESS_EVERY_S and step < total:
            return
        self._progress_at = now
        report = {"step": step, "total": total, "step_s": step_s, "save_s": self._save_s, "phase": phase}
        self._replace("progress.json", report)

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Make the checkpoint of `step`: `write` fills an empty hidden folder, which then takes its name."""
        began = time.monotonic()
        final = self._checkpoints / f"{step:09d}"
        hidden = self._checkpoints / f".{step:09d}"
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
        write(hidden)
        for file in hidden.iterdir():
            _fsync(file)
        _fsync(hidden)
        shutil.rmtree(final, ignore_errors=True)
        hidden.rename(final)
        _fsync(self._checkpoints)
        self._save_s = round(time.monotonic() - began, 4)
        for old in self._complete()[:-_CHECKPOINTS_KEPT]:
            shutil.rmtree(old)

    def resume(self) -> tuple[int, Path] | None:
        """The newest checkpoint as (step, folder), with later steps cut from the metrics; `None`: start afresh."""
        found = self._complete()
        if not found:
            self._keep_metrics(up_to=-1)
            return None
        step = int(found[-1].name)
        self._keep_metrics(up_to=step)
        return step, found[-1]

    def result(self, state: str, **facts: Any) -> None:
        """The run's last word. `state` is `done`, `stopped` or `failed`."""
        self._replace("result.json", {"state": state, **facts})

    @property
    def _checkpoints(self) -> Path:
        return self.path / "ckpt"

    def _complete(self) -> list[Path]:
        return sorted(self._checkpoints.glob("[0-9]" * 9))

    def _keep_metrics(self, up_to: int) -> None:
        """A run killed after its last checkpoint wrote lines that the resumed run will write again."""
        path = self.path / "metrics.jsonl"
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= up_to]
        self._metrics.close()
        _write_durably(path, "".join(f"{line}\n" for line in kept))
        self._metrics = path.open("a", encoding="utf-8", buffering=1)

    def _replace(self, name: str, value: dict[str, Any]) -> None:
        _write_durably(self.path / name, json.dumps(value) + "\n")


def _step_of(line: str) -> float:
    """The step of a metrics line; a line torn by a kill counts as later than everything."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _write_durably(path: Path, text: str) -> None:
    hidden = path.with_name(f".{path.name}")
    hidden.write_text(text, encoding="utf-8")
    _fsync(hidden)
    hidden.replace(path)
    _fsync(path.parent)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
