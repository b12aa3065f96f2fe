"""Why a self-test did not take place, and what the program ends with.

StokerError
└── SelftestError         nothing was tested; `exit_code` says which kind of reason
    └── OrderError        the order's file
"""

from __future__ import annotations

from agent.api.errors import StokerError

PASSED = 0
FAILED = 1
NOTHING_TESTED = 3
"""No GPU was tested, and nothing that was tested failed."""
EX_DATAERR = 65
EX_CANTCREAT = 73
"""sysexits(3)."""


class SelftestError(StokerError):
    """Nothing was tested."""

    def __init__(self, message: str, exit_code: int = NOTHING_TESTED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class OrderError(SelftestError):
    """The order cannot be read."""

    def __init__(self, message: str) -> None:
        super().__init__(message, EX_DATAERR)
