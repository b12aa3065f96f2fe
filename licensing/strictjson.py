"""A JSON reader for signed content, where two readers must never see two things.

Python's `json` takes duplicate keys (the last wins), NaN, 1e400 (inf) and lone surrogates; all of it is refused here,
as are floats, control characters, integers beyond ±2⁵³ and nesting deeper than 8. The top is an object.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from licensing.errors import ContentError

MAX_DEPTH = 8
MAX_INTEGER = 2**53
"""Beyond it a reader that keeps numbers as doubles (JavaScript, jq) would see another number."""

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Unicode's categories Cc and Cs."""
_PLAIN = re.compile(rb"[\x00-\x1f\x7f\\]")
"""What may hide a character in ASCII: itself, or an escape."""


def loads(data: bytes) -> dict[str, object]:
    """Read one JSON object.

    Raises:
        ContentError: anything that another reader could understand differently.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_no_float,
            parse_constant=_no_constant,
            parse_int=_integer,
        )
    except ContentError:
        raise
    except UnicodeDecodeError as error:
        raise ContentError(f"the content is not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ContentError(f"the content is not JSON at character {error.pos}: {error.msg}") from error
    except RecursionError as error:
        raise ContentError(f"the content is nested deeper than {MAX_DEPTH}") from error
    if not isinstance(value, dict):
        raise ContentError("the content is not a JSON object")
    if not _is_plain(data):
        _check(value, depth=1)
    return value


def _is_plain(data: bytes) -> bool:
    """Whether the text itself shows that neither depth nor any character needs a look: true of all we write."""
    return data.count(b"{") + data.count(b"[") <= MAX_DEPTH and data.isascii() and _PLAIN.search(data) is None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, value in pairs:
        if name in result:
            raise ContentError(f"the content says {name!r} twice; it is not clear which one is meant")
        result[name] = value
    return result


def _no_float(text: str) -> NoReturn:
    raise ContentError(f"the content has the number {text[:40]}; only whole numbers are used")


def _no_constant(text: str) -> NoReturn:
    raise ContentError(f"the content has {text}, which is not JSON")


def _integer(text: str) -> int:
    if len(text) > len(str(-MAX_INTEGER)) or abs(int(text)) > MAX_INTEGER:
        raise ContentError(f"the content has the number {text[:40]}, which is beyond ±2^53")
    return int(text)


def _check(value: object, *, depth: int) -> None:
    """Look at every text and at the depth. The depth is checked first, so the recursion ends."""
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise ContentError(f"the content is nested deeper than {MAX_DEPTH}")
        for name in value if isinstance(value, dict) else ():
            _check_text(name)
        for inner in value.values() if isinstance(value, dict) else value:
            _check(inner, depth=depth + 1)


def _check_text(text: str) -> None:
    """Refuse control characters and lone surrogates: neither belongs in a name, and both fool terminals and logs."""
    found = _FORBIDDEN.search(text)
    if found:
        raise ContentError(f"the content has the control character U+{ord(found.group()):04X} in a text")
