"""`stoker-license doctor` on a disk that takes no writes, without a hub, and for programs."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from agent.cli import HubLicenceCalls
from agent.hub.store import PlacementStore
from agent.jobs.errors import StoreError
from licensing import cli, doctor
from tests.fakes.disk import fill, tmpfs
from tests.fakes.nohub import NoHub

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")


class Deaf(NoHub):
    """A hub that does not answer, with a state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def state_dir(self, config: Path | None = None) -> Path:
        return self.folder


class Content(Deaf):
    """One that has nothing to complain of."""

    def licence(self, config: Path | None = None) -> dict[str, Any]:
        return {"stage": "ACTIVE", "message": "all is well", "at": int(time.time())}


@needs_root
def test_a_full_disk_and_a_read_only_one_are_named_with_what_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though the hub answers as ever."""
    with tmpfs(tmp_path / "disk", "80m") as disk:
        hub = Content(disk / "state" / "hub")
        assert cli.main(["doctor"], hub) == 0
        assert f"ok   disk      {hub.folder} has " in capsys.readouterr().out
        fill(disk)
        assert cli.main(["doctor"], hub) == 4
        said = capsys.readouterr().out
        assert f"bad  disk      {hub.folder} is on a full disk (0 KiB are free); make room" in said
        assert f"df -h {hub.folder}\n" in said
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert cli.main(["doctor"], hub) == 4
        assert f"bad  disk      {hub.folder} is on a read-only disk; see why" in capsys.readouterr().out


@needs_root
def test_little_room_is_a_warning(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "30m") as disk:
        grade, subject, words = doctor.disk(disk)
        assert (grade, subject) == ("warn", "disk")
        assert words.startswith(f"{disk} has 30 MiB left; make room")
    with tmpfs(tmp_path / "few", "80m,nr_inodes=1") as disk:
        assert doctor.disk(disk)[2].startswith(f"{disk} is on a disk without a free inode")


def test_without_a_hub_the_disk_is_looked_at_and_the_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor"], Deaf(tmp_path)) == 69
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("bad  hub       no hub answers at /run/stoker/hub.sock")
    assert said[1].startswith(f"ok   disk      {tmp_path} has ")


def test_what_is_found_is_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"], Content(tmp_path)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 0
    assert [each["subject"] for each in told["found"]] == ["hub", "disk", "licence", "clock"]
    assert {each["grade"] for each in told["found"]} == {"ok"}


@needs_root
def test_placements_on_a_read_only_disk_are_no_matter_of_rights(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "8m") as disk:
        PlacementStore.open(disk / "hub.db", 1).close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StoreError, match=r"its disk is read-only.*with the file as it is") as caught:
            PlacementStore.open(disk / "hub.db", 1)
        assert "ermission" not in str(caught.value)


@pytest.mark.parametrize("words", [["doctor"], ["audit", "verify"], ["status"]], ids=" ".join)
@pytest.mark.parametrize("text", ["[[[", None], ids=["damaged", "missing"])
def test_a_configuration_that_cannot_be_read_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str | None
) -> None:
    """The state folder stands in it, which some commands look at without the hub."""
    config = tmp_path / "stoker.toml"
    if text is not None:
        config.write_text(text)
    assert cli.main(["--config", str(config), *words], HubLicenceCalls()) == 78
    said = capsys.readouterr()
    (line,) = (said.out + said.err).splitlines()
    assert str(config) in line
    assert ("not valid TOML" if text else "No such file") in line
