"""The root keys this build trusts: three, pinned in `roots.json` beside this file (current, next, spare).

No setting, flag or variable at run time replaces them. The build does: see `build_roots.py`. Tests that need other
roots pass a `Roots` where one is asked for.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated

import msgspec

from licensing.document import Key, Name
from licensing.errors import KeyFileError


class Root(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pinned key."""

    name: Name
    key: Key


class Roots(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `roots.json` says."""

    development: bool
    """The private halves are public: everybody can sign. Shown wherever a licence is shown."""
    roots: Annotated[tuple[Root, ...], msgspec.Meta(min_length=1, max_length=3)]

    def find(self, key: str) -> Root | None:
        """The pinned root with this key."""
        return next((root for root in self.roots if root.key == key), None)


_decoder = msgspec.json.Decoder(Roots)  # noqa: TID251 - made at import, by one thread: see `agent.api.decode`


def parse(data: bytes, origin: str) -> Roots:
    """Read a roots file.

    Raises:
        KeyFileError: it says something else than three named keys.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise KeyFileError(f"{origin} is not a roots file: {error}") from error


@cache
def pinned() -> Roots:
    """The roots of this build."""
    return parse(resources.files("licensing").joinpath("roots.json").read_bytes(), "licensing/roots.json")
