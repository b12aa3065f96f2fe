"""The one place where a licence can say no: a new job on a node, and the hub that hands out what it needs."""

from __future__ import annotations

import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from agent.api.errors import ApiError
from agent.api.types import LicenceStage
from agent.gate import Admit, Hold, HubLicence, NodeGate, NoSeat
from tests.fakes import vendor
from tests.fakes.vendor import (
    BAD_LEASES,
    BOUND,
    DAY,
    EVALUATION_FILE,
    FOLDER,
    LEASE,
    NOW,
    ROOTS,
    VOUCHER,
    Boot,
    changed,
    file,
    lease,
)

HOUR = 3600


@pytest.fixture
def boot() -> Boot:
    """The uptime of hub and node, which are one machine."""
    return Boot()


@pytest.fixture
def hub(tmp_path: Path, boot: Boot) -> Iterator[HubLicence]:
    hub = HubLicence(tmp_path / "hub", "test", ROOTS, boot)
    hub.open()
    yield hub
    hub.close()


@pytest.fixture
def gate(tmp_path: Path, boot: Boot) -> NodeGate:
    return NodeGate(tmp_path / "node", ROOTS, boot)


@pytest.fixture
def known(tmp_path: Path, boot: Boot) -> NodeGate:
    """A gate whose key the leases of the fake vendor are made out to."""
    return known_gate(tmp_path, boot)


