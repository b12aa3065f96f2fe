"""What can be done to a simulated GPU, in the words of `stoker-agent simulate`. Pure."""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """See `MEANINGS`."""

    LOST = "lost"
    HUNG = "hung"
    MISSING = "missing"
    EXCHANGED = "exchanged"
    HOT = "hot"
    THROTTLED = "throttled"
    XID = "xid"
    ECC = "ecc"
    NARROW = "narrow"
    SLOW_LINK = "slow_link"
    NVLINK_DOWN = "nvlink_down"
    NVLINK_ERRORS = "nvlink_errors"
    IDLE = "idle"
    STRAGGLER = "straggler"
    COLLECTIVE = "collective"
    LEAKED = "leaked"


MEANINGS: dict[Fault, str] = {
    Fault.LOST: "the driver gave it up",
    Fault.HUNG: "the driver does not answer about it",
    Fault.MISSING: "it is not there any more; the others move up",
    Fault.EXCHANGED: "another board is in its place",
    Fault.HOT: "slowed down at 94 °C",
    Fault.THROTTLED: "a power supply failed: the power brake halves its clocks",
    Fault.XID: "XID 95: its job's context died, and the driver asks for a reset",
    Fault.ECC: "memory errors that cannot be mended; a row is to be remapped",
    Fault.NARROW: "half of its PCIe lanes are gone",
    Fault.SLOW_LINK: "its PCIe link stays at generation 1, also under load",
    Fault.NVLINK_DOWN: "one of its NVLinks is down",
    Fault.NVLINK_ERRORS: "its NVLinks are brought up again every other second",
    Fault.IDLE: "whoever holds it does nothing: memory taken, no work",
    Fault.STRAGGLER: "as busy as the others of its job, and slower for no reason that is told",
    Fault.COLLECTIVE: "busy at idle watts, as ranks are that wait for one another; for all GPUs of a job",
    Fault.LEAKED: "memory is in use that no process and no job holds",
}
OK = "ok"
"""The word that mends it."""
ALL = "all"
"""The word for every GPU."""
BOARDS = frozenset({Fault.MISSING, Fault.EXCHANGED})
"""What is seen only by a driver that is loaded anew."""


def described() -> str:
    """Every word with what it does, a line each."""
    words = {**{fault.value: text for fault, text in MEANINGS.items()}, OK: "mend it"}
    return "\n".join(f"  {word:14} {text}" for word, text in words.items())
