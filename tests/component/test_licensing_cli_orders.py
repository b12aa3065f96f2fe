"""Orders about seats, the clock and the standby as they are typed, before a real ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.hub.metrics import of_licence
from licensing import cli
from licensing.keys import public_hex
from tests.fakes.localhub import LocalHub
from tests.fakes.localhub import hub as hub
from tests.fakes.vendor import DAY, FOR_EVER, NOW, VOUCHER, changed, file, seeded


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


def test_a_clock_that_agrees_needs_no_word(hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.activate(file(changed(VOUCHER, site=hub.licence()["site_key"])))
    before = hub.state.history(9)
    hub.now = hub.boot.at(NOW + DAY)
    assert cli.main(["clock", "confirm"], hub) == 0
    words = "the clock agrees with what was signed and seen (2027-01-16 08:00 UTC): there is nothing to confirm."
    assert capsys.readouterr().out.startswith(words)
    assert hub.state.history(9) == before, "and nothing is noted"
    assert cli.main(["clock", "confirm", "--yes"], hub) == 0
    out = capsys.readouterr().out
    assert out == "it is 2027-01-16 08:00 UTC, as was known here; each node goes by it from its next lease on\n"


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
