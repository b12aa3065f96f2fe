"""`stoker-license` as a buyer types it, before a real ledger."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from licensing import cli
from tests.fakes.localhub import LocalHub
from tests.fakes.localhub import hub as hub
from tests.fakes.nohub import NoHub
from tests.fakes.vendor import DAY, FOLDER, NOW, VOUCHER, changed, file

# --- the buyer's verbs ---


def test_status_without_a_licence(hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"], hub) == 4
    out = capsys.readouterr().out
    assert "RESTRICTED LIC-401: No licence is installed" in out
    assert "stoker-license activate FILE" in out
    assert "site key" in out


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: "", "the file is empty: no LICENCE block in the file"),
        (lambda text: text[:9], "no LICENCE block in the file, which starts with -----BEGIN STOKER LICENCE-----"),
        (lambda text: text[: len(text) // 2], "no whole block in the file"),
        (lambda text: text[:-30], "no whole block in the file"),
        (lambda text: text.replace("END STOKER LICENCE", "END STOKER ISSUER"), "the block begins as LICENCE and ends"),
    ],
    ids=["nothing", "its beginning", "half of it", "without its last line", "two halves"],
)
def test_a_half_copied_file_is_named_with_what_to_do(
    hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[str], str], words: str
) -> None:
    (tmp_path / "half").write_text(spoil(file()))
    assert cli.main(["import-response", str(tmp_path / "half")], hub) == 5
    said = capsys.readouterr().err
    assert said.startswith(f"stoker-license: {tmp_path / 'half'}: {words}")
    assert re.search(r"fetch (it|the file) again", said)
    assert hub.licence()["licence_id"] is None


def test_activate_from_a_file(hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v").write_text(file())
    assert cli.main(["activate", str(tmp_path / "v")], hub) == 0
    assert "ACTIVE     Voucher lic-test of ACME, yearly, 8 GPU seats: 14 days left" in capsys.readouterr().out


def test_activate_from_a_paste(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file().replace("\n", "\r\n").encode())))
    assert cli.main(["activate", "-"], hub) == 0
    assert "ACTIVE" in capsys.readouterr().out


def test_a_pasted_report_that_is_no_text_is_refused_by_name(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\x7fELF\xff"), encoding="utf-8", errors="strict"))
    assert cli.main(["usage", "verify", "-"], hub) == 5
    assert "standard input is not text; a usage report begins with" in capsys.readouterr().err


@pytest.mark.parametrize(("days", "code"), [(0, 0), (7, 3), (13, 3), (14, 4)])
def test_the_exit_code_follows_the_stage(hub: LocalHub, tmp_path: Path, days: int, code: int) -> None:
    hub.activate(file())
    hub.now = hub.boot.at(NOW + days * DAY)
    assert cli.main(["status"], hub) == code


def test_status_as_json_is_the_whole_record(hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.activate(file())
    cli.main(["status", "--json"], hub)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(hub.licence()))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("empty", 5),
        ("signature-bit-flipped", 5),
        ("more-seats-than-issuer", 5),
        ("ended-last-month", 5),
        ("bound-to-another-site", 6),
        ("begins-next-month", 8),
    ],
)
def test_a_refused_file_has_its_exit_code(
    hub: LocalHub, capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    assert cli.main(["activate", str(FOLDER / f"{name}.licence")], hub) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("stoker-license: ")
    assert cli.main(["status"], hub) == 4


def test_an_old_revision_exits_7(hub: LocalHub, tmp_path: Path) -> None:
    hub.activate(file(changed(VOUCHER, rev=3)))
    (tmp_path / "old").write_text(file(changed(VOUCHER, rev=2)))
    assert cli.main(["activate", str(tmp_path / "old")], hub) == 7


def test_files_that_are_none(hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "binary").write_bytes(b"\x7fELF\xff")
    assert cli.main(["activate", str(tmp_path / "binary")], hub) == 5
    assert "is not text" in capsys.readouterr().err
    (tmp_path / "image").write_bytes(bytes(300_000))
    assert cli.main(["import-response", str(tmp_path / "image")], hub) == 5
    assert "image is larger than 262144 bytes, which no licence file is; name a" in capsys.readouterr().err
    assert cli.main(["activate", str(tmp_path / "missing")], hub) == 5
    assert "No such file" in capsys.readouterr().err
    assert cli.main(["activate", str(tmp_path)], hub) == 5


def test_a_hub_that_is_away_exits_69(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"], NoHub()) == 69
    assert "systemctl start stoker-hub" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["stats"],
        ["activate"],
        ["vendor"],
        ["vendor", "keys"],
        ["vendor", "issue", "--customer", "x"],
        ["vendor", "issue", "--seats", "-1"],
        ["vendor", "keys", "root", "--name", "../x"],
    ],
)
def test_usage_errors_exit_64(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv, NoHub()) == 64
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize("month", ["2026-13", "2026-1", "26-01", "", "2026-01-01"])
def test_what_is_no_month_is_the_command_lines_fault(month: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["usage", "export", "--month", month], NoHub()) == 64
    assert f"{month!r} is no month" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "meant"),
    [(["activat", "f"], "activate"), (["status", "--jsn"], "--json"), (["vendor", "inspct", "f"], "inspect")],
)
def test_what_was_probably_meant_is_named(argv: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv, NoHub()) == 64
    assert f"did you mean {meant}?" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--config", "/f.toml", "status"], ["status", "--config", "/f.toml"]])
def test_the_configuration_that_is_named_is_used(argv: list[str]) -> None:
    class Asked(NoHub):
        def licence(self, config: Path | None = None) -> dict[str, Any]:
            assert config == Path("/f.toml")
            return {"stage": "ACTIVE", "message": ""}

    assert cli.main(argv, Asked()) == 0


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"], NoHub(), version="1.2.3")
    assert (end.value.code, capsys.readouterr().out) == (0, "stoker-license 1.2.3\n")


@pytest.mark.parametrize(
    "verb", [[], ["status"], ["activate"], ["export-request"], ["transfer"], ["vendor"], ["vendor", "keys", "issuer"]]
)
def test_help_is_there(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*verb, "--help"], NoHub())
    assert end.value.code == 0
    assert "usage: stoker-license" in capsys.readouterr().out


def test_nothing_from_outside_acts_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    class Loud(NoHub):
        def licence(self, config: Path | None = None) -> dict[str, Any]:
            return {"stage": "ACTIVE", "message": "\x1b[2Jcleared", "site_key": "a\nb"}

    assert cli.main(["status"], Loud()) == 0
    assert "\x1b" not in (out := capsys.readouterr().out)
    assert len(out.splitlines()) == 2


# --- the audit trail ---


def test_the_trail_of_a_running_hub_is_walked(
    hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ledger is locked by the hub, and its rows are in the write-ahead log still."""
    hub.activate(file(VOUCHER))
    assert cli.main(["audit", "verify"], hub) == 0
    assert capsys.readouterr().out == f"{tmp_path}/hub/licence.db: 1 row, whole and unchanged\n"
    hub.activate(file(VOUCHER))
    assert hub.licence()["stage"]  # the hub was not disturbed


