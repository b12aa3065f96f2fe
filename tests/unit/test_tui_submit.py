"""What `stoker submit` makes of its words and of a file, before anything is sent."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agent.api.errors import StokerError
from agent.api.types import MAX_SCRIPT_BYTES, SubmitRequest
from tui import submit
from tui.submitargs import SubmitWords


def request(words: list[str], folder: Path, **environ: str) -> SubmitRequest:
    return submit.request(words, environ=environ, work_dir=folder, umask=0o027, node=None)


def test_flags_script_and_arguments_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "t.sh").write_text("#!/bin/sh\n")
    words = ["--gres", "gpu:2", "-t", "5", "t.sh", "--epochs", "5", "--json"]
    made = request(words, tmp_path, HOME="/h", BAD="a\udc80")
    assert made.flags == ("--gres", "gpu:2", "-t", "5")
    assert made.args == ("--epochs", "5", "--json")
    assert made.script_name.endswith("/t.sh")
    assert made.env == {"HOME": "/h"}
    assert (made.work_dir, made.umask) == (str(tmp_path), 0o027)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x7fELF\x02\x01\x01\0\0", "is a binary file"),
        (b"#!/bin/sh\necho \xff\n", "bad.sh:2: a byte that is not UTF-8"),
        (b"#!/bin/sh\n" + b"#" * MAX_SCRIPT_BYTES, "larger than 512 KiB"),
        (b"", "is empty"),
    ],
)
def test_content_that_cannot_be_a_script(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.sh").write_bytes(content)
    with pytest.raises(StokerError, match=said):
        request(["bad.sh"], tmp_path)


def test_a_script_of_exactly_the_limit_goes(tmp_path: Path) -> None:
    (tmp_path / "big.sh").write_bytes(b"#" * MAX_SCRIPT_BYTES)
    assert len(request(["big.sh"], tmp_path).script) == MAX_SCRIPT_BYTES


def test_carriage_returns_and_unusual_letters_are_left_to_the_server(tmp_path: Path) -> None:
    (tmp_path / "dos.sh").write_bytes("#!/bin/sh\r\n#SBATCH -J größe\r\n".encode())
    assert "\r\n" in request(["dos.sh"], tmp_path).script


def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "sock"))
    (tmp_path / "file").touch()
    wrong = {
        "missing": "there is no job script",
        ".": "is a folder",
        "pipe": "not a regular file",
        "sock": "cannot read",
        "file/below": "cannot read",
        "x" * 300: "cannot read",
    }
    for name, said in wrong.items():
        with pytest.raises(StokerError, match=said):
            request([name], tmp_path)
    listener.close()
    with pytest.raises(StokerError, match="no job script is named"):
        request(["--gpus=1"], tmp_path)


def test_the_umask_is_read_and_left() -> None:
    old = os.umask(0o031)
    try:
        assert submit.current_umask() == 0o031
        assert submit.current_umask() == 0o031
    finally:
        os.umask(old)


@pytest.mark.parametrize(
    ("words", "rest", "ours"),
    [
        (["t.sh"], ["t.sh"], {}),
        (["--json", "t.sh"], ["t.sh"], {"json": True}),
        (["t.sh", "--json"], ["t.sh", "--json"], {}),
        (["-W", "--key", "k", "-J", "--json", "t.sh"], ["-J", "--json", "t.sh"], {"wait": True, "key": "k"}),
        (["--node=n1", "--gpus=1", "t.sh", "-W"], ["--gpus=1", "t.sh", "-W"], {"node": "n1"}),
        (["--gres", "gpu:1", "--socket", "/s", "t.sh"], ["--gres", "gpu:1", "t.sh"], {"socket": "/s"}),
        (["--nice", "--json", "t.sh"], ["--nice", "t.sh"], {"json": True}),
        (["--", "--json"], ["--", "--json"], {}),
        (["-"], ["-"], {}),
        (["--host", "a@b", "-H", "t.sh"], ["-H", "t.sh"], {"host": "a@b"}),
        (["--help"], [], {"help": True}),
    ],
)
def test_our_options_among_sbatchs(words: list[str], rest: list[str], ours: dict[str, object]) -> None:
    assert SubmitWords.read(words) == SubmitWords(rest=rest, **ours)  # type: ignore[arg-type]


WRONG = ("", "--gpus=1", "--gpus", "--key", "--node=", "--no-such t.sh", "--json")


@pytest.mark.parametrize("words", WRONG)
def test_words_that_do_not_do(words: str) -> None:
    with pytest.raises(StokerError):
        SubmitWords.read(words.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--wrap="], "--wrap needs a value"),
        (["--wrap", "a b", "t.sh"], "--wrap has the commands already; 't.sh' would be a script"),
        (["-G1", "--reboot"], "--reboot is not supported"),
        (["-G1", "--test-only"], "no job script is named"),
        (["-G1"], "no job script is named"),
        (["--jsn", "t.sh"], "did you mean --json?"),
        (["--nod=n1", "t.sh"], "did you mean --node?"),
        (["--job-nmae=x", "t.sh"], "did you mean --job-name?"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], said: str) -> None:
    with pytest.raises(StokerError) as caught:
        SubmitWords.read(words)
    assert said in str(caught.value)


def test_bytes_that_are_not_utf_8_name_a_job_but_are_never_given_to_one(tmp_path: Path) -> None:
    name = os.fsdecode(b"tr\xe9.sh")
    (tmp_path / name).write_text("#!/bin/sh\n")
    assert request([name], tmp_path).script_name == f"{tmp_path}/tr\N{REPLACEMENT CHARACTER}.sh"
    with pytest.raises(StokerError, match="not UTF-8"):
        request([name, "\udc80"], tmp_path)


def test_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(StokerError, match="does not exist any more"):
        submit.here()
