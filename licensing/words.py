"""Words that the commands have from everywhere: the stages and the remedies.

Apart from `stage`, so that a command which only shows what the hub says is spared the signatures: half of its start.
"""

from __future__ import annotations

from enum import StrEnum

FIX = "stoker-license activate FILE"
FIX_REPORT = "stoker-license usage export"
FIX_HARDWARE = "stoker-license export-request"
FIX_CLOCK = "timedatectl set-ntp true"


class Stage(StrEnum):
    """What new jobs may do; each is worse than the one before it."""

    ACTIVE = "ACTIVE"
    NOTICE = "NOTICE"
    GRACE = "GRACE"
    PERPETUAL = "PERPETUAL"
    """Held by this build, which is newer than the licence covers; any older build runs for ever."""
    RESTRICTED = "RESTRICTED"

    @property
    def holds(self) -> bool:
        """Whether new jobs wait in the queue."""
        return self in (Stage.PERPETUAL, Stage.RESTRICTED)
