"""A machine as directory trees on disk, with the links that /sys has: what `licensing.hardware` reads, under a root."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from licensing.hardware import Reader


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is in a machine. `None` and empty parts are not there."""

    uuid: str | None = "3f1c9a52-7d0e-4b7c-9a11-0c8d5e6f7a8b"
    board: str | None = "OM21BS001234"
    chassis: str | None = "S482103X0A12345"
    tpm: str | None = None
    macs: tuple[str, ...] = ("3c:ec:ef:12:34:56", "3c:ec:ef:12:34:57", "b8:ce:f6:aa:bb:cc")
    gpus: tuple[str, ...] = field(
        default_factory=lambda: tuple(f"GPU-6ee19c2d-1111-2222-3333-44445555666{n}" for n in range(4))
    )
    disk: str | None = "eui.0025385b11234567"
    machine_id: str | None = "3d1219c7c4c5404aaa1f6d2a48adfda4"
    boot_id: str = "boot-1"

    def but(self, **parts: object) -> Machine:
        """The same machine with other parts."""
        return replace(self, **parts)  # type: ignore[arg-type]

    def build(self, root: Path) -> Path:
        """Write it; what was there before is left only where this has nothing of the kind."""
        put(root / "proc/sys/kernel/random/boot_id", f"{self.boot_id}\n")
        self._platform(root)
        self._nics(root)
        for number, uuid in enumerate(self.gpus):
            text = f"Model: \t\t NVIDIA H100\nIRQ:   \t\t 42\nGPU UUID: \t {uuid}\nVideo BIOS: \t 96.00\n"
            put(root / f"proc/driver/nvidia/gpus/0000:{number:02x}:00.0/information", text)
        if self.disk is not None:
            self._disk(root)
        if self.machine_id is not None:
            put(root / "etc/machine-id", f"{self.machine_id}\n")
        return root

    def _platform(self, root: Path) -> None:
        named = {"product_uuid": self.uuid, "board_serial": self.board, "chassis_serial": self.chassis}
        for name, value in named.items():
            if value is not None:
                put(root / "sys/devices/virtual/dmi/id" / name, f"{value}\n")
        link(root / "sys/class/dmi/id", root / "sys/devices/virtual/dmi/id")
        if self.tpm is not None:
            put(root / "sys/class/tpm/tpm0/pubek", self.tpm)

    def _nics(self, root: Path) -> None:
        for number, mac in enumerate(self.macs):
            nic(root, f"eth{number}", mac)
        put(root / "sys/devices/virtual/net/docker0/addr_assign_type", "0\n")
        put(root / "sys/devices/virtual/net/docker0/address", "00:1b:21:00:00:01\n")
        link(root / "sys/class/net/docker0", root / "sys/devices/virtual/net/docker0")

    def _disk(self, root: Path) -> None:
        """An NVMe disk with a partition under LVM, as an installer makes it."""
        disk = root / "sys/devices/pci0000:00/nvme/nvme0/nvme0n1"
        put(disk / "wwid", f"{self.disk}\n")
        put(disk / "nvme0n1p3/partition", "3\n")
        dm = root / "sys/devices/virtual/block/dm-0"
        put(dm / "dm/name", "vg-root\n")
        link(dm / "slaves/nvme0n1p3", disk / "nvme0n1p3")
        for name, place in {"nvme0n1": disk, "nvme0n1p3": disk / "nvme0n1p3", "dm-0": dm}.items():
            link(root / "sys/class/block" / name, place)
        link(root / "sys/dev/block/253:0", dm)
        put(
            root / "proc/self/mountinfo",
            "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
            "27 1 253:0 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw\n"
            "30 27 259:1 / /boot rw,relatime - ext4 /dev/nvme0n1p2 rw\n",
        )


def nic(root: Path, name: str, mac: str, *, assigned: int = 0, kind: str = "1") -> None:
    """A physical NIC."""
    device = root / f"sys/devices/pci0000:00/{name}-device"
    put(device / f"net/{name}/addr_assign_type", f"{assigned}\n")
    put(device / f"net/{name}/address", f"{mac}\n")
    put(device / f"net/{name}/type", f"{kind}\n")
    link(device / f"net/{name}/device", device)
    link(root / "sys/class/net" / name, device / f"net/{name}")


def put(path: Path, text: str | bytes) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def link(path: Path, to: Path) -> None:
    """A relative link, as those of /sys are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(os.path.relpath(to, path.parent))


HEAD = Machine()
"""The head node that a licence is bound to."""
TWIN = Machine(
    uuid="9b1f0c44-2a63-4d51-8c3e-1f2a3b4c5d6e",
    board="OM21BS009999",
    chassis="S482103X0A99999",
    macs=("3c:ec:ef:98:76:54", "3c:ec:ef:98:76:55", "b8:ce:f6:dd:ee:ff"),
    gpus=tuple(f"GPU-7ff2ad3e-1111-2222-3333-44445555666{n}" for n in range(4)),
    disk="eui.0025385b19999999",
    machine_id="9f8e7d6c5b4a39281706f5e4d3c2b1a0",
)
"""Another machine, of the same make."""


def reader(machine: Machine, root: Path) -> Reader:
    """Reads it from a tree that is written now."""
    return Reader(machine.build(root))
