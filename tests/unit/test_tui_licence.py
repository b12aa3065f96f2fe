"""What the licence screen tells of copies and of another hub that took over."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from agent.api.types import ForkedNode, Licence, LicenceEvent, LicenceStage, LicenceUnit
from tui import licence
from tui.session import Clock

NOW = 1_800_000_000


def text(shown: Licence) -> str:
    clock = Clock(wall=lambda: NOW, zone=UTC)
    return "\n".join("".join(piece for piece, _ in line) for line in licence.standing(shown, NOW, clock, 200))


def test_a_copy_is_named_with_the_command_that_helps() -> None:
    copied = ForkedNode(node="n2", of="n1", seq=4, since=NOW - 60)
    said = text(Licence(stage=LicenceStage.ACTIVE, message="All is well.", forked=(copied,)))
    assert "n2 has the identity of n1 since" in said
    assert "stoker-license node adopt --new n2" in said
    same = ForkedNode(node="n1", of="n1", seq=4, since=NOW - 60)
    assert "n1 has the identity of another machine" in text(
        Licence(stage=LicenceStage.ACTIVE, message="", forked=(same,))
    )


def test_what_the_form_cannot_do_is_not_promised_by_it() -> None:
    held = Licence(stage=LicenceStage.RESTRICTED, message="Held.", fix="stoker-license activate FILE")
    assert "stoker-license activate FILE (here: I)" in text(held)
    clock = Licence(stage=LicenceStage.RESTRICTED, message="Held.", fix="timedatectl set-ntp true")
    assert "timedatectl set-ntp true" in text(clock) and "here: I" not in text(clock)


def test_a_hub_that_does_not_lead_says_so() -> None:
    said = text(Licence(stage=LicenceStage.ACTIVE, message="All is well.", epoch=1, epoch_heard=2))
    assert "epoch 2 took over; this hub speaks with 1 and gives no leases" in said
    assert "stoker-license standby promote" in said
    assert "took over" not in text(Licence(stage=LicenceStage.ACTIVE, message="", epoch=2, epoch_heard=2))


def test_nodes_and_admins_are_counted_and_told_beyond_the_licence() -> None:
    nodes = LicenceUnit(unit="node", used=3, limit=5)
    admins = LicenceUnit(unit="admin", used=2, names=("ada", "bob"))
    said = text(Licence(stage=LicenceStage.ACTIVE, message="", licence_id="l", units=(nodes, admins)))
    assert "nodes    3 of 5 with an agent" in said
    assert "admins   2 in the last 30 days: ada, bob" in said
    over = LicenceUnit(unit="admin", used=2, limit=1, names=("ada", "bob"), told="2 persons, licence for 1; ask")
    said = text(Licence(stage=LicenceStage.ACTIVE, message="", licence_id="l", units=(over,)))
    assert "admins   2 persons, licence for 1; ask" in said


def test_the_times_in_the_trail_are_told_as_times() -> None:
    clock = Clock(wall=lambda: NOW, zone=UTC)
    details: list[dict[str, Any]] = [{"begins": NOW - 3600, "ends": NOW}, {"was": NOW, "wall": NOW - 7200}]
    events = [LicenceEvent(number=n, at=NOW, event="e", subject="s", detail=detail) for n, detail in enumerate(details)]
    events.append(LicenceEvent(number=9, at=NOW, event="renamed", subject="n2", detail={"was": "n1"}))
    said = [row.cells[-1] for row in licence.history_rows(events, clock)]
    assert not any(str(NOW)[:4] in str(each) for each in said), said
    assert "07:00" in str(said[0]) and "08:00" in str(said[0]) and "06:00" in str(said[1])
    assert "was n1" in str(said[2])
