"""The text of the audit trail's rows, and the digest that chains them.

The bytes are those of `json.dumps`, which wrote every trail so far: a row that is read again must have the same digest.
They are put together here, because of a row that a lease writes `json.dumps` took longer than SQLite does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

GENESIS = "0" * 64
"""What stands before the first row."""

Row = tuple[int, int, str, str, str]
"""Number, time, event, subject, and the detail as text."""


def detail(values: Mapping[str, object]) -> str:
    """What `json.dumps(values, sort_keys=True)` gives."""
    return "{" + ", ".join([f"{_quoted(name)}: {_text(values[name])}" for name in sorted(values)]) + "}"


def digest(prev: str, row: Row) -> str:
    """SHA-256 of the digest before it and of the row as `json.dumps` gives it."""
    number, at, event, subject, text = row
    try:
        line = f"{prev}[{number}, {at}, {_quoted(event)}, {_quoted(subject)}, {_quoted(text)}]"
    except TypeError:  # a row that was edited into something else
        line = f"{prev}{row}"
    return hashlib.sha256(line.encode()).hexdigest()


def _text(value: Any) -> str:
    kind = type(value)  # exact: of a kind below these (a StrEnum, a bool) `json` alone knows the spelling
    if kind is str:
        return _quoted(value)
    if kind is int:
        return str(value)
    if kind is tuple or kind is list:
        try:
            return "[" + ", ".join(map(_quoted, value)) + "]"
        except TypeError:  # other things than texts
            pass
    return json.dumps(value, sort_keys=True)
