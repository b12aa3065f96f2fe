"""The one place where a licence can say no: a new job on a node, and the hub that hands out what it needs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.api.errors import ApiError
from agent.api.types import LicenceStage
from agent.gate import Admit, HubLicence, NodeGate, NoSeat
from tests.fakes.gates import HOUR, hand_over, held, known_gate
from tests.fakes.gates import boot as boot
from tests.fakes.gates import gate as gate
from tests.fakes.gates import hub as hub
from tests.fakes.gates import known as known
from tests.fakes.vendor import (
    BAD_LEASES,
    BOUND,
    DAY,
    EVALUATION_FILE,
    FOLDER,
    LEASE,
    NOW,
    VOUCHER,
    Boot,
    changed,
    file,
    lease,
)

# --- a new job ---


def test_a_node_without_a_lease_holds_and_explains(gate: NodeGate) -> None:
    assert gate.stage(NOW) is LicenceStage.RESTRICTED
    hold = held(gate.admit([], NOW + 60))
    assert hold.code == "LIC-410"
    for words in ("first start, 2027-01-15 08:00 UTC", "Running jobs go on", "Run: stoker-license activate FILE"):
        assert words in hold.detail


def test_a_leased_node_admits_what_the_lease_covers(hub: HubLicence, gate: NodeGate) -> None:
    hub.activate(file(), NOW)
    hand_over(hub, gate, ["GPU-0", "GPU-1"], NOW)
    assert gate.admit(["GPU-0", "GPU-1"], NOW) == Admit()
    assert gate.admit([], NOW) == Admit()
    assert gate.seated(NOW) == {"GPU-0", "GPU-1"}


def test_a_gpu_without_a_seat_is_held_and_named(hub: HubLicence, gate: NodeGate) -> None:
    hub.activate(file(changed(VOUCHER, seats=1)), NOW)
    hand_over(hub, gate, ["GPU-0", "GPU-1"], NOW)
    assert gate.admit(["GPU-0"], NOW) == Admit()
    hold = held(gate.admit(["GPU-0", "GPU-1"], NOW))
    assert hold.code == "LIC-420"
    assert "no seat for GPU-1." in hold.detail
    assert "1 seats for the whole site" in hold.detail


def test_a_node_that_got_no_seat_still_runs_jobs_without_gpus(hub: HubLicence, gate: NodeGate) -> None:
    hub.activate(file(changed(VOUCHER, seats=0)), NOW)
    hand_over(hub, gate, ["GPU-0"], NOW)
    assert gate.admit([], NOW) == Admit()
    assert held(gate.admit(["GPU-0"], NOW)).code == "LIC-420"


def test_the_voucher_ends_and_a_licence_lets_jobs_start_again(hub: HubLicence, gate: NodeGate) -> None:
    hub.activate(file(changed(VOUCHER, exp=NOW + 30)), NOW)
    hand_over(hub, gate, ["GPU-0"], NOW)
    assert gate.admit(["GPU-0"], NOW + 29) == Admit()
    hold = held(gate.admit(["GPU-0"], NOW + 30))
    assert hold.code == "LIC-406"
    assert "since 2027-01-15 08:00 UTC" in hold.detail
    assert gate.seated(NOW + 30) == frozenset()
    site = hub.status(NOW).site_key
    hub.activate(file(changed(VOUCHER, id="lic-2", site=site)), NOW + 40)
    hand_over(hub, gate, ["GPU-0"], NOW + 40)
    assert gate.admit(["GPU-0"], NOW + 40) == Admit()


def test_a_silent_hub_is_borne_for_96_hours(known: NodeGate, boot: Boot) -> None:
    known.accept(lease(), NOW)
    assert known.admit(["GPU-0"], boot.at(NOW + 96 * HOUR)) == Admit()
    assert known.stage(NOW + 96 * HOUR) is LicenceStage.GRACE
    hold = held(known.admit(["GPU-0"], boot.at(NOW + 96 * HOUR + 1)))
    assert hold.code == "LIC-412"
    assert "test has not renewed this node's lease" in hold.detail


def test_setting_the_clock_back_gains_nothing(known: NodeGate, boot: Boot) -> None:
    known.accept(lease(), NOW)
    known.admit([], boot.at(NOW + 97 * HOUR))
    assert held(known.admit(["GPU-0"], NOW)).code == "LIC-412"


def test_nor_does_a_reboot(known: NodeGate, tmp_path: Path, boot: Boot) -> None:
    known.accept(lease(), NOW)
    known.tick(boot.at(NOW + 97 * HOUR))
    again = known_gate(tmp_path, Boot(seconds=3, boot_id="boot-2"))
    assert held(again.admit(["GPU-0"], NOW)).code == "LIC-412"


def test_a_new_hub_does_not_give_a_voucher_a_second_time(known: NodeGate, boot: Boot) -> None:
    known.accept(lease(), NOW)
    later = boot.at(NOW + 13 * DAY)
    known.accept(lease(changed(LEASE, seq=6, iat=later, exp=later + DAY, activated_at=later)), later)
    assert known.admit(["GPU-0"], later) == Admit()
    assert held(known.admit(["GPU-0"], boot.at(NOW + 14 * DAY))).code == "LIC-406"


# --- taking leases ---

VERDICTS: dict[str, tuple[str, str]] = {
    "licence-without-lease": ("licence_chain", "2 signed parts where 3 belong"),
    "for-another-node": ("licence_other_site", "made out to n1 with key"),
    "signed-by-another-site": ("licence_other_site", "bound to another"),
    "names-another-site": ("licence_chain", "names another site"),
    "site-key-of-small-order": ("licence_weak_key", "small order"),
    "node-key-of-small-order": ("licence_weak_key", "small order"),
    "for-another-licence": ("licence_chain", "for licence lic-other rev 1"),
    "for-another-revision": ("licence_chain", "lic-test rev 2"),
    "outlives-the-voucher": ("licence_chain", "beyond the dates of its licence"),
    "older-than-its-licence": ("licence_chain", "beyond the dates of its licence"),
    "older-than-activation": ("licence_chain", "before its licence was activated"),
    "more-gpus-than-seats": ("licence_chain", "covers 9 GPUs"),
    "gpu-twice": ("licence_chain", "a GPU twice"),
    "seq-zero": ("licence_content", r"\$\.seq"),
    "signed-by-the-issuer-as-licence": ("licence_signature", "does not hold"),
    "from-next-week": ("licence_clock", "correct this node's clock"),
    "older-than-the-one-held": ("licence_replay", "lease-n1-1-4 is not newer than lease-n1-1-5"),
    "same-number-other-content": ("licence_replay", "not newer"),
    "longer-than-its-licence-allows": ("licence_chain", "runs for 86401 s, and may for 86400 s"),
    "a-day-where-an-hour-is-allowed": ("licence_chain", "runs for 86400 s, and may for 3600 s"),
    "borrowed-for-longer-than-30-days": ("licence_chain", "runs for 2592001 s, and may for 2592000 s"),
    "borrowed-beyond-its-licence": ("licence_chain", "beyond the dates of its licence"),
    "emergency-for-longer-than-72-hours": ("licence_chain", "takes emergency hours for longer than 72 h"),
    "beyond-its-emergency-hours": ("licence_chain", "beyond the dates of its licence"),
    "over-and-no-emergency": ("licence_chain", "beyond the dates of its licence"),
    "more-gpus-than-seats-and-overdraft": ("licence_chain", "covers 10 GPUs"),
    "epoch-lower-than-known": ("licence_replay", "of epoch 0, and this node had one of epoch 1: a standby took over"),
    "number-beyond-2-53": ("licence_content", r"beyond ±2\^53"),
    "ends-after-the-year-9999": ("licence_content", r"<= 253402300799 - at `\$\.exp`"),
    "digest-of-the-one-before-cut-short": ("licence_content", r"\$\.prev"),
}


def test_every_bad_lease_has_its_verdict() -> None:
    assert {path.stem for path in FOLDER.glob("*.lease")} - {"good"} == set(BAD_LEASES) == set(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_a_bad_lease_is_refused_and_the_held_one_stays(known: NodeGate, tmp_path: Path, name: str) -> None:
    known.accept((FOLDER / "good.lease").read_text(), NOW)
    before = {each.name: each.read_bytes() for each in (tmp_path / "known").iterdir()}
    code, words = VERDICTS[name]
    with pytest.raises(ApiError, match=words) as refusal:
        known.accept((FOLDER / f"{name}.lease").read_text(), NOW)
    assert refusal.value.code == code
    assert 400 <= refusal.value.status < 500
    assert {each.name: each.read_bytes() for each in (tmp_path / "known").iterdir()} == before
    assert known.lease_reply(NOW).seq == 5
    assert known.admit(["GPU-0"], NOW) == Admit()


def test_the_same_lease_again_is_fine(known: NodeGate) -> None:
    assert known.accept(lease(), NOW) == known.accept(lease(), NOW + 5)


def test_a_higher_epoch_wins_whatever_its_number(known: NodeGate) -> None:
    known.accept(lease(), NOW)
    assert known.accept(lease(changed(LEASE, epoch=2, seq=1)), NOW).seq == 1


def test_a_lease_that_ended_long_ago_is_refused(known: NodeGate) -> None:
    with pytest.raises(ApiError, match="compare this node's clock with the hub's") as refusal:
        known.accept(lease(), NOW + 5 * DAY)
    assert refusal.value.code == "licence_expired"
    assert "refused" in held(known.admit([], NOW + 5 * DAY)).detail


def test_a_bound_licence_leases_through_its_own_site(known: NodeGate) -> None:
    known.accept(lease(licence=BOUND), NOW)
    assert known.admit(["GPU-1"], NOW) == Admit()


# --- the hub's answers on the wire ---


def test_the_status_tells_who_holds_what(hub: HubLicence, gate: NodeGate) -> None:
    hub.activate(file(), NOW)
    hand_over(hub, gate, ["GPU-0", "GPU-1"], NOW)
    licence = hub.status(NOW)
    assert (licence.stage, licence.seats_used, licence.seats_total) == (LicenceStage.ACTIVE, 2, 8)
    assert [(each.node, each.gpu_uuids, each.until) for each in licence.holders] == [
        ("n1", ("GPU-0", "GPU-1"), NOW + DAY)
    ]
    assert licence.expires_at == licence.restricted_at == NOW + 14 * DAY
    assert msgspec.json.decode(msgspec.json.encode(licence), type=type(licence)) == licence


def test_without_a_licence_the_hub_says_so(hub: HubLicence, gate: NodeGate) -> None:
    licence = hub.status(NOW)
    assert (licence.stage, licence.code, licence.fix) == (
        LicenceStage.RESTRICTED,
        "LIC-401",
        "stoker-license activate FILE",
    )
    assert isinstance(hub.lease("n1", gate.key_hex, ["GPU-0"], 0, NOW), NoSeat)


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("empty", 422, "licence_armour"),
        ("bound-to-another-site", 409, "licence_other_site"),
        ("begins-next-month", 422, "licence_clock"),
    ],
)
def test_a_refused_file_has_its_code(hub: HubLicence, name: str, status: int, code: str) -> None:
    with pytest.raises(ApiError) as refusal:
        hub.activate((FOLDER / f"{name}.licence").read_text(), NOW)
    assert (refusal.value.status, refusal.value.code) == (status, code)


def test_the_evaluation_is_labelled(tmp_path: Path) -> None:
    hub = HubLicence(tmp_path, "test", uptime=Boot())
    hub.open()
    licence = hub.activate(EVALUATION_FILE.read_text(), NOW)
    assert licence.evaluation
    assert "14 days left" in licence.message
    assert licence.development_roots
    hub.close()
