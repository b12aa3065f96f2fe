"""XIDs, the driver's own words for what went wrong: which there are, what each means, what to do; and how the kernel's
log tells them.

The table follows NVIDIA's Xid catalog (docs.nvidia.com/deploy/xid-errors) for Ampere and newer; the sentences are ours.
A code that is not in it is told as it is, as a warning. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.api.health import Severity

INFO, WARNING, CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one code says."""

    severity: Severity
    """`CRITICAL`: the GPU must not be given to a job. `INFO`: it is the program's fault, or nobody's."""
    what: str
    advice: str


_APP = "look for the fault in the program first: compute-sanitizer finds it; the same in other programs is hardware"
_RESET = "reset the GPU when its jobs have ended: nvidia-smi --gpu-reset; if it comes back, have the GPU replaced"
_REBOOT = "let the node's jobs end, then power it off and on; if it comes back, look at seat, riser and power"
_FABRIC = "look at nvidia-smi nvlink -e and the fabric manager's log; then reset the GPUs of the island"
_SUPPORT = "run nvidia-bug-report.sh and send it to the vendor"

MEANINGS: dict[int, Meaning] = {
    8: Meaning(WARNING, "the GPU stopped processing", _APP),
    11: Meaning(WARNING, "invalid commands reached the GPU", _APP),
    13: Meaning(INFO, "a kernel did what is not allowed (graphics engine exception)", _APP),
    25: Meaning(WARNING, "invalid commands reached the GPU", _APP),
    31: Meaning(INFO, "a kernel used memory that is not its own (page fault)", _APP),
    32: Meaning(WARNING, "invalid commands reached the GPU, by PCIe or driver", _SUPPORT),
    38: Meaning(CRITICAL, "the driver's firmware failed", _RESET),
    43: Meaning(INFO, "a program's work was stopped after a fault of its own", _APP),
    44: Meaning(WARNING, "the GPU failed while it changed between programs", _RESET),
    45: Meaning(INFO, "a program's work was taken away, as after a kill or an error", "look for the XID before it"),
    46: Meaning(CRITICAL, "the GPU stopped processing and did not come back", _RESET),
    48: Meaning(CRITICAL, "memory held two wrong bits in one word (uncorrectable ECC error)", _RESET),
    54: Meaning(CRITICAL, "the GPU's auxiliary power is missing", _REBOOT),
    61: Meaning(CRITICAL, "the GPU's microcontroller stopped at a breakpoint", _RESET),
    62: Meaning(CRITICAL, "the GPU's microcontroller halted", _RESET),
    63: Meaning(WARNING, "a bad memory row or page was taken out of use", "the next reset makes it good: " + _RESET),
    64: Meaning(CRITICAL, "a bad memory row or page could not be taken out of use", _RESET),
    68: Meaning(WARNING, "the video decoder failed", _APP),
    69: Meaning(INFO, "a program used the graphics engine wrongly", _APP),
    74: Meaning(CRITICAL, "an NVLink failed", _FABRIC),
    79: Meaning(CRITICAL, "the GPU has fallen off the bus", _REBOOT),
    92: Meaning(WARNING, "many single wrong bits were mended in memory (ECC)", _RESET),
    94: Meaning(WARNING, "a memory error hit one program, and only that one (contained)", "start it again; " + _RESET),
    95: Meaning(CRITICAL, "a memory error may have hit every program on the GPU (uncontained)", _RESET),
    96: Meaning(WARNING, "the video decoder failed", _RESET),
    109: Meaning(WARNING, "the GPU took too long to change between programs", _RESET),
    110: Meaning(CRITICAL, "the GPU's security unit reports a fault", _SUPPORT),
    119: Meaning(CRITICAL, "the GPU's own processor (GSP) does not answer", _RESET),
    120: Meaning(CRITICAL, "the GPU's own processor (GSP) failed", _RESET),
    121: Meaning(INFO, "an error on the link to the CPU was mended (C2C)", "many a day are worth a look at the board"),
    136: Meaning(WARNING, "an NVLink could not be trained", _FABRIC),
    137: Meaning(INFO, "a program used another GPU's memory wrongly (NVLink privilege fault)", _APP),
    140: Meaning(CRITICAL, "memory errors could not be recovered from (ECC)", _RESET),
    143: Meaning(CRITICAL, "the GPU did not start", _REBOOT),
    144: Meaning(CRITICAL, "an NVLink failed (SAW)", _FABRIC),
    145: Meaning(CRITICAL, "an NVLink failed (RLW)", _FABRIC),
    146: Meaning(CRITICAL, "an NVLink failed (TLW)", _FABRIC),
    147: Meaning(CRITICAL, "an NVLink failed (TREX)", _FABRIC),
    148: Meaning(CRITICAL, "an NVLink failed (NVLPW control)", _FABRIC),
    149: Meaning(CRITICAL, "an NVLink failed (NETIR)", _FABRIC),
    150: Meaning(CRITICAL, "an NVLink failed (MSE)", _FABRIC),
    154: Meaning(WARNING, "the driver asks for a recovery action", "nvidia-smi -q shows it under GPU Recovery Action"),
    155: Meaning(WARNING, "an NVLink failed (software)", _FABRIC),
    156: Meaning(WARNING, "a part of the GPU was taken out of use", _RESET),
    157: Meaning(CRITICAL, "a bad part of the GPU could not be taken out of use", _RESET),
    158: Meaning(CRITICAL, "the GPU did not answer in time and cannot go on", _RESET),
}


