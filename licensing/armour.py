"""The file form of a document: a chain of tokens between BEGIN and END, in lines of 64 characters, so mail keeps it.

    -----BEGIN STOKER LICENCE-----
    v4.public.eyJ2IjoxLCJpZCI6…          the issuer's certificate, signed by a root key
    …~v4.public.eyJ2Ijo…                 the licence, signed by the issuer
    -----END STOKER LICENCE-----

Inside, only blanks, line ends and the marks of a quoted mail (`> ` before each line) are ignored. Text before and after
is ignored too, so a whole mail can be given. Beside its document a vendor's file may carry revocation lists, each in a
CRL block; two documents in one file are refused, because it is not clear which one is meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from licensing.errors import ArmourError

MAX_FILE_CHARS = 256 * 1024
MAX_LISTS = 4
"""A root's and those of the issuers above the document."""
LINK = "~"
"""Stands between the tokens of a chain; never part of a token."""

_COLUMNS = 64
_BEGIN = "-----BEGIN STOKER "
_QUOTED = re.compile(r"(?:\A|(?<=[\r\n]))[ \t]*(?:>[ \t]*)+")
_BLOCK = re.compile(r"-----BEGIN STOKER ([A-Z]+)-----(.*?)-----END STOKER ([A-Z]+)-----", re.DOTALL)


class Label(StrEnum):
    """What the BEGIN line says."""

    ISSUER = "ISSUER"
    LICENCE = "LICENCE"
    REQUEST = "REQUEST"
    RELEASE = "RELEASE"
    USAGE = "USAGE"
    RECEIPT = "RECEIPT"
    CRL = "CRL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a file holds, none of it verified."""

    label: Label
    chain: str
    lists: tuple[str, ...]
    """The revocation lists beside the document; where the file is a list itself, it is the chain."""


def wrap(label: Label, chain: str, lists: tuple[str, ...] = ()) -> str:
    """The file's text, ending with a newline."""
    return "".join([_block(label, chain), *(_block(Label.CRL, each) for each in lists)])


def unwrap(label: Label, text: str) -> str:
    """The chain inside the one block of this label.

    Raises:
        ArmourError: no such block, more than one document, or characters inside that no token has.
    """
    if _BEGIN not in text[:MAX_FILE_CHARS]:
        what = "the file is empty: no" if not text.strip() else "no"
        raise ArmourError(
            f"{what} {label} block in the file, which starts with {_BEGIN}{label}----- and has an END; name the right "
            "file, or fetch it again as plain text"
        )
    found = read(text)
    if found.label is not label:
        raise ArmourError(f"the file is of kind {found.label}, not {label}; name the other file")
    return found.chain


def bare(label: Label, text: str) -> str:
    """The chain of a file of this label, or of a text that is the chain itself, as it comes from a QR code or a paste.

    Raises:
        ArmourError: see `unwrap`.
    """
    plain = "".join(text.split())
    return plain if re.fullmatch(r"v4\.public\.[A-Za-z0-9_.~-]+", plain) else unwrap(label, text)


def read(text: str) -> Content:
    """The one document of a file, whatever it is, and the revocation lists beside it.

    Raises:
        ArmourError: none, more than one, of an unknown kind, or with characters inside that no token has.
    """
    if len(text) > MAX_FILE_CHARS:
        raise ArmourError(f"the file has {len(text)} characters; at most {MAX_FILE_CHARS} are read")
    blocks = [_content(found) for found in _BLOCK.finditer(text)]
    if len(blocks) != text.count(_BEGIN) or not blocks:
        raise ArmourError(
            "no whole block in the file: each starts with -----BEGIN STOKER …----- and has an END; it is cut short or "
            "was changed on its way, fetch it again"
        )
    lists = [chain for label, chain in blocks if label is Label.CRL]
    documents = [block for block in blocks if block[0] is not Label.CRL] or [blocks.pop()]
    if len(documents) > 1 or (documents[0][0] is Label.CRL and len(lists) > 1):
        raise ArmourError("the file holds more than one document; put each into a file of its own")
    if len(lists) > MAX_LISTS:
        raise ArmourError(f"the file holds {len(lists)} revocation lists; at most {MAX_LISTS} belong to one document")
    ((label, chain),) = documents
    return Content(label=label, chain=chain, lists=() if label is Label.CRL else tuple(lists))


def _block(label: Label, chain: str) -> str:
    lines = [chain[at : at + _COLUMNS] for at in range(0, len(chain), _COLUMNS)]
    return "\n".join([f"{_BEGIN}{label}-----", *lines, f"-----END STOKER {label}-----", ""])


def _content(found: re.Match[str]) -> tuple[Label, str]:
    if found.group(1) != found.group(3):
        raise ArmourError(f"the block begins as {found.group(1)} and ends as {found.group(3)}; fetch the file again")
    try:
        label = Label(found.group(1))
    except ValueError as error:
        raise ArmourError(f"the file is of kind {found.group(1)}, which this version does not know; upgrade") from error
    chain = re.sub(r"[ \t\r\n]+", "", _QUOTED.sub("", found.group(2)))
    if not re.fullmatch(r"[A-Za-z0-9_.~-]+", chain):
        strange = re.search(r"[^A-Za-z0-9_.~-]", chain)
        first = f" (the first: U+{ord(strange.group()):04X})" if strange else ""
        raise ArmourError(
            f"the block has characters that do not belong there{first}; fetch the file again as plain text"
        )
    return label, chain
