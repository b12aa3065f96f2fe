"""Reading what `fingerprint` wants to know from /sys, /proc and /etc.

Rules kept here: all files below one root, which a test sets; nothing is opened that is no plain file, and no more than
a page is read of it; what cannot be read is absent. What no file tells comes through the two callables that `Reader`
takes: the address that a NIC was made with, and the UUIDs that NVML has. Each group is read in a thread of its own with
a deadline, because a driver that hangs hangs whoever asks it; such a thread is left to it, and no second one is sent
after it.

Serial numbers of the platform are root's to read, and the hub is not root. What root read at the start of the unit
lies beside the hub's socket (`collect`), on a file system that ends with the boot: on a disk it would go along with it
to another machine.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from licensing import files, tpm
from licensing.fingerprint import Group, Kind, Mark, cleaned

log = logging.getLogger(__name__)

TIMEOUT_S = 3.0
COLLECTED = "hardware.json"
"""The file beside the hub's socket."""
_BYTES_MOST = 4096
_TABLE_BYTES_MOST = 262_144
_ENTRIES_MOST = 512
"""Of a folder: a machine has fewer NICs and GPUs."""
_DEPTH_MOST = 8
_INFINIBAND = "32"
"""ARPHRD_INFINIBAND."""


PermanentOf = Callable[[str], str | None]
"""Gives the permanent address of a NIC by its name (`nics.permanent_address`)."""
NvmlUuids = Callable[[], Iterable[str]]
"""Gives the UUIDs of this machine's GPUs as NVML has them: the hub asks the agent beside it."""


class Reader:
    """Reads all groups, again and again. Used from one thread at a time."""

    def __init__(
        self,
        root: Path = Path("/"),
        collected: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        *,
        permanent: PermanentOf | None = None,
        nvml: NvmlUuids | None = None,
    ) -> None:
        """`collected` is what root read of this machine, where there is such a file.

        `permanent` is asked where a NIC was given another address, `nvml` where the driver's /proc tells not every GPU.
        """
        self._timeout_s = timeout_s
        self._sources: dict[Group, Callable[[], list[Mark]]] = {
            group: partial(_listed, read, root) for group, read in _SOURCES.items()
        }
        self._sources[Group.NETWORK] = lambda: list(network(root, permanent))
        self._sources[Group.GPUS] = lambda: list(gpus(root, nvml))
        if collected is not None:
            self._sources[Group.PLATFORM] = lambda: _merged(platform(root), read_collected(collected, root))
        self._hanging: dict[Group, threading.Thread] = {}

    def read(self) -> list[Mark]:
        """Every mark that could be read within the deadline. Never fails."""
        found: dict[Group, list[Mark]] = {}
        for group, source in self._sources.items():
            if group not in self._hanging or not self._hanging[group].is_alive():
                thread = threading.Thread(
                    target=_into, args=(found, group, source), name=f"hardware-{group}", daemon=True
                )
                self._hanging[group] = thread
                thread.start()
        until = time.monotonic() + self._timeout_s
        for thread in self._hanging.values():
            thread.join(max(0.0, until - time.monotonic()))
        late = [group for group, thread in self._hanging.items() if thread.is_alive()]
        if late:
            log.warning("hardware: %s cannot be read, it hangs; taken as absent", ", ".join(late))
        return [mark for group in self._sources if group not in late for mark in found.get(group, ())]


def _listed(read: Callable[[Path], Iterator[Mark]], root: Path) -> list[Mark]:
    return list(read(root))


def _into(found: dict[Group, list[Mark]], group: Group, source: Callable[[], list[Mark]]) -> None:
    try:
        found[group] = source()
    except (OSError, ValueError, RecursionError) as error:
        log.warning("hardware: %s cannot be read: %s", group, error)


# --- what root reads for the hub ---


