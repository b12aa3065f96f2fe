"""Reading a machine from real directory trees, and from what stands in their place when something is wrong."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from licensing import fingerprint, hardware
from licensing.fingerprint import Group, Kind, Mark
from licensing.hardware import Reader
from licensing.nics import permanent_address
from tests.fakes.head import HEAD, link, nic, put

SALT = b"s" * 32
EVERYTHING = set(Group)


def groups(marks: list[Mark]) -> set[Group]:
    return set(fingerprint.salted(marks, SALT))


def values(marks: list[Mark], kind: Kind) -> list[str]:
    return [value.strip() for each, value in marks if each is kind]


def test_a_machine_has_five_groups(tmp_path: Path) -> None:
    marks = Reader(HEAD.build(tmp_path)).read()
    assert groups(marks) == EVERYTHING
    assert values(marks, Kind.UUID) == [HEAD.uuid]
    assert values(marks, Kind.MAC) == list(HEAD.macs), "and not docker0, which has no device"
    assert values(marks, Kind.GPU) == list(HEAD.gpus)
    assert values(marks, Kind.DISK) == [HEAD.disk], "through the partition and the mapping"
    assert values(marks, Kind.MACHINE_ID) == [HEAD.machine_id]


def test_an_empty_machine_has_none(tmp_path: Path) -> None:
    assert Reader(tmp_path).read() == []
    assert Reader(tmp_path / "nowhere").read() == []


def test_this_very_machine_can_be_read() -> None:
    assert isinstance(Reader().read(), list)


def test_addresses_that_are_not_the_makers_are_left_out(tmp_path: Path) -> None:
    nic(tmp_path, "eth0", "3c:ec:ef:00:00:01", assigned=3)
    nic(tmp_path, "eth1", "02:00:00:00:00:01")
    nic(tmp_path, "eth2", "3c:ec:ef:00:00:02")
    assert groups(Reader(tmp_path).read()) == {Group.NETWORK}
    assert values(Reader(tmp_path).read(), Kind.MAC) == ["02:00:00:00:00:01", "3c:ec:ef:00:00:02"]


def test_a_bond_tells_the_addresses_of_its_nics(tmp_path: Path) -> None:
    for name in ("eth0", "eth1"):
        nic(tmp_path, name, "3c:ec:ef:00:00:01", assigned=3)
    put(
        tmp_path / "proc/net/bonding/bond0",
        "Ethernet Channel Bonding Driver: v6.1\n\nBonding Mode: IEEE 802.3ad\n\n"
        "Slave Interface: eth0\nMII Status: up\nPermanent HW addr: 3c:ec:ef:00:00:01\nSlave queue ID: 0\n\n"
        "Slave Interface: eth1\nMII Status: down\nPermanent HW addr: 3c:ec:ef:00:00:02\nSlave queue ID: 0\n",
    )
    assert values(Reader(tmp_path).read(), Kind.MAC) == ["3c:ec:ef:00:00:01", "3c:ec:ef:00:00:02"]


def test_a_nic_with_another_address_counts_by_the_one_it_was_made_with(tmp_path: Path) -> None:
    nic(tmp_path, "eth0", "3c:ec:ef:00:00:01")
    nic(tmp_path, "eth1", "3c:ec:ef:00:00:99", assigned=3)
    nic(tmp_path, "eth2", "3c:ec:ef:00:00:98", assigned=3)
    nic(tmp_path, "ib0", "80:00:02:08:fe:80:00:00:00:00:00:00:b8:59:9f:03:00:c0:1e:99", assigned=3, kind="32")
    made = {
        "eth0": "3c:ec:ef:00:00:77",
        "eth1": "3c:ec:ef:00:00:02",
        "ib0": "80:00:02:08:fe:80:00:00:00:00:00:00:b8:59:9f:03:00:c0:1e:3a",
    }
    asked = Reader(tmp_path, permanent=made.get).read()
    assert values(asked, Kind.MAC) == ["3c:ec:ef:00:00:01", "3c:ec:ef:00:00:02", "b8:59:9f:c0:1e:3a"]
    put(tmp_path / "proc/net/bonding/bond0", "Slave Interface: eth2\nPermanent HW addr: 3c:ec:ef:00:00:03\n")
    assert "3c:ec:ef:00:00:03" in values(Reader(tmp_path, permanent=made.get).read(), Kind.MAC)
    assert values(Reader(tmp_path).read(), Kind.MAC) == ["3c:ec:ef:00:00:01", "3c:ec:ef:00:00:03"]


def test_the_drivers_of_this_machine_tell_the_addresses_of_its_nics() -> None:
    folder = Path("/sys/class/net")
    made = [each for each in folder.iterdir() if (each / "device").exists()
            and (each / "addr_assign_type").read_text().strip() == "0"]  # fmt: skip
    if not made:
        pytest.skip("no NIC here that has the address it was made with")
    told = {each.name: permanent_address(each.name) for each in made}
    assert {name: address for name, address in told.items() if address is not None} == {
        each.name: (each / "address").read_text().strip() for each in made if told[each.name] is not None
    }
    assert any(told.values()), told


@pytest.mark.parametrize("name", ["lo", "no-such-nic", "a-name-that-is-longer-than-any", "", "ä", "a/b"])
def test_what_was_made_with_no_address_has_none(name: str) -> None:
    assert permanent_address(name) is None


def test_of_infiniband_the_port_counts(tmp_path: Path) -> None:
    address = "80:00:02:08:fe:80:00:00:00:00:00:00:b8:59:9f:03:00:c0:1e:3a"
    nic(tmp_path, "ib0", address, kind="32")
    nic(tmp_path, "ib1", "garbage", kind="32")
    assert values(Reader(tmp_path).read(), Kind.MAC) == ["b8:59:9f:c0:1e:3a"]


def test_each_disk_of_a_mirror_counts(tmp_path: Path) -> None:
    md = tmp_path / "sys/devices/virtual/block/md0"
    for name in ("sda", "sdb"):
        disk = tmp_path / f"sys/devices/pci0000:00/ata/{name}"
        put(disk / "device/wwid", f"naa.5000c500a1b2c3{name[-1] * 2}\n")
        link(tmp_path / "sys/class/block" / name, disk)
        link(md / "slaves" / name, disk)
    link(tmp_path / "sys/class/block/md0", md)
    put(tmp_path / "proc/self/mountinfo", "27 1 0:35 /@ / rw - btrfs /dev/md0 rw\n")
    assert values(Reader(tmp_path).read(), Kind.DISK) == ["naa.5000c500a1b2c3aa", "naa.5000c500a1b2c3bb"]


def test_a_virtual_disk_has_a_serial_number(tmp_path: Path) -> None:
    put(tmp_path / "sys/devices/virtio/vda/serial", "vol-0a1b2c3d4e5f")
    link(tmp_path / "sys/class/block/vda", tmp_path / "sys/devices/virtio/vda")
    link(tmp_path / "sys/dev/block/254:0", tmp_path / "sys/devices/virtio/vda")
    put(tmp_path / "proc/self/mountinfo", "27 1 254:0 / / rw - ext4 /dev/root rw\n")
    assert values(Reader(tmp_path).read(), Kind.DISK) == ["vol-0a1b2c3d4e5f"]


def test_the_key_of_an_old_tpm_is_told_by_its_digest(tmp_path: Path) -> None:
    HEAD.but(tpm="Algorithm: 00 00 00 01\nModulus length: 256\nModulus:\nAA BB CC\n").build(tmp_path)
    (key,) = values(Reader(tmp_path).read(), Kind.TPM)
    assert len(key) == 64


# --- what is not as it should be ---

Spoil = Callable[[Path], object]


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


SPOILT: dict[str, Spoil] = {
    "empty": lambda path: path.write_bytes(b""),
    "newline": lambda path: path.write_bytes(b"\n"),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "huge": lambda path: path.write_bytes(b"A1" * 4_000_000),
    "null-bytes": lambda path: path.write_bytes(b"\0" * 100),
    "fifo": os.mkfifo,
    "folder": lambda path: path.mkdir(),
    "loop": _loop,
    "nowhere": lambda path: path.symlink_to("nowhere"),
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "escape": lambda path: path.write_bytes(b"\x1b[2J\x1b]0;x\x07"),
}
PLACES = {
    Group.PLATFORM: ["sys/devices/virtual/dmi/id/board_serial", "sys/devices/virtual/dmi/id/product_uuid"],
    Group.DISK: ["sys/devices/pci0000:00/nvme/nvme0/nvme0n1/wwid"],
    Group.MACHINE_ID: ["etc/machine-id"],
    Group.GPUS: [f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information" for number in range(4)],
    Group.NETWORK: [f"sys/devices/pci0000:00/eth{number}-device/net/eth{number}/address" for number in range(3)],
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("group", PLACES)
def test_a_source_that_is_no_plain_text_is_absent_and_hangs_nobody(
    tmp_path: Path, group: Group, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    HEAD.build(tmp_path)
    for place in PLACES[group]:
        (tmp_path / place).unlink()
        SPOILT[how](tmp_path / place)
    assert groups(Reader(tmp_path, timeout_s=60).read()) == EVERYTHING - {group}
    assert caplog.text == ""


@pytest.mark.parametrize("how", ["fifo", "loop", "binary", "huge", "endless", "folder"])
@pytest.mark.parametrize(
    "place",
    [
        "proc/self/mountinfo",
        "sys/class/block/dm-0",
        "sys/dev/block/253:0",
        "sys/class/net/eth0",
        "sys/devices/pci0000:00/eth0-device/net/eth0/addr_assign_type",
        "sys/class/dmi/id",
    ],
)
def test_what_leads_to_a_source_may_be_anything(
    tmp_path: Path, place: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    HEAD.build(tmp_path)
    (tmp_path / place).unlink()
    SPOILT[how](tmp_path / place)
    assert len(groups(Reader(tmp_path, timeout_s=60).read())) >= 4
    assert caplog.text == ""


def test_disks_that_lie_on_each_other_end(tmp_path: Path) -> None:
    one, two = (tmp_path / f"sys/devices/virtual/block/dm-{n}" for n in range(2))
    link(one / "slaves/dm-1", two)
    link(two / "slaves/dm-0", one)
    for place in (one, two):
        link(tmp_path / "sys/class/block" / place.name, place)
    put(tmp_path / "proc/self/mountinfo", "27 1 0:1 / / rw - ext4 /dev/dm-0 rw\n")
    assert values(Reader(tmp_path).read(), Kind.DISK) == []


def test_a_source_that_hangs_is_absent_and_no_second_thread_goes_after_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver whose file blocks whoever reads it. Nothing on disk can do that, so the source itself is a wait."""
    reader, release = Reader(HEAD.build(tmp_path), timeout_s=0.3), threading.Event()
    calls: list[int] = []

    def hang() -> list[Mark]:
        calls.append(1)
        release.wait(30)
        return []

    working, reader._sources[Group.GPUS] = reader._sources[Group.GPUS], hang
    for _ in range(3):
        assert groups(reader.read()) == EVERYTHING - {Group.GPUS}
    assert len(calls) == 1
    assert "gpus cannot be read, it hangs" in caplog.text
    release.set()
    reader._hanging[Group.GPUS].join(60)
    reader._sources[Group.GPUS] = working
    assert groups(reader.read()) == EVERYTHING