def test_a_trail_that_was_changed_is_told(hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.activate(file(VOUCHER))
    hub.state.close()
    ledger = tmp_path / "hub" / "licence.db"
    with sqlite3.connect(ledger) as conn:
        conn.execute("UPDATE audit SET detail = '{}'")
    conn.close()
    assert cli.main(["audit", "verify", str(ledger)], NoHub()) == 5
    told = f"stoker-license: {ledger}: audit row 1 is missing or was changed; keep the file, tell the vendor\n"
    assert capsys.readouterr().err == told
    assert cli.main(["audit", "verify", str(tmp_path / "none")], NoHub()) == 5
    assert f"cannot read {tmp_path}/none: No such file or directory; name the ledger's file" in capsys.readouterr().err
    (tmp_path / "empty").touch()
    assert cli.main(["audit", "verify", str(tmp_path / "empty")], NoHub()) == 5
    assert f"{tmp_path}/empty is empty, and no ledger" in capsys.readouterr().err
    (tmp_path / "junk").write_bytes(b"no database" * 999)
    assert cli.main(["audit", "verify", str(tmp_path / "junk")], NoHub()) == 5
    assert f"{tmp_path}/junk" in capsys.readouterr().err


def test_the_command_loads_no_database_tools() -> None:
    """They were most of its start, with numpy where it is installed; nor what only signatures need."""
    code = "import sys, agent.cli, licensing.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    heavy = {"sqlite_utils", "numpy", "aiohttp", "sqlite3", "cryptography", "agent.gate", "licensing.document"}
    assert not heavy & set(loaded.stdout.split())


def test_on_a_terminal_a_status_is_folded_but_for_the_command_and_the_key(
    hub: LocalHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.activate(file(changed(VOUCHER, customer="A " * 60 + "Z")))
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    cli.main(["status"], hub)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 60 for line in lines if not line.startswith(("run", "site key")))
    assert any(line.startswith(" " * 11 + "A A") for line in lines)
    assert any(line.startswith("site key   ") and len(line) == 75 for line in lines)
