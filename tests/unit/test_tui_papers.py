"""The vendor's files on this machine: where a typed name is, and that a file is written whole or not at all."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from agent.api.errors import StokerError
from tui import papers


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("~/v.licence", "/home/ada/v.licence"),
        (" v.licence ", "/work/v.licence"),
        ("/tmp/v.licence", "/tmp/v.licence"),
        ("in/~/v.licence", "/work/in/~/v.licence"),
        ("~nobody-has-it/v.licence", "/work/~nobody-has-it/v.licence"),
        ("v\0.licence", "/work/v.licence"),
    ],
)
def test_a_typed_name_is_of_the_folder_or_of_the_home(monkeypatch: pytest.MonkeyPatch, typed: str, meant: str) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert papers.place(Path("/work"), typed) == Path(meant)


def test_a_file_that_cannot_be_written_whole_is_not_left_there(tmp_path: Path) -> None:
    path, before = tmp_path / "r.request", resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StokerError, match=r"cannot write .*: File too large; name another file"):
            papers.write_new(path, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)
    assert not path.exists()
    papers.write_new(path, "x" * 5000)
    assert path.read_text() == "x" * 5000
    with pytest.raises(StokerError, match="exists and is not overwritten"):
        papers.write_new(path, "y")
    assert path.read_text() == "x" * 5000