# --- what root reads for the hub ---


def test_what_root_read_counts_where_the_hub_may_not_look(tmp_path: Path) -> None:
    HEAD.build(tmp_path / "root")
    file = tmp_path / "hardware.json"
    assert hardware.collect(file, os.getuid(), tmp_path / "root") == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o400
    for name in ("product_uuid", "board_serial", "chassis_serial"):
        (tmp_path / "root/sys/devices/virtual/dmi/id" / name).unlink()
    assert groups(Reader(tmp_path / "root").read()) == EVERYTHING - {Group.PLATFORM}
    assert groups(Reader(tmp_path / "root", file).read()) == EVERYTHING


def test_what_is_read_now_comes_before_what_root_read(tmp_path: Path) -> None:
    HEAD.build(tmp_path / "root")
    file = tmp_path / "hardware.json"
    hardware.collect(file, os.getuid(), tmp_path / "root")
    put(tmp_path / "root/sys/devices/virtual/dmi/id/board_serial", "NEW-0001\n")
    assert values(Reader(tmp_path / "root", file).read(), Kind.BOARD) == ["NEW-0001"]


def test_what_root_read_in_another_boot_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "hardware.json"
    hardware.collect(file, os.getuid(), HEAD.build(tmp_path / "root"))
    elsewhere = HEAD.but(uuid=None, board=None, chassis=None, boot_id="boot-2").build(tmp_path / "other")
    assert groups(Reader(elsewhere, file).read()) == EVERYTHING - {Group.PLATFORM}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"boot_id": "boot-1"}', '{"boot_id": "boot-1", "marks": [["uuid"]]}', "[" * 3000],
)
def test_a_damaged_file_of_roots_is_not_used(tmp_path: Path, text: str) -> None:
    file = tmp_path / "hardware.json"
    file.write_text(text)
    assert hardware.read_collected(file, HEAD.build(tmp_path / "root")) == []


def test_somebody_elses_file_is_not_used(tmp_path: Path) -> None:
    file, root = tmp_path / "hardware.json", HEAD.build(tmp_path / "root")
    hardware.collect(file, os.getuid(), root)
    assert len(hardware.read_collected(file, root)) == 3
    if os.getuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(file, 12345, -1)
    assert hardware.read_collected(file, root) == []


def test_a_kind_of_a_newer_build_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "hardware.json"
    file.write_text(json.dumps({"boot_id": "boot-1", "marks": [["smell", "x"], ["board", "OM21BS001234"]]}))
    assert hardware.read_collected(file, HEAD.build(tmp_path / "root")) == [(Kind.BOARD, "OM21BS001234")]
