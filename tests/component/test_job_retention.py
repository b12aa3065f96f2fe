"""Ended jobs lose folder and row, in an order that can be cut short anywhere; what users planted is not followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.api.types import JobState
from agent.engine.reconcile import reconcile
from agent.jobs import ledger, retention
from agent.jobs.errors import ForgottenJobError
from agent.jobs.folder import job_dir
from agent.jobs.machine import CancelAsked, RequeueAsked
from agent.jobs.row import JobRow
from agent.jobs.spec import ArraySpec, Dependency, DependencySpec, JobSpec
from agent.jobs.store import JobStore
from tests.fakes.stores import forget_old
from tests.fakes.stores import path as path
from tests.fakes.stores import store as store


def submit(store: JobStore, state_dir: Path, **fields: object) -> JobRow:
    spec = JobSpec(name="n", script_name="s", submit_dir="/", work_dir="/", **fields)  # type: ignore[arg-type]
    return ledger.take_in(
        store, state_dir, spec, user="ada", uid=1, key=None, digest="d", now=1, env={}, script="#!/bin/sh\n"
    )[0]


def ended(store: JobStore, state_dir: Path, **fields: object) -> JobRow:
    row = submit(store, state_dir, **fields)
    ids = [each.id for each in store.tasks_of(row.id)] or [row.id]
    ledger.apply_each(store, state_dir, ids, CancelAsked(by="ada"), 10)
    return store.get(row.id)


def folders(state_dir: Path) -> list[str]:
    return sorted(each.name for each in (state_dir / "jobs").iterdir())


def test_what_ended_long_ago_goes_the_rest_stays(tmp_path: Path, store: JobStore) -> None:
    old, waiting = ended(store, tmp_path), submit(store, tmp_path)
    several = ended(store, tmp_path, array=ArraySpec(tasks=(0, 1), text="0-1"))
    (tmp_path / "jobs" / str(several.id + 1) / "1").mkdir(parents=True)  # a task that had run
    young = ended(store, tmp_path)
    output = tmp_path / "slurm-1.out"
    output.write_text("the user's")
    assert forget_old(store, tmp_path, before=5) == []
    assert forget_old(store, tmp_path, before=11) == [old.id, several.id, several.id + 1]
    assert [row.id for row in store.find()] == [young.id, waiting.id]
    assert folders(tmp_path) == [str(waiting.id), str(young.id)]
    assert output.exists()
    assert reconcile(store, tmp_path, damaged=True, now=20) == 0, "and nothing brings it back"
    assert submit(store, tmp_path).id == young.id + 1


def test_one_whose_forgetting_was_cut_short_is_not_requeued_and_goes_with_the_next_round(
    tmp_path: Path, store: JobStore
) -> None:
    """Its script is gone, and a lost database would know nothing of the wish."""
    old, _ = ended(store, tmp_path), submit(store, tmp_path)
    retention.remove_folders(tmp_path, retention.due(store, before=11, limit=50))  # and then the agent was killed
    said = f"job {old.id} ended longer ago than jobs are kept, and its script is removed: submit it anew"
    with pytest.raises(ForgottenJobError, match=said):
        ledger.apply(store, tmp_path, old.id, RequeueAsked(by="ada"), 12)
    with pytest.raises(ForgottenJobError, match=said):
        ledger.apply_each(store, tmp_path, [old.id], RequeueAsked(by="ada"), 12)
    assert store.get(old.id).status.state is JobState.CANCELLED
    assert forget_old(store, tmp_path, before=11) == [old.id]
    assert folders(tmp_path) == ["2"]


def test_what_a_round_left_does_not_stand_in_the_way_of_the_next(tmp_path: Path, store: JobStore) -> None:
    old, _ = ended(store, tmp_path), submit(store, tmp_path)
    for name in (f".forgotten-{old.id}", f".forgotten-{old.id}-0"):
        (tmp_path / "jobs" / name / "1").mkdir(parents=True)
    assert forget_old(store, tmp_path, before=11) == [old.id]
    assert folders(tmp_path) == ["2"]


def test_a_job_that_another_waits_for_stays(tmp_path: Path, store: JobStore) -> None:
    first = ended(store, tmp_path)
    condition = Dependency(kind="afternotok", job_id=first.id)
    submit(store, tmp_path, dependency=DependencySpec(conditions=(condition,)))
    submit(store, tmp_path)
    assert forget_old(store, tmp_path, before=11) == []


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("cut_after", ["rename of the submission", "folders"])
def test_cut_short_the_next_round_goes_on(tmp_path: Path, store: JobStore, cut_after: str, lost: bool) -> None:
    several = ended(store, tmp_path, array=ArraySpec(tasks=(0, 1), text="0-1"))
    (tmp_path / "jobs" / str(several.id + 1) / "1").mkdir(parents=True)
    young = submit(store, tmp_path)
    if cut_after == "folders":
        retention.remove_folders(tmp_path, retention.due(store, before=11, limit=9))
    else:
        (tmp_path / "jobs" / str(several.id)).rename(tmp_path / "jobs" / f".forgotten-{several.id}")
    if lost:
        store.close()
        (tmp_path / "agent.db").unlink()
        again = JobStore.open(tmp_path / "agent.db", now=2)
        reconcile(again, tmp_path, damaged=True, now=20)
        assert [row.id for row in again.find()] == [young.id], "no rebuild takes it in again, still less runs it"
        again.close()
        return
    assert reconcile(store, tmp_path, damaged=False, now=20) == 0
    assert forget_old(store, tmp_path, before=11) == [several.id, several.id + 1]
    assert folders(tmp_path) == [str(young.id)]


def test_an_older_database_does_not_run_what_was_forgotten(tmp_path: Path, store: JobStore) -> None:
    forgotten = submit(store, tmp_path)
    submit(store, tmp_path)
    retention.remove_folders(tmp_path, {forgotten.id: [forgotten.id]})
    reconcile(store, tmp_path, damaged=True, now=20)
    status = store.get(forgotten.id).status
    assert (status.state, status.detail) == ("CANCELLED", "cancelled by stoker: its folder is gone before it started")
    assert len(store.pending()) == 1


# --- hostile folders --------------------------------------------------------------------------------------------------


def plant(folder: Path, outside: Path) -> None:
    files = folder / "files"
    files.mkdir()
    (files / "link-to-folder").symlink_to(outside)
    (files / "link-to-file").symlink_to(outside / "precious")
    (files / "dangling").symlink_to("nowhere")
    os.link(outside / "precious", files / "hard-link")
    os.mkfifo(files / "fifo")
    (files / ".forgotten-1").mkdir()
    (files / ".forgotten-1" / "x").write_text("in the way")
    (files / os.fsdecode(b"\xff\n\x1b[2J")).write_text("odd name")
    (files / "empty").mkdir(mode=0o000)
    (files / "shut").mkdir()
    (files / "shut" / "inner").mkdir()
    (files / "shut" / "inner" / "file").write_text("x")
    (files / "shut").chmod(0o000)


def deep(folder: Path, depth: int) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)


def test_nothing_planted_is_followed_and_all_of_it_goes(tmp_path: Path, store: JobStore) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("untouched")
    old = ended(store, tmp_path)
    submit(store, tmp_path)
    plant(job_dir(tmp_path, old.id), outside)
    deep(job_dir(tmp_path, old.id), 3000)
    assert forget_old(store, tmp_path, before=11) == [old.id]
    assert folders(tmp_path) == ["2"]
    assert (outside / "precious").read_text() == "untouched"


def test_a_job_folder_that_is_a_link_is_not_followed(
    tmp_path: Path, store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("untouched")
    old = ended(store, tmp_path)
    submit(store, tmp_path)
    folder = job_dir(tmp_path, old.id)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(outside)
    forget_old(store, tmp_path, before=11)
    assert (outside / "precious").read_text() == "untouched"
    assert "remove it by hand" in caplog.text


def test_no_job_folders_at_all(tmp_path: Path, store: JobStore) -> None:
    retention.remove_folders(tmp_path, {})
    assert forget_old(store, tmp_path, before=11) == []
