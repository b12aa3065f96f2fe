"""The gate's files: what a restart keeps, what damage costs, and a disk that takes no more."""

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

from agent.api.errors import ApiError
from agent.api.types import LicenceStage
from agent.gate import Admit, HubLicence, NodeGate
from tests.fakes.gates import HOUR, hand_over, held, known_gate
from tests.fakes.gates import boot as boot
from tests.fakes.gates import gate as gate
from tests.fakes.gates import hub as hub
from tests.fakes.gates import known as known
from tests.fakes.vendor import (
    DAY,
    LEASE,
    NOW,
    ROOTS,
    VOUCHER,
    Boot,
    changed,
    file,
    lease,
)


@contextmanager
def full_disk() -> Iterator[None]:
    """Every write to a file fails, for root too, as setrlimit(2) has it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"vouchers":{"\xff":1}}',
        b'{"x":' + b"[" * 10_000,
        b'{"first_start":1e30}',
        b'{"first_start":99999999999999}',
        None,
    ],
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
