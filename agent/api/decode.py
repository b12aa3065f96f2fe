"""Reading values of a kind from JSON, from any thread.

msgspec learns a kind's fields when its first value is read, and keeps what it has learned so far where every thread
finds it: two threads that read a kind for the first time at once can crash the interpreter (seen with msgspec 0.22.0).
So decoders are made here alone, one at a time, and nothing else asks msgspec to read a kind (ruff's `banned-api`).
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

_T = TypeVar("_T")

_learning = threading.Lock()
Decoder = msgspec.json.Decoder
_decoders: dict[Any, Decoder[Any]] = {}


def decoder(kind: Any) -> Decoder[Any]:
    """The one decoder of a kind, or of a union of kinds. It may be used by several threads at once."""
    found = _decoders.get(kind)
    if found is None:
        with _learning:
            found = _decoders.setdefault(kind, Decoder(kind))
    return found


def decode(raw: bytes | str, kind: type[_T]) -> _T:
    """Read a value from JSON.

    Raises:
        msgspec.ValidationError: it is not of that kind; with the path of the bad field.
        msgspec.DecodeError: it is not JSON.
        UnicodeDecodeError: it is not UTF-8.
    """
    value: _T = decoder(kind).decode(raw)
    return value


def convert(data: object, kind: type[_T], dec_hook: Callable[[type, Any], Any] | None = None) -> _T:
    """Read a value from what was decoded already, strictly.

    Raises:
        msgspec.ValidationError: it is not of that kind; with the path of the bad field.
    """
    decoder(kind)  # the fields are known from here on
    return msgspec.convert(data, kind, strict=True, dec_hook=dec_hook)
