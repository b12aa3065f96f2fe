"""PASETO v4.public: Ed25519 signatures over exactly the bytes that are read afterwards.

Source: github.com/paseto-standard/paseto-spec, Version4 (public) and Common (PAE). Checked against the standard's own
vectors in tests/data/paseto. Rules kept here: a token has one spelling (base64 is read strictly, to its last
bits); nothing of the payload is returned before its signature held; there is no algorithm field to choose from.
The implicit assertion is the document's type, so a lease shown as a licence does not verify.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass

from licensing.ed25519 import PrivateKey, PublicKey
from licensing.errors import SignatureError, TokenError

HEADER = "v4.public."
_HEADER = HEADER.encode()
MAX_TOKEN_CHARS = 64 * 1024
_SIGNATURE_BYTES = 64
_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
"""From base64url to plain base64, whose own two characters and padding belong to neither."""
_LAST = {2: frozenset("AQgw"), 3: frozenset("AEIMQUYcgkosw048")}
"""What the last character may be where so many stand in the last group of four: its bits beyond the last byte are 0."""
_URL = bytes.maketrans(b"+/", b"-_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A token taken apart and not yet verified: good for choosing a key by the footer, and for nothing else."""

    payload: bytes
    signature: bytes
    footer: bytes


def sign(key: PrivateKey, payload: bytes, *, footer: bytes = b"", implicit: bytes = b"") -> str:
    """Make the token. Ed25519 is deterministic: the same call gives the same text."""
    signature = key.sign(pae(_HEADER, payload, footer, implicit))
    token = HEADER + _encode(payload + signature)
    return f"{token}.{_encode(footer)}" if footer else token


def verify(key: PublicKey, token: str | Parts, *, implicit: bytes = b"") -> bytes:
    """Give the payload if `key` signed it under `implicit`; whoever took the token apart before hands over its parts.

    Raises:
        TokenError: not a v4.public token in canonical spelling.
        SignatureError: the signature does not hold.
    """
    parts = token if isinstance(token, Parts) else split(token)
    if not key.has_signed(parts.signature, pae(_HEADER, parts.payload, parts.footer, implicit)):
        raise SignatureError("the signature does not hold: the text was changed on its way; fetch the file again")
    return parts.payload


def split(token: str) -> Parts:
    """Take a token apart.

    Raises:
        TokenError: too long, another version or purpose, not base64url in its one canonical spelling, or too short.
    """
    if len(token) > MAX_TOKEN_CHARS:
        raise TokenError(f"the token has {len(token)} characters; at most {MAX_TOKEN_CHARS} are read")
    if not token.startswith(HEADER):
        raise TokenError(f"not a {HEADER.rstrip('.')} token; the file is cut short or of another kind")
    body, dot, footer = token[len(HEADER) :].partition(".")
    if dot and not footer:
        raise TokenError("the token ends with an empty footer, which is not its canonical spelling")
    signed = _decode(body)
    if len(signed) < _SIGNATURE_BYTES:
        raise TokenError("the token is too short to hold a signature; the file is cut short")
    return Parts(payload=signed[:-_SIGNATURE_BYTES], signature=signed[-_SIGNATURE_BYTES:], footer=_decode(footer))


def pae(*pieces: bytes) -> bytes:
    """Pre-authentication encoding: the count, then each piece behind its length, as 64-bit little-endian numbers."""
    parts = [len(pieces).to_bytes(8, "little")]
    for piece in pieces:
        parts += (len(piece).to_bytes(8, "little"), piece)
    return b"".join(parts)


def _encode(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).translate(_URL).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    """Decode base64url without padding, in its one spelling: Python would take foreign characters and stray bits."""
    past = len(text) % 4
    try:
        data = binascii.a2b_base64(text.encode("ascii").translate(_STANDARD) + b"=" * (-past % 4), strict_mode=True)
    except ValueError as error:  # binascii.Error and UnicodeEncodeError too
        raise TokenError("the token is not base64url; the file was damaged on its way") from error
    if past and text[-1] not in _LAST[past]:
        raise TokenError("the token is not in the canonical spelling of base64url; the file was altered")
    return data
