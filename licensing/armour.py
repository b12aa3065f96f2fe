"""The file form of a document: a chain of tokens between BEGIN and END, in lines of 64 characters, so mail keeps it.

    -----BEGIN STOKER LICENCE-----
    v4.public.eyJ2IjoxLCJpZCI6…          the issuer's certificate, signed by a root key
    …~v4.public.eyJ2Ijo…                 the licence, signed by the issuer
    -----END STOKER LICENCE-----

Inside, only blanks and line ends are ignored. Text before and after is ignored too, so a whole mail can be given; two
blocks in one file are refused, because it is not clear which one is meant.
"""

from __future__ import annotations

import re
from enum import StrEnum

from licensing.errors import ArmourError

MAX_FILE_CHARS = 256 * 1024
LINK = "~"
"""Stands between the tokens of a chain; never part of a token."""

_COLUMNS = 64
_BLOCK = re.compile(r"-----BEGIN STOKER ([A-Z]+)-----[ \t]*\r?\n(.*?)-----END STOKER ([A-Z]+)-----", re.DOTALL)


class Label(StrEnum):
    """What the BEGIN line says."""

    ISSUER = "ISSUER"
    LICENCE = "LICENCE"


def wrap(label: Label, chain: str) -> str:
    """The file's text, ending with a newline."""
    lines = [chain[at : at + _COLUMNS] for at in range(0, len(chain), _COLUMNS)]
    return "\n".join([f"-----BEGIN STOKER {label}-----", *lines, f"-----END STOKER {label}-----", ""])


def unwrap(label: Label, text: str) -> str:
    """The chain inside the one block of this label.

    Raises:
        ArmourError: no block, more than one, of another label, or with characters inside that no token has.
    """
    if len(text) > MAX_FILE_CHARS:
        raise ArmourError(f"the file has {len(text)} characters; a {label.lower()} file is much smaller")
    if text.count("-----BEGIN STOKER ") > 1:
        raise ArmourError("the file holds more than one document; put each into a file of its own")
    found = _BLOCK.search(text)
    if found is None:
        raise ArmourError(f"no {label} block in the file: it starts with -----BEGIN STOKER {label}----- and has an END")
    if found.group(1) != found.group(3):
        raise ArmourError(f"the block begins as {found.group(1)} and ends as {found.group(3)}")
    if found.group(1) != label:
        raise ArmourError(f"the file is of kind {found.group(1)}, not {label}; name the other file")
    chain = re.sub(r"[ \t\r\n]+", "", found.group(2))
    if not re.fullmatch(r"[A-Za-z0-9_.~-]+", chain):
        raise ArmourError("the block has characters that do not belong there; fetch the file again as plain text")
    return chain
