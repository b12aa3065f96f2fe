"""The job folder: what a reader may count on, whatever the run does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.training.jobdir import JobDir


def _lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def _write(folder: Path) -> None:
    (folder / "state").write_text(folder.name.lstrip("."))


def test_the_folder_is_the_one_stoker_names(tmp_path: Path) -> None:
    with JobDir.from_environment({"JOB_DIR": str(tmp_path / "here"), "SLURM_JOB_ID": "7"}) as job:
        assert job.path == tmp_path / "here"


def test_without_stoker_it_is_named_after_slurms_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with JobDir.from_environment({"SLURM_JOB_ID": "7"}) as job:
        assert job.path == tmp_path / "job-7"


def test_a_stop_file_is_a_request(tmp_path: Path) -> None:
    with JobDir(tmp_path) as job:
        assert not job.stop_requested()
        (tmp_path / "stop").write_text('{"why": "preempt", "by": "agent"}')
        assert job.stop_requested()


def test_a_checkpoint_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("…")
        raise OSError("disk full")

    with JobDir(tmp_path) as job:
        with pytest.raises(OSError, match="disk full"):
            job.save(3, fails)
        assert job.resume() is None
        job.save(3, _write)
        assert job.resume() == (3, tmp_path / "ckpt" / "000000003")
        assert [each.name for each in (tmp_path / "ckpt" / "000000003").iterdir()] == ["state"]


@given(steps=st.lists(st.integers(0, 999_999_999), min_size=1, max_size=6, unique=True).map(sorted))
def test_the_two_newest_checkpoints_are_kept(tmp_path_factory: pytest.TempPathFactory, steps: list[int]) -> None:
    path = tmp_path_factory.mktemp("job")
    with JobDir(path) as job:
        for step in steps:
            job.save(step, _write)
        assert sorted(int(each.name) for each in (path / "ckpt").iterdir()) == steps[-2:]
        found = job.resume()
        assert found is not None and found[0] == steps[-1]


def test_metrics_after_a_resume_hold_no_step_twice(tmp_path: Path) -> None:
    with JobDir(tmp_path) as job:
        for step in (1, 2, 3, 4):
            job.metric(step, loss=1.0 / step)
            if step == 2:
                job.save(step, _write)
    with (tmp_path / "metrics.jsonl").open("a") as torn:
        torn.write('{"step": 5, "lo')
    with JobDir(tmp_path) as job:
        job.resume()
        job.metric(3, loss=0.3)
    assert [line["step"] for line in _lines(tmp_path)] == [1, 2, 3]


def test_a_fresh_start_begins_the_metrics_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 9, "t": 0}\n')
    with JobDir(tmp_path) as job:
        assert job.resume() is None
        job.metric(1)
    assert [line["step"] for line in _lines(tmp_path)] == [1]


def test_progress_is_written_at_the_first_and_the_last_step_but_not_at_each(tmp_path: Path) -> None:
    with JobDir(tmp_path) as job:
        job.progress(1, 100, 0.5, "train")
        job.progress(2, 100, 0.5, "train")
        assert json.loads((tmp_path / "progress.json").read_text())["step"] == 1
        job.save(2, _write)
        job.progress(100, 100, 0.5, "train")
    last = json.loads((tmp_path / "progress.json").read_text())
    assert (last["step"], last["total"], last["phase"]) == (100, 100, "train")
    assert last["save_s"] >= 0


def test_an_error_is_the_runs_last_word(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), JobDir(tmp_path):
        _ = 1 // 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["state"] == "failed"
    assert "ZeroDivisionError" in result["error"]


def test_a_new_run_takes_back_the_last_ones_word(tmp_path: Path) -> None:
    with JobDir(tmp_path) as job:
        job.result("stopped", step=3)
    with JobDir(tmp_path):
        assert not (tmp_path / "result.json").exists()
