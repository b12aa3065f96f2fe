"""Signals by name and number: one reading for requests, `--signal` and scancel."""

from __future__ import annotations

import pytest

from agent.api import signals


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("USR1", 10),
        ("SIGUSR1", 10),
        (" sigusr1 ", 10),
        ("10", 10),
        ("KILL", 9),
        ("0", None),
        ("65", None),
        ("9999", None),
        ("-9", None),
        ("١٠", None),
        ("SIGSIGUSR1", None),
        ("NONSENSE", None),
        ("", None),
        ("\x1b[2J", None),
    ],
)
def test_what_is_meant(text: str, number: int | None) -> None:
    assert signals.number_of(text) == number


def test_names_are_without_their_sig_and_what_has_none_is_its_number() -> None:
    assert [signals.name_of(number) for number in (9, 10, 35, 400)] == ["KILL", "USR1", "35", "400"]
