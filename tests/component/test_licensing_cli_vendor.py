"""The vendor's verbs as they are typed, up to a buyer's hub."""

from __future__ import annotations

import re
import stat
import time
from pathlib import Path

import pytest

from agent.gate import HubLicence
from licensing import cli, roots
from tests.fakes.localhub import LocalHub
from tests.fakes.localhub import hub as hub
from tests.fakes.nohub import NoHub
from tests.fakes.vendor import Boot


def desk(tmp_path: Path) -> list[str]:
    """A vendor's desk made by its own verbs; gives the flags that sign with it."""
    folder = ["-o", str(tmp_path)]
    assert cli.main(["vendor", "keys", "root", "--name", "ACME", *folder], NoHub()) == 0
    root = str(tmp_path / "ACME-root-current.key")
    assert cli.main(["vendor", "keys", "issuer", "--name", "desk", "--root-key", root, *folder], NoHub()) == 0
    return ["--issuer-key", str(tmp_path / "desk.key"), "--issuer-cert", str(tmp_path / "desk.cert")]


def test_from_keys_to_an_activated_licence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signing = desk(tmp_path)
    trusted = roots.parse((tmp_path / "ACME-roots.json").read_bytes(), "test")
    state = HubLicence(tmp_path / "hub", "test", trusted, Boot())
    state.open()
    hub = LocalHub(state, int(time.time()), Boot(), tmp_path / "hub")
    out = str(tmp_path / "a.licence")
    argv = ["vendor", "issue", "--customer", "X Corp", "--plan", "yearly", "--seats", "12", "--days", "365"]
    assert cli.main([*argv, "--site", hub.licence()["site_key"], *signing, "-o", out], NoHub()) == 0
    assert cli.main(["vendor", "inspect", out, "--roots", str(tmp_path / "ACME-roots.json")], NoHub()) == 0
    assert "12 GPU seats, for X Corp" in capsys.readouterr().out
    assert cli.main(["activate", out], hub) == 0
    assert hub.licence()["seats_total"] == 12
    state.close()


def test_private_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    desk(tmp_path)
    for path in tmp_path.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    root = ["--root-key", str(tmp_path / "ACME-root-next.key")]
    assert cli.main(["vendor", "keys", "root", "--name", "ACME", "-o", str(tmp_path)], NoHub()) == 5
    assert cli.main(["vendor", "keys", "issuer", "--name", "desk", *root, "-o", str(tmp_path)], NoHub()) == 5
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("wrong", "code", "words"),
    [
        (["--seats", "10001"], 5, "may give 10000"),
        (["--date", "2027-13-01"], 64, "not a date"),
        (["--expires-at", "5"], 64, "would have ended"),
        (["--site", "00" * 32], 5, "small order"),
        (["--customer", "a\nb"], 64, "U\\+000A"),
        (["--issuer-key", "/nonexistent"], 5, "cannot read the key"),
    ],
)
def test_a_licence_that_cannot_be_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], code: int, words: str
) -> None:
    flags = {"--customer": "X", "--plan": "yearly", "--seats": "8", "--days": "30"}
    if wrong[0] in ("--date", "--expires-at"):
        del flags["--days"]
    signing = desk(tmp_path)
    flags |= dict(zip(signing[::2], signing[1::2], strict=True)) | {wrong[0]: wrong[1]}
    to = [] if "--site" in flags else ["--voucher"]
    argv = [word for pair in flags.items() for word in pair]
    assert cli.main(["vendor", "issue", *argv, *to, "-o", str(tmp_path / "out")], NoHub()) == code
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_an_issuer_certificate_lives_25_months_at_most(tmp_path: Path) -> None:
    desk(tmp_path)
    argv = ["vendor", "keys", "issuer", "--name", "long", "--root-key", str(tmp_path / "ACME-root-next.key")]
    assert cli.main([*argv, "--months", "26", "-o", str(tmp_path)], NoHub()) == 64
    assert not (tmp_path / "long.key").exists()
    argv[4] = "longest"
    assert cli.main([*argv, "--months", "25", "-o", str(tmp_path)], NoHub()) == 0


def test_a_key_that_is_not_the_certificates_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signing = desk(tmp_path)
    signing[1] = str(tmp_path / "ACME-root-spare.key")
    argv = ["vendor", "issue", "--voucher", "--customer", "X", "--plan", "yearly", "--seats", "8", "--days", "3"]
    assert cli.main([*argv, *signing, "-o", str(tmp_path / "out")], NoHub()) == 5
    assert "name the matching pair" in capsys.readouterr().err
