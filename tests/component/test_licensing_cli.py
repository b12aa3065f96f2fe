"""`stoker-license` as it is typed, before a real ledger."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.gate import HubLicence, as_licence_errors
from agent.hub.metrics import of_licence
from licensing import cli, roots
from licensing.keys import public_hex
from tests.fakes.nohub import NoHub
from tests.fakes.vendor import DAY, FOLDER, FOR_EVER, NOW, ROOTS, VOUCHER, Boot, changed, file, seeded


class LocalHub:
    """The hub without its socket: the same ledger, the same errors."""

    def __init__(self, licence: HubLicence, now: int, boot: Boot, folder: Path) -> None:
        self.state, self.now, self.boot, self.folder = licence, now, boot, folder

    def licence(self, config: Path | None = None) -> dict[str, Any]:
        return plain(self.state.status(self.now))

    def activate(self, text: str, config: Path | None = None) -> dict[str, Any]:
        with as_licence_errors():
            return plain(self.state.activate(text, self.now))

    def state_dir(self, config: Path | None = None) -> Path:
        return self.folder

    def request(self, want: str, config: Path | None = None) -> dict[str, Any]:
        with as_licence_errors():
            return plain(self.state.request(want, self.now))

    def release(self, to: str | None, config: Path | None = None) -> dict[str, Any]:
        with as_licence_errors():
            return plain(self.state.release(to, self.now))

    def order(
        self, verb: str, subject: str, *, days: int = 0, force: bool = False, config: Path | None = None
    ) -> dict[str, Any]:
        with as_licence_errors():
            if verb == "clock-confirm":
                return plain(self.state.confirm_clock(self.now, sure=force))
            what = "reclaim" if force else verb
            return plain(self.state.order(what, subject, self.now, days=days))

    def metrics(self, config: Path | None = None) -> str:
        return of_licence(self.state.status(self.now))


def plain(licence: Any) -> dict[str, Any]:
    return dict(msgspec.to_builtins(licence))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    boot = Boot()
    state = HubLicence(tmp_path / "hub", "test", ROOTS, boot)
    state.open()
    yield LocalHub(state, NOW, boot, tmp_path / "hub")
    state.close()


def desk(tmp_path: Path) -> list[str]:
    """A vendor's desk made by its own verbs; gives the flags that sign with it."""
    folder = ["-o", str(tmp_path)]
    assert cli.main(["vendor", "keys", "root", "--name", "ACME", *folder], NoHub()) == 0
    root = str(tmp_path / "ACME-root-current.key")
    assert cli.main(["vendor", "keys", "issuer", "--name", "desk", "--root-key", root, *folder], NoHub()) == 0
    return ["--issuer-key", str(tmp_path / "desk.key"), "--issuer-cert", str(tmp_path / "desk.cert")]


# --- the buyer's verbs ---