def meaning(code: int) -> Meaning:
    """What a code says; one that we do not know is a warning."""
    return MEANINGS.get(code) or Meaning(WARNING, "an error that this version does not know", _SUPPORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Xid:
    """One XID, told by the kernel's log, by NVML's event set, or by both."""

    code: int
    at: float
    """Unix seconds."""
    pci: str | None = None
    """`0000:3b:00`: domain, bus, device in lower case."""
    uuid: str | None = None
    """The GPU's; NVML tells it, of the log's it is found by `pci`."""
    mig_gi: int | None = None
    """The GPU instance (MIG) that it hit."""
    pid: int | None = None
    process: str | None = None
    detail: str | None = None
    """The rest of the log's line."""


_LINE = re.compile(
    r"NVRM: Xid \((?:PCI:)?(?P<pci>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-9])?"
    r"(?: GPU-I:(?P<gi>\d{1,3}))?(?: [^)]*)?\): "
    r"(?P<code>\d{1,4})(?:,\s*(?P<rest>.*))?$"
)
_PID = re.compile(r"pid='?(?P<pid>\d{1,7})'?(?:,\s*name=(?P<name>[^,]*))?,?\s*")
_UNKNOWN = re.compile(r"pid='?<unknown>'?,\s*name=<unknown>,?\s*")


def parse_line(text: str, at: float) -> Xid | None:
    """An XID from a line of the kernel's log, `NVRM: Xid (PCI:0000:3b:00): 79, pid=…, name=…, …`; `None`: it is none.

    Args:
        text: the message alone, without time and level.
        at: Unix seconds of the line.
    """
    found = _LINE.search(text[:1000])
    if found is None:
        return None
    rest = found["rest"] or ""
    owner = _PID.match(rest)
    rest = rest[owner.end() :] if owner else _UNKNOWN.sub("", rest, count=1)
    return Xid(
        code=int(found["code"]),
        at=at,
        pci=_short(found["pci"]),
        mig_gi=int(found["gi"]) if found["gi"] else None,
        pid=int(owner["pid"]) if owner else None,
        process=(owner["name"] or "").strip() or None if owner else None,
        detail=rest.strip() or None,
    )


def _short(pci: str) -> str:
    """`00000000:3B:00` → `0000:3b:00`: NVML writes eight digits of the domain, the log four."""
    domain, rest = pci.lower().split(":", 1)
    return f"{domain[-4:]}:{rest}"
