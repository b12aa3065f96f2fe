"""Handing a job in from the screen: what is sent, once, and what is not."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from agent.api.errors import ApiError, DeadlineError
from agent.api.types import SubmitRequest
from tests.fakes.cluster import FakeCluster
from tests.screens.stage import LARGE, Stage, play


def submitted(cluster: FakeCluster) -> list[tuple[SubmitRequest, str]]:
    """What was handed in, with its idempotency key."""
    return [call[1] for call in cluster.calls if call[0] == "submit"]


def test_submit_reads_the_script_sends_it_and_opens_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.sh").write_text("#!/bin/sh\necho hello\n")
    monkeypatch.chdir(tmp_path)

    async def scene(on: Stage) -> None:
        await on.press("S", *"train.sh", "enter", *"--gres=gpu:2 -J 'my job'", "tab", *"--epochs 5", "enter")
        await on.until(lambda: on.screen_name == "JobScreen", "the new job is opened")
        assert on.sees("Job 18 is stored on n1")

    request, key = submitted(play(scene))[0]
    assert request.script == "#!/bin/sh\necho hello\n"
    assert request.script_name == str(tmp_path / "train.sh")
    assert request.flags == ("--gres=gpu:2", "-J", "my job")
    assert request.args == ("--epochs", "5")
    assert request.work_dir == str(tmp_path)
    assert len(key) == 32


def test_a_refused_submit_keeps_the_form_and_a_second_try_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.sh").write_text("#!/bin/sh\n")
    monkeypatch.chdir(tmp_path)

    async def scene(on: Stage) -> None:
        on.cluster.refusal = DeadlineError("no answer within 10 s")
        await on.press("S", *"train.sh", "enter", "f2")
        await on.until(lambda: on.sees("no answer within 10 s"), "the reason, in the form")
        on.cluster.refusal = ApiError(400, "bad_option", "9 GPUs asked for; n1 has 8", "train.sh:2")
        await on.press("f2")
        await on.until(lambda: on.sees("train.sh:2: 9 GPUs asked for"), "the field and the reason")
        await on.press(*"-t 5", "f2")
        await on.until(lambda: on.screen_name == "JobScreen", "stored")

    keys = [key for _, key in submitted(play(scene))]
    assert keys[0] == keys[1] != keys[2], "another text is another job"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x7fELF\0\0", "is a binary file"),
        (b"", "is empty"),
        (b"x" * 600_000, "is larger than 512 KiB"),
        (None, "there is no job script"),
    ],
)
def test_what_cannot_be_a_script_is_not_sent(content: bytes | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tempfile.TemporaryDirectory(dir="/tmp")  # a short path, so that the sentence stays on one line
    monkeypatch.chdir(folder.name)
    if content is not None:
        Path("x").write_bytes(content)

    async def scene(on: Stage) -> None:
        await on.press("S", "x", "f2")
        assert on.sees(said)
        await on.press("escape")
        assert on.screen_name == "OverviewScreen"

    with folder:
        assert play(scene, size=LARGE).calls == []


def test_the_file_list_leads_into_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "go.sh").write_text("#!/bin/sh\n")
    monkeypatch.chdir(tmp_path)

    async def scene(on: Stage) -> None:
        await on.press("S")
        assert on.sees("runs/")
        await on.press("tab", "enter")
        assert on.sees("go.sh")
        await on.press("tab", "enter", "f2")
        await on.until(lambda: on.screen_name == "JobScreen", "stored")

    assert submitted(play(scene))[0][0].script_name == str(tmp_path / "runs" / "go.sh")


def test_a_home_that_nobody_has_is_a_name_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "~nobody-has-it").mkdir()
    (tmp_path / "~nobody-has-it" / "go.sh").write_text("#!/bin/sh\n")
    monkeypatch.chdir(tmp_path)

    async def scene(on: Stage) -> None:
        await on.press("S", "ctrl+u", *"~nobody-has-it/")
        assert on.sees("go.sh")
        await on.press("tab", "enter", "f2")
        await on.until(lambda: on.screen_name == "JobScreen", "stored")

    assert submitted(play(scene))[0][0].script_name == str(tmp_path / "~nobody-has-it" / "go.sh")


def test_a_whole_path_typed_behind_the_folder_counts_and_one_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "go.sh").write_text("#!/bin/sh\n")
    monkeypatch.chdir(tmp_path)

    async def scene(on: Stage) -> None:
        await on.press("S", *f"{tmp_path}/elsewhere/no.sh", "enter")
        assert on.sees("There is no ")
        await on.press("ctrl+u", *f"x/{tmp_path}/elsewhere/go.sh", "enter", "f2")
        await on.until(lambda: on.screen_name == "JobScreen", "stored")

    assert submitted(play(scene))[0][0].script_name == str(tmp_path / "elsewhere" / "go.sh")