def test_status_without_a_licence(hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"], hub) == 4
    out = capsys.readouterr().out
    assert "RESTRICTED LIC-401: No licence is installed" in out
    assert "stoker-license activate FILE" in out
    assert "site key" in out


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


# --- the vendor's verbs, up to a buyer's hub ---


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


def test_a_key_that_is_not_the_certificates_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signing = desk(tmp_path)
    signing[1] = str(tmp_path / "ACME-root-spare.key")
    argv = ["vendor", "issue", "--voucher", "--customer", "X", "--plan", "yearly", "--seats", "8", "--days", "3"]
    assert cli.main([*argv, *signing, "-o", str(tmp_path / "out")], NoHub()) == 5
    assert "name the matching pair" in capsys.readouterr().err


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


# --- orders about seats ---


def hold_seats(hub: LocalHub, node: str, count: int) -> None:
    key = public_hex(seeded(node))
    hub.state.lease(node, key, [f"GPU-{node}-{n}" for n in range(count)], 0, hub.now)


def test_seats_are_borrowed_released_pinned_and_shown(hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.activate(file(changed(VOUCHER, site=hub.licence()["site_key"], seats=10)))
    hold_seats(hub, "n1", 2)
    hold_seats(hub, "n2", 9)
    assert cli.main(["borrow", "n1", "7"], hub) == 0
    assert capsys.readouterr().out == "n1 has its seats for 7 days, once it heard so from the hub\n"
    hold_seats(hub, "n1", 2)
    assert cli.main(["pin", "GPU-n2-3", "--json"], hub) == 0
    assert json.loads(capsys.readouterr().out)["pinned"] == ["GPU-n2-3"]
    assert cli.main(["status"], hub) == 0
    shown = capsys.readouterr().out
    assert "seats      11 of 10 GPUs, 1 of them overdrawn until 2027-02-14 08:00 UTC, 2 borrowed\n" in shown
    assert "n1: 2, borrowed until 2027-01-22 08:00 UTC\n" in shown
    metrics = of_licence(hub.state.status(hub.now))
    assert 'lic_seats{state="borrowed",unit="gpu"} 2' in metrics.replace(
        'unit="gpu",state="borrowed"', 'state="borrowed",unit="gpu"'
    )
    assert cli.main(["doctor"], hub) == 3
    assert "warn seats     11 of 10 GPUs are held; the overdraft is until 2027-02-14" in capsys.readouterr().out


@pytest.mark.parametrize("plan", [{}, {"plan": "perpetual", "updates_until": NOW + DAY}], ids=["yearly", "perpetual"])
def test_a_licence_with_fewer_seats_than_are_held_is_taken_and_told(
    hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], plan: dict[str, object]
) -> None:
    bought = changed(VOUCHER, site=hub.licence()["site_key"], vm=True)
    hub.activate(file(bought))
    hold_seats(hub, "n1", 8)
    (tmp_path / "fewer").write_text(file(changed(bought, rev=2, seats=3, **plan), issuer=FOR_EVER))
    cli.main(["activate", str(tmp_path / "fewer")], hub)
    assert "seats      8 of 3 GPUs, 5 of them more than the licence has, until their leases end\n" in (
        capsys.readouterr().out
    )
    cli.main(["doctor"], hub)
    assert "8 of 3 GPUs are held; what is beyond them ends with its lease" in capsys.readouterr().out


def test_nodes_and_admins_are_shown_and_told_beyond_the_licence(
    hub: LocalHub, capsys: pytest.CaptureFixture[str]
) -> None:
    """What there is more of than the licence says is told, and the exit code of `status` stays the stage's."""
    hub.activate(file(changed(VOUCHER, site=hub.licence()["site_key"], max_admins=1)))
    assert cli.main(["status"], hub) == 0
    assert "admins     0 of 1 in the last 30 days\n" in (out := capsys.readouterr().out)
    assert "\nnodes " not in out
    for user in ("ada", "bob"):
        hub.state.note_admin(user, hub.now)
    hub.state.note_nodes({"n1"}, {"n1"}, hub.now)
    assert cli.main(["status"], hub) == 0
    out = capsys.readouterr().out
    assert "nodes      1 with an agent\nadmins     2 of 1 in the last 30 days: ada, bob\n" in out
    told = "2 persons used an admin verb in 30 days, and the licence is for 1; nothing is refused, ask your vendor"
    assert f"! {told}" in " ".join(out.split())
    assert cli.main(["doctor"], hub) == 3
    assert f"warn admins    {told}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["borrow", "n1", "31"], 64, "cannot borrow for 31 days; say 1 to 30"),
        (["borrow", "n9", "3"], 64, "n9 holds no seats; see who does: stoker-license status"),
        (["borrow", "n1", "soon"], 64, "invalid int value"),
        (["release", "n1", "--force"], 64, "n1 holds 2 seats, and 0 were taken back in the last 30 days: 10 %"),
        (["release", "--force", "--yes"], 64, "--force is for a node that is gone; name it"),
        (["release", "n1", "-o", "x"], 64, "a node's release writes no file"),
        (["node", "adopt", "n1"], 64, "n1 did not give its seats back"),
        (["extend", "--emergency"], 64, "new jobs start in ACTIVE; take the emergency hours when they are held"),
        (["extend"], 64, "--emergency"),
        (["standby"], 64, "VERB"),
        (["pin", "unknown:0"], 64, "is no UUID of a GPU"),
    ],
)
def test_orders_that_cannot_be_say_why(
    hub: LocalHub, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, words: str
) -> None:
    hub.activate(file(changed(VOUCHER, site=hub.licence()["site_key"], seats=10)))
    hold_seats(hub, "n1", 2)
    before = hub.licence()
    assert cli.main(argv, hub) == code
    assert words in capsys.readouterr().err
    assert hub.licence() == before


# --- the clock ---


def test_doctor_tells_of_a_clock_that_jumped_and_it_is_confirmed(
    hub: LocalHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.activate(file(changed(VOUCHER, site=hub.licence()["site_key"])))
    hub.now = NOW + 60 * DAY
    monkeypatch.setattr("licensing.doctor.time.time", lambda: hub.now)
    hub.boot.boot_id, hub.boot.seconds = "boot-2", 5
    assert cli.main(["doctor"], hub) == 3
    said = capsys.readouterr().out
    assert "warn clock     says 2027-03-16 08:00 UTC, and uptime explains no more than 2027-01-15 08:00 UTC" in said
    assert "stoker-license clock confirm --yes" in said
    assert cli.main(["clock", "confirm"], hub) == 64
    assert "If it is right: stoker-license clock confirm --yes" in capsys.readouterr().err
    assert cli.main(["clock", "confirm", "--yes"], hub) == 0
    assert "it is 2027-03-16 08:00 UTC, on your word" in capsys.readouterr().out
    hub.now = NOW + 59 * DAY
    assert cli.main(["doctor"], hub) == 3
    assert "If it is right, it was ahead before, and there is nothing to do" in capsys.readouterr().out
    hub.now = NOW
    assert cli.main(["doctor"], hub) == 3
    assert "the answer to a request made now sets time back: stoker-license export-request" in capsys.readouterr().out
    assert cli.main(["clock", "confirm", "--yes"], hub) == 64
    assert "time does not run back" in capsys.readouterr().err


def test_the_standby_leads_and_says_what_to_do(hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.activate(file(changed(VOUCHER, site=hub.licence()["site_key"])))
    assert cli.main(["standby", "promote"], hub) == 0
    assert capsys.readouterr().out == "this hub leads with epoch 2; stop the one before it\n"


def test_emergency_hours_are_taken(hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.activate(file(changed(VOUCHER, site=hub.licence()["site_key"])))
    hub.now = hub.boot.at(VOUCHER.exp + 15 * DAY)
    assert cli.main(["extend", "--emergency"], hub) == 0
    assert capsys.readouterr().out == "new jobs start until 2027-11-29 08:00 UTC, once in this term\n"
    assert cli.main(["status"], hub) == 3


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
