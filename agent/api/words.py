"""What every value on the wire is made of: the base of the structs and the base of the enums."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

import msgspec


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base of all wire values."""


class Word(StrEnum):
    """Base of the enums: a word that only a newer server knows is kept as it came, to be shown as text."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        word = str.__new__(cls, value)
        word._name_ = word._value_ = value
        return word
