"""What a self-test says: one `Check` a line, with a verdict; and how the verdicts add up."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

NODE = "node"
CPU = "CPU"


class Verdict(StrEnum):
    """Of a line, and of the whole."""

    PASS = "PASS"  # noqa: S105 - a verdict
    FAIL = "FAIL"
    NONE = "no verdict"
    """There is nothing to compare with, or nothing could be measured; never counts as a pass."""


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the table."""

    subject: str
    """`node`, `CPU`, `GPU 3`, `GPU 0 > GPU 1`."""
    name: str
    found: str
    expected: str
    verdict: Verdict
    detail: str | None = None
    """What it means and what to do; said where it is no PASS."""
    uuid: str | None = None
    value: int | None = None
    """What `found` says, as a number to compute with."""
    unit: str | None = None


def gpu(index: int) -> str:
    """A GPU as a subject."""
    return f"GPU {index}"


def compared(subject: str, name: str, found: object, expected: object, detail: str, uuid: str | None = None) -> Check:
    """PASS if they are equal; `detail` is said if not. `None` found is no verdict: the driver does not tell."""
    if found is None:
        return untold(subject, name, str(expected), uuid)
    good = found == expected
    return Check(
        subject=subject,
        name=name,
        found=str(found),
        expected=str(expected),
        verdict=Verdict.PASS if good else Verdict.FAIL,
        detail=None if good else detail,
        uuid=uuid,
    )


def untold(subject: str, name: str, expected: str, uuid: str | None = None) -> Check:
    """The driver does not say it."""
    return Check(
        subject=subject,
        name=name,
        found="not told",
        expected=expected,
        verdict=Verdict.NONE,
        detail="the driver does not tell it; look with: nvidia-smi -q",
        uuid=uuid,
    )


def failed(checks: Iterable[Check]) -> list[Check]:
    """Those that FAIL."""
    return [each for each in checks if each.verdict is Verdict.FAIL]
