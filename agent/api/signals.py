"""Signals as commands and requests write them: `USR1`, `SIGUSR1`, `usr1`, `10`."""

from __future__ import annotations

import signal

NAMES = {each.name.removeprefix("SIG"): int(each) for each in signal.Signals}
"""Every signal of this machine's kernel that has a name, without its `SIG`."""

_BY_NUMBER = {number: name for name, number in NAMES.items()}


def number_of(text: str) -> int | None:
    """The number of the signal that is meant; `None` where none is."""
    word = text.strip().upper()
    if word.isascii() and word.isdecimal() and len(word) < 4:
        return int(word) if int(word) in _BY_NUMBER else None
    return NAMES.get(word.removeprefix("SIG"))


def name_of(number: int) -> str:
    """`USR1`; the number itself where it has no name."""
    return _BY_NUMBER.get(number, str(number))
