"""What the licence screen tells of copies and of another hub that took over."""

from __future__ import annotations

from datetime import UTC

from agent.api.types import ForkedNode, Licence, LicenceStage
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


def test_a_hub_that_does_not_lead_says_so() -> None:
    said = text(Licence(stage=LicenceStage.ACTIVE, message="All is well.", epoch=1, epoch_heard=2))
    assert "epoch 2 took over; this hub speaks with 1 and gives no leases" in said
    assert "stoker-license standby promote" in said
    assert "took over" not in text(Licence(stage=LicenceStage.ACTIVE, message="", epoch=2, epoch_heard=2))
