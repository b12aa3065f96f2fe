"""The job folder on a real disk: whole or absent, never through a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.jobs.durable import write_durably
from agent.jobs.errors import FolderError
from agent.jobs.folder import (
    Cancelled,
    Submission,
    confirm,
    job_dir,
    mend_script,
    read_cancelled,
    read_spec,
    submissions,
    write_spec,
)
from agent.jobs.spec import JobSpec

SCRIPT = "#!/bin/sh\necho 'grüße' \t$x\n"


def submission(job_id: int = 7) -> Submission:
    spec = JobSpec(name="実験", script_name="s.sh", submit_dir="/", work_dir="/", args=("\n",), gpus=2)
    env = {"A": "b\nc", "É": ""}
    return Submission(
        id=job_id, user="ada", uid=1001, key="k", digest="d", submitted_at=5, spec=spec, env=env, script=SCRIPT
    )


def stored(folder: Path, made: Submission, **more: Any) -> None:
    """Written, and its row is committed."""
    write_spec(folder, made, **more)
    confirm(folder)


def test_a_submission_reads_back(tmp_path: Path) -> None:
    folder = job_dir(tmp_path, 7)
    stored(folder, submission())
    assert folder == tmp_path / "jobs" / "7"
    assert read_spec(folder) == submission()
    assert (folder / "script").read_bytes() == SCRIPT.encode()
    assert sorted(each.name for each in folder.iterdir()) == ["script", "spec"]


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o277])
def test_who_may_read_what_is_not_for_the_umask_to_say(tmp_path: Path, umask: int) -> None:
    folder = job_dir(tmp_path, 7)
    old = os.umask(umask)
    try:
        stored(folder, submission())
    finally:
        os.umask(old)
    modes = {each: stat.S_IMODE(each.stat().st_mode) for each in (folder.parent, folder, *folder.iterdir())}
    assert modes == {folder.parent: 0o711, folder: 0o711, folder / "spec": 0o600, folder / "script": 0o500}


def test_the_script_belongs_to_whom_it_runs_as(tmp_path: Path) -> None:
    owner = (12345, 12346) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    stored(job_dir(tmp_path, 7), submission(), owner=owner)
    script, spec = job_dir(tmp_path, 7) / "script", job_dir(tmp_path, 7) / "spec"
    assert (script.stat().st_uid, script.stat().st_gid) == owner
    assert spec.stat().st_uid == os.geteuid()


def test_a_first_try_is_replaced(tmp_path: Path) -> None:
    folder = job_dir(tmp_path, 7)
    folder.mkdir(parents=True)
    (folder / ".spec.tmp").write_text("torn")
    (folder / "script").write_text("old")
    stored(folder, submission())
    assert read_spec(folder) == submission()
    assert (folder / "script").read_bytes() == SCRIPT.encode()


@pytest.mark.parametrize("torn", [b"", SCRIPT.encode()[:9], SCRIPT.encode() + b"rm -r ~\n", None])
def test_a_script_that_is_not_what_was_submitted_is_mended(tmp_path: Path, torn: bytes | None) -> None:
    folder = job_dir(tmp_path, 7)
    stored(folder, submission())
    script = folder / "script"
    script.unlink()
    if torn is not None:
        script.write_bytes(torn)
    mend_script(folder, read_spec(folder))
    assert script.read_bytes() == SCRIPT.encode()
    assert stat.S_IMODE(script.stat().st_mode) == 0o500


def test_a_sound_script_and_one_of_an_older_version_are_left_alone(tmp_path: Path) -> None:
    folder = job_dir(tmp_path, 7)
    write_spec(folder, submission())
    before = (folder / "script").stat()
    mend_script(folder, submission())
    assert (folder / "script").stat().st_ino == before.st_ino
    (folder / "script").chmod(0o700)
    (folder / "script").write_text("of old")
    mend_script(folder, msgspec.structs.replace(submission(), script=None))
    assert (folder / "script").read_text() == "of old"


@pytest.mark.parametrize("name", ["spec", ".spec.tmp"])
def test_a_planted_link_is_replaced_and_never_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    folder = job_dir(tmp_path, 7)
    folder.mkdir(parents=True)
    (folder / name).symlink_to(victim)
    stored(folder, submission())
    assert victim.read_text() == "untouched"
    assert not (folder / "spec").is_symlink()
    assert read_spec(folder) == submission()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "dir-in-the-way"
    target.mkdir()
    with pytest.raises(OSError):
        write_durably(target, b"x", mode=0o600)
    assert [each.name for each in tmp_path.iterdir()] == ["dir-in-the-way"]


@pytest.mark.parametrize("data", [b"", b"{", b'{"id": 7}', b"\xff\xfe", b"[]", b'{"id": "x"}'])
def test_a_damaged_spec_is_named(tmp_path: Path, data: bytes) -> None:
    folder = job_dir(tmp_path, 7)
    folder.mkdir(parents=True)
    (folder / "spec").write_bytes(data)
    with pytest.raises(FolderError, match=r"jobs/7/spec"):
        read_spec(folder)


def test_all_submissions_in_order_with_the_bad_ones_told(tmp_path: Path) -> None:
    for job_id in (10, 9, 2):
        stored(job_dir(tmp_path, job_id), submission(job_id))
    (job_dir(tmp_path, 9) / "spec").write_bytes(b"torn")
    job_dir(tmp_path, 11).mkdir()  # never answered for: no spec
    (tmp_path / "jobs" / "lost+found").mkdir()
    found = list(submissions(tmp_path))
    assert [each.id if isinstance(each, Submission) else "bad" for each in found] == [2, "bad", 10]
    assert list(submissions(tmp_path / "nowhere")) == []


def test_the_note_of_a_cancel(tmp_path: Path) -> None:
    folder = job_dir(tmp_path, 7)
    stored(folder, submission())
    assert read_cancelled(folder) is None
    (folder / "cancelled").write_bytes(b'{"by":"ada","at":9,"reason":"wrong data"}')
    assert read_cancelled(folder) == Cancelled(by="ada", at=9, reason="wrong data")
    (folder / "cancelled").write_bytes(b"torn")
    with pytest.raises(FolderError, match="cancelled"):
        read_cancelled(folder)


def test_a_submission_counts_once_it_is_confirmed_and_a_second_time_changes_nothing(tmp_path: Path) -> None:
    folder = job_dir(tmp_path, 7)
    write_spec(folder, submission())
    with pytest.raises(FolderError):
        read_spec(folder)
    assert list(submissions(tmp_path)) == []
    confirm(folder)
    confirm(folder)
    assert read_spec(folder) == submission()
    assert [each.name for each in folder.iterdir() if each.name.startswith("spec")] == ["spec"]
