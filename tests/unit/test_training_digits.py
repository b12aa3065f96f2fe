"""The shipped training example, run as it is run in a job: its own process, isolated, from a foreign folder."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "agent" / "training" / "digits.sh"
START = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module('agent.training.digits', run_name='__main__')"
)

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the train extra is not installed")


EPOCHS = 14
"""Two thirds of what it does unasked: enough to learn."""


def _start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The module under `-I`, as installed; the checkout is put in front so that these files are the ones tested."""
    return subprocess.Popen(
        [sys.executable, "-I", "-u", "-c", START, str(ROOT), *words],
        env={**os.environ, "JOB_DIR": str(folder), "OMP_NUM_THREADS": "1"},
        cwd=folder.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _train(folder: Path) -> subprocess.Popen[str]:
    return _start(folder, "--epochs", str(EPOCHS))


def _finish(child: subprocess.Popen[str]) -> str:
    out, err = child.communicate(timeout=200)
    assert child.returncode == 0, err
    return out


def _state(folder: Path) -> str:
    """What the newest checkpoint holds: weights and optimiser, read as the archive that it is. Importing torch to look
    at them takes longer than to train."""
    newest = max((folder / "ckpt").glob("[0-9]*"))
    with zipfile.ZipFile(newest / "state.pt") as archive:
        values = [name for name in sorted(archive.namelist()) if "/data/" in name]
        assert len(values) > 20, "eight weights, and two moments and a count of steps of each"
        return hashlib.sha256(b"".join(archive.read(name) for name in values)).hexdigest()


def _await_epoch(child: subprocess.Popen[str], epoch: int) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(f"epoch {epoch}/"):
            return
    pytest.fail("the training ended before it could be stopped")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nobody disturbed, and what it said."""
    folder = tmp_path_factory.mktemp("straight") / "job"
    return folder, _finish(_train(folder))


def test_it_learns_and_leaves_the_files_of_the_contract(straight: tuple[Path, str]) -> None:
    folder, said = straight
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    assert [each["epoch"] for each in metrics] == list(range(1, EPOCHS + 1))
    assert metrics[-1]["loss"] < metrics[0]["loss"] / 5
    assert result["state"] == "done"
    assert result["metrics"]["test_accuracy"] >= 0.95
    assert result["metrics"]["test_accuracy"] == metrics[-1]["test_accuracy"]
    assert f"done: test accuracy {result['metrics']['test_accuracy']:.4f}" in said
    assert os.listdir(folder.parent) == ["job"], "nothing is written beside the job folder"


def test_stopped_twice_and_resumed_it_ends_with_the_same_weights(tmp_path: Path, straight: tuple[Path, str]) -> None:
    folder = tmp_path / "job"
    first = _train(folder)
    _await_epoch(first, 2)
    (folder / "stop").write_text('{"why": "preempt", "by": "agent"}')
    _finish(first)
    stopped = json.loads((folder / "result.json").read_text())
    assert stopped["state"] == "stopped"
    assert 2 * 23 <= stopped["step"] < EPOCHS * 23
    (folder / "stop").unlink()

    second = _train(folder)
    _await_epoch(second, 5)
    second.send_signal(signal.SIGTERM)
    _finish(second)
    assert json.loads((folder / "result.json").read_text())["state"] == "stopped"

    assert "resumed at step" in _finish(_train(folder))
    assert _state(folder) == _state(straight[0])
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [23 * epoch for epoch in range(1, EPOCHS + 1)]


def test_bad_words_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    child = _start(tmp_path / "job", "--epochs", "0")
    _, err = child.communicate(timeout=200)
    assert child.returncode == 2
    assert "--epochs must be at least 1" in err
    assert not (tmp_path / "job").exists()


def test_the_script_is_one_that_slurm_takes() -> None:
    """`#SBATCH` lines stand before the first command, and each is an option that both engines know."""
    lines = SCRIPT.read_text().splitlines()
    directives = [line.split()[1].partition("=")[0] for line in lines if line.startswith("#SBATCH")]
    assert lines[0] == "#!/bin/bash"
    assert directives == ["--job-name", "--gres", "--cpus-per-task", "--mem", "--time", "--output"]
    first_command = next(index for index, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])
    assert os.access(SCRIPT, os.X_OK)
