"""What licensing refuses, and why.

    LicenceError                 exit  code
    ├── FormatError               5    licence_format      not a well-formed document
    │   ├── ArmourError           5    licence_armour      the BEGIN/END lines or what is between them
    │   ├── TokenError            5    licence_token       not a PASETO v4.public token
    │   └── ContentError          5    licence_content     signed, but it says what a document may not say
    ├── SignatureError            5    licence_signature   nobody we trust signed these bytes
    ├── ChainError                5    licence_chain       a document goes beyond what its parent allows
    ├── WeakKeyError              5    licence_weak_key    a public key under which anybody can sign
    ├── ExpiredError              5    licence_expired     genuine, and over
    ├── RevokedError              5    licence_revoked     genuine, and taken back by a revocation list
    ├── OtherSiteError            6    licence_other_site  genuine, and made out to somebody else
    ├── ReplayError               7    licence_replay      genuine, and older than what is held, or used up
    ├── ClockError                8    licence_clock       genuine, and from the future
    ├── KeyFileError              5    licence_key_file    a key or certificate file that cannot be used or written
    ├── StoreError                5    licence_store       the seat ledger, or a node's lease, cannot be kept
    ├── UsageError               64    usage               the command line
    ├── HubError                 69    hub_unreachable     the hub did not answer
    └── ConfigFileError          78    config              the file that says where the hub is

`exit_code` is what `stoker-license` ends with, `code` is for programs and travels over the wire; both are stable.
Messages say what failed, on what, and what to do next.
"""

from __future__ import annotations

import os
from typing import ClassVar


class LicenceError(Exception):
    """Base of everything that licensing refuses."""

    code: ClassVar[str] = "licence"
    exit_code: ClassVar[int] = 5

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class FormatError(LicenceError):
    """The bytes are not a well-formed document."""

    code = "licence_format"


class ArmourError(FormatError):
    """The BEGIN/END lines, or what stands between them."""

    code = "licence_armour"


class TokenError(FormatError):
    """Not a PASETO v4.public token in its one canonical spelling."""

    code = "licence_token"


class ContentError(FormatError):
    """The signature holds, but the content is not a document of this kind."""

    code = "licence_content"


class SignatureError(LicenceError):
    """Nobody we trust signed these bytes."""

    code = "licence_signature"


class ChainError(LicenceError):
    """A document goes beyond what the one above it allows."""

    code = "licence_chain"


class WeakKeyError(LicenceError):
    """A public key under which anybody can make signatures, or that is no key at all."""

    code = "licence_weak_key"


class ExpiredError(LicenceError):
    """Genuine, and over."""

    code = "licence_expired"


class RevokedError(LicenceError):
    """Genuine, and taken back by a revocation list of its issuer or of a root."""

    code = "licence_revoked"


class OtherSiteError(LicenceError):
    """Genuine, and made out to another site or node."""

    code = "licence_other_site"
    exit_code = 6


class ReplayError(LicenceError):
    """Genuine, and older than what is held, or used up already."""

    code = "licence_replay"
    exit_code = 7


class ClockError(LicenceError):
    """Genuine, and from the future by this machine's clock."""

    code = "licence_clock"
    exit_code = 8


class KeyFileError(LicenceError):
    """A key or certificate file that cannot be read, used or written."""

    code = "licence_key_file"


class StoreError(LicenceError):
    """The seat ledger cannot be opened or written, or a node cannot keep its lease."""

    code = "licence_store"


class UsageError(LicenceError):
    """The command line asks for something that does not exist or cannot be."""

    code = "usage"
    exit_code = os.EX_USAGE


class HubError(LicenceError):
    """The hub did not answer, so nothing is known of its licence. 69 in sysexits(3)."""

    code = "hub_unreachable"
    exit_code = os.EX_UNAVAILABLE


class ConfigFileError(LicenceError):
    """The configuration, which says where the hub is, cannot be used. 78 in sysexits(3), as the daemons end with it."""

    code = "config"
    exit_code = os.EX_CONFIG


_BY_CODE: dict[str, type[LicenceError]] = {
    kind.code: kind
    for kind in (
        FormatError,
        ArmourError,
        TokenError,
        ContentError,
        SignatureError,
        ChainError,
        WeakKeyError,
        ExpiredError,
        RevokedError,
        OtherSiteError,
        ReplayError,
        ClockError,
        KeyFileError,
        StoreError,
        UsageError,
        HubError,
        ConfigFileError,
    )
}


def from_code(code: str, message: str) -> LicenceError:
    """Make again, on this side of a wire, the error that the other side answered; an unknown code keeps its message."""
    return _BY_CODE.get(code, LicenceError)(message)
