"""The socket that a job comes to: where it is, and what stays of it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from agent.api.errors import StokerError
from tui.slurm.terminal import Door


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_a_long_tmpdir_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    door = Door()
    try:
        path = Path(door.command([])[1])
        assert path.is_socket()
        assert os.stat(path.parent).st_mode & 0o777 == 0o700
    finally:
        door.close()
    assert not path.parent.exists()
    assert list(long.iterdir()) == []


def test_the_longest_that_fits_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="s-", dir="/tmp") as short:
        for length, inside in ((107 - 18, True), (107 - 17, False)):
            folder = Path(short) / ("y" * (length - len(short) - 1))
            folder.mkdir()
            monkeypatch.setenv("TMPDIR", str(folder))
            monkeypatch.setattr(tempfile, "tempdir", None)
            door = Door()
            assert door.command([])[1].startswith(str(folder)) is inside
            door.close()


def test_no_folder_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    with pytest.raises(StokerError, match="cannot make a folder in /nowhere: No such file"):
        Door()