@contextmanager
def full_disk() -> Iterator[None]:
    """Every write to a file fails, for root too, as setrlimit(2) has it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def known_gate(tmp_path: Path, boot: Boot | None = None) -> NodeGate:
    folder = tmp_path / "known"
    folder.mkdir(exist_ok=True)
    pem = vendor.NODE.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "node.key").write_bytes(pem)
    return NodeGate(folder, ROOTS, boot or Boot())


def hand_over(hub: HubLicence, gate: NodeGate, gpus: list[str], now: int) -> None:
    """What the hub does with every snapshot of a node."""
    token = hub.lease("n1", gate.key_hex, gpus, gate.lease_reply(now).seq, now)
    if isinstance(token, str):
        gate.accept(token, now)


def held(answer: Admit | Hold) -> Hold:
    assert isinstance(answer, Hold)
    return answer


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
}


def test_every_bad_lease_has_its_verdict() -> None:
    assert {path.stem for path in FOLDER.glob("*.lease")} - {"good"} == set(BAD_LEASES) == set(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_a_bad_lease_is_refused_and_the_held_one_stays(known: NodeGate, tmp_path: Path, name: str) -> None:
    known.accept((FOLDER / "good.lease").read_text(), NOW)
    before = (tmp_path / "known" / "lease").read_bytes()
    code, words = VERDICTS[name]
    with pytest.raises(ApiError, match=words) as refusal:
        known.accept((FOLDER / f"{name}.lease").read_text(), NOW)
    assert refusal.value.code == code
    assert 400 <= refusal.value.status < 500
    assert (tmp_path / "known" / "lease").read_bytes() == before
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


# --- what is on disk ---


def test_a_restart_keeps_key_lease_and_number(hub: HubLicence, gate: NodeGate, tmp_path: Path) -> None:
    hub.activate(file(), NOW)
    hand_over(hub, gate, ["GPU-0"], NOW)
    again = NodeGate(tmp_path / "node", ROOTS, Boot())
    assert again.key_hex == gate.key_hex
    assert again.lease_reply(NOW) == gate.lease_reply(NOW)
    assert again.admit(["GPU-0"], NOW) == Admit()
    assert stat.S_IMODE((tmp_path / "node" / "node.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"v4.public.AAAA"])
def test_a_damaged_lease_is_said_and_replaced_by_the_next(hub: HubLicence, tmp_path: Path, damage: bytes) -> None:
    gate = NodeGate(tmp_path / "node", ROOTS, Boot())
    hub.activate(file(), NOW)
    hand_over(hub, gate, ["GPU-0"], NOW)
    (tmp_path / "node" / "lease").write_bytes(damage)
    again = NodeGate(tmp_path / "node", ROOTS, Boot())
    assert held(again.admit([], NOW)).code == "LIC-413"
    hand_over(hub, again, ["GPU-0"], NOW)
    assert again.admit(["GPU-0"], NOW) == Admit()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff\xfe", b'{"first_start":1e30}', b'{"first_start":99999999999999}', None]
)
def test_a_damaged_memory_is_kept_aside_and_begun_anew(known: NodeGate, tmp_path: Path, damage: bytes | None) -> None:
    known.accept(lease(), NOW)
    spoil(tmp_path / "known" / "gate.json", damage)
    again = known_gate(tmp_path)
    assert again.admit(["GPU-0"], NOW) == Admit()
    assert len(list((tmp_path / "known").glob("gate.json.damaged-*"))) == 1
    again.tick(NOW)
    assert not list((tmp_path / "known").glob(".gate.json*"))


def spoil(path: Path, damage: bytes | None) -> None:
    """Put these bytes there, or a folder."""
    path.unlink(missing_ok=True)
    if damage is None:
        path.mkdir()
    else:
        path.write_bytes(damage)


@pytest.mark.parametrize("damage", [b"", b"junk", b"\xff" * 100, None])
def test_a_damaged_key_is_kept_aside_and_the_node_gets_a_new_lease(
    hub: HubLicence, gate: NodeGate, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    hub.activate(file(), NOW)
    hand_over(hub, gate, ["GPU-0"], NOW)
    spoil(tmp_path / "node" / "node.key", damage)
    again = NodeGate(tmp_path / "node", ROOTS, Boot())
    assert "a new key" in caplog.text
    assert again.key_hex != gate.key_hex
    (aside,) = (tmp_path / "node").glob("node.key.damaged-*")
    assert aside.is_dir() if damage is None else aside.read_bytes() == damage
    assert again.stage(NOW) is LicenceStage.RESTRICTED
    hand_over(hub, again, ["GPU-0"], NOW)
    assert again.admit(["GPU-0"], NOW) == Admit()
    assert len(hub.status(NOW).holders) == 1
    assert NodeGate(tmp_path / "node", ROOTS, Boot()).key_hex == again.key_hex


def test_damaged_twice_keeps_both(tmp_path: Path) -> None:
    for damage in (b"one", b"two"):
        (tmp_path / "node.key").unlink(missing_ok=True)
        (tmp_path / "node.key").write_bytes(damage)
        os.utime(tmp_path / "node.key", (NOW, NOW))
        NodeGate(tmp_path, ROOTS, Boot())
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("node.key.damaged-*")}
    assert kept == {f"node.key.damaged-{NOW}": b"one", f"node.key.damaged-{NOW}.2": b"two"}


def test_a_folder_in_the_place_of_the_lease_is_moved_aside(hub: HubLicence, gate: NodeGate, tmp_path: Path) -> None:
    (tmp_path / "node" / "lease").mkdir()
    again = NodeGate(tmp_path / "node", ROOTS, Boot())
    hub.activate(file(), NOW)
    hand_over(hub, again, ["GPU-0"], NOW)
    assert again.admit(["GPU-0"], NOW) == Admit()


# --- a disk that takes no more ---


def test_questions_do_not_touch_the_disk(known: NodeGate, tmp_path: Path, boot: Boot) -> None:
    known.accept(lease(), NOW)
    before = snapshot(tmp_path / "known")
    for hour in range(96):
        now = boot.at(NOW + hour * HOUR)
        known.admit(["GPU-0"], now), known.seated(now), known.stage(now), known.licence(now), known.lease_reply(now)
    assert snapshot(tmp_path / "known") == before
    known.tick(boot.at(NOW + 96 * HOUR))
    assert {name for name, what in snapshot(tmp_path / "known").items() if before[name] != what} == {"gate.json"}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Each file with its inode and time: a replaced file has others."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_tick_writes_when_there_is_something_to_write(known: NodeGate, tmp_path: Path, boot: Boot) -> None:
    known.accept(lease(), NOW)
    known.tick(boot.at(NOW + 60))
    before = snapshot(tmp_path / "known")
    known.tick(boot.at(NOW + 120))
    assert snapshot(tmp_path / "known") == before


def test_a_full_disk_is_said_once_and_tried_once_a_minute(
    known: NodeGate, tmp_path: Path, boot: Boot, caplog: pytest.LogCaptureFixture
) -> None:
    known.accept(lease(), NOW)
    with full_disk():
        for second in range(0, 7200, 20):
            known.tick(boot.at(NOW + second))
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    assert "cannot note the time" in caplog.text
    caplog.set_level("INFO")
    known.tick(boot.at(NOW + 7190))
    assert "can be written again" not in caplog.text  # the last try was 50 s ago
    known.tick(boot.at(NOW + 7200))
    assert "can be written again" in caplog.text
    assert known_gate(tmp_path).stage(NOW) is LicenceStage.ACTIVE


def test_a_lease_that_cannot_be_written_leaves_the_one_held(known: NodeGate, tmp_path: Path, boot: Boot) -> None:
    known.accept(lease(), NOW)
    before = snapshot(tmp_path / "known")
    later = boot.at(NOW + 8 * HOUR)
    newer = lease(changed(LEASE, seq=6, iat=later, exp=later + DAY))
    with full_disk(), pytest.raises(ApiError, match="what this node held before stays") as refusal:
        known.accept(newer, later)
    assert (refusal.value.status, refusal.value.code) == (503, "licence_store")
    assert snapshot(tmp_path / "known") == before
    assert known.lease_reply(later).seq == 5
    assert known.admit(["GPU-0"], later) == Admit()
    assert known.accept(newer, later).seq == 6


def test_a_first_lease_that_cannot_be_written_says_why(known: NodeGate) -> None:
    with full_disk(), pytest.raises(ApiError):
        known.accept(lease(), NOW)
    hold = held(known.admit([], NOW))
    assert hold.code == "LIC-414"
    assert "File too large" in hold.detail
    assert "df -h" in hold.detail


def test_a_node_that_can_write_nothing_starts_restricted_and_recovers(hub: HubLicence, tmp_path: Path) -> None:
    hub.activate(file(), NOW)
    (tmp_path / "node").mkdir()
    with full_disk():
        gate = NodeGate(tmp_path / "node", ROOTS, Boot())
        gate.tick(NOW)
        hold = held(gate.admit([], NOW))
        assert (hold.code, gate.stage(NOW)) == ("LIC-414", LicenceStage.RESTRICTED)
        assert "node.key: File too large" in hold.detail
    token = hub.lease("n1", gate.key_hex, ["GPU-0"], 0, NOW)
    assert isinstance(token, str)
    with full_disk(), pytest.raises(ApiError, match="cannot be written"):
        gate.accept(token, NOW)
    gate.tick(NOW + 60)
    hand_over(hub, gate, ["GPU-0"], NOW + 60)
    assert gate.admit(["GPU-0"], NOW + 60) == Admit()
    assert NodeGate(tmp_path / "node", ROOTS, Boot()).key_hex == gate.key_hex


def test_a_state_folder_that_is_a_file_does_not_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"")
    gate = NodeGate(tmp_path / "state", ROOTS, Boot())
    gate.tick(NOW)
    assert held(gate.admit([], NOW)).code == "LIC-414"
    assert (tmp_path / "state").read_bytes() == b""


def test_ticks_and_leases_from_two_threads_lose_nothing(tmp_path: Path, boot: Boot) -> None:
    gate = known_gate(tmp_path, boot)
    stop = threading.Event()

    def tick_on() -> None:
        while not stop.is_set():
            gate.tick(NOW)

    thread = threading.Thread(target=tick_on)
    thread.start()
    try:
        for number in range(40):
            voucher = changed(VOUCHER, id=f"lic-{number}")
            token = lease(changed(LEASE, seq=number + 1, licence=voucher.id), licence=voucher)
            gate.accept(token, NOW)
    finally:
        stop.set()
        thread.join(20)
    kept = msgspec.json.decode((tmp_path / "known" / "gate.json").read_bytes())
    assert set(kept["vouchers"]) == {f"lic-{number}" for number in range(40)}


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
