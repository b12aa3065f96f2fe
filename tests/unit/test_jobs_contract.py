"""The job contract's readers: what a job tells is understood, and nothing that a hostile one plants holds them up."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.jobfolder import END_S, JobFolder
from agent.engine.jobproc import Account
from agent.jobs import contract, foreign
from agent.jobs.contract import Metrics, Progress, Result
from agent.training.jobdir import JobDir

READERS: dict[str, Callable[[Path, list[str]], object]] = {
    "progress.json": lambda folder, told: contract.read_progress(folder, told),
    "result.json": lambda folder, told: contract.read_result(folder, told),
    "metrics.jsonl": lambda folder, told: contract.last_metrics(folder, 1, told) or None,
}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user's folder")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (path := tmp_path / "files").mkdir()
    return path


def test_what_the_writing_half_writes_is_understood(folder: Path) -> None:
    with JobDir(folder) as job:
        job.metric(1, loss=0.5, lr=1e-3)
        job.metric(2, loss=float("nan"), accuracy=1)
        job.save(2, _save)
        job.progress(2, 2, 0.25, "train")
        job.result("done", step=2, metrics={"loss": 0.5, "bad": float("inf")}, note="words")
    progress = contract.read_progress(folder)
    assert progress is not None and progress.save_s is not None
    assert (progress.step, progress.total, progress.step_s, progress.phase) == (2, 2, 0.25, "train")
    assert progress.stop_s == pytest.approx(0.25 + progress.save_s)
    assert [(each.step, each.numbers) for each in contract.last_metrics(folder, 5)] == [
        (1, {"loss": 0.5, "lr": 1e-3}),
        (2, {"accuracy": 1.0}),
    ]
    result = contract.read_result(folder)
    assert result is not None
    assert (result.state, result.step, result.numbers) == ("done", 2, {"metrics.loss": 0.5})


def _save(into: Path) -> None:
    (into / "weights").write_text("w")


def test_the_shim_and_the_agent_read_the_same_time_out_of_it(folder: Path) -> None:
    shim = JobFolder(str(folder), Account(None, None, None))
    shim.clean()
    (folder / "progress.json").write_text('{"step": 1, "step_s": 0.5, "save_s": 3}')
    progress = contract.read_progress(folder)
    assert progress is not None and progress.stop_s is not None
    assert shim.ask("cancel", "alice")[0] == 2 * progress.stop_s + END_S


def test_before_anything_is_written_nothing_is_said(folder: Path) -> None:
    told: list[str] = []
    assert [read(folder, told) for read in READERS.values()] == [None, None, None]
    assert [read(folder / "none" / "here", told) for read in READERS.values()] == [None, None, None]
    assert told == []


def test_only_the_step_is_needed(folder: Path) -> None:
    (folder / "progress.json").write_text('{"step": 3}')
    progress = contract.read_progress(folder)
    assert progress is not None
    assert (progress.step, progress.total, progress.step_s, progress.save_s, progress.stop_s) == (
        3,
        None,
        None,
        None,
        None,
    )
    assert abs(progress.at - time.time()) < 60


def test_an_earlier_attempts_result_does_not_count(folder: Path) -> None:
    (folder / "result.json").write_text('{"state": "stopped"}')
    os.utime(folder / "result.json", (1000, 1000))
    assert contract.read_result(folder, since=1001) is None
    assert contract.read_result(folder, since=1000) is not None


# --- nonsense ---------------------------------------------------------------------------------------------------------

NONSENSE = {
    "empty": b"",
    "binary": bytes(range(256)),
    "half": b'{"step": 1, "state": "do',
    "a list": b"[1, 2]",
    "a number": b"7",
    "deep": b"[" * 60_000,
    "deep objects": b'{"a":' * 10_000,
    "5,000 digits": b'{"step": ' + b"9" * 5000 + b"}",
    "wrong types": b'{"step": "1", "state": 7}',
    "negative": b'{"step": -1, "state": null}',
    "not whole": b'{"step": 1.5, "state": "DONE"}',
    "not a number": b'{"step": NaN, "state": NaN}',
    "truth": b'{"step": true, "state": true}',
    "infinite": b'{"step": 1e999, "state": ["done"]}',
    "lone surrogate": b'{"step": "\\ud800", "state": "\\ud800"}',
    "too long": b'{"step": 1, "state": "done", "pad": "' + b"x" * 70_000 + b'"}',
}


@pytest.mark.parametrize("what", NONSENSE)
@pytest.mark.parametrize("name", ["progress.json", "result.json"])
def test_row_56_nonsense_is_nothing_and_a_sentence(folder: Path, name: str, what: str) -> None:
    (folder / name).write_bytes(NONSENSE[what])
    told: list[str] = []
    assert READERS[name](folder, told) is None
    assert len(told) == 1
    assert told[0].startswith(f"{folder / name} says nothing: ")
    assert told[0].endswith("see the job contract in agent/jobs/contract.py")
    assert len(told[0]) < 500


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_among_the_metrics_is_passed_over(folder: Path, what: str) -> None:
    (folder / "metrics.jsonl").write_bytes(b'{"step": 1, "a": 2}\n' + NONSENSE[what].replace(b"\n", b"") + b"\n")
    found = contract.last_metrics(folder, 1)
    assert len(found) <= 1
    assert all(isinstance(each, Metrics) for each in found)


def test_a_line_that_is_still_being_written_and_one_that_was_cut_do_not_count(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3')
    assert [each.step for each in contract.last_metrics(folder, 9)] == [1, 2]
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(100_000):
            file.write(f'{{"step": {step}, "loss": {step}}}\n')
    found = contract.last_metrics(folder, 1_000_000)
    assert found[-1].step == 99_999
    assert 1000 < len(found) < 100_000
    assert [each.step for each in found] == list(range(100_000 - len(found), 100_000))


def test_only_so_many_names_are_taken_over(folder: Path) -> None:
    (folder / "result.json").write_text(
        json.dumps({"state": "done", **{f"n{i}": i for i in range(3000)}, "x" * 200: 1})
    )
    result = contract.read_result(folder)
    assert result is not None
    assert len(result.numbers) == contract.NAME_MOST
    assert max(map(len, result.numbers)) <= contract.NAME_MOST


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
words = st.dictionaries(st.sampled_from(["step", "total", "step_s", "save_s", "phase", "state", "t", "x"]), values)


@given(words | values, st.binary(max_size=5))
def test_whatever_a_job_writes_is_understood_or_refused(
    tmp_path_factory: pytest.TempPathFactory, value: object, tail: bytes
) -> None:
    (folder := tmp_path_factory.mktemp("job") / "files").mkdir()
    for name, read in READERS.items():
        (folder / name).write_bytes(json.dumps(value).encode() + tail)
        told: list[str] = []
        found = read(folder, told)
        assert found is None or isinstance(found, Progress | Result | list)
    shim = JobFolder(str(folder), Account(None, None, None))
    wait_s, _ = shim.ask("cancel", "alice")
    assert wait_s is None or 0 <= wait_s <= 4e6 + END_S


# --- hostile ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
def test_row_53_what_is_no_file_of_the_folders_owner_is_refused_at_once(folder: Path, name: str) -> None:
    (secret := folder.parent / "secret").write_text('{"step": 1, "state": "done"}\n')
    plants: list[tuple[Callable[[Path], object], str]] = [
        (lambda path: path.symlink_to(secret), "a symbolic link"),
        (lambda path: path.symlink_to("/dev/zero"), "a symbolic link"),
        (lambda path: os.mkfifo(path), "a fifo"),
        (lambda path: path.mkdir(), "a folder"),
    ]
    if os.geteuid() == 0:
        plants.append((lambda path: os.mknod(path, 0o020666, os.makedev(1, 5)), "a device"))
    for plant, said in plants:
        plant(folder / name)
        told: list[str] = []
        began = time.monotonic()
        assert READERS[name](folder, told) is None
        assert time.monotonic() - began < 5
        assert said in told[0]
        (folder / name).rmdir() if (folder / name).is_dir() else (folder / name).unlink()


def test_row_52_a_link_for_the_folder_itself_is_refused(folder: Path) -> None:
    (folder / "progress.json").write_text('{"step": 1}')
    (link := folder.parent / "link").symlink_to(folder)
    told: list[str] = []
    assert contract.read_progress(link, told) is None
    assert len(told) == 1


@needs_root
def test_row_53_a_hard_link_to_somebody_elses_file_tells_nothing(folder: Path) -> None:
    (secret := folder.parent / "secret").write_text('{"step": 1, "state": "done"}')
    secret.chmod(0o600)
    os.chown(folder, 54321, 54321)
    for name in ("progress.json", "result.json"):
        (folder / name).hardlink_to(secret)
        told: list[str] = []
        assert READERS[name](folder, told) is None
        assert "belongs to somebody else" in told[0]


@needs_root
def test_a_file_system_mounted_in_its_place_is_never_asked(folder: Path) -> None:
    """Simulated with a tmpfs and a bind: a user's own file system (FUSE) might never answer."""
    (folder / "progress.json").write_text('{"step": 1}')
    mounts = {folder: ["-t", "tmpfs", "none"], folder / "progress.json": ["--bind", "/proc/version"]}
    for place, what in mounts.items():
        subprocess.run(["mount", *what, str(place)], check=True)
        try:
            told: list[str] = []
            assert contract.read_progress(folder, told) is None
            assert "a file system is mounted on it" in told[0]
        finally:
            subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("name", READERS)
def test_a_terabyte_is_read_in_no_time(folder: Path, name: str) -> None:
    with (folder / name).open("wb") as file:
        file.truncate(1 << 40)
    began = time.monotonic()
    assert READERS[name](folder, []) is None
    assert time.monotonic() - began < 5


def test_no_descriptor_is_left_open(folder: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    (folder / "progress.json").mkdir()
    (folder / "result.json").write_text('{"state": "done"}')
    for read in READERS.values():
        read(folder, [])
    read_none = foreign.open_folder(str(folder))
    os.close(read_none)
    assert sorted(os.listdir("/proc/self/fd")) == before