def collect(path: Path, owner: int, root: Path = Path("/")) -> int:
    """Write what only root can read to `path`, for `owner` alone; gives the number of marks.

    Raises:
        OSError: it cannot be written.
    """
    marks = list(platform(root))
    content = {"boot_id": _boot_id(root), "marks": [[kind.value, value] for kind, value in marks]}
    files.replace(path, json.dumps(content).encode(), mode=0o400)
    if os.geteuid() == 0:
        os.chown(path, owner, -1, follow_symlinks=False)
    return len(marks)


def read_collected(path: Path, root: Path = Path("/")) -> list[Mark]:
    """What `collect` wrote in this boot; nothing where it did not, or where somebody else wrote it."""
    text = _text(path, by=(0, os.geteuid()))
    if text is None:
        return []
    try:
        content = json.loads(text)
        if not content["boot_id"] or content["boot_id"] != _boot_id(root):
            return []
        kinds = {kind.value: kind for kind in Kind}
        return [(kinds[kind], str(value)) for kind, value in content["marks"] if kind in kinds]
    except (ValueError, TypeError, KeyError, RecursionError):
        log.warning("hardware: %s is damaged and not used; it is written anew at the hub's next start", path)
        return []


def _merged(own: Iterable[Mark], collected: Iterable[Mark]) -> list[Mark]:
    """One of each kind; what is read now comes first."""
    found: dict[Kind, str] = {}
    for kind, value in (*own, *collected):
        found.setdefault(kind, value)
    return list(found.items())


def _boot_id(root: Path) -> str:
    return (_text(root / "proc/sys/kernel/random/boot_id") or "").strip()


# --- the groups ---


def platform(root: Path) -> Iterator[Mark]:
    """SMBIOS by /sys/class/dmi; the endorsement key that a TPM 1.2 shows in /sys, and a 2.0 when it is asked."""
    for kind, name in ((Kind.UUID, "product_uuid"), (Kind.BOARD, "board_serial"), (Kind.CHASSIS, "chassis_serial")):
        yield from _mark(kind, root / "sys/class/dmi/id" / name)
    for folder in _entries(root / "sys/class/tpm"):
        shown = _text(folder / "pubek") or _text(folder / "device/pubek")
        if shown and shown.strip():
            yield Kind.TPM, hashlib.sha256(shown.encode()).hexdigest()
            return
    try:
        found = tpm.endorsement(root)
    except tpm.TpmError as error:
        log.warning("hardware: the TPM is not read: %s", error)
        return
    if found is not None:
        yield Kind.TPM, found


def network(root: Path, permanent: PermanentOf | None = None) -> Iterator[Mark]:
    """Permanent addresses of what has a device behind it; those of a bond's NICs are told by the bond."""
    bonded = _of_bonds(root)
    for nic in _entries(root / "sys/class/net"):
        if not _exists(nic / "device"):
            continue
        address = bonded.get(nic.name)
        if address is None and (_text(nic / "addr_assign_type") or "").strip() == "0":
            address = (_text(nic / "address") or "").strip()
        elif address is None and permanent is not None:
            address = permanent(nic.name)
        if address and (_text(nic / "type") or "").strip() == _INFINIBAND:
            address = _of_port(address)
        if address:
            yield Kind.MAC, address


def _of_port(address: str) -> str:
    """Of an InfiniBand address the port's GUID, without the middle that makes it 8 bytes; what is before it changes."""
    found = re.fullmatch(r"(?:[0-9a-f]{2}:){12}((?:[0-9a-f]{2}:){3})(?:[0-9a-f]{2}:){2}((?:[0-9a-f]{2}:?){3})", address)
    return f"{found[1]}{found[2]}" if found else ""


def _of_bonds(root: Path) -> dict[str, str]:
    """A bond gives its NICs one address, and remembers their own."""
    found: dict[str, str] = {}
    for bond in _entries(root / "proc/net/bonding"):
        text = _text(bond, _TABLE_BYTES_MOST) or ""
        for name, address in re.findall(
            r"^Slave Interface: (\S+)$(?:\n(?!Slave Interface).*)*?\nPermanent HW addr: (\S+)$", text, re.MULTILINE
        ):
            found[name] = address
    return found


