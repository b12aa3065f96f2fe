"""A job store over a real SQLite file, as its tests open and fill it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.jobs import retention
from agent.jobs.row import JobRow
from agent.jobs.spec import JobSpec
from agent.jobs.store import JobStore


def spec(**fields: object) -> JobSpec:
    known = {"name": "nm", "script_name": "s.sh", "submit_dir": "/home/ada", "work_dir": "/home/ada"}
    return JobSpec(**{**known, **fields})  # type: ignore[arg-type]


def add(store: JobStore, key: str | None = None, *, user: str = "ada", uid: int = 1001, **fields: object) -> JobRow:
    return store.add(spec(**fields), user=user, uid=uid, key=key, digest="d", now=100)[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.db"


@pytest.fixture
def store(path: Path) -> Iterator[JobStore]:
    opened = JobStore.open(path, now=1)
    yield opened
    opened.close()


def reopened(store: JobStore, path: Path) -> JobStore:
    store.close()
    again = JobStore.open(path, now=2)
    assert again.damaged is None
    return again


def forget_old(store: JobStore, state_dir: Path, *, before: int, limit: int = 50) -> list[int]:
    """The steps of `agent.jobs.retention` one after the other; the ids that were forgotten."""
    doomed = retention.due(store, before=before, limit=limit)
    retention.remove_folders(state_dir, doomed)
    ids = [job_id for ids in doomed.values() for job_id in ids]
    store.forget(ids)
    return ids