def gpus(root: Path, nvml: NvmlUuids | None = None) -> Iterator[Mark]:
    """UUIDs as the driver tells them in /proc, which needs no library and no device file; else by NVML.

    /proc has question marks in place of the UUID until a GPU was used once, and in a container it may not be there.
    """
    folders = _entries(root / "proc/driver/nvidia/gpus")
    told = 0
    for folder in folders:
        found = re.search(r"^GPU UUID:\s*(GPU-\S+)", _text(folder / "information") or "", re.MULTILINE)
        if found and cleaned(Kind.GPU, found[1]):
            told += 1
            yield Kind.GPU, found[1]
    if nvml is not None and (not folders or told < len(folders)):
        yield from ((Kind.GPU, uuid) for uuid in nvml())


def disk(root: Path) -> Iterator[Mark]:
    """The disks under /, through LVM, encryption and RAID: the WWID of each, else its serial number."""
    for name in sorted(_disks(root, _root_device(root), _DEPTH_MOST)):
        base = root / "sys/class/block" / name
        for file in ("wwid", "device/wwid", "serial", "device/serial"):
            text = _text(base / file)
            if text and text.strip():
                yield Kind.DISK, text
                break


def _root_device(root: Path) -> str | None:
    """The block device of the last thing mounted on /. A file system of several devices names only its source."""
    found = None
    for line in (_text(root / "proc/self/mountinfo", _TABLE_BYTES_MOST) or "").splitlines():
        head, _, tail = line.partition(" - ")
        fields, source = head.split(), tail.split()[1:2]
        if len(fields) > 4 and fields[4] == "/":
            number = _resolved(root / "sys/dev/block" / fields[2]) if re.fullmatch(r"\d+:\d+", fields[2]) else None
            named = Path(source[0]).name if source and source[0].startswith("/dev/") else None
            found = number.name if number is not None else named
    return found


def _disks(root: Path, name: str | None, depth: int) -> set[str]:
    """The whole disks that a partition or a mapping lies on."""
    place = _resolved(root / "sys/class/block" / name) if name is not None else None
    if place is None or depth == 0:
        return set()
    below = [each.name for each in _entries(place / "slaves")]
    if below:
        return set().union(*(_disks(root, each, depth - 1) for each in below[:_DEPTH_MOST]))
    if _exists(place / "partition"):
        return _disks(root, place.parent.name, depth - 1)
    return {place.name}


def machine_id(root: Path) -> Iterator[Mark]:
    """Of the installed system; goes along with its disk."""
    yield from _mark(Kind.MACHINE_ID, root / "etc/machine-id")


_SOURCES: Mapping[Group, Callable[[Path], Iterator[Mark]]] = {
    Group.PLATFORM: platform,
    Group.NETWORK: network,
    Group.GPUS: gpus,
    Group.DISK: disk,
    Group.MACHINE_ID: machine_id,
}


# --- reading what may be anything ---


def _mark(kind: Kind, path: Path) -> Iterator[Mark]:
    text = _text(path)
    if text is not None and text.strip():
        yield kind, text.strip()


def _text(path: Path, most: int = _BYTES_MOST, by: tuple[int, ...] | None = None) -> str | None:
    """A plain file's text; `None` for what is none, is longer, is no text, or of another owner than `by`.

    Opened without waiting: a FIFO in its place would hold us for ever.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError):
        return None
    try:
        what = os.fstat(handle)
        if not stat.S_ISREG(what.st_mode) or (by is not None and what.st_uid not in by):
            return None
        data = b""
        while len(data) <= most and (more := os.read(handle, most + 1 - len(data))):
            data += more
        return data.decode("utf-8") if len(data) <= most else None
    except (OSError, UnicodeDecodeError):
        return None
    finally:
        os.close(handle)


def _entries(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as found:
            names = [each.name for each, _ in zip(found, range(_ENTRIES_MOST), strict=False)]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def _resolved(path: Path) -> Path | None:
    """Where a link of /sys leads to."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EACCES):
            log.debug("hardware: %s: %s", path, error)
        return None
